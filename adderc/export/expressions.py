"""Weight expressions as readable torch code.

Takes: expressions of one model. Gives: `Expressions`: statements that compute each matrix,
in the same operations and the same order as the module, and the helpers they call.
May import: weights.expr.
"""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from adderc.weights.expr import (
    Add,
    Arange,
    Concat,
    Constant,
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
    Structural,
    Take,
    Transpose,
    children,
    walk,
)

LONGEST = 44  # characters of a part that may stand inside another
COLUMNS = 92
SUM, PRODUCT, UNARY, ATOM = range(4)
Code = tuple[str, int]  # text and how tightly it binds

HELPERS = {
    "scalar": '''
def scalar(value):
    """A number that is written in the code and is no parameter."""
    return torch.tensor(value, dtype=DTYPE)
''',
    "signs": '''
def signs(rows, columns, entries):
    """A matrix of zeros but for entries (row, column): 1 or -1; it says what connects where."""
    matrix = torch.zeros(rows, columns, dtype=DTYPE)
    for (row, column), sign in entries.items():
        matrix[row, column] = sign
    return matrix
''',
    "digits": '''
def digits(count):
    """0, 1, ..., count - 1 as a column: the number that each token id stands for."""
    return torch.arange(count, dtype=DTYPE).reshape(-1, 1)
''',
    "place": '''
def place(block, rows, columns, shape):
    """Zeros of this shape with the block written at rows x columns."""
    matrix = torch.zeros(shape, dtype=DTYPE)
    return matrix.index_put((torch.tensor(rows)[:, None], torch.tensor(columns)[None]), block)
''',
}


def identifier(name: str) -> str:
    """A leaf's dotted name as a Python name."""
    return re.sub(r"\W", "_", name)


