"""Interval arithmetic on computed values: constants and functions of one token.

Takes: intervals whose end points are numbers of the module's dtype. Gives: `Box`, the
elementwise operations on boxes.
May import: prove.doubt, prove.functions, prove.rows.

A box bounds what the module *computes*, rounding included. Addition, multiplication,
division and square root are rounded correctly by IEEE 754, and rounding is monotone; so the
end points of the computed interval are those operations, rounded to nearest by numpy in the
module's own dtype, on the end points of the operands. Nothing has to be rounded outward.
Gradual underflow and flush to zero are both covered by `settle`, which widens whatever
touches the subnormal range to reach zero and the smallest normal number.

R rows (classes of cases that share a value), K tokens of the one position a box depends on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from adderc.prove.doubt import Doubt
from adderc.prove.functions import EVERY
from adderc.prove.rows import ONE, Rows, meet

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Box:
    """Computed values lie in [lo, hi], arrays [R, K]; K is 1 and position -1 for constants."""

    lo: Array
    hi: Array
    position: int = -1
    rows: Rows = ONE


def constant(value: float, dtype: np.dtype[Any]) -> Box:
    """The exact number of a parameter or literal, rounded to the dtype as torch does."""
    with np.errstate(over="ignore"):
        array = np.array([[value]], dtype=dtype)
    return settle(array, array)


def settle(lo: Array, hi: Array, position: int = -1, rows: Rows = ONE) -> Box:
    """A box that is closed under flush to zero; Doubt for anything not finite."""
    tiny = np.finfo(lo.dtype).tiny
    if not (np.isfinite(lo).all() and np.isfinite(hi).all()):
        raise Doubt("overflow or NaN cannot be excluded")
    small_lo, small_hi = (np.abs(lo) < tiny) & (lo != 0), (np.abs(hi) < tiny) & (hi != 0)
    if small_lo.any():
        lo = np.where(small_lo, np.where(lo > 0, lo.dtype.type(0), -tiny), lo)
    if small_hi.any():
        hi = np.where(small_hi, np.where(hi < 0, hi.dtype.type(0), tiny), hi)
    return Box(lo, hi, position, rows)


def compatible(left: Box, right: Box) -> bool:
    """Whether both depend on the same token or one of them on none."""
    return left.position == right.position or left.position < 0 or right.position < 0


def align(left: Box, right: Box) -> tuple[Array, Array, Array, Array, int, Rows]:
    """Both boxes' ends on common rows: (lo, hi, lo, hi, position, rows)."""
    rows, a, b = meet(left.rows, right.rows), left.rows, right.rows
    ends = (a.take(left.lo, rows), a.take(left.hi, rows), b.take(right.lo, rows),
            b.take(right.hi, rows))
    return (*ends, max(left.position, right.position), rows)


def add(left: Box, right: Box) -> Box:
    llo, lhi, rlo, rhi, position, rows = align(left, right)
    with np.errstate(over="ignore"):
        return settle(llo + rlo, lhi + rhi, position, rows)


def negate(box: Box) -> Box:
    return Box(-box.hi, -box.lo, box.position, box.rows)


def subtract(left: Box, right: Box) -> Box:
    return add(left, negate(right))


def multiply(left: Box, right: Box) -> Box:
    llo, lhi, rlo, rhi, position, rows = align(left, right)
    with np.errstate(over="ignore", under="ignore"):
        return settle(*product_ends(llo, lhi, rlo, rhi), position, rows)


def product_ends(llo: Array, lhi: Array, rlo: Array, rhi: Array) -> tuple[Array, Array]:
    """Least and largest of the four products of ends."""
    a, b, c, d = llo * rlo, llo * rhi, lhi * rlo, lhi * rhi
    return (np.minimum(np.minimum(a, b), np.minimum(c, d)),
            np.maximum(np.maximum(a, b), np.maximum(c, d)))


def divide(left: Box, right: Box) -> Box:
    if ((right.lo <= 0) & (right.hi >= 0)).any():
        raise Doubt("a denominator that may be 0")
    llo, lhi, rlo, rhi, position, rows = align(left, right)
    with np.errstate(over="ignore", under="ignore"):
        quotients = [llo / rlo, llo / rhi, lhi / rlo, lhi / rhi]
    return settle(np.minimum.reduce(quotients), np.maximum.reduce(quotients), position, rows)


def relu(box: Box) -> Box:
    zero = box.lo.dtype.type(0)
    return Box(np.maximum(box.lo, zero), np.maximum(box.hi, zero), box.position, box.rows)


def absolute(box: Box) -> Box:
    zero = box.lo.dtype.type(0)
    low = np.maximum(np.maximum(box.lo, -box.hi), zero)
    return Box(low, np.maximum(-box.lo, box.hi), box.position, box.rows)


def select_larger(left: Box, right: Box) -> Box:
    llo, lhi, rlo, rhi, position, rows = align(left, right)
    return Box(np.maximum(llo, rlo), np.maximum(lhi, rhi), position, rows)


def square_root(box: Box) -> Box:
    if (box.lo < 0).any():
        raise Doubt("the square root of a number that may be negative")
    return settle(np.sqrt(box.lo), np.sqrt(box.hi), box.position, box.rows)


def apply(name: str, box: Box) -> Box:
    """An elementary function with its stated error bound, ends rounded outward."""
    function = EVERY[name]
    lo, hi = box.lo.astype(np.float64), box.hi.astype(np.float64)
    low, high = function.enclose(lo, hi)
    error = function.error(lo, hi, low, high, np.finfo(box.lo.dtype))
    return outward(low - error, high + error, box.lo.dtype, box.position, box.rows)


def outward(lo: Array, hi: Array, dtype: np.dtype[Any], position: int, rows: Rows) -> Box:
    """float64 bounds to the next numbers of the dtype, one step further out for our own error."""
    with np.errstate(over="ignore", under="ignore"):
        low = np.nextafter(lo.astype(dtype), dtype.type(-np.inf))
        high = np.nextafter(hi.astype(dtype), dtype.type(np.inf))
    return settle(low, high, position, rows)
