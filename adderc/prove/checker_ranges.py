"""Ranges of linear forms in each case, and what is not linear made linear within them.

Takes: forms, the cases of a group. Gives: `Ranges` with `of`, `gaps`, `product`,
`quotient`, `function`, `relu`.
May import: prove.checker_balls, prove.checker_digits, prove.checker_forms,
prove.checker_lines, prove.checker_reader, numpy, flint.

For x in [m - h, m + h] and y in [n - k, n + k]: x y = n x + m y - m n ± h k.
With r any number and 1 / y in c ± d: x / y = r + c (x - r y) ± d |x - r y|.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from flint import arb

from adderc.prove.checker_balls import (
    ONE,
    ZERO,
    Arithmetic,
    Function,
    hull,
    over,
    plus_minus,
)
from adderc.prove.checker_digits import Reach
from adderc.prove.checker_forms import (
    FLOAT,
    LEAST,
    Balls,
    Form,
    Root,
    combined,
    plus,
    times,
)
from adderc.prove.checker_lines import function_line, relu_line, square_line
from adderc.prove.checker_reader import NotUnderstood


class Rows:
    """Sums of roots' tables with float64 factors, each different sum once."""

    def __init__(self, reach: Reach) -> None:
        self.reach = reach
        self.roots: dict[Root, int] = {}
        self.rows: dict[tuple[tuple[int, float], ...], int] = {}

    def add(self, form: Form) -> tuple[list[int], Balls]:
        """The row of a form's roots in each case, and how far its sums may be off.

        A factor becomes the nearest float64 number: that is off by its ball's radius and by
        2^-53 of it, or by less than LEAST. Float64 sums are off by `steps` roundings of all
        that is added.
        """
        columns, off = [], [LEAST]
        for root, balls in form.roots.items():
            self.roots.setdefault(root, len(self.roots))
            columns.append((self.roots[root], [float(ball.mid()) for ball in balls]))
            off = plus(off, [(ball.rad() + LEAST) * root.size for ball in balls])
        steps = self.reach.roundings + len(columns) + 4
        off = plus(off, [size * (2 * steps + 2) * FLOAT for size in form.swing()])
        rows = []
        for case in range(max((len(numbers) for _, numbers in columns), default=1)):
            row = tuple((column, numbers[case if len(numbers) > 1 else 0])
                        for column, numbers in columns)
            rows.append(self.rows.setdefault(row, len(self.rows)))
        return rows, [ball.abs_upper() for ball in off]

    def largest(self, rows: np.ndarray, signs: Sequence[float] = (1.0,)) -> list[np.ndarray]:
        """For each sign the largest sum of sign * row, for the row of each case."""
        factors = np.zeros((len(self.rows), len(self.roots)))
        for row, number in self.rows.items():
            for column, factor in row:
                factors[number, column] += factor
        tables: dict[int, np.ndarray] = {}
        for root, column in self.roots.items():
            for position, table in root.tables.items():
                part = factors[:, column, None] * table
                tables[position] = tables[position] + part if position in tables else part
        count = len(self.rows)
        both = {p: np.concatenate([sign * t for sign in signs]) for p, t in tables.items()}
        places = np.concatenate([rows + i * count for i in range(len(signs))], axis=-1)
        found = self.reach.largest(both, count * len(signs), places)
        return np.split(found, len(signs), axis=-1)


