"""The checker's values: balls by token, and sums of them, with every rounding bounded.

Takes: terms. Gives: `Arithmetic`, `Column` (a function of one token), `Mixed` (of several).
May import: prove.checker_reader, prove.checker_digits, numpy, flint.

All bounds are balls of python-flint (Arb) at 128 bits, which round outward themselves. A
computed value is the exact result of its operation times 1 + d, |d| <= u, plus at most the
smallest normal number: u is half the dtype's epsilon, and a sum of n products has gamma(n)
instead, for any order and with or without fused multiply-add.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flint import arb, arb_mat, ctx

from adderc.prove.checker_reader import NotUnderstood, Term

BITS = 128
ULPS = {"exp": 4, "sin": 4, "cos": 4, "rsqrt": 4, "tanh": 8, "sigmoid": 8, "silu": 8}
ZERO, ONE = arb(0), arb(1)


def plus_minus(size: arb) -> arb:
    """The ball around 0 that holds everything no larger than `size`."""
    top = size.abs_upper()
    return (-top).union(top)


@dataclass(eq=False)
class Column:
    """A ball for each token at `position`; one ball and position -1 for constants."""

    position: int
    balls: list[arb]


@dataclass(eq=False)
class Mixed:
    """base + Σ tables[position][token] + Σ noise[number] * (something in [-1, 1]).

    Tables have exact entries; `base` is a ball; noise terms of one number are the same in
    every value that carries it.
    """

    base: arb
    tables: dict[int, arb_mat]
    noise: dict[int, arb] = field(default_factory=dict)

    def aside(self) -> arb:
        """What the noise adds on either side."""
        return sum((n.abs_upper() for n in self.noise.values()), ZERO)

    def magnitude(self) -> arb:
        """A bound on the absolute value that forgets which tokens fit together."""
        total = self.base.abs_upper() + self.aside()
        for table in self.tables.values():
            total += _largest(table)
        return total.abs_upper()


def _largest(table: arb_mat) -> arb:
    best = ZERO
    for entry in table.entries():
        if not entry.is_zero():
            best = best.max(entry.abs_upper())
    return best


class Arithmetic:
    """Operations on columns and mixed values in one dtype."""

    def __init__(self, dtype: Any) -> None:
        ctx.prec = BITS
        info = np.finfo(dtype)
        self.bits = info.nmant + 1
        self.unit, self.tiny = arb(float(info.eps)) / 2, arb(float(info.tiny))
        self.largest = arb(float(info.max))
        self.least_exponent = int(info.minexp)

    # ------------------------------------------------------------ rounding

    def gamma(self, terms: int) -> arb:
        return terms * self.unit / (1 - terms * self.unit)

    def is_exact(self, ball: arb) -> bool:
        """Whether the ball is one normal number of the dtype, or 0."""
        if not ball.is_exact():
            return False
        if ball.is_zero():
            return True
        mantissa, exponent = ball.man_exp()
        bits = int(abs(int(mantissa)).bit_length())
        return bits <= self.bits and int(exponent) + bits > self.least_exponent + 1

    def rounded(self, ball: arb) -> arb:
        """A correctly rounded result."""
        self.finite(ball)
        if self.is_exact(ball):
            return ball
        return ball + plus_minus(ball.abs_upper() * self.unit + self.tiny)

    def finite(self, ball: arb) -> None:
        if not ball.is_finite() or not ball.abs_upper() < self.largest / 4:
            raise NotUnderstood("overflow or NaN cannot be excluded")

    def column(self, position: int, balls: list[arb]) -> Column:
        """A column; equal balls are a constant."""
        first = balls[0]
        if position >= 0 and all(_equal(ball, first) for ball in balls):
            return Column(-1, [first])
        return Column(position, balls)

    # ------------------------------------------------------------ elementwise

    def elementwise(self, op: str, args: list[Column], number: int) -> Column:
        """An operation on columns of one token at most."""
        position, rows = _together(args)
        return self.column(position, [self.one(op, row) for row in rows])

    def one(self, op: str, x: tuple[arb, ...]) -> arb:
        match op:
            case "add":
                return self.rounded(x[0] + x[1])
            case "sub":
                return self.rounded(x[0] - x[1])
            case "mul":
                return self.rounded(x[0] * x[1])
            case "div":
                quotient = self.rounded(self._quotient(x[0], x[1]))
                if x[1].is_exact() and abs(int(x[1].man_exp()[0])) == 1:
                    return quotient  # by a power of two
                # a division by a number may be a product with its reciprocal
                return quotient + plus_minus(quotient.abs_upper() * 3 * self.unit)
            case "reciprocal":
                return self.rounded(self._quotient(ONE, x[0]))
            case "neg":
                return -x[0]
            case "abs":
                return abs(x[0])
            case "relu":
                return x[0].max(ZERO)
            case "sqrt":
                if not x[0] >= 0:
                    raise NotUnderstood("the square root of a number that may be negative")
                return self.rounded(x[0].sqrt())
        return self.function(op, x[0])

    @staticmethod
    def _quotient(x: arb, y: arb) -> arb:
        if y.contains(0):
            raise NotUnderstood("a denominator that may be 0")
        return x / y

    def function(self, name: str, x: arb) -> arb:
        """An elementary function with the stated error of its kernel."""
        if name not in ULPS:
            raise NotUnderstood(f"the function {name}")
        if name == "rsqrt" and not x > 0:
            raise NotUnderstood("a denominator that may be 0")
        value = {"exp": arb.exp, "sin": arb.sin, "cos": arb.cos, "rsqrt": arb.rsqrt,
                 "tanh": arb.tanh, "sigmoid": _sigmoid,
                 "silu": lambda t: t * _sigmoid(t)}[name](x)
        self.finite(value)
        return value + plus_minus(value.abs_upper() * (ULPS[name] * 2 * self.unit) + self.tiny)

    # ------------------------------------------------------------ sums

    def mixed(self, value: Column | Mixed, number: int) -> Mixed:
        """Any value as a mixed one; the balls' radii become noise under `number`."""
        if isinstance(value, Mixed):
            return value
        if value.position < 0:
            return Mixed(value.balls[0], {})
        middles = [ball.mid() for ball in value.balls]
        radius = ZERO
        for ball in value.balls:
            radius = radius.max((ball - ball.mid()).abs_upper())
        noise = {} if radius.is_zero() else {number: radius}
        return Mixed(ZERO, {value.position: arb_mat(1, len(middles), middles)}, noise)

    def add_mixed(self, left: Mixed, right: Mixed, factor: arb) -> Mixed:
        """left + factor * right, exactly; the factor is an exact number."""
        tables, noise = dict(left.tables), dict(left.noise)
        for position, table in right.tables.items():
            part = table * factor
            tables[position] = tables[position] + part if position in tables else part
        for number, value in right.noise.items():
            noise[number] = noise.get(number, ZERO) + factor * value
        return self.tidy(Mixed(left.base + factor * right.base, tables, noise))

    def tidy(self, value: Mixed) -> Mixed:
        """Table entries exact again; what they lose goes to the base."""
        slack, tables = ZERO, {}
        for position, table in value.tables.items():
            middle = table.mid()
            slack += _largest(table - middle)
            tables[position] = middle
        return Mixed(value.base + plus_minus(slack), tables, value.noise)

    def noisy(self, value: Mixed, amount: arb, number: int) -> Mixed:
        """The value with new noise under the number of the term that made it."""
        own = value.noise.get(number, ZERO).abs_upper() + amount.abs_upper()
        noise = {**value.noise, number: own.abs_upper()}
        result = Mixed(value.base, value.tables, noise)
        if not result.magnitude() < self.largest / 4:
            raise NotUnderstood("overflow cannot be excluded")
        return result

    def sum_of(self, pairs: list[tuple[Any, Any]], number: int, mean: int = 0) -> Any:
        """Σ x * y as the module computes it, in any order."""
        live = [(x, y) for x, y in pairs if not (_is_zero(x) or _is_zero(y))]
        if not live:
            return Column(-1, [ZERO])
        extra = 3 if mean else 0
        columns = [value for pair in live for value in pair]
        if all(isinstance(value, Column) for value in columns):
            held = {value.position for value in columns if value.position >= 0}
            if len(held) <= 1:
                return self._column_sum(live, held.pop() if held else -1, extra)
        total, size = Mixed(ZERO, {}), ZERO
        for x, y in live:
            product = self._product(x, y, number)
            size += product.magnitude()
            total = self.add_mixed(total, product, ONE)
        error = size * self.gamma(len(live) + extra) + 2 * len(live) * self.tiny
        return self.noisy(total, error.abs_upper(), number)

    def _column_sum(self, pairs: list[tuple[Column, Column]], position: int, extra: int
                    ) -> Column:
        balls = []
        tokens = max(len(value.balls) for pair in pairs for value in pair)
        for token in range(tokens):
            products = [_at(x, token) * _at(y, token) for x, y in pairs]
            live = [product for product in products if not product.is_zero()]
            if len(live) <= 1 and not extra:
                balls.append(self.rounded(live[0]) if live else ZERO)
                continue
            size = sum((product.abs_upper() for product in live), ZERO)
            error = size * self.gamma(len(live) + extra) + 2 * len(live) * self.tiny
            total = sum(live, ZERO) + plus_minus(error)
            self.finite(total)
            balls.append(total)
        return self.column(position, balls)

    def _product(self, x: Any, y: Any, number: int) -> Mixed:
        """x * y exactly, where one is constant or both show one token."""
        if isinstance(x, Column) and isinstance(y, Column):
            if x.position >= 0 and y.position >= 0 and x.position != y.position:
                raise NotUnderstood("a product of values of different tokens")
            position, rows = _together([x, y])
            return self.mixed(self.column(position, [a * b for a, b in rows]), number)
        if isinstance(x, Column):
            x, y = y, x
        if not isinstance(y, Column) or y.position >= 0:
            raise NotUnderstood("a product of values of several tokens")
        factor = y.balls[0]
        exact = self.add_mixed(Mixed(ZERO, {}), x, factor.mid())
        loose = (factor - factor.mid()).abs_upper() * x.magnitude()
        return Mixed(exact.base + plus_minus(loose), exact.tables, exact.noise)


