"""The checker's numbers: balls, with every rounding of the module's dtype bounded.

Takes: balls of exact values. Gives: `Arithmetic`, balls of computed values; `FUNCTIONS`.
May import: prove.checker_reader, numpy, flint.

All bounds are balls of python-flint (Arb) at 128 bits, which round outward themselves. A
computed value is the exact result of its operation times 1 + d, |d| <= u, plus at most the
smallest normal number: u is half the dtype's epsilon, and a sum of n products has gamma(n)
instead, for any order and with or without fused multiply-add.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flint import arb, ctx

from adderc.prove.checker_reader import NotUnderstood

BITS = 128
ZERO, ONE, HALF = arb(0), arb(1), arb(0.5)


def plus_minus(size: arb) -> arb:
    """The ball around 0 that holds everything no larger than `size`."""
    return arb(0, size.abs_upper())


def hull(low: arb, high: arb) -> arb:
    """The ball of everything between two exact numbers."""
    return low.union(high)


# ---------------------------------------------------------------- elementary functions


@dataclass(frozen=True)
class Function:
    """An elementary function f of one number.

    `value` is f at an exact number; over a ball, f lies between its values at the ends,
    except that it may fall to `least` if it first falls and then rises. `slope` is f'.
    `bend(low, high, near)` bounds |f''| on [low, high], whose number nearest 0 is `near` off.
    A kernel is off by `ulps` units in the last place of the result, or of the argument.
    """

    value: Callable[[arb], arb]
    slope: Callable[[arb], arb]
    bend: Callable[[arb, arb, arb], arb]
    ulps: int
    least: arb | None = None
    of_argument: bool = False
    positive: bool = False  # only for numbers above 0
    direct: bool = False  # `value` takes a ball
    convex: bool = False  # f'' is never negative


def _sigmoid(x: arb) -> arb:
    return 1 / (1 + (-x).exp()) if x > 0 else x.exp() / (1 + x.exp())


def _sigmoid_slope(x: arb) -> arb:
    return _sigmoid(x) * _sigmoid(-x)


def _density(x: arb) -> arb:
    return (-x * x / 2).exp() / (2 * arb.pi()).sqrt()


def _below(x: arb) -> arb:
    """The normal distribution function."""
    return (-x / arb(2).sqrt()).erfc() / 2


# Bounds on |f''|, with y the distance of the interval from 0:
#   tanh: 2 tanh (1 - tanh²), at most 0.7699 and at most 8 exp(-2 y)
#   sigmoid: at most 0.0963 and at most exp(-y); silu: at most 1/2 and at most (2 + y) exp(-y)
#   erf: 4 / sqrt(pi) t exp(-t²), which falls from t² = 1/2 on
#   gelu: density(t) |2 - t²| <= density(t) (2 + t²), which falls from 0 on
FUNCTIONS = {
    "exp": Function(arb.exp, arb.exp, lambda low, high, near: high.exp(), 4, convex=True),
    "sin": Function(arb.sin, arb.cos, lambda low, high, near: ONE, 4, direct=True),
    "cos": Function(arb.cos, lambda x: -x.sin(), lambda low, high, near: ONE, 4, direct=True),
    "rsqrt": Function(arb.rsqrt, lambda x: -x.rsqrt() / (2 * x),
                      lambda low, high, near: low.rsqrt() / (low * low) * 3 / 4, 4,
                      positive=True, convex=True),
    "sqrt": Function(arb.sqrt, lambda x: x.rsqrt() / 2,
                     lambda low, high, near: low.rsqrt() / low / 4, 1, positive=True),
    "tanh": Function(arb.tanh, lambda x: 1 / (x.cosh() * x.cosh()),
                     lambda low, high, near: arb("0.77").min(8 * (-2 * near).exp()), 8),
    "sigmoid": Function(_sigmoid, _sigmoid_slope,
                        lambda low, high, near: arb("0.0963").min((-near).exp()), 8),
    "silu": Function(lambda x: x * _sigmoid(x),
                     lambda x: _sigmoid(x) + x * _sigmoid_slope(x),
                     lambda low, high, near: HALF.min((2 + near) * (-near).exp()), 8,
                     least=arb("-0.2785")),
    "erf": Function(arb.erf, lambda x: 2 * (-x * x).exp() / arb.pi().sqrt(),
                    lambda low, high, near: 4 / arb.pi().sqrt() * (
                        lambda t: t * (-t * t).exp())(near.max(HALF.sqrt())), 16),
    "gelu": Function(lambda x: x * _below(x), lambda x: _below(x) + x * _density(x),
                     lambda low, high, near: _density(near) * (2 + near * near), 16,
                     least=arb("-0.17"), of_argument=True),
}


def over(function: Function, low: arb, high: arb) -> arb:
    """A ball of every value between two exact numbers."""
    if function.positive and not low > 0:
        raise NotUnderstood("a root or a denominator that may be 0")
    if function.direct:
        return function.value(hull(low, high))
    found = function.value(low).union(function.value(high))
    if function.least is not None and low < 0 and not high < -2:
        return found.union(function.least)
    return found


# ---------------------------------------------------------------- computed values


class Arithmetic:
    """Operations on balls in one dtype."""

    def __init__(self, dtype: Any) -> None:
        ctx.prec = BITS
        info = np.finfo(dtype)
        self.bits = info.nmant + 1
        self.unit, self.tiny = arb(float(info.eps)) / 2, arb(float(info.tiny))
        self.largest = arb(float(info.max)) / 8
        self.least_exponent = int(info.minexp)

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

    def rounded(self, ball: arb, units: int = 1) -> arb:
        """A result that is off by `units` * u of itself at most, or by underflow."""
        self.finite(ball)
        if units <= 1 and self.is_exact(ball):
            return ball
        if units == 1 and ball.abs_lower() > 2 * self.tiny:
            # rounding to nearest is monotone: the result lies between the rounded ends
            return hull(self.nearest(ball.lower()), self.nearest(ball.upper()))
        return ball + plus_minus(ball.abs_upper() * units * self.unit + self.tiny)

    def nearest(self, number: arb) -> arb:
        """An exact number in the normal range as the dtype holds it, ties to even."""
        mantissa, exponent = (int(part) for part in number.man_exp())
        excess = abs(mantissa).bit_length() - self.bits
        if excess <= 0:
            return number
        kept, lost = divmod(abs(mantissa), 1 << excess)
        half = 1 << (excess - 1)
        kept += lost > half or (lost == half and kept % 2 == 1)
        return arb(kept if mantissa > 0 else -kept) * arb(2) ** (exponent + excess)

    def finite(self, ball: arb) -> None:
        if not ball.is_finite() or not ball.abs_upper() < self.largest:
            raise NotUnderstood("overflow or NaN cannot be excluded")

    def constant(self, value: float) -> arb:
        ball = arb(value)
        self.finite(ball)
        # a subnormal number may be flushed to 0
        return ball if self.is_exact(ball) else ball + plus_minus(self.tiny)

    def error(self, function: Function, argument: arb, value: arb) -> arb:
        """What a kernel may add to a value."""
        size = (argument if function.of_argument else value).abs_upper()
        return size * (2 * function.ulps * self.unit) + self.tiny

    def apply(self, function: Function, x: arb) -> arb:
        value = over(function, x.lower(), x.upper())
        self.finite(value)
        return value + plus_minus(self.error(function, x, value))

    def one(self, op: str, x: Sequence[arb], units: int = 0) -> arb:
        """An operation on balls, element by element."""
        match op:
            case "add":
                return self.rounded(x[0] + x[1])
            case "sub":
                return self.rounded(x[0] - x[1])
            case "mul":
                exact = is_power(x[0]) or is_power(x[1])
                return self.rounded(x[0] * x[1], 0 if exact else 1)
            case "div" | "reciprocal":
                return self.quotient(*(x if op == "div" else (ONE, x[0])))
            case "neg":
                return -x[0]
            case "abs":
                return abs(x[0])
            case "relu" | "nonnegative":
                return x[0].max(ZERO)
            case "max":
                return max_of(x)
            case "loosen":
                return x[0] + plus_minus(x[1].abs_upper() * units * self.unit)
        if op not in FUNCTIONS:
            raise NotUnderstood(f"the operation {op}")
        return self.apply(FUNCTIONS[op], x[0])

    def quotient(self, x: arb, y: arb) -> arb:
        """x / y; a division by a number may be a product with its reciprocal."""
        if y.contains(0):
            raise NotUnderstood("a denominator that may be 0")
        return self.rounded(x / y, 1 if is_power(y) else 4)


def max_of(balls: Sequence[arb]) -> arb:
    best = balls[0]
    for ball in balls[1:]:
        best = best.max(ball)
    return best


def min_of(balls: Sequence[arb]) -> arb:
    return -max_of([-ball for ball in balls])


def is_power(ball: arb) -> bool:
    """Whether the ball is a power of two or minus one."""
    return bool(ball.is_exact() and not ball.is_zero()) and abs(int(ball.man_exp()[0])) == 1


__all__ = ["FUNCTIONS", "HALF", "ONE", "ZERO", "Arithmetic", "Function", "hull", "is_power",
           "max_of", "min_of", "over", "plus_minus"]
