"""The checker's values: functions of one token, and linear forms in functions of several.

Takes: balls. Gives: `Column`, `Form`, `Root` and their exact linear algebra.
May import: prove.checker_balls, numpy, flint.

A list of balls stands for all cases of a group: one ball if it is the same for all, else one
for each case.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flint import arb

from adderc.prove.checker_balls import ONE, ZERO, plus_minus

Balls = list[arb]
FLOAT = arb(2) ** -53  # half the unit of float64
LEAST = arb(2) ** -1000  # float64 keeps its relative precision above this


@dataclass(eq=False)
class Root:
    """Σ tables[position][token], float64 numbers; `size` bounds its absolute value."""

    tables: dict[int, np.ndarray]
    size: arb


@dataclass(eq=False)
class Column:
    """A ball for each token at `position`; one ball and position -1 for constants."""

    position: int
    balls: Balls
    _form: Form | None = None

    @property
    def form(self) -> Form:
        """The same function as a linear form, always the same one."""
        if self._form is None:
            self._form = (Form(self.balls) if self.position < 0
                          else gathered({self.position: self.balls}))
        return self._form

    def largest(self) -> arb:
        best = ZERO
        for ball in self.balls:
            best = best.max(ball.abs_upper())
        return best


@dataclass(eq=False)
class Form:
    """base + Σ roots[r] * r + Σ noise[s] * (a number in [-1, 1], the same wherever s stands).

    `limits` are bounds in each case that are known in another way, exact numbers.
    """

    base: Balls
    roots: dict[Root, Balls] = field(default_factory=dict)
    noise: dict[Hashable, Balls] = field(default_factory=dict)
    _size: Balls | None = None
    limits: tuple[Balls, Balls] | None = None

    @property
    def flat(self) -> bool:
        """Whether it is one number for each case."""
        return not self.roots and not self.noise

    def cases(self) -> int:
        """1 if all cases have the same form, else their number."""
        return max(len(balls) for balls in self.every())

    def every(self) -> Iterable[Balls]:
        yield self.base
        yield from self.roots.values()
        yield from self.noise.values()

    def magnitude(self) -> Balls:
        """A bound on the absolute value that forgets which tokens fit together."""
        if self._size is None:
            total = plus([ball.abs_upper() for ball in self.base], self.swing())
            for factor in self.noise.values():
                total = plus(total, [f.abs_upper() for f in factor])
            self._size = [ball.abs_upper() for ball in total]
        return self._size

    def swing(self) -> Balls:
        """A bound on what the roots add on either side."""
        total = [ZERO]
        for root, factor in self.roots.items():
            total = plus(total, [f.abs_upper() * root.size for f in factor])
        return total

    def aside(self) -> Balls:
        """What the noise adds on either side."""
        total = [ZERO]
        for factor in self.noise.values():
            total = plus(total, [f.abs_upper() for f in factor])
        return total

    def loose(self, amount: Balls) -> Form:
        """The form with a small error of at most `amount` more: a radius has 30 bits."""
        size = plus(self.magnitude(), [a.abs_upper() for a in amount])
        return Form(plus(self.base, [plus_minus(a) for a in amount]), self.roots, self.noise,
                    [ball.abs_upper() for ball in size])

    def spread(self, amount: Balls) -> Form:
        """The form with new noise of `amount`."""
        return Form(self.base, self.roots, {**self.noise, object(): amount})

    def settled(self, name: Hashable) -> Form:
        """Exact numbers; what they lose is noise under `name`, a new one."""
        lost = [_radius(ball) for ball in self.base]
        roots, noise = {}, {}
        for root, factor in self.roots.items():
            lost = plus(lost, [_radius(f) * root.size for f in factor])
            roots[root] = [f.mid() for f in factor]
        for key, factor in self.noise.items():
            lost = plus(lost, [_radius(f) for f in factor])
            noise[key] = [f.mid() for f in factor]
        if any(not ball.is_zero() for ball in lost):
            noise[name] = [ball.abs_upper() for ball in lost]
        return Form([ball.mid() for ball in self.base], roots, noise, self._size, self.limits)

    def only(self, cases: Sequence[int]) -> Form:
        """The form in some of its cases."""
        def part(balls: Balls) -> Balls:
            return balls if len(balls) == 1 else [balls[case] for case in cases]

        return Form(part(self.base), {r: part(f) for r, f in self.roots.items()},
                    {s: part(f) for s, f in self.noise.items()})


Value = Column | Form


def _radius(ball: arb) -> arb:
    return ball.rad()


def plus(x: Balls, y: Balls) -> Balls:
    if len(x) == 1 and len(y) > 1:
        x, y = y, x
    if len(y) == 1:
        other = y[0]
        return [a + other for a in x]
    return [a + b for a, b in zip(x, y, strict=True)]


def times(x: Balls, y: Balls) -> Balls:
    if len(x) == 1 and len(y) > 1:
        x, y = y, x
    if len(y) == 1:
        other = y[0]
        return x if other == 1 else [a * other for a in x]
    return [a * b for a, b in zip(x, y, strict=True)]


def combined(parts: Iterable[tuple[Balls, Form]], base: Balls | None = None) -> Form:
    """Σ factor * form + base, exactly."""
    total = Form([ZERO] if base is None else base)
    roots: dict[Root, Balls] = {}
    noise: dict[Hashable, Balls] = {}
    tables: tuple[tuple[dict[Any, Balls], str], ...] = ((roots, "roots"), (noise, "noise"))
    for factor, form in parts:
        if len(factor) == 1 and factor[0].is_zero():
            continue
        total.base = plus(total.base, times(factor, form.base))
        for into, name in tables:
            for key, value in getattr(form, name).items():
                part = times(factor, value)
                known = into.get(key)
                into[key] = part if known is None else plus(known, part)
    total.roots = {r: f for r, f in roots.items() if not all(b.is_zero() for b in f)}
    total.noise = noise
    return total


def gathered(tables: dict[int, Balls], base: arb = ZERO) -> Form:
    """base + Σ tables[position][token] as a form with a root of its own.

    A table is kept in float64 around its middle; what that loses is noise of the root.
    """
    kept: dict[int, np.ndarray] = {}
    lost, size = ZERO, ZERO
    for position, balls in tables.items():
        numbers = [float(ball.mid()) for ball in balls]
        centre = (max(numbers) + min(numbers)) / 2
        table = np.array([number - centre for number in numbers])
        middle, worst = arb(centre), ZERO
        for ball, number in zip(balls, table.tolist(), strict=True):
            worst = worst.max((ball - middle - arb(number)).abs_upper())
        base, lost = base + middle, lost + worst
        if table.any():
            kept[position] = table
            size += arb(float(np.abs(table).max()))
    if not kept:
        return Form([base + plus_minus(lost)])
    root = Root(kept, size.abs_upper())
    lost = (lost + base.rad()).abs_upper()
    noise: dict[Hashable, Balls] = {} if lost.is_zero() else {root: [lost]}
    return Form([base.mid()], {root: [ONE]}, noise)


def column(position: int, balls: Balls) -> Column:
    """A column; equal balls are a constant."""
    first = balls[0]
    if position >= 0 and all(
            ball.mid() == first.mid() and ball.rad() == first.rad() for ball in balls):
        return Column(-1, [first])
    return Column(position, balls)


def is_zero(value: Any) -> bool:
    return isinstance(value, Column) and all(ball.is_zero() for ball in value.balls)


def at(column: Column, token: int) -> arb:
    return column.balls[token if column.position >= 0 else 0]


def together(columns: Sequence[Column]) -> tuple[int, int] | None:
    """The one position that columns show (-1: none), and how many tokens; None for several."""
    held = {column.position for column in columns if column.position >= 0}
    if len(held) > 1:
        return None
    return (held.pop() if held else -1), max(len(column.balls) for column in columns)


__all__ = ["FLOAT", "LEAST", "Balls", "Column", "Form", "Root", "Value", "at", "column", "combined",
           "gathered", "is_zero", "plus", "times", "together"]
