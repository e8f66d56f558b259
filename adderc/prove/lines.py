"""Lines close to a function of one variable, with a bound on how far it is from them.

Takes: elementary functions, float64 intervals. Gives: `line`.
May import: prove.form, prove.functions.

Any slope s is sound, because f(x) - s x is bounded anew; the chord's makes the error about
half of what the tangent in the middle has. The interval is cut into PIECES. On a piece
[p, q] of half width d around c, with |f''| <= b there and f between its least and most,
    f(x) - s x = f(c) - s c ± (|f'(c) - s| d + b d² / 2),
    least - max(s p, s q) <= f(x) - s x <= most - min(s p, s q).
Values and slopes in float64 are off by at most SLACK of the magnitudes that enter.
"""

from __future__ import annotations

import numpy as np

from adderc.prove.form import UP, middle, up
from adderc.prove.functions import Function

Array = np.ndarray
PIECES = 16
FLAT = 0.8  # of half the range: a line that is not better than that gains nothing
SLACK = 2.0**-44
Line = tuple[Array, Array, Array]


def line(function: Function, low: Array, high: Array) -> Line:
    """(slope, base, rest) with |f(x) - slope x - base| <= rest for low <= x <= high, [C] each.

    The slope is 0 where a line is hardly better than the range of f.
    """
    least, most = function.enclose(low, high)
    centre, half = middle(least, most)
    with np.errstate(all="ignore"):
        ends = function.value(low), function.value(high)
        slope = np.where(high > low, (ends[1] - ends[0]) / (high - low), 0.0)
        bottom, top = _beside(function, slope, low, high)
        base, rest = middle(bottom, top)
        rest = rest + SLACK * (np.abs(base) + np.abs(slope) * np.maximum(np.abs(low), np.abs(high)))
        flat = ~(rest < half * FLAT)
    return (np.where(flat, 0.0, slope), np.where(flat, centre, base),
            np.where(flat, half, rest) * up(4))


def _beside(function: Function, slope: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """Bounds on f(x) - slope x between low and high, [C] each."""
    share = np.arange(PIECES + 1)[:, None] / PIECES
    edges = np.clip(low + (high - low) * share, low, high)  # [PIECES + 1, C], in order
    edges[0], edges[-1] = low, high
    first, last = edges[:-1], edges[1:]
    c, d = middle(first, last)
    at, tilt = function.value(c), np.abs(function.slope(c) - slope)
    off = tilt * d + function.curvature(first, last) * d * d / 2
    off = off * UP + SLACK * (np.abs(at) + np.abs(slope * c) + (1 + tilt + np.abs(slope)) * d)
    least, most = function.enclose(first, last)
    lines = slope * first, slope * last
    reach = SLACK * np.maximum(np.abs(lines[0]), np.abs(lines[1]))
    bottom = np.fmax(at - slope * c - off, least - np.maximum(*lines) - reach)
    top = np.fmin(at - slope * c + off, most - np.minimum(*lines) + reach)
    return bottom.min(axis=0), top.max(axis=0)
