"""Separable forms: values that depend on several tokens.

Takes: boxes, forms, per-case ranges. Gives: `Form` and its linear and bilinear operations.
May import: prove.box, prove.doubt, prove.rows.

A form stands for every number in
    base + Σ_p tables[p][token at p] + Σ_s noise[s] * ε_s + ε * radius,   |ε_s|, |ε| <= 1
with ε_s shared by all forms of a step that carry the symbol s. The arithmetic of this module
is float64. A constant and n products of numbers whose parts have total magnitude m add up
with an error of at most (n + 1) (OWN / 2) m (1 + 2^-40) with OWN = 2^-52, whatever the order,
since each part is rounded n + 1 times at most (Higham, section 3.1); every operation adds
that to the radius. `mass` is an upper bound on
|base| + Σ_p max |tables[p]| + Σ |noise| + radius, and m is taken from it.

R rows, P positions, D tokens. Rows come last, so that arrays are worked through in order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from adderc.prove.box import Box
from adderc.prove.rows import ONE, Rows, meet

Array = np.ndarray
OWN = 2.0**-52
UP = 1 + 2.0**-40


def up(count: int) -> float:
    """A factor that makes a float64 sum of so many numbers from 0 on no less than the exact
    one: that is off by at most `count` * 2^-53 of itself, and its product by 2^-53."""
    return 1 + (count + 4) * 2.0**-52


@dataclass(eq=False)
class Form:
    """See the module; arrays [R], tables [D, P, R], noise {symbol: [R]}.

    `range` is kept by who computes it: bounds over all operands of each case, [C] each;
    `limits` are such bounds that are known in another way, for the range to keep within.
    """

    base: Array
    tables: Array
    noise: dict[int, Array] = field(default_factory=dict)
    radius: Array = field(default_factory=lambda: np.zeros(1))
    rows: Rows = ONE
    range: tuple[Array, Array] | None = None
    limits: tuple[Array, Array] | None = None

    @cached_property
    def mass(self) -> Array:
        """An upper bound on the total magnitude of the parts, [R]."""
        return (
            np.abs(self.base) + self.largest.sum(axis=0) + self._aside) * up(len(self.largest) + 2)

    @cached_property
    def largest(self) -> Array:
        """The largest magnitude in each table, [P, R]."""
        return np.maximum(*self._ends)

    @cached_property
    def _ends(self) -> tuple[Array, Array]:
        """The largest entry of each table and of its negative, [P, R] each."""
        return self.tables.max(axis=0), -self.tables.min(axis=0)

    @cached_property
    def _aside(self) -> Array:
        noise: Array = sum((np.abs(n) for n in self.noise.values()), np.zeros(1))
        return (noise + self.radius) * up(len(self.noise) + 1)

    def on(self, rows: Rows) -> Form:
        """The same form on finer rows."""
        if rows is self.rows:
            return self
        if self.rows.index is None:
            return Form(self.base, self.tables, self.noise, self.radius, rows, self.range,
                        self.limits)
        take = self.rows.take
        noise = {symbol: take(n, rows) for symbol, n in self.noise.items()}
        return Form(take(self.base, rows), self.rows.take_last(self.tables, rows), noise,
                    take(self.radius, rows), rows, self.range, self.limits)

    def spread(self) -> Array:
        """What noise and radius add on either side, [R]."""
        return self._aside

    @cached_property
    def hull(self) -> tuple[Array, Array]:
        """Bounds that forget which tokens can stand together, [R] each."""
        aside = self.spread() + 2 * (self.tables.shape[1] + 4) * OWN * self.mass
        top, bottom = self._ends
        return self.base - bottom.sum(axis=0) - aside, self.base + top.sum(axis=0) + aside

    @cached_property
    def magnitude(self) -> Array:
        """A bound on the absolute value, [R]."""
        low, high = self.hull
        return np.maximum(np.abs(low), np.abs(high))

    def add_radius(self, amount: Array) -> Form:
        return Form(self.base, self.tables, self.noise, (self.radius + amount) * up(1), self.rows)

    def with_symbol(self, symbol: int) -> Form:
        """The radius under a name of its own, so that later uses know it is the same."""
        if not self.radius.any():
            return self
        return Form(self.base, self.tables, {**self.noise, symbol: self.radius},
                    np.zeros(1), self.rows, self.range, self.limits)


def middle(lo: Array, hi: Array) -> tuple[Array, Array]:
    """Centre and half width in float64 of ends that are float64 or narrower."""
    lo, hi = lo.astype(np.float64), hi.astype(np.float64)
    centre = lo + (hi - lo) / 2
    thick = lo != hi
    half = np.where(thick, np.maximum(hi - centre, centre - lo) * up(2) + np.abs(centre) * OWN, 0.0)
    return np.where(thick, centre, lo), half


def from_box(box: Box, positions: int, tokens: int) -> Form:
    """The form of a box; half widths go to the radius."""
    centre, half = middle(box.lo, box.hi)
    count = len(centre)
    if box.position < 0:
        return Form(centre[:, 0], np.zeros((tokens, positions, 1)), {}, half[:, 0], box.rows)
    tables = np.zeros((tokens, positions, count))
    tables[: centre.shape[1], box.position] = centre.T
    return Form(np.zeros(1), tables, {}, half.max(axis=1), box.rows)


def combine(terms: list[tuple[Array, Form]], constant: Array, rows: Rows) -> Form:
    """constant + Σ coefficient * form; coefficients [R] on `rows`, which are fine enough."""
    forms = [(coefficient, form.on(rows)) for coefficient, form in terms]
    base, radius = constant, np.zeros(1)
    tables = _tables(forms)
    noise: dict[int, Array] = {}
    mass = np.abs(constant)
    for coefficient, form in forms:
        size = np.abs(coefficient)
        base = base + coefficient * form.base
        radius = radius + size * form.radius
        mass = mass + size * form.mass
        for symbol, value in form.noise.items():
            part = coefficient * value
            noise[symbol] = noise[symbol] + part if symbol in noise else part
    radius = (radius + (len(terms) + 1) * (OWN / 2) * mass) * up(2 * len(terms) + 4)
    return Form(base, tables, noise, radius, rows)


def _tables(forms: list[tuple[Array, Form]]) -> Array:
    """Σ coefficient * tables, [D, P, R], added up in place as soon as the sum has all rows."""
    total: Array | None = None
    owned = False
    for coefficient, form in forms:
        plain = coefficient.size == 1 and coefficient[0] == 1.0
        part = form.tables if plain else coefficient * form.tables
        if total is None:
            total, owned = part, not plain
        elif owned and total.shape[2] >= part.shape[2]:
            total += part
        else:
            total, owned = total + part, True
    assert total is not None
    return total


def scale(form: Form, factor: float) -> Form:
    """factor * form for a power of two or -1, exactly."""
    noise = {symbol: factor * value for symbol, value in form.noise.items()}
    return Form(factor * form.base, factor * form.tables, noise, abs(factor) * form.radius,
                form.rows)


def multiply_forms(left: Form, right: Form, left_range: tuple[Array, Array],
                   right_range: tuple[Array, Array]) -> Form:
    """x * y linearised at the centres of the ranges [R] (on the meeting rows)."""
    rows = meet(left.rows, right.rows)
    m, h = middle(*left_range)
    n, k = middle(*right_range)
    m, h = left.rows.take(m, rows), left.rows.take(h, rows)
    n, k = right.rows.take(n, rows), right.rows.take(k, rows)
    product = combine([(n, left), (m, right)], -m * n, rows)
    return product.add_radius(h * k * up(2) + OWN * np.abs(m * n))


def square_form(form: Form, its_range: tuple[Array, Array]) -> Form:
    """x² = 2 m x - m² + (x - m)² for x in m ± h, where (x - m)² lies in 0 … h²."""
    m, h = middle(*its_range)
    half = h * h / 2 * up(2)
    square = combine([(2 * m, form)], half - m * m, form.rows)
    return square.add_radius(half + OWN * (m * m + half))
