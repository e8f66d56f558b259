"""Lines close to a function, with a bound on how far it is from them.

Takes: elementary functions, intervals with exact ends. Gives: `function_line`, `square_line`,
`relu_line`: (slope, base, rest) with |f(x) - slope x - base| <= rest on the interval.
May import: prove.checker_balls, the standard library, flint.

The slope is the chord's: for f'' of one sign the error is then about half of what the
tangent in the middle has. Any slope s is sound, because f(x) - s x is bounded anew. Where f
is convex it is no more than its larger end, and no less than a tangent's smaller end:
    min over the ends of f(m) + f'(m) (x - m) - s x <= f(x) - s x <= max over the ends of it.
Else the interval is cut into PIECES; on a piece of half width d around c, with |f''| <= b,
    f(x) - s x = f(c) - s c ± (|f'(c) - s| d + b d² / 2).
"""

from __future__ import annotations

from itertools import pairwise

from flint import arb

from adderc.prove.checker_balls import ONE, ZERO, Function, max_of, min_of, plus_minus

PIECES = 8
NARROW = 2.0**-6  # one piece is enough below
FLAT = 0.8  # of a plain ball's radius: a line that is not better than that gains nothing
Line = tuple[arb, arb, arb]


def function_line(function: Function, low: arb, high: arb, plain: arb) -> Line:
    """A line close to the exact function between low and high, whose values are in `plain`; or
    a constant if that is as good."""
    if not high > low:
        return ZERO, plain.mid(), plain.rad()
    first, last = function.value(low), function.value(high)
    slope = ((last - first) / (high - low)).mid()
    if function.convex:
        ends = [first - slope * low, last - slope * high]
        middle = ((low + high) / 2).mid()
        at, tilt = function.value(middle) - slope * middle, function.slope(middle) - slope
        bottom = min_of([(at + tilt * (x - middle)).lower() for x in (low, high)])
        balls = [bottom.union(max_of([end.upper() for end in ends]))]
    else:
        count = PIECES if high - low > NARROW else 1
        edges = [(low + (high - low) * i / count).mid() for i in range(count)] + [high]
        balls = [_piece(function, slope, a, b) for a, b in pairwise(edges)]
    least, most = min_of([b.lower() for b in balls]), max_of([b.upper() for b in balls])
    base = ((least + most) / 2).mid()
    rest = (most - base).max(base - least).abs_upper()
    return (slope, base, rest) if rest < plain.rad() * FLAT else (ZERO, plain.mid(), plain.rad())


def _piece(function: Function, slope: arb, low: arb, high: arb) -> arb:
    """A ball of f(x) - slope x between low and high."""
    middle = ((low + high) / 2).mid()
    half = (high - middle).max(middle - low).abs_upper()
    near = ZERO.max(low).max(-high)
    tilt = (function.slope(middle) - slope).abs_upper()
    bend = function.bend(low, high, near).abs_upper()
    return function.value(middle) - slope * middle + plus_minus(tilt * half + bend * half**2 / 2)


def square_line(middle: arb, half: arb) -> Line:
    """x² = 2 m x - m² + (x - m)², or its plain range where that would dip below 0."""
    if abs(middle) > 2 * half:
        rest = half * half / 2
        return 2 * middle, rest - middle * middle, rest.upper()
    top = (abs(middle) + half) ** 2
    bottom = ((abs(middle) - half).max(ZERO)) ** 2
    middle = ((top + bottom) / 2).mid()
    return ZERO, middle, (top - middle).max(middle - bottom).upper()


def relu_line(low: arb, high: arb) -> Line:
    """For any s in [0, 1], low < 0 < high: relu(x) - s x lies in 0 … max(-s low, (1 - s) high)."""
    if low >= 0 or high <= 0:
        return (ONE if low >= 0 else ZERO), ZERO, ZERO
    slope = (high / (high - low)).mid().min(ONE)
    half = ((-slope * low).max((1 - slope) * high) / 2).upper()
    return slope, half, half


__all__ = ["Line", "function_line", "relu_line", "square_line"]
