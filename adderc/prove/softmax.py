"""Softmax rows, kept as exponentials whose sum is divided out only where it must be.

Takes: boxes of scores. Gives: `SoftRow`, `Entry`, `weigh`, `average`.
May import: prove.box, prove.doubt, prove.form, prove.functions, prove.rows, prove.sums.

A softmax is the same for scores shifted by any number, so the exponentials are bounded after
subtracting an upper bound of all scores. The kernel subtracts its own maximum m: the rounding
of s - m is at most u |s - m|, which changes the exponential by that factor; the exponential
has its stated ulps; sum, reciprocal and product are 3 u and gamma(keys); what underflows
changes by at most the smallest normal number, because the largest exponential is 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from adderc.prove.box import Box, outward
from adderc.prove.doubt import Doubt
from adderc.prove.form import UP, Form, combine, middle
from adderc.prove.functions import FUNCTIONS
from adderc.prove.rows import Rows, meet
from adderc.prove.sums import SumBuilder, gamma

Array = np.ndarray
OWN_RELATIVE = 2.0**-50  # of a few float64 operations
WIDE: Any = np.longdouble
OWN_EXP = 2.0**-58 if np.finfo(WIDE).nmant >= 63 else 2.0**-47
NARROW = 1e-4  # denominators that vary by more are bounded case by case


class SoftRow:
    """Exponentials of one row; a score of minus infinity has weight 0.

    Where all scores depend on one and the same token, so do the maximum, the sum and every
    weight, and all are kept token by token; else their bounds forget the tokens.
    """

    def __init__(self, scores: list[Any], unit: float, tiny: float, passes: int = 1) -> None:
        live = [score for score in scores if isinstance(score, Box)]
        if not live:
            raise Doubt("a softmax with no key")
        self.rows = live[0].rows
        for score in live:
            self.rows = meet(self.rows, score.rows)
        self.unit, self.tiny, self.dtype = unit, tiny, live[0].lo.dtype
        ends = [None if not isinstance(s, Box) else self._ends(s) for s in scores]
        self.position = max(score.position for score in live)
        self.alone = {score.position for score in live} <= {-1, self.position}
        top = reduce(np.maximum, [self._most(e[1]) for e in ends if e is not None])  # [R, K]
        self.keys = [
            None if e is None else self._exponential(
                e, top, self.position if self.alone else s.position, passes)
            for e, s in zip(ends, scores, strict=True)
        ]
        live_keys = [key for key in self.keys if key is not None]
        self.low: Array = sum((self._least(key.lo) for key in live_keys), np.zeros(1))
        self.high: Array = sum((self._most(key.hi) for key in live_keys), np.zeros(1))
        self.slack = (len(live) + 4) * 2.0**-52  # of the sums above and of differences with them
        self.loss = gamma(len(live) + 1, unit) + 4 * unit + OWN_RELATIVE
        self._boxes: dict[int, Box] = {}

    def _ends(self, score: Box) -> tuple[Array, Array]:
        shape = (self.rows.count, score.lo.shape[1])
        take = score.rows.take
        return (np.broadcast_to(take(score.lo, self.rows), shape).astype(np.float64),
                np.broadcast_to(take(score.hi, self.rows), shape).astype(np.float64))

    def _most(self, array: Array) -> Array:
        """Upper ends that hold for every token of the other keys, [R, K] or [R, 1]."""
        return array if self.alone else array.max(axis=1, keepdims=True)

    def _least(self, array: Array) -> Array:
        return array if self.alone else array.min(axis=1, keepdims=True)

    def _exponential(self, ends: tuple[Array, Array], top: Array, position: int,
                     passes: int) -> Box:
        low, high = ends[0].astype(WIDE) - top, ends[1].astype(WIDE) - top
        own = OWN_EXP * (1 - low)
        ulps = FUNCTIONS["exp"].ulps * 2 * self.unit
        relative = passes * (np.abs(low) * self.unit + ulps) * UP + own
        if not (relative < 0.01).all():
            # far below the maximum all that matters is that the weight is nearly 0
            high = np.where(relative < 0.01, high, high * (1 - self.unit * 2))
            relative = np.where(relative < 0.01, relative, 1.0)
        relative = relative * 1.02
        with np.errstate(under="ignore"):
            wide = np.exp(low) * (1 - relative), np.exp(high) * (1 + relative)
            lo, hi = (end.astype(np.float64) for end in wide)
        lo = np.nextafter(np.nextafter(lo, -np.inf) - 2 * self.tiny, -np.inf)
        hi = np.nextafter(np.nextafter(hi, np.inf) + 2 * self.tiny, np.inf)
        return Box(np.maximum(lo, 0.0), hi, position, self.rows)

    def weight(self, index: int) -> Box | None:
        """One weight as a box of its own key's token; None for a masked key."""
        key = self.keys[index]
        if key is None:
            return None
        if index not in self._boxes:
            others_low = np.maximum(
                self.low * (1 - self.slack) - self._least(key.lo), 0.0) * (1 - self.slack)
            others_high = np.maximum(self.high - self._most(key.hi), 0.0) + (
                self.slack * self.high)
            least, most = key.lo + others_high, key.hi + others_low
            with np.errstate(divide="ignore", invalid="ignore"):
                least, most = key.lo / least, key.hi / most
            # the largest exponential is 1: whatever the bounds, a weight lies in 0 ... 1
            least, most = np.where(least > 0, least, 0.0), np.where(most < 1, most, 1.0)
            lo = np.maximum(least * (1 - self.loss) - self.tiny, 0.0)
            hi = most * (1 + self.loss) + self.tiny
            self._boxes[index] = outward(lo, hi, self.dtype, key.position, self.rows)
        return self._boxes[index]


