"""Sums of products: what a dot product, a matrix product or a mean computes.

Takes: pairs of boxes and forms. Gives: `dot_boxes`, `SumBuilder`.
May import: prove.box, prove.doubt, prove.form, prove.rows.

For n products summed in any order, with or without fused multiply-add, the computed sum
differs from the exact one by at most gamma(n) * Σ |terms|, gamma(n) = n u / (1 - n u), u half
the dtype's epsilon (Higham, section 3.1), and by n times the smallest normal number where
products underflow. It is exact where every term is a multiple of one power of two and the
magnitudes add up to at most 2^bits of it, because then every partial sum is representable.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from adderc.prove.box import Box, compatible, outward, product_ends
from adderc.prove.form import OWN, UP, Form, combine, middle
from adderc.prove.rows import Rows, meet

Array = np.ndarray


def gamma(terms: int, unit: float) -> float:
    assert terms * unit < 0.01
    return terms * unit / (1 - terms * unit) * UP


def dot_boxes(pairs: list[tuple[Any, Any]], unit: float, tiny: float, extra: int = 0
              ) -> Box | None:
    """The box of Σ x * y where all boxes depend on one token at most; None where not."""
    operands = [value for pair in pairs for value in pair]
    if not all(isinstance(value, Box) for value in operands):
        return None
    position = max(value.position for value in operands)
    if any(value.position not in (-1, position) for value in operands):
        return None
    rows = operands[0].rows
    for value in operands:
        rows = meet(rows, value.rows)
    lows, highs = _stack(pairs, rows)
    low, high = _float_sum(lows), _float_sum(highs)
    size = np.maximum(np.abs(lows), np.abs(highs)).sum(axis=0) * UP
    error = size * (gamma(len(pairs) + extra, unit) + (len(pairs) + 3) * OWN / 2)
    error = error + len(pairs) * tiny
    exact = _exact(operands, lows, highs, size, 0.0 if extra else unit, tiny)
    dtype = operands[0].lo.dtype
    wide = outward(low - error, high + error, dtype, position, rows)
    if not exact.any():
        return wide
    sharp = low.astype(dtype)
    return Box(np.where(exact, sharp, wide.lo), np.where(exact, sharp, wide.hi), position, rows)


def _float_sum(terms: Array) -> Array:
    total: Array = terms.sum(axis=0)
    return total


def _stack(pairs: list[tuple[Box, Box]], rows: Rows) -> tuple[Array, Array]:
    """Ends of the products, [n, R, K] float64."""
    ends = []
    for left, right in pairs:
        take, fetch = left.rows.take, right.rows.take
        ends.append(product_ends(
            take(left.lo, rows).astype(np.float64), take(left.hi, rows).astype(np.float64),
            fetch(right.lo, rows).astype(np.float64), fetch(right.hi, rows).astype(np.float64)))
    shape = np.broadcast_shapes(*(low.shape for low, _ in ends))
    return (np.stack([np.broadcast_to(low, shape) for low, _ in ends]),
            np.stack([np.broadcast_to(high, shape) for _, high in ends]))


def _exact(operands: list[Box], lows: Array, highs: Array, size: Array, unit: float,
           tiny: float) -> Array:
    """Where the sum is exact in any order: bool [R, K]."""
    thin = (lows == highs).all(axis=0)
    if not unit:
        return np.zeros_like(thin)
    if not thin.any():
        return thin
    if unit < 2.0**-50 and not all(_short(value) for value in operands):
        return np.zeros_like(thin)  # products of float64 numbers were rounded here
    bits = round(-np.log2(unit))
    _, exponent = np.frexp(size)
    grid = np.ldexp(1.0, exponent - bits)
    whole = lows / grid
    fits = (whole == np.floor(whole)).all(axis=0) & (grid >= tiny) | (size == 0)
    return thin & fits


def _short(value: Box) -> bool:
    """Whether the numbers have at most 26 significant bits, so that products are exact."""
    mantissa, _ = np.frexp(value.lo.astype(np.float64))
    scaled = mantissa * 2.0**26
    return bool((scaled == np.floor(scaled)).all() and (value.lo == value.hi).all())


class Products(Protocol):
    """What a sum needs of the evaluator."""

    positions: int
    tokens: int
    unit: float
    tiny: float

    def product(self, left: Any, right: Any) -> Form: ...

    def form(self, value: Any) -> Form: ...

    def prefetch(self, forms: list[Form]) -> None: ...


class SumBuilder:
    """Collects Σ x * y into one form; boxes of one token are added up table by table."""

    def __init__(self, owner: Products) -> None:
        self.owner = owner

    def build(self, pairs: list[tuple[Any, Any]], computed: bool = True, extra: int = 0) -> Form:
        """The form of the sum; `computed` adds the rounding of the module's own sum.

        `extra` roundings of every term come on top of those of the sum, as in a mean.
        """
        simple: list[tuple[Any, Any]] = []
        others: list[tuple[Any, Any]] = []
        for pair in pairs:
            plain = all(isinstance(v, Box) for v in pair) and compatible(*pair)
            (simple if plain else others).append(pair)
        terms, size = [], np.zeros(1)
        rows = None
        if simple:
            table, magnitude = self._tables(simple)
            terms.append(table)
            rows, size = table.rows, magnitude
        self._prefetch(others)
        for pair in others:
            product = self.owner.product(*pair)
            joint = product.rows if rows is None else meet(rows, product.rows)
            size = (size if rows is None else rows.take(size, joint)) + product.rows.take(
                product.magnitude, joint)
            rows = joint
            terms.append(product)
        assert rows is not None
        one = np.ones(1)
        total = combine([(one, term) for term in terms], np.zeros(1), rows)
        if not computed:
            return total
        error = size * gamma(len(pairs) + extra, self.owner.unit)
        error = error + 2 * len(pairs) * self.owner.tiny
        return total.add_radius(error)

    def _prefetch(self, pairs: list[tuple[Any, Any]]) -> None:
        """The ranges that the products of two variable factors will ask for."""
        self.owner.prefetch([
            self.owner.form(value) for pair in pairs for value in pair
            if not any(isinstance(v, Box) and v.position < 0 for v in pair)])

    def _tables(self, pairs: list[tuple[Box, Box]]) -> tuple[Form, Array]:
        """The form of the simple pairs and the sum of their magnitudes, [R]."""
        rows = pairs[0][0].rows
        for pair in pairs:
            rows = meet(meet(rows, pair[0].rows), pair[1].rows)
        count, owner = rows.count, self.owner
        tables = np.zeros((owner.tokens, owner.positions, count))
        halves, sizes = np.zeros_like(tables), np.zeros_like(tables)
        base, radius, size = np.zeros(count), np.zeros(count), np.zeros(count)
        for left, right in pairs:
            take, fetch = left.rows.take, right.rows.take
            low, high = product_ends(
                take(left.lo, rows).astype(np.float64), take(left.hi, rows).astype(np.float64),
                fetch(right.lo, rows).astype(np.float64), fetch(right.hi, rows).astype(np.float64))
            centre, half = middle(low, high)
            most = np.maximum(np.abs(low), np.abs(high))
            position = max(left.position, right.position)
            if position < 0:
                base += centre[:, 0]
                radius += half[:, 0]
                size += most[:, 0]
            else:
                tokens = slice(0, centre.shape[1])
                tables[tokens, position] += centre.T
                halves[tokens, position] += half.T
                sizes[tokens, position] += most.T
        size = (size + sizes.max(axis=0).sum(axis=0)) * UP
        radius = (radius + halves.max(axis=0).sum(axis=0)) * UP
        radius = radius + (len(pairs) + 3) * (OWN / 2) * size
        return Form(base, tables, {}, radius, rows), size
