"""Exact linear algebra over the rationals, on python-flint's fraction matrices.

Takes and gives: vectors as tuples of Fractions. May import: python-flint.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from flint import fmpq, fmpq_mat

Row = Sequence[Fraction]


def rank(rows: Sequence[Row]) -> int:
    """The rank of the matrix with these rows."""
    return 0 if not rows or not len(rows[0]) else int(_matrix(rows).rank())


def solve(columns: Sequence[Row], wanted: Row) -> tuple[Fraction, ...] | None:
    """x with sum of x_k * columns[k] = wanted, free unknowns 0; None where there is none."""
    if not columns:
        return () if not any(wanted) else None
    count = len(columns)
    rows = [[column[at] for column in columns] + [wanted[at]] for at in range(len(wanted))]
    reduced, pivots = _matrix(rows).rref()
    values = [Fraction(0)] * count
    for row in range(pivots):
        lead = next(c for c in range(count + 1) if reduced[row, c] != 0)
        if lead == count:
            return None
        value = reduced[row, count]
        values[lead] = Fraction(int(value.p), int(value.q))
    return tuple(values)


def _matrix(rows: Sequence[Row]) -> fmpq_mat:
    flat = [fmpq(v.numerator, v.denominator) for row in rows for v in row]
    return fmpq_mat(len(rows), len(rows[0]), flat)