@dataclass(frozen=True, eq=False)
class Entry:
    """One weight of a row, not divided yet."""

    row: SoftRow
    index: int

    def box(self) -> Box:
        found = self.row.weight(self.index)
        assert found is not None
        return found


def weigh(row: SoftRow, index: int, unit: float, tiny: float) -> Any:
    """The node of weight `index`: zero for a masked key, else an entry or its box."""
    if row.keys[index] is None:
        zero = np.zeros((1, 1), dtype=row.dtype)
        return Box(zero, zero)
    return row.weight(index) if row.alone else Entry(row, index)


def average(owner: Any, pairs: list[tuple[Any, Any]], extra: int = 0) -> Form | None:
    """Σ weight * value of one row whose weights depend on tokens, as N / D; None if not that.

    N and D are separable. With r near N / D, N / D = r + (N - r D) / D, and 1 / D lies in a
    narrow interval c ± k: so N / D = r + c (N - r D) ± k |N - r D|. What rounding adds is a
    share of Σ |weight * value|, which is no more than the largest value, and no more than
    Σ |exponential * value| over the least D.
    """
    pairs = [(y, x) if isinstance(y, Entry) else (x, y) for x, y in pairs]
    if not all(isinstance(x, Entry) and not isinstance(y, (Entry, float)) for x, y in pairs):
        return None
    row: SoftRow = pairs[0][0].row
    if any(x.row is not row for x, _ in pairs) or len(pairs) == 1:
        return None
    builder, one = SumBuilder(owner), np.ones((1, 1))
    products = [owner.settle_pair(row.keys[x.index], y) for x, y in pairs]
    upper = builder.build(products, computed=False)
    unit_box = Box(one, one)
    lower = builder.build([(key, unit_box) for key in row.keys if key is not None], computed=False)
    rows = meet(upper.rows, lower.rows)
    upper, lower = upper.on(rows), lower.on(rows)
    least, most = owner.row_range(lower)
    if (most - least > NARROW * least).any():
        rows = owner.each_case
        upper, lower = upper.on(rows), lower.on(rows)
        least, most = owner.row_range(lower)
    if not (least > 0).all():
        return None  # which key leads depends on tokens that no case knows
    low, high = owner.row_range(upper)
    guess = (low + high) / (least + most)
    rest = combine([(np.ones(1), upper), (-guess, lower)], np.zeros(1), rows)
    low, high = owner.row_range(rest)
    c, k = middle(1 / most * (1 - OWN_RELATIVE), 1 / least * (1 + OWN_RELATIVE))
    largest = np.maximum(np.abs(low), np.abs(high))
    result = combine([(c, rest)], guess, rows).add_radius(k * largest * UP)
    size = np.minimum(_peak([value for _, value in products], rows),
                      _total(products, rows) / least * (1 + OWN_RELATIVE)) * UP
    loss = gamma(len(pairs) + extra + 1, row.unit) + row.loss
    return result.add_radius(size * loss * 1.01 + 3 * len(pairs) * (1 + size) * row.tiny)


def _magnitude(value: Any, rows: Rows) -> Array:
    """A bound on the absolute value, [R] or [1]."""
    if isinstance(value, Box):
        ends = np.maximum(np.abs(value.lo), np.abs(value.hi)).max(axis=1).astype(np.float64)
        return value.rows.take(ends, rows)
    return np.asarray(value.rows.take(value.magnitude, rows))


def _peak(values: list[Any], rows: Rows) -> Array:
    """The largest magnitude of the values that are averaged, [R]."""
    return reduce(np.maximum, (_magnitude(value, rows) for value in values), np.zeros(1))


def _total(products: list[tuple[Any, Any]], rows: Rows) -> Array:
    """A bound on Σ |exponential * value|, [R]."""
    return reduce(np.add, (_magnitude(key, rows) * _magnitude(value, rows) * UP
                           for key, value in products), np.zeros(1))
