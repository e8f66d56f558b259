"""Midpoint-radius arithmetic over numpy arrays, with the rounding of a model's dtype in it.

Takes: arrays. Gives: `Ball` and `Rounding`, whose operations enclose what the model's own
operation can give, for every value in the operands and any order of summation.
May import: numpy, scipy, weights.expr.

A result of exact size L that the model rounds is off by at most u L; our own float64 adds
2^-53 L. `unit` is the sum of both, a little enlarged to cover the second order and the
rounding of the radii themselves. Underflow adds at most the smallest normal number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import erf, expit

from adderc.weights.expr import (
    Add,
    Arange,
    Concat,
    Constant,
    Cos,
    Expr,
    Leaf,
    MatMul,
    Mul,
    Neg,
    Reciprocal,
    Reshape,
    Scatter,
    Sin,
    Structural,
    Take,
    Transpose,
    children,
)

Array = np.ndarray
UNITS = {"float32": (2.0**-24, 2.0**-126), "float64": (2.0**-53, 2.0**-1022)}
OWN = 2.0**-53
GROW = 1 + 2.0**-30
ULPS = {"exp": 4, "sin": 4, "cos": 4, "rsqrt": 4, "tanh": 8, "silu": 8, "gelu": 16}  # of torch
TURNS = {  # where an activation's slope turns round, and a bound on it there
    "silu": ((2.3994, 1.1), (-2.3994, -0.1)), "gelu": ((1.4143, 1.13), (-1.4143, -0.13)),
    "tanh": ((0.0, 1.0),)}


@dataclass(frozen=True, eq=False)
class Ball:
    """All arrays within `rad` of `mid`, elementwise."""

    mid: Array
    rad: Array

    @classmethod
    def exact(cls, value: Array) -> Ball:
        value = np.asarray(value, dtype=np.float64)
        return cls(value, np.zeros_like(value))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.mid.shape

    @property
    def size(self) -> Array:
        """The largest magnitude."""
        return np.abs(self.mid) + self.rad

    @property
    def low(self) -> Array:
        return self.mid - self.rad * GROW - OWN * np.abs(self.mid)

    @property
    def high(self) -> Array:
        return self.mid + self.rad * GROW + OWN * np.abs(self.mid)

    def move(self, function: Callable[[Array], Array]) -> Ball:
        """Rearranged alike."""
        return Ball(function(self.mid), function(self.rad))

    def __getitem__(self, key: Any) -> Ball:
        return Ball(self.mid[key], self.rad[key])


def hull(low: Array, high: Array) -> Ball:
    """The ball around two ends."""
    mid = (low + high) / 2
    return Ball(mid, np.maximum(high - mid, mid - low) * GROW)


@dataclass(frozen=True)
class Rounding:
    """The operations of one dtype."""

    unit: float
    tiny: float

    @classmethod
    def of(cls, dtype: str) -> Rounding:
        unit, tiny = UNITS[dtype]
        return cls((unit + OWN) * GROW, tiny)

    def rounded(self, mid: Array, rad: Array, ulps: float = 1.0) -> Ball:
        """A result with what rounding adds to it."""
        return Ball(mid, (rad + ulps * self.unit * (np.abs(mid) + rad)) * GROW + self.tiny)

    def add(self, a: Ball, b: Ball) -> Ball:
        return self.rounded(a.mid + b.mid, a.rad + b.rad + OWN * (np.abs(a.mid) + np.abs(b.mid)))

    def mul(self, a: Ball, b: Ball) -> Ball:
        return self.rounded(a.mid * b.mid,
                            np.abs(a.mid) * b.rad + np.abs(b.mid) * a.rad + a.rad * b.rad)

    def matmul(self, a: Ball, b: Ball) -> Ball:
        """Sums of products in any order: n terms lose n units of the sum of their sizes."""
        n = a.shape[-1]
        spread = np.abs(a.mid) @ b.rad + a.rad @ b.size
        return Ball(a.mid @ b.mid,
                    (spread + (n + 2) * self.unit * (a.size @ b.size)) * GROW + n * self.tiny)

    def neg(self, a: Ball) -> Ball:
        return Ball(-a.mid, a.rad)

    def reciprocal(self, a: Ball) -> Ball:
        """NaN radius where 0 may be inside."""
        least = np.abs(a.mid) - a.rad
        least = np.where(least > 0, least, np.nan)
        with np.errstate(divide="ignore", invalid="ignore"):
            mid = 1 / a.mid
            return self.rounded(mid, a.rad / (np.abs(a.mid) * least))

    def wave(self, name: str, a: Ball) -> Ball:
        function = np.cos if name == "cos" else np.sin
        return self.rounded(function(a.mid), a.rad + self.unit, ULPS[name])

    def rsqrt(self, a: Ball) -> Ball:
        """Of positive values; NaN elsewhere."""
        low = np.where(a.low > 0, a.low, np.nan)
        ends = hull(1 / np.sqrt(a.high), 1 / np.sqrt(low))
        return self.rounded(ends.mid, ends.rad, ULPS["rsqrt"] + 2)


def _phi(z: Array) -> Array:
    return 0.5 * (1 + erf(z / math.sqrt(2)))


VALUES: dict[str, Callable[[Array], Array]] = {
    "tanh": np.tanh, "silu": lambda z: z * expit(z), "gelu": lambda z: z * _phi(z)}
SLOPES: dict[str, Callable[[Array], Array]] = {
    "tanh": lambda z: 1 - np.tanh(z) ** 2,
    "silu": lambda z: expit(z) * (1 + z * (1 - expit(z))),
    "gelu": lambda z: _phi(z) + z * np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)}


def slope_range(name: str, low: Array, high: Array) -> tuple[Array, Array]:
    """The least and the largest slope of an activation between `low` and `high`: monotone
    between the places where it turns round."""
    ends = SLOPES[name](low), SLOPES[name](high)
    least, most = np.minimum(*ends), np.maximum(*ends)
    for turn, value in TURNS[name]:
        inside = (low <= turn + 0.01) & (high >= turn - 0.01)
        least = np.where(inside, np.minimum(least, value), least)
        most = np.where(inside, np.maximum(most, value), most)
    return least - 2.0**-40, most + 2.0**-40


def enclose(expr: Expr, leaves: Mapping[str, Array], rounding: Rounding) -> Ball:
    """A weight expression as the model computes it from exact leaves."""
    match expr:
        case Leaf(name):
            return Ball.exact(leaves[name])
        case Constant():
            value = np.asarray(expr.value())
            return rounding.rounded(value, np.zeros(()), 2.0)
        case Structural(entries, shape):
            matrix = np.zeros(shape)
            for row, column, sign in entries:
                matrix[row, column] = sign
            return Ball.exact(matrix)
        case Arange(length):
            return Ball.exact(np.arange(length, dtype=np.float64)[:, None])
    inputs = [enclose(child, leaves, rounding) for child in children(expr)]
    match expr:
        case MatMul():
            return rounding.matmul(*inputs)
        case Add():
            return rounding.add(*inputs)
        case Mul():
            return rounding.mul(*inputs)
        case Neg():
            return rounding.neg(*inputs)
        case Reciprocal():
            return rounding.reciprocal(*inputs)
        case Cos():
            return rounding.wave("cos", *inputs)
        case Sin():
            return rounding.wave("sin", *inputs)
    return _moved(expr, inputs)


def _moved(expr: Expr, inputs: list[Ball]) -> Ball:
    match expr:
        case Transpose():
            return inputs[0].move(lambda a: a.T)
        case Reshape(_, shape):
            return inputs[0].move(lambda a: a.reshape(shape))
        case Take(_, indices, axis):
            return inputs[0].move(lambda a: np.take(a, indices, axis=axis))
        case Concat(_, axis):
            return Ball(np.concatenate([b.mid for b in inputs], axis),
                        np.concatenate([b.rad for b in inputs], axis))
        case Scatter(_, rows, columns, shape):
            def place(a: Array) -> Array:
                whole = np.zeros(shape)
                whole[np.ix_(rows, columns)] = a
                return whole
            return inputs[0].move(place)
    raise TypeError(f"no enclosure for {type(expr).__name__}")
