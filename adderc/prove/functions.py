"""Elementary functions: exact ranges, derivatives, and the error a kernel may have.

Takes: float64 intervals. Gives: `FUNCTIONS`, by name: range, value, slope, curvature, ulp;
`EVERY`, those and the correctly rounded ones.
May import: prove.doubt.

The functions are evaluated in float64 by numpy and scipy-free formulas whose own relative
error is taken to be at most OWN (64 units of float64's last place); every range is widened by
it. `ulps` is the assumption about the module's kernel that a portable proof prints.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from adderc.prove.doubt import Doubt

Array = np.ndarray
OWN = 2.0**-47
_SILU_LEAST, _GELU_LEAST = (-1.2784645427610738, -0.27846454276107396), (
    -0.7517915247266236, -0.16997120747990369)
_erf = np.vectorize(math.erf, otypes=[np.float64])
_erfc = np.vectorize(math.erfc, otypes=[np.float64])


@dataclass(frozen=True)
class Function:
    """value, slope f', and `curvature(lo, hi)`, a bound on |f''| over the interval.

    `enclose(lo, hi)` bounds the exact function; `ulps` bounds the kernel's error.
    """

    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    curvature: Callable[[Array, Array], Array]
    enclose: Callable[[Array, Array], tuple[Array, Array]]
    ulps: float
    of_input: bool = False

    def error(self, lo: Array, hi: Array, low: Array, high: Array, info: Any) -> Array:
        """What the kernel may add, for arguments lo … hi and exact results low … high.

        `ulps` units in the last place of the result; of the argument for a function whose
        usual formula cancels (GELU for negative arguments).
        """
        ends = (lo, hi) if self.of_input else (low, high)
        largest = np.maximum(np.abs(ends[0]), np.abs(ends[1]))
        return largest * (self.ulps * float(info.eps) * (1 + 2.0**-20) + OWN)


def _rising(value: Callable[[Array], Array]) -> Callable[[Array, Array], tuple[Array, Array]]:
    def enclose(lo: Array, hi: Array) -> tuple[Array, Array]:
        return _widen(value(lo), value(hi))

    return enclose


def _falling(value: Callable[[Array], Array]) -> Callable[[Array, Array], tuple[Array, Array]]:
    def enclose(lo: Array, hi: Array) -> tuple[Array, Array]:
        if (lo <= 0).any():
            raise Doubt("a denominator that may be 0")
        return _widen(value(hi), value(lo))

    return enclose


def _rooted(lo: Array, hi: Array) -> tuple[Array, Array]:
    if (lo < 0).any():
        raise Doubt("the square root of a number that may be negative")
    return _widen(np.sqrt(lo), np.sqrt(hi))


def _widen(lo: Array, hi: Array) -> tuple[Array, Array]:
    return lo - OWN * np.abs(lo), hi + OWN * np.abs(hi)


def _valley(
    value: Callable[[Array], Array], least: tuple[float, float]
) -> Callable[[Array, Array], tuple[Array, Array]]:
    """Falling up to least[0], rising from there."""

    def enclose(lo: Array, hi: Array) -> tuple[Array, Array]:
        inside = (lo <= least[0] + 1e-9) & (hi >= least[0] - 1e-9)
        low, high = value(lo), value(hi)
        bottom = np.where(inside, least[1], np.minimum(low, high))
        return _widen(bottom, np.maximum(low, high))

    return enclose


def _wave(value: Callable[[Array], Array], crest: float) -> Callable[..., tuple[Array, Array]]:
    """sin or cos: +1 at crest + 2 pi n, -1 half a period later."""

    def enclose(lo: Array, hi: Array) -> tuple[Array, Array]:
        ends = value(lo), value(hi)
        slack = 2.0**-40 * (1 + np.maximum(np.abs(lo), np.abs(hi)))
        turn = 2 * math.pi

        def holds(at: float) -> Array:
            return np.floor((hi + slack - at) / turn) >= np.ceil((lo - slack - at) / turn)

        low = np.where(holds(crest + math.pi), -1.0, np.minimum(*ends))
        high = np.where(holds(crest), 1.0, np.maximum(*ends))
        absolute = 2.0**-49
        return low - absolute, high + absolute

    return enclose


def sigmoid(x: Array) -> Array:
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) /
                    (1 + np.exp(-np.abs(x))))


def _sigmoid_slope(x: Array) -> Array:
    s = sigmoid(x)
    return s * (1 - s)


def _silu_slope(x: Array) -> Array:
    s = sigmoid(x)
    return s * (1 + x * (1 - s))


def _normal_density(x: Array) -> Array:
    return np.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _gelu(x: Array) -> Array:
    return x * 0.5 * _erfc(-x / math.sqrt(2))


def _flat(bound: float) -> Callable[[Array, Array], Array]:
    return lambda lo, hi: np.full(np.broadcast(lo, hi).shape, bound)


def _least_magnitude(lo: Array, hi: Array) -> Array:
    return np.where((lo <= 0) & (hi >= 0), 0.0, np.minimum(np.abs(lo), np.abs(hi)))


def _erf_curvature(lo: Array, hi: Array) -> Array:
    """4 / sqrt(pi) * y * exp(-y^2) falls from y = sqrt(1/2) on."""
    y = np.maximum(_least_magnitude(lo, hi), math.sqrt(0.5))
    return 4.0000001 / math.sqrt(math.pi) * y * _exp(-y * y)


def _gelu_curvature(lo: Array, hi: Array) -> Array:
    """|density(y) * (2 - y^2)| <= density(y) * (2 + y^2), which falls from 0 on."""
    y = _least_magnitude(lo, hi)
    return _normal_density(y) * (2 + y * y) * 1.0000001


def _exp(x: Array) -> Array:
    with np.errstate(over="ignore", under="ignore"):
        return np.exp(x)


FUNCTIONS: dict[str, Function] = {
    "exp": Function(_exp, _exp, lambda lo, hi: _exp(hi) * (1 + OWN), _rising(_exp), 4),
    "sin": Function(np.sin, np.cos, _flat(1.0), _wave(np.sin, math.pi / 2), 4),
    "cos": Function(np.cos, lambda x: -np.sin(x), _flat(1.0), _wave(np.cos, 0.0), 4),
    "rsqrt": Function(
        lambda x: 1 / np.sqrt(x), lambda x: -0.5 * x**-1.5,
        lambda lo, hi: 0.7500001 * lo**-2.5, _falling(lambda x: 1 / np.sqrt(x)), 4),
    "tanh": Function(
        np.tanh, lambda x: 1 - np.tanh(x) ** 2,
        lambda lo, hi: np.minimum(0.7698004, 8.000001 * _exp(-2 * _least_magnitude(lo, hi))),
        _rising(np.tanh), 8),
    "sigmoid": Function(
        sigmoid, _sigmoid_slope,
        lambda lo, hi: np.minimum(0.0962251, _exp(-_least_magnitude(lo, hi)) * 1.0000001),
        _rising(sigmoid), 8),
    "silu": Function(
        lambda x: x * sigmoid(x), _silu_slope,
        lambda lo, hi: np.minimum(
            0.5000001,
            (2 + _least_magnitude(lo, hi)) * _exp(-_least_magnitude(lo, hi)) * 1.0000001),
        _valley(lambda x: x * sigmoid(x), _SILU_LEAST), 8),
    "erf": Function(
        _erf, lambda x: 2 / math.sqrt(math.pi) * np.exp(-x * x), _erf_curvature,
        _rising(_erf), 16),
    "gelu": Function(
        _gelu, lambda x: 0.5 * _erfc(-x / math.sqrt(2)) + x * _normal_density(x),
        _gelu_curvature, _valley(_gelu, _GELU_LEAST), 16, of_input=True),
}
# what IEEE 754 rounds correctly needs no assumption; a quotient is rounded where it is formed
EVERY: dict[str, Function] = {
    **FUNCTIONS,
    "sqrt": Function(
        np.sqrt, lambda x: 0.5 / np.sqrt(x), lambda lo, hi: 0.2500001 * lo**-1.5,
        _rooted, 0.5),
    "reciprocal": Function(
        lambda x: 1 / x, lambda x: -1 / (x * x), lambda lo, hi: 2.0000001 * lo**-3.0,
        _falling(lambda x: 1 / x), 0),
}
