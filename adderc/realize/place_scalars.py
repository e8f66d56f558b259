"""The single numbers of a place-value model: leaves by name, given or derived.

Takes: names with derived values, given values, a dtype. Gives: `Scalars`, which hands out
leaves of shape [1, 1] and keeps their values rounded to the dtype.
May import: errors, realize, weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction

import numpy as np

from adderc.errors import Fault, Source, SpecError, did_you_mean
from adderc.realize.derive import GivenValue
from adderc.weights.expr import Add, Constant, Expr, Leaf, Mul, Scatter, Structural
from adderc.weights.structure import LeafInfo

Array = np.ndarray


@dataclass
class Scalars:
    """Leaves by name; a given value wins over the derived one."""

    dtype: str
    source: Source
    given: tuple[GivenValue, ...]
    values: dict[str, Array] = field(default_factory=dict)
    infos: list[LeafInfo] = field(default_factory=list)

    def is_given(self, name: str) -> bool:
        return any(item.name == name for item in self.given)

    def leaf(self, name: str, derived: float, meaning: str, line: int = 0) -> Leaf:
        """The leaf `name`; its value is the given one, else `derived`."""
        found = next((item for item in self.given if item.name == name), None)
        value = derived
        if found is not None:
            if found.value.size != 1:
                raise SpecError(source=self.source, faults=(Fault(
                    f"{name} is one number, {found.value.size} are given", found.span),))
            value, line = float(found.value.reshape(-1)[0]), found.span.line
        if name not in self.values:
            self.values[name] = np.array([[value]]).astype(self.dtype).astype(np.float64)
            how = "derived" if found is None else "given"
            self.infos.append(LeafInfo(name, how, line, meaning))
        return Leaf(name, (1, 1))

    def maybe(self, name: str, meaning: str) -> Leaf | None:
        """The leaf `name` where it is given; such a number is 1 or absent otherwise."""
        return self.leaf(name, 1.0, meaning) if self.is_given(name) else None

    def value(self, name: str, absent: float = 1.0) -> Decimal:
        """A leaf's value, exactly; `absent` where there is no such leaf."""
        held = self.values.get(name)
        return Decimal(absent if held is None else float(held[0, 0]))

    def check_all_taken(self) -> None:
        """SpecError for given names that no leaf has."""
        faults = tuple(
            Fault(f"there is no leaf {item.name!r}", item.span,
                  did_you_mean(item.name, self.values) or f"leaves: {', '.join(self.values)}")
            for item in self.given if item.name not in self.values)
        if faults:
            raise SpecError(faults=faults, source=self.source)


def constant(value: float) -> Constant:
    return Constant(Fraction(value))


def ones(rows: int, columns: int) -> Structural:
    """A matrix of ones."""
    every = tuple((r, c, 1) for r in range(rows) for c in range(columns))
    return Structural(every, (rows, columns))


def wires(shape: tuple[int, int], entries: dict[tuple[int, int], int]) -> Structural:
    """A matrix of 0 and ±1 by its entries."""
    return Structural(tuple((r, c, sign) for (r, c), sign in entries.items()), shape)


def times(factor: Expr | None, expr: Expr) -> Expr:
    """factor * expr, or `expr` itself where the factor is 1."""
    return expr if factor is None else Mul(factor, expr)


def at(expr: Expr, row: int, column: int, shape: tuple[int, int]) -> Expr:
    """One number [1, 1] at a place of a matrix of zeros."""
    return Scatter(expr, (row,), (column,), shape)


def total(first: Expr, *rest: Expr) -> Expr:
    """The sum of matrices."""
    for expr in rest:
        first = Add(first, expr)
    return first