@dataclass
class Expressions:
    """Code of a model's matrices. `used` are the helpers that the statements call."""

    shared: Counter[Expr] = field(default_factory=Counter)
    names: dict[Expr, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    def prepare(self, expressions: Iterable[Expr]) -> None:
        """Find the parts that occur several times; they are computed once, by name."""
        for expr in expressions:
            self.shared.update(node for node in walk(expr) if children(node))

    def statements(self, target: str, expr: Expr) -> list[str]:
        """Assignments after which `target` is the matrix; a known one is only renamed."""
        lines: list[str] = []
        text, _ = self._node(expr, target, lines) if expr not in self.names else (
            self.names[expr], ATOM)
        if text != target:
            lines += assignment(target, text)
        self.names.setdefault(expr, target)
        return lines

    def _code(self, expr: Expr, target: str, lines: list[str]) -> Code:
        if expr in self.names:
            return self.names[expr], ATOM
        text, binds = self._node(expr, target, lines)
        if self.shared[expr] > 1 and len(text) > 24:
            return self._named(expr, text, target, lines), ATOM
        return text, binds

    def _inner(self, expr: Expr, binds: int, target: str, lines: list[str]) -> str:
        """The code of a part, in parentheses where it binds less, by name where it is long."""
        text, inner = self._code(expr, target, lines)
        if len(text) > LONGEST and children(expr):
            return self._named(expr, text, target, lines)
        return f"({text})" if inner < binds else text

    def _named(self, expr: Expr, text: str, target: str, lines: list[str]) -> str:
        """A name of its own for a part, `target_1`, `target_2`, …"""
        name = f"{target}_{sum(line.startswith(f'{target}_') for line in lines) + 1}"
        lines += assignment(name, text)
        self.names[expr] = name
        return name

    def _node(self, expr: Expr, target: str, lines: list[str]) -> Code:
        def part(child: Expr, binds: int = ATOM) -> str:
            return self._inner(child, binds, target, lines)

        match expr:
            case Leaf(name):
                return f"self.{identifier(name)}", ATOM
            case Constant() | Structural() | Arange():
                return self._fixed(expr), ATOM
            case MatMul(left, right):
                return f"{part(left, PRODUCT)} @ {part(right, UNARY)}", PRODUCT
            case Mul(left, right):
                return f"{part(left, PRODUCT)} * {part(right, UNARY)}", PRODUCT
            case Add(left, right):
                return f"{part(left, SUM)} + {part(right, PRODUCT)}", SUM
            case Neg(operand):
                return f"-{part(operand)}", UNARY
            case Reciprocal(operand) | Cos(operand) | Sin(operand):
                function = {Reciprocal: "reciprocal", Cos: "cos", Sin: "sin"}[type(expr)]
                return f"torch.{function}({part(operand, SUM)})", ATOM
            case Transpose(operand):
                return f"{part(operand)}.T", ATOM
            case Reshape(operand, shape):
                return f"{part(operand)}.reshape({', '.join(map(str, shape))})", ATOM
            case Concat(parts, axis):
                inside = ", ".join(part(p, SUM) for p in parts)
                return f"torch.cat([{inside}]{f', {axis}' if axis else ''})", ATOM
            case Take(operand, indices, axis):
                at = _slice(indices)
                return f"{part(operand)}[{':, ' if axis else ''}{at}]", ATOM
            case Scatter(operand, rows, columns, shape):
                self.used.add("place")
                return (f"place({part(operand, SUM)}, {_list(rows)}, {_list(columns)}, "
                        f"{shape})"), ATOM
        raise TypeError(f"no code for {type(expr).__name__}")

    def _fixed(self, expr: Constant | Structural | Arange) -> str:
        match expr:
            case Constant(rational, power):
                self.used.add("scalar")
                pi = f" * math.pi**{power}" if power else ""
                return f"scalar({float(rational)!r}{pi})"
            case Arange(length):
                self.used.add("digits")
                return f"digits({length})"
        self.used.add("signs")
        entries = ", ".join(f"({row}, {column}): {sign}" for row, column, sign in expr.entries)
        return f"signs({expr.shape[0]}, {expr.shape[1]}, {{{entries}}})"


def _slice(indices: tuple[int, ...]) -> str:
    if indices == tuple(range(indices[0], indices[0] + len(indices))):
        return f"{indices[0]}:{indices[-1] + 1}"
    return _list(indices)


def _list(indices: tuple[int, ...]) -> str:
    """`[0, 2, 5]`, or `range(0, 40)` for a long run."""
    if len(indices) > 8 and indices == tuple(range(indices[0], indices[0] + len(indices))):
        return f"list(range({indices[0]}, {indices[-1] + 1}))"
    return f"[{', '.join(map(str, indices))}]"


def assignment(name: str, text: str) -> list[str]:
    """`name = text`, in parentheses over several lines where one is too short."""
    if len(name) + len(text) + 3 <= COLUMNS - 18:
        return [f"{name} = {text}"]
    wrapped = textwrap.wrap(text, COLUMNS - 12, break_long_words=False, break_on_hyphens=False)
    return [f"{name} = (", *(f"    {line}" for line in wrapped), ")"]


def values_code(values: np.ndarray, head: str, dtype: str) -> str:
    """`head(nested lists)` of a leaf's values, wrapped, in digits that read back equal."""
    kind = np.dtype(dtype).type

    def text(value: float) -> str:
        if not np.isfinite(value):
            return f'float("{value}")'
        short = str(kind(value))
        return short if kind(float(short)) == kind(value) else repr(float(value))

    def nested(array: np.ndarray) -> str:
        if array.ndim == 0:
            return text(float(array))
        return "[" + ", ".join(nested(item) for item in array) + "]"

    whole = nested(values)
    if len(head) + len(whole) + 2 <= COLUMNS:
        return f"{head}({whole})"
    indent = " " * (len(head) - len(head.lstrip()) + 4)
    lines = textwrap.wrap(whole, COLUMNS, initial_indent=indent, subsequent_indent=indent,
                          break_long_words=False, break_on_hyphens=False)
    return f"{head}(\n" + "\n".join(lines) + f"\n{indent[4:]})"
