"""Matrix forms whose values are still to be found: leaves without a circuit behind them.

Takes: the form a spec asks for, the shape that is wanted, the residual's parts. Gives:
`Matrices`, which builds every matrix once and lets one refer to another; faults go to its
list. May import: errors, lang, passes.plan, weights.

    dense, table   every entry               rank r      left [R, r] times right [r, C]
    shared         rows shared in pairs      tied(m)     the entries of m
    transposed(m)  those of m, transposed    rotation(m) m with each pair of rows turned

`reads = token` lets a matrix see only that part of the residual, `size = 4` gives each head
only its first 4 dimensions; everywhere else the matrix is 0 and stores nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from adderc.errors import FaultList, Span, did_you_mean
from adderc.lang.syntax import Expr as Argument
from adderc.lang.syntax import Name, Number
from adderc.passes.plan import Choice
from adderc.weights.expr import (
    Add,
    Cos,
    Expr,
    Leaf,
    MatMul,
    Mul,
    Scatter,
    Shape,
    Sin,
    Structural,
    Take,
    Transpose,
)

PLAIN = ("dense", "table", "rank", "shared")
TIES = ("tied", "transposed", "rotation")
OPTIONS = ("reads", "size")


@dataclass(frozen=True)
class Wanted:
    """A matrix that the model needs: its form and shape, and the heads its rows belong to.

    `reads`: its columns are residual dimensions; `heads`: its rows are heads x head_dim.
    """

    name: str
    form: Choice
    shape: Shape
    meaning: str
    reads: bool = False
    heads: int = 0


@dataclass(frozen=True)
class Built:
    """`inner` holds the leaves and stands at `rows` x `columns` of `full`, among zeros."""

    inner: Expr
    full: Expr
    rows: tuple[int, ...]
    columns: tuple[int, ...]


@dataclass
class Matrices:
    """All matrices of one model by name; `keep` is told of each new leaf."""

    faults: FaultList
    parts: dict[str, tuple[int, ...]]
    wanted: dict[str, Wanted] = field(default_factory=dict)
    built: dict[str, Built] = field(default_factory=dict)
    open: list[str] = field(default_factory=list)
    leaves: dict[str, tuple[str, int]] = field(default_factory=dict)  # meaning, line

    def want(self, key: str, wanted: Wanted) -> None:
        self.wanted[key] = wanted

    def leaf(self, name: str, shape: Shape, meaning: str, span: Span) -> Leaf:
        """A new leaf, noted with what it means and where the spec asks for it."""
        self.leaves[name] = (meaning, span.line)
        return Leaf(name, shape)

    def full(self, key: str) -> Expr:
        return self.build(key).full

    def build(self, key: str) -> Built:
        """The matrix `key`, built when it is first asked for."""
        if key not in self.built:
            wanted = self.wanted[key]
            if key in self.open:
                self.faults.add(f"{wanted.name} refers to itself", wanted.form.span)
                return self.stand_in(wanted)
            self.open.append(key)
            self.built[key] = self.make(key, wanted)
            self.open.pop()
        return self.built[key]

    def stand_in(self, wanted: Wanted) -> Built:
        """Something of the right shape after a fault."""
        zero = Structural((), wanted.shape)
        return Built(zero, zero, tuple(range(wanted.shape[0])), tuple(range(wanted.shape[1])))

    def make(self, key: str, wanted: Wanted) -> Built:
        form, faults = wanted.form, self.faults
        for option in form.options:
            if option.name not in OPTIONS:
                faults.add(f"{wanted.name} has no option {option.name!r}", option.span,
                           f"options: {', '.join(OPTIONS)}")
        rows, columns = self.rows(wanted), self.columns(wanted)
        if form.name in TIES:
            other = self.target(key, form.args[0] if len(form.args) == 1 else None, wanted)
            if other is None:
                return self.stand_in(wanted)
            if form.name != "transposed" and not form.options:
                rows, columns = self.build(other).rows, self.build(other).columns
            inner = self.tie(other, wanted, (len(rows), len(columns)))
            if inner is None:
                return self.stand_in(wanted)
        elif form.name in PLAIN:
            inner = self.plain(wanted, (len(rows), len(columns)))
        else:
            known = (*PLAIN, *TIES)
            faults.add(f"{wanted.name} cannot be {form.name!r} without an algorithm", form.span,
                       did_you_mean(form.name, known) or f"known: {', '.join(known)}")
            return self.stand_in(wanted)
        if (len(rows), len(columns)) == wanted.shape:
            return Built(inner, inner, rows, columns)
        return Built(inner, Scatter(inner, rows, columns, wanted.shape), rows, columns)

    def rows(self, wanted: Wanted) -> tuple[int, ...]:
        """The rows that hold something: `size` of each head."""
        count = wanted.shape[0]
        option = wanted.form.option("size")
        if option is None or not wanted.heads:
            if option is not None:
                self.faults.add(f"{wanted.name} has no heads to size", option.span)
            return tuple(range(count))
        width = count // wanted.heads
        match option.value:
            case Number(value) if value.denominator == 1 and 1 <= value <= width:
                size = int(value)
            case _:
                self.faults.add(f"size is a whole number from 1 to {width}", option.span)
                size = width
        return tuple(head * width + row for head in range(wanted.heads) for row in range(size))

    def columns(self, wanted: Wanted) -> tuple[int, ...]:
        """The columns that hold something: those of the part that is read."""
        every = tuple(range(wanted.shape[1]))
        option = wanted.form.option("reads")
        if option is None:
            return every
        part = option.value.name if isinstance(option.value, Name) else ""
        if not wanted.reads or part not in self.parts:
            self.faults.add(
                f"{wanted.name} cannot read only {part or 'that'}", option.span,
                "the model part needs: residual token 2, position 3" if wanted.reads
                else "it does not read the residual")
            return every
        return self.parts[part]

    def plain(self, wanted: Wanted, shape: Shape) -> Expr:
        """A form with leaves of its own."""
        name, form, meaning = wanted.name, wanted.form, wanted.meaning
        if form.name == "rank":
            size = form.number or 1
            left = self.leaf(f"{name}.left", (shape[0], size), f"{meaning}, left factor", form.span)
            right = self.leaf(f"{name}.right", (size, shape[1]), f"{meaning}, right factor",
                              form.span)
            return MatMul(left, right)
        if form.name == "shared":
            if shape[0] % 2:
                self.faults.add(f"{name} has {shape[0]} rows, which are not pairs", form.span)
            leaf = self.leaf(name, (-(-shape[0] // 2), shape[1]),
                             f"{meaning}, rows shared in pairs", form.span)
            return Take(leaf, tuple(row // 2 for row in range(shape[0])), 0)
        return self.leaf(name, shape, meaning, form.span)

    def tie(self, other: str, wanted: Wanted, shape: Shape) -> Expr | None:
        """A form made of another matrix's entries; None after a fault."""
        form = wanted.form
        inner = self.build(other).inner
        if form.name == "transposed":
            inner = Transpose(inner)
        if inner.shape != shape:
            self.faults.add(
                f"{wanted.name} is {_size(shape)}, {form.name}({_short(other)}) is "
                f"{_size(inner.shape)}", form.span, "reads = token or size = … change the shape")
            return None
        if form.name == "rotation":
            return self.turned(wanted, inner)
        return inner

    def target(self, key: str, argument: Argument | None, wanted: Wanted) -> str | None:
        """The key of the matrix that a tie names, in the same layer or for the whole model."""
        layer = key.rpartition("attention.")[0] or key.rpartition("ffn.")[0]
        near = {_short(k): k for k in self.wanted if k.startswith(layer) or "." not in k}
        name = argument.name if isinstance(argument, Name) else ""
        if name not in near or near[name] == key:
            self.faults.add(f"{wanted.name} is {wanted.form.name} to one other matrix",
                            wanted.form.span, f"matrices: {', '.join(near)}")
            return None
        return near[name]

    def turned(self, wanted: Wanted, inner: Expr) -> Expr:
        """Rows (2j, 2j + 1) of each head turned by the head's angle t:
        r -> cos t r + sin t J r with J = [[0, -1], [1, 0]]; an odd last row stays."""
        heads, count = wanted.heads or 1, inner.shape[0]
        size = count // heads
        paired = [head * size + row for head in range(heads) for row in range(size - size % 2)]
        cross = [(row, row + 1, -1) if (row % size) % 2 == 0 else (row, row - 1, 1)
                 for row in paired]
        angle: Expr = self.leaf(f"{wanted.name}.angle", (heads, 1),
                                "how far each head's queries turn, in radians", wanted.form.span)
        if heads > 1:
            angle = Take(angle, tuple(row // size for row in range(count)), 0)
        swapped = MatMul(Structural(tuple(cross), (count, count)), inner)
        if size % 2 == 0:
            return Add(Mul(Cos(angle), inner), Mul(Sin(angle), swapped))
        same = Structural(tuple((row, row, 1) for row in paired), (count, count))
        rest = tuple((head * size + size - 1,) * 2 + (1,) for head in range(heads))
        turning = Add(Mul(Cos(angle), MatMul(same, inner)), Mul(Sin(angle), swapped))
        return Add(turning, MatMul(Structural(rest, (count, count)), inner))


def _short(key: str) -> str:
    return key.rpartition(".")[2]


def _size(shape: Shape) -> str:
    return " x ".join(map(str, shape))