def _sigmoid(x: arb) -> arb:
    """1 / (1 + exp(-x)), increasing: from the ends of the ball."""
    low, high = x.lower(), x.upper()
    return (1 / (1 + (-low).exp())).union(1 / (1 + (-high).exp()))


def _is_zero(value: Any) -> bool:
    return isinstance(value, Column) and all(ball.is_zero() for ball in value.balls)


def _equal(left: arb, right: arb) -> bool:
    return bool(left.mid() == right.mid() and left.rad() == right.rad())


def _at(column: Column, token: int) -> arb:
    return column.balls[token if column.position >= 0 else 0]


def _together(args: list[Column]) -> tuple[int, list[tuple[arb, ...]]]:
    """The one position the columns show, and their balls token by token."""
    held = {column.position for column in args if column.position >= 0}
    if len(held) > 1:
        raise NotUnderstood("an operation on several tokens")
    position = held.pop() if held else -1
    tokens = max(len(column.balls) for column in args)
    return position, [tuple(_at(column, token) for column in args) for token in range(tokens)]


def softmax_weights(arithmetic: Arithmetic, scores: list[Column | None]) -> list[Column]:
    """Weights of constant scores; None is a masked key.

    The kernel's exponential of key q is exp(s_q - m) (1 + e): the subtraction rounds by at
    most u |s_q - m|, the exponential by its ulps. Weight k is 1 / Σ_q exp(s_q - s_k) up to
    those factors, gamma for the sum, 3 u for the division, and underflow; exponentials are
    taken after subtracting an upper bound of the scores, which changes no weight.
    """
    balls = [None if score is None else score.balls[0] for score in scores]
    live = [ball for ball in balls if ball is not None]
    if not live:
        raise NotUnderstood("a softmax with no key")
    top = live[0].upper()
    for ball in live:
        top = top.max(ball.upper())
    unit, tiny = arithmetic.unit, arithmetic.tiny
    loss = [ZERO if ball is None else
            (top - ball).abs_upper() * unit * arb("1.01") + ULPS["exp"] * 2 * unit * arb("1.01")
            for ball in balls]
    if not all(value < arb("0.001") for value in loss):
        raise NotUnderstood("scores too large for a bound on their rounding")
    count = len(live)
    sizes = [ZERO if ball is None else (ball - top + plus_minus(lost)).exp()
             for ball, lost in zip(balls, loss, strict=True)]
    before, after = [ZERO], [ZERO]  # sums of the keys before each one, and after it
    for size in sizes:
        before.append(before[-1] + size)
    for size in reversed(sizes):
        after.append(after[-1] + size)
    found = []
    for k, size in enumerate(sizes):
        if balls[k] is None:
            found.append(Column(-1, [ZERO]))
            continue
        if not size > 0:
            raise NotUnderstood("a softmax whose denominator may be 0")
        others = before[k] + after[len(sizes) - 1 - k]
        weight = 1 / (1 + others / size) * (1 + plus_minus(arithmetic.gamma(count + 4)))
        weight = weight + plus_minus(4 * count * tiny)
        arithmetic.finite(weight)
        found.append(Column(-1, [weight]))
    return found


def look_up(arithmetic: Arithmetic, position: int, entries: list[Any]) -> Column:
    """The entry of each token; entries are constants."""
    balls = []
    for entry in entries:
        if not isinstance(entry, Column) or entry.position >= 0:
            raise NotUnderstood("a table of values that depend on tokens")
        balls.append(entry.balls[0])
    return arithmetic.column(position, balls)


__all__ = ["Arithmetic", "Column", "Mixed", "Term", "look_up", "plus_minus", "softmax_weights"]