class Ranges:
    """The cases of one group. `asked` tells whether a range was needed since it was reset."""

    def __init__(self, arithmetic: Arithmetic, reach: Reach) -> None:
        self.arithmetic, self.reach, self.asked = arithmetic, reach, False
        self.count = len(reach.cases)
        self._known: dict[int, tuple[Form, Balls, Balls]] = {}

    def of(self, form: Form) -> tuple[Balls, Balls]:
        """Least and largest value in each case, exact numbers."""
        self.asked = True
        known = self._known.get(id(form))
        if known is None:
            low, high = self._bounds(form)
            if form.limits is not None:
                low = [a.max(b) for a, b in zip(low, form.limits[0], strict=True)]
                high = [a.min(b) for a, b in zip(high, form.limits[1], strict=True)]
            known = self._known[id(form)] = (form, low, high)
        return known[1], known[2]

    def _bounds(self, form: Form) -> tuple[Balls, Balls]:
        rows = Rows(self.reach)
        found, off = rows.add(form)
        places = np.array(found * (self.count if len(found) == 1 else 1))
        up, down = rows.largest(places[:, None], (1.0, -1.0))
        aside = plus(form.aside(), off)
        above = plus(form.base, aside)
        below = plus(form.base, [-a for a in aside])
        high = plus(above, [arb(value) for value in up[:, 0].tolist()])
        low = plus(below, [-arb(value) for value in down[:, 0].tolist()])
        return [ball.lower() for ball in low], [ball.upper() for ball in high]

    # ------------------------------------------------------------ what is not linear

    def product(self, x: Form, y: Form) -> Form:
        """x * y; the square of one form is known to be no less than 0."""
        for one, other in ((x, y), (y, x)):
            if one.flat:
                return combined([(one.base, other)])
        m, h = _middle(*self.of(x))
        if x is y:
            return _line(x, [square_line(a, b) for a, b in zip(m, h, strict=True)])
        n, k = _middle(*self.of(y))
        base = [-a * b for a, b in zip(m, n, strict=True)]
        return combined([(n, x), (m, y)], base).spread(times(h, k))

    def quotient(self, x: Form, y: Form, least: arb = ZERO,
                 known: tuple[arb, arb] | None = None) -> Form:
        """x / y, where y is no less than `least` if that is not 0, and the quotient lies in
        what is `known`."""
        if y.flat:
            if any(ball.contains(0) for ball in y.base):
                raise NotUnderstood("a denominator that may be 0")
            return combined([([1 / ball for ball in y.base], x)])
        low, high = self.of(y)
        low = [a.max(least) for a in low] if least > 0 else low
        if not all(a > 0 or b < 0 for a, b in zip(low, high, strict=True)):
            raise NotUnderstood("a denominator that may be 0")
        inverse = [(1 / a).union(1 / b) for a, b in zip(low, high, strict=True)]
        m, _ = _middle(*self.of(x))
        n, _ = _middle(low, high)
        ratio = [(a / b).mid() for a, b in zip(m, n, strict=True)]
        rest = combined([([ONE], x), ([-r for r in ratio], y)])
        lines = []
        for a, b, r, ball in zip(*self.of(rest), ratio, inverse, strict=True):
            line = (ball.mid(), r, (hull(a, b).abs_upper() * ball.rad()).upper())
            if known is not None:
                middle, half = _middle_of(*known)
                line = (ZERO, middle, half) if half < line[2] else line
            lines.append(line)
        return _line(rest, lines)

    def function(self, function: Function, x: Form, least: arb = ZERO) -> Form:
        """A linear form with a bounded remainder, or a plain ball where that is smaller.

        x is no less than `least` if that is not 0.
        """
        lines, limits = [], []
        for low, high in zip(*self.of(x), strict=True):
            low = low.max(least) if least > 0 else low
            plain = over(function, low, high)
            self.arithmetic.finite(plain)
            slope, at, rest = function_line(function, low, high, plain)
            error = self.arithmetic.error(function, hull(low, high), plain)
            lines.append((slope, at, (rest + error).abs_upper()))
            limits.append(plain + plus_minus(error))
        found = _line(x, lines)
        found.limits = [ball.lower() for ball in limits], [ball.upper() for ball in limits]
        return found

    def relu(self, x: Form) -> Form:
        lines = [relu_line(low, high) for low, high in zip(*self.of(x), strict=True)]
        if all(slope == 1 and rest.is_zero() for slope, _, rest in lines):
            return x
        return _line(x, lines)

    # ------------------------------------------------------------ margins

    def gaps(self, logits: Sequence[Form], right: Sequence[int]) -> list[Balls]:
        """For each case lower bounds on logits[right[case]] less each other one, exact numbers."""
        self.asked = True
        rows = Rows(self.reach)
        places = np.zeros((self.count, len(logits)), dtype=np.int64)
        gaps: list[list[arb]] = [[] for _ in right]
        for token in sorted(set(right)):
            cases = [case for case, expected in enumerate(right) if expected == token]
            mine = logits[token].only(cases)
            for other, form in enumerate(logits):
                gap = combined([([ONE], form.only(cases)), ([-ONE], mine)])
                found, off = rows.add(gap)
                bound = plus(plus(gap.base, gap.aside()), off)
                for index, case in enumerate(cases):
                    places[case, other] = found[index if len(found) > 1 else 0]
                    gaps[case].append(bound[index if len(bound) > 1 else 0])
        (tops,) = rows.largest(places)
        return [[(-(arb(top) + gap)).lower() for other, (top, gap) in enumerate(
            zip(tops[case].tolist(), gaps[case], strict=True)) if other != token]
            for case, token in enumerate(right)]


def _line(x: Form, lines: Sequence[tuple[arb, arb, arb]]) -> Form:
    """slope * x + base ± rest in each case."""
    slopes, base, rest = ([line[i] for line in lines] for i in range(3))
    found = combined([(slopes, x)], base)
    return found if all(ball.is_zero() for ball in rest) else found.spread(rest)


def _middle_of(low: arb, high: arb) -> tuple[arb, arb]:
    middle = ((low + high) / 2).mid()
    return middle, (high - middle).max(middle - low).abs_upper()


def _middle(low: Balls, high: Balls) -> tuple[Balls, Balls]:
    pairs = [_middle_of(a, b) for a, b in zip(low, high, strict=True)]
    return [m for m, _ in pairs], [h for _, h in pairs]


__all__ = ["Ranges"]
