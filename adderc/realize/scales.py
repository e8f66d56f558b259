"""Score scales: the smallest query scale whose heads read sharply enough.

Takes: heads as a function of the scale, the dtype. Gives: `solve_scale`.
May import: passes, realize.

With a gap D between the peak and the next digit (in units of the peak), n positions and a
score L at the peak, a head reads at most n e^(-L D) of other digits: the leak falls as the
scale grows, and the rounding of scores, about k u L, grows with it. The smallest scale is
taken whose error is below what the hinges need, 1/8 of the slack that a unit error of
every fetch would use up (and below SHARP), else (wide formats in a short dtype) the one
with the least sum of both. Scales have two significant bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from adderc.ir.graph import decoded
from adderc.ir.ops import Fetch
from adderc.passes.align import Layout
from adderc.passes.features import largest_value
from adderc.passes.place import COPY, PlacedCircuit
from adderc.realize.analysis import TERMS, UNIT
from adderc.realize.attention import Heads
from adderc.realize.feedforward import Rows
from adderc.realize.swing import shaken

SHARP = 2.0**-10  # error of a fetched sum, in digits, that needs no further sharpening
POWERS = 64  # powers of two that are tried


def read_error(heads: Heads, layout: Layout, scale: float, dtype: str) -> float:
    """Bound on the error of any fetched sum at this scale: leak plus rounding, in digits."""
    unit = UNIT[dtype]
    if heads.amplitude(scale) * unit > 1:
        return math.inf
    worst = 0.0
    patterns = heads.patterns(layout, scale)
    for fetch, (pattern, loudest) in zip(heads.order, patterns, strict=True):
        head = heads.phase(fetch)
        op = heads.placed.circuit[fetch].op
        assert isinstance(op, Fetch)
        wrong = np.abs(pattern * float(head.total) - layout.wanted(op.targets))
        top = largest_value(layout.format, heads.placed.source_of(fetch)[1])
        leak = float((wrong * (layout.values() > 0)).sum(axis=1).max()) * top
        terms = TERMS if not head.spread else 2 * TERMS
        moved = shaken(pattern, terms * unit * loudest)
        rounding = moved * float(head.total) * top / 2
        worst = max(worst, leak + rounding)
    return worst


def tolerance(steps: Iterable[Rows], placed: PlacedCircuit, sharp: float = SHARP) -> float:
    """The error of every fetched sum that uses up an eighth of the tightest slack, of a step
    or of the decode, and is at most `sharp`."""
    digit = dict(decoded(placed.circuit).terms)
    share = max((float(abs(digit.get(fetch, 0))) for fetch in placed.fetches), default=0.0)
    least = min(sharp, 1 / (32 * share)) if share else sharp
    for rows in steps:
        if rows.signal in (None, COPY):
            continue
        weight = sum(
            abs(float(np.dot(rows.row, [float(c) for c in placed.column(fetch)])))
            for fetch in placed.fetches)
        if weight:
            least = min(least, rows.slack / (8 * weight))
    return least


def solve_scale(
    heads: Heads, layout: Layout, dtype: str, sharp: float = SHARP
) -> float:
    """The smallest two-bit scale whose error is at most `sharp`, or the best there is."""
    if not heads.SCORED:
        return 1.0
    best, error = (math.inf, 1.0), math.inf
    dull = math.log(2) / (heads.placed.alignment.gap * heads.amplitude(1.0))
    first = math.floor(math.log2(dull))  # the next digit would still be read half as much
    for power in range(first, first + POWERS):
        for mantissa in (1.0, 1.5):
            scale = mantissa * 2.0**power
            error = read_error(heads, layout, scale, dtype)
            if error <= sharp:
                return scale
            best = min(best, (error, scale))
        if best[0] < error / 8:
            break
    return best[1]
