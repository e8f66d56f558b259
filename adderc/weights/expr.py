"""The algebra of weight expressions over named leaf parameters.

Takes: nothing. Gives: `Expr` and its node classes, constructors that check shapes, and
`leaves_of`. A matrix of a model is one `Expr`; what the module stores are only its leaves.
Three readings of the same object live beside this file: `torch_reading` (run, train),
`symbolic` (explain, derive, count), `interval` (bounds).
May import: the standard library.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

Shape = tuple[int, ...]


class ShapeError(ValueError):
    """Two shapes that do not fit: a bug in a lowering, never a user's fault."""


@dataclass(frozen=True)
class Leaf:
    """A stored parameter tensor; the module's `state_dict` has exactly these names."""

    name: str
    shape: Shape


@dataclass(frozen=True)
class Constant:
    """A scalar that is written in the structure and not learned: `rational * pi^pi_power`.

    0, 1 and -1 belong in `Structural`; every other value is counted as a constant.
    """

    rational: Fraction
    pi_power: int = 0

    @property
    def shape(self) -> Shape:
        return ()

    def value(self) -> float:
        return float(self.rational) * math.pi**self.pi_power


@dataclass(frozen=True)
class Structural:
    """A matrix of 0 and ±1 that says which dimension connects where; `entries` are (i, j, sign)."""

    entries: tuple[tuple[int, int, int], ...]
    shape: Shape


@dataclass(frozen=True)
class Arange:
    """0, 1, … n - 1 as a column [n, 1]: the digit each vocabulary id stands for."""

    length: int

    @property
    def shape(self) -> Shape:
        return (self.length, 1)


@dataclass(frozen=True)
class MatMul:
    """left [n, k] times right [k, m]: outer product for k = 1, low-rank product, selection."""

    left: Expr
    right: Expr

    @property
    def shape(self) -> Shape:
        return (self.left.shape[0], self.right.shape[1])


@dataclass(frozen=True)
class Add:
    left: Expr
    right: Expr

    @property
    def shape(self) -> Shape:
        return broadcast(self.left.shape, self.right.shape)


@dataclass(frozen=True)
class Mul:
    """Elementwise, with numpy's broadcasting; squaring is `Mul(x, x)`."""

    left: Expr
    right: Expr

    @property
    def shape(self) -> Shape:
        return broadcast(self.left.shape, self.right.shape)


@dataclass(frozen=True)
class Neg:
    operand: Expr

    @property
    def shape(self) -> Shape:
        return self.operand.shape


@dataclass(frozen=True)
class Reciprocal:
    operand: Expr

    @property
    def shape(self) -> Shape:
        return self.operand.shape


@dataclass(frozen=True)
class Transpose:
    operand: Expr

    @property
    def shape(self) -> Shape:
        return self.operand.shape[::-1]


@dataclass(frozen=True)
class Cos:
    operand: Expr

    @property
    def shape(self) -> Shape:
        return self.operand.shape


@dataclass(frozen=True)
class Sin:
    operand: Expr

    @property
    def shape(self) -> Shape:
        return self.operand.shape


@dataclass(frozen=True)
class Reshape:
    operand: Expr
    shape: Shape


@dataclass(frozen=True)
class Concat:
    """Along axis 0 or 1 of matrices."""

    parts: tuple[Expr, ...]
    axis: int

    @property
    def shape(self) -> Shape:
        shapes = [part.shape for part in self.parts]
        total = sum(shape[self.axis] for shape in shapes)
        other = shapes[0][1 - self.axis]
        return (total, other) if self.axis == 0 else (other, total)


@dataclass(frozen=True)
class Take:
    """Rows (axis 0) or columns (axis 1) of a matrix, in the given order, repeats allowed."""

    operand: Expr
    indices: tuple[int, ...]
    axis: int

    @property
    def shape(self) -> Shape:
        shape = list(self.operand.shape)
        shape[self.axis] = len(self.indices)
        return tuple(shape)


@dataclass(frozen=True)
class Scatter:
    """Zeros of `shape` with `operand` [len(rows), len(columns)] written at rows x columns."""

    operand: Expr
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    shape: Shape


Expr = (
    Leaf | Constant | Structural | Arange | MatMul | Add | Mul | Neg | Reciprocal | Transpose
    | Cos | Sin | Reshape | Concat | Take | Scatter
)


def broadcast(left: Shape, right: Shape) -> Shape:
    """numpy's broadcasting rule; ShapeError where it has none."""
    size = max(len(left), len(right))
    a = (1,) * (size - len(left)) + left
    b = (1,) * (size - len(right)) + right
    if any(x != y and 1 not in (x, y) for x, y in zip(a, b, strict=True)):
        raise ShapeError(f"cannot broadcast {left} with {right}")
    return tuple(max(x, y) for x, y in zip(a, b, strict=True))


def children(expr: Expr) -> tuple[Expr, ...]:
    """The expressions directly inside `expr`."""
    match expr:
        case MatMul(left, right) | Add(left, right) | Mul(left, right):
            return (left, right)
        case Concat(parts, _):
            return parts
        case Leaf() | Constant() | Structural() | Arange():
            return ()
        case _:
            return (expr.operand,)


def validate(expr: Expr) -> None:
    """Raise ShapeError at the innermost node whose parts do not fit."""
    for child in children(expr):
        validate(child)
    fits = True
    match expr:
        case MatMul(left, right):
            fits = len(left.shape) == len(right.shape) == 2 and left.shape[1] == right.shape[0]
        case Add(left, right) | Mul(left, right):
            broadcast(left.shape, right.shape)
        case Reshape(operand, shape):
            fits = math.prod(operand.shape) == math.prod(shape)
        case Concat(parts, axis):
            fits = len({part.shape[1 - axis] for part in parts}) == 1
        case Take(operand, indices, axis):
            fits = all(0 <= index < operand.shape[axis] for index in indices)
        case Scatter(operand, rows, columns, shape):
            fits = operand.shape == (len(rows), len(columns)) and (
                max(rows, default=0) < shape[0] and max(columns, default=0) < shape[1]
            )
        case _:
            pass
    if not fits:
        raise ShapeError(f"{type(expr).__name__} does not fit: {expr}")


def walk(expr: Expr) -> Iterator[Expr]:
    """`expr` and everything inside it, outermost first; shared parts come once per use."""
    yield expr
    for child in children(expr):
        yield from walk(child)


def leaves_of(*exprs: Expr | None) -> tuple[Leaf, ...]:
    """The distinct leaves in order of first use; one name with two shapes is a ShapeError."""
    found: dict[str, Leaf] = {}
    for expr in exprs:
        for node in walk(expr) if expr is not None else ():
            if isinstance(node, Leaf) and found.setdefault(node.name, node) != node:
                raise ShapeError(f"leaf {node.name} has two shapes: {node}, {found[node.name]}")
    return tuple(found.values())
