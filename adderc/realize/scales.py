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

from adderc.passes.align import Layout, distances
from adderc.passes.place import PlacedCircuit
from adderc.realize.attention import RotationHeads
from adderc.realize.bounds import UNIT
from adderc.realize.feedforward import Hinge

SHARP = 2.0**-10  # error of a fetched sum, in digits, that needs no further sharpening
POWERS = 64  # powers of two that are tried


def read_error(heads: RotationHeads, layout: Layout, scale: float, dtype: str) -> float:
    """Bound on the error of any fetched sum at this scale: leak plus rounding, in digits."""
    period = heads.placed.alignment.period
    peak, base = heads.amplitude(scale), layout.format.number.base
    if peak * UNIT[dtype] > 1:
        return math.inf
    positions = np.arange(layout.format.prompt_length + layout.steps - 1)
    seen = positions[None, :] <= np.arange(layout.steps)[:, None] + layout.first_query
    gains = np.zeros(len(positions))
    for first, gain in heads.signal.gains:
        gains[first:] = float(gain)
    keys = gains / float(heads.signal.gains[0][1])
    queries = gains[layout.first_query :] / float(heads.signal.gains[-1][1])
    worst = 0.0
    for fetch in heads.order:
        head = heads.phase(fetch)
        score = peak * queries[:, None] * keys * np.cos(
            distances(head, layout, period, head.shift(period, peak)))
        score = np.where(seen, score, -np.inf)
        pattern = np.exp(score - score.max(axis=1, keepdims=True))
        pattern /= pattern.sum(axis=1, keepdims=True)
        op = heads.placed.circuit[fetch].op
        wrong = np.abs(pattern * float(head.total) - layout.wanted(op.targets))  # type: ignore[union-attr]
        leak = float((wrong * (layout.values() > 0)).sum(axis=1).max()) * (base - 1)
        terms = 4 if not head.spread else 8
        loudest = peak * float(np.abs(queries).max())
        rounding = math.tanh(terms * UNIT[dtype] * loudest) * float(head.total) * (base - 1) / 2
        worst = max(worst, leak + rounding)
    return worst


def tolerance(hinges: Iterable[Hinge], placed: PlacedCircuit) -> float:
    """The error of every fetched sum that uses up an eighth of the tightest slack."""
    least = SHARP
    for hinge in hinges:
        if hinge.step is None:
            continue
        weight = sum(
            abs(float(np.dot(hinge.row, [float(c) for c in placed.column(fetch)])))
            for fetch in placed.fetches)
        slack = min(hinge.low - hinge.off, hinge.on - hinge.high)
        if weight:
            least = min(least, slack / (8 * weight))
    return least


def solve_scale(
    heads: RotationHeads, layout: Layout, dtype: str, sharp: float = SHARP
) -> float:
    """The smallest two-bit scale whose error is at most `sharp`, or the best there is."""
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
