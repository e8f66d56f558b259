"""Values of operations that choose or jump: comparisons, choices, whole numbers.

Takes: boxes, forms. Gives: `compare`, `select`, `whole`, `divided`, `leaky`.
May import: prove.box, prove.doubt, prove.form, prove.rows.

Where a case settles which side of the jump a value is on, the result is exact; else it is an
interval that holds both sides, which splitting the case may narrow.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from adderc.prove.box import Box, align, compatible, outward, settle
from adderc.prove.doubt import Unsupported
from adderc.prove.form import UP, Form, combine
from adderc.prove.rows import meet

Array = np.ndarray
Value = Box | Form


def compare(owner: Any, op: str, left: Value, right: Value) -> Box:
    """1 where the comparison holds for sure, 0 where it surely does not, else [0, 1]."""
    if isinstance(left, Box) and isinstance(right, Box) and compatible(left, right):
        llo, lhi, rlo, rhi, position, rows = align(left, right)
        surely, possibly = _sides(op, llo, lhi, rlo, rhi)
    else:
        low, high = owner.case_range(owner.difference(left, right))
        zero = np.zeros_like(low)
        surely, possibly = _sides(op, low[:, None], high[:, None], zero[:, None], zero[:, None])
        position, rows = -1, owner.each_case
    return Box(surely.astype(owner.dtype), possibly.astype(owner.dtype), position, rows)


def _sides(op: str, llo: Array, lhi: Array, rlo: Array, rhi: Array) -> tuple[Array, Array]:
    """Where left op right holds for all values of two intervals, and where for some."""
    match op:
        case "gt":
            return llo > rhi, lhi > rlo
        case "ge":
            return llo >= rhi, lhi >= rlo
        case "lt":
            return lhi < rlo, llo < rhi
        case "le":
            return lhi <= rlo, llo <= rhi
        case "eq":
            return (llo == lhi) & (rlo == rhi) & (llo == rlo), (llo <= rhi) & (rlo <= lhi)
    surely, possibly = _sides("eq", llo, lhi, rlo, rhi)
    return ~possibly, ~surely


def select(owner: Any, condition: Value, yes: Value, no: Value) -> Value:
    """yes where the condition is 1, no where it is 0, anything between where it is open."""
    chosen: Box = owner.box(condition)
    parts = (chosen, yes, no)
    if all(isinstance(part, Box) for part in parts):
        position = max(part.position for part in parts)  # type: ignore[union-attr]
        if all(part.position in (-1, position) for part in parts):  # type: ignore[union-attr]
            return _select_boxes(chosen, yes, no)  # type: ignore[arg-type]
    if chosen.position >= 0:
        chosen = owner.box(owner.form(chosen))
    one, two = owner.form(yes), owner.form(no)
    rows = meet(meet(one.rows, two.rows), chosen.rows)
    low, high = (chosen.rows.take(end[:, 0].astype(np.float64), rows)
                 for end in (chosen.lo, chosen.hi))
    low, high = (low > 0.5).astype(np.float64), (high > 0.5).astype(np.float64)
    share = (low + high) / 2
    found = combine([(share, one), (1 - share, two)], np.zeros(1), rows)
    if (low == high).all():
        return found
    size = owner.difference(yes, no).on(rows).magnitude
    return found.add_radius(np.where(low == high, 0.0, size / 2 * UP))


def _select_boxes(condition: Box, yes: Box, no: Box) -> Box:
    rows = meet(condition.rows, meet(yes.rows, no.rows))
    sure, open_ = (condition.rows.take(end, rows) for end in (condition.lo, condition.hi))
    ends = [(part.rows.take(part.lo, rows), part.rows.take(part.hi, rows)) for part in (yes, no)]
    (ylo, yhi), (nlo, nhi) = ends
    lo = np.where(sure > 0.5, ylo, np.where(open_ < 0.5, nlo, np.minimum(ylo, nlo)))
    hi = np.where(sure > 0.5, yhi, np.where(open_ < 0.5, nhi, np.maximum(yhi, nhi)))
    position = max(condition.position, yes.position, no.position)
    return Box(lo, hi, position, rows)


def whole(box: Box, name: str) -> Box:
    """floor, ceil, round (half to even), trunc or sign of the ends: all rise."""
    function: Any = {"floor": np.floor, "ceil": np.ceil, "round": np.round, "trunc": np.trunc,
                     "sign": np.sign}[name]
    return Box(function(box.lo) + 0.0, function(box.hi) + 0.0, box.position, box.rows)


def divided(owner: Any, name: str, value: Value, by: float) -> Value:
    """x - by * floor(x / by), or floor(x / by), where a case settles the floor."""
    interval = owner.box(value)
    low, high = interval.lo.astype(np.float64) / by, interval.hi.astype(np.float64) / by
    first = np.floor(low - 2.0**-40 * (1 + np.abs(low)))
    last = np.floor(high + 2.0**-40 * (1 + np.abs(high)))
    if max(np.abs(first).max(), np.abs(last).max()) > 2.0**22:
        raise Unsupported("a division with a large whole quotient")
    if name == "quotient":
        return settle(first.astype(owner.dtype), last.astype(owner.dtype), interval.position,
                      interval.rows)
    if (first == last).all() and isinstance(value, Form):
        rows = meet(value.rows, interval.rows)
        wraps = interval.rows.take(first[:, 0], rows)
        rest = combine([(np.ones(1), value)], -wraps * by, rows)
        return rest.add_radius(by * owner.unit * 2 + owner.tiny + np.abs(wraps * by) * 2.0**-52)
    same, loss = first == last, 2 * by * owner.unit + np.abs(first * by) * 2.0**-51
    low = np.where(same, interval.lo - first * by - loss, 0.0)
    high = np.where(same, interval.hi - first * by + loss, by)
    return outward(np.clip(low, 0, by), np.clip(high, 0, by), owner.dtype, interval.position,
                   interval.rows)


def leaky(owner: Any, value: Value, slope: float) -> Value:
    """x above 0, slope * x below: slope * x + (1 - slope) * relu(x)."""
    if isinstance(value, Box):
        with np.errstate(under="ignore"):
            below = [end * value.lo.dtype.type(slope) for end in (value.lo, value.hi)]
        return settle(np.where(value.lo > 0, value.lo, below[0]),
                      np.where(value.hi > 0, value.hi, below[1]), value.position, value.rows)
    above = owner.form(owner.relu(value))
    rows = meet(value.rows, above.rows)
    found = combine([(np.full(1, slope), value), (np.full(1, 1 - slope), above)], np.zeros(1),
                    rows)
    return owner.rounded(found)
