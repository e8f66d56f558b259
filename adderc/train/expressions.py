"""Weight expressions as C: how the kernel gets matrices from leaves and gradients back.

Takes: named expressions over a flat vector of leaves. Gives: `emit` → C text with one array
and one gradient array for each node, `matrices(theta)` and `leaf_gradients(theta, grad)`.
May import: train.ensemble, weights.

Each node is a matrix [rows, columns] in C order; a scalar is 1 x 1. Nodes without leaves are
written as numbers. Backward runs over the nodes in reverse order and adds each node's
gradient to those of its parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from adderc.train.ensemble import Leaves
from adderc.weights.expr import (
    Add,
    Concat,
    Cos,
    Expr,
    Leaf,
    MatMul,
    Mul,
    Neg,
    Reciprocal,
    Reshape,
    Scatter,
    Sin,
    Take,
    Transpose,
    children,
    leaves_of,
)
from adderc.weights.torch_reading import evaluate

Lines = list[str]


def emit(expressions: Mapping[str, Expr], leaves: Leaves) -> tuple[str, dict[str, int]]:
    """The C text, and the number of the node that holds each named expression."""
    writer = _Writer(leaves)
    named = {name: writer.enter(expr) for name, expr in expressions.items()}
    return writer.text(), named


def size_of(expr: Expr) -> tuple[int, int]:
    """Rows and columns; a scalar has one each."""
    shape = (1, 1, *expr.shape)[-2:]
    return shape[0], shape[1]


@dataclass
class _Writer:
    leaves: Leaves
    nodes: list[Expr] = field(default_factory=list)
    known: dict[Expr, int] = field(default_factory=dict)

    def enter(self, expr: Expr) -> int:
        """The number of a node; its parts have lower ones."""
        if expr not in self.known:
            if not self.fixed(expr):
                for child in children(expr):
                    self.enter(child)
            self.known[expr] = len(self.nodes)
            self.nodes.append(expr)
        return self.known[expr]

    def fixed(self, expr: Expr) -> bool:
        return not leaves_of(expr)

    def text(self) -> str:
        declared: Lines = []
        forward: Lines = []
        backward: Lines = []
        for number, expr in enumerate(self.nodes):
            rows, columns = size_of(expr)
            if self.fixed(expr):
                values = evaluate(expr, {}, torch.float64).reshape(-1).tolist()
                numbers = ", ".join(f"(real){value!r}" for value in values)
                declared.append(f"static const real n{number}[{rows * columns}] = {{{numbers}}};")
                continue
            declared.append(f"static real n{number}[{rows * columns}], "
                            f"g{number}[{rows * columns}];")
            ahead, back = self.loops(number, expr)
            forward += ahead
            backward = [*back, *backward]
        moving = [n for n, expr in enumerate(self.nodes) if not self.fixed(expr)]
        clear = [f"for (int i = 0; i < {size_of(self.nodes[n])[0] * size_of(self.nodes[n])[1]}; "
                 f"i++) g{n}[i] = 0;" for n in moving]
        return "\n".join([
            *declared, "static void matrices(const real *theta) {", *clear, *forward, "}",
            "static void leaf_gradients(const real *theta, real *grad) {", *backward, "}", ""])

    def loops(self, number: int, expr: Expr) -> tuple[Lines, Lines]:
        """Forward and backward loops of one node."""
        rows, columns = size_of(expr)
        whole = f"for (int i = 0; i < {rows * columns}; i++) "
        match expr:
            case Leaf(name, _):
                at = self.leaves.places[name].start
                return [f"{whole}n{number}[i] = theta[{at} + i];"], [
                    f"{whole}grad[{at} + i] += g{number}[i];"]
            case Neg() | Reciprocal() | Cos() | Sin():
                return self.function(number, expr, whole)
            case MatMul(left, right):
                return self.product(number, left, right)
            case Add(left, right) | Mul(left, right):
                return self.elementwise(number, expr, left, right)
            case Concat(parts, axis):
                return self.joined(number, parts, axis, columns)
        return self.moved(number, expr)

    def function(self, number: int, expr: Expr, whole: str) -> tuple[Lines, Lines]:
        a = self.known[expr.operand]  # type: ignore[union-attr]
        value, slope = {
            Neg: (f"-n{a}[i]", "-1"),
            Reciprocal: (f"1 / n{a}[i]", f"-n{number}[i] * n{number}[i]"),
            Cos: (f"(real)cos(n{a}[i])", f"-(real)sin(n{a}[i])"),
            Sin: (f"(real)sin(n{a}[i])", f"(real)cos(n{a}[i])"),
        }[type(expr)]
        return [f"{whole}n{number}[i] = {value};"], [
            f"{whole}g{a}[i] += g{number}[i] * ({slope});"]

    def product(self, number: int, left: Expr, right: Expr) -> tuple[Lines, Lines]:
        """C = A B; dA += dC B^T, dB += A^T dC."""
        a, b = self.known[left], self.known[right]
        (rows, inner), columns = size_of(left), size_of(right)[1]
        loops = (f"for (int i = 0; i < {rows}; i++) for (int j = 0; j < {columns}; j++) ")
        each = f"for (int k = 0; k < {inner}; k++) "
        ahead = [f"{loops}{{ real sum = 0; {each}sum += n{a}[i * {inner} + k] * "
                 f"n{b}[k * {columns} + j]; n{number}[i * {columns} + j] = sum; }}"]
        back = []
        if not self.fixed(left):
            back.append(f"g{a}[i * {inner} + k] += g{number}[i * {columns} + j] * "
                        f"n{b}[k * {columns} + j];")
        if not self.fixed(right):
            back.append(f"g{b}[k * {columns} + j] += g{number}[i * {columns} + j] * "
                        f"n{a}[i * {inner} + k];")
        return ahead, [f"{loops}{each}{{ {' '.join(back)} }}"]

    def elementwise(
        self, number: int, expr: Expr, left: Expr, right: Expr
    ) -> tuple[Lines, Lines]:
        """Sums and products with broadcasting."""
        rows, columns = size_of(expr)
        loops = f"for (int i = 0; i < {rows}; i++) for (int j = 0; j < {columns}; j++) "
        here = f"[i * {columns} + j]"
        (a, at_a), (b, at_b) = (self.entry(part) for part in (left, right))
        sign = "+" if isinstance(expr, Add) else "*"
        ahead = [f"{loops}n{number}{here} = n{a}{at_a} {sign} n{b}{at_b};"]
        back = []
        for part, target, other in ((left, f"g{a}{at_a}", f"n{b}{at_b}"),
                                    (right, f"g{b}{at_b}", f"n{a}{at_a}")):
            if not self.fixed(part):
                factor = "" if sign == "+" else f" * {other}"
                back.append(f"{target} += g{number}{here}{factor};")
        return ahead, [f"{loops}{{ {' '.join(back)} }}"]

    def entry(self, part: Expr) -> tuple[int, str]:
        """How a part is indexed by (i, j) of the whole."""
        rows, columns = size_of(part)
        row = "i" if rows > 1 else "0"
        column = "j" if columns > 1 else "0"
        return self.known[part], f"[{row} * {columns} + {column}]"

    def joined(
        self, number: int, parts: tuple[Expr, ...], axis: int, columns: int
    ) -> tuple[Lines, Lines]:
        ahead, back, at = [], [], 0
        for part in parts:
            a, (rows, width) = self.known[part], size_of(part)
            loops = f"for (int i = 0; i < {rows}; i++) for (int j = 0; j < {width}; j++) "
            place = f"[(i + {at}) * {columns} + j]" if axis == 0 else f"[i * {columns} + j + {at}]"
            ahead.append(f"{loops}n{number}{place} = n{a}[i * {width} + j];")
            if not self.fixed(part):
                back.append(f"{loops}g{a}[i * {width} + j] += g{number}{place};")
            at += rows if axis == 0 else width
        return ahead, back

    def moved(self, number: int, expr: Expr) -> tuple[Lines, Lines]:
        """Entries in other places: a table says which entry of the part stands where."""
        operand: Expr = expr.operand  # type: ignore[union-attr]
        a, count = self.known[operand], size_of(expr)[0] * size_of(expr)[1]
        numbers = torch.arange(1, 1 + size_of(operand)[0] * size_of(operand)[1],
                               dtype=torch.float64).reshape(operand.shape)
        stand_in = Leaf("entries", operand.shape)
        copy: Expr
        match expr:
            case Transpose():
                copy = Transpose(stand_in)
            case Reshape(_, shape):
                copy = Reshape(stand_in, shape)
            case Take(_, indices, axis):
                copy = Take(stand_in, indices, axis)
            case Scatter(_, rows, columns, shape):
                copy = Scatter(stand_in, rows, columns, shape)
            case _:
                raise TypeError(f"no reading for {type(expr).__name__}")
        found = evaluate(copy, {"entries": numbers}, torch.float64).reshape(-1)
        table = ", ".join(str(int(entry) - 1) for entry in found.tolist())
        head = f"{{ static const short from[{count}] = {{{table}}}; "
        loop = f"for (int i = 0; i < {count}; i++) "
        return ([f"{head}{loop}n{number}[i] = from[i] < 0 ? 0 : n{a}[from[i]]; }}"],
                [f"{head}{loop}if (from[i] >= 0) g{a}[from[i]] += g{number}[i]; }}"])
