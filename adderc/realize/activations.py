"""Activations: how a unit bends, and how two of them (or one) make a step.

Takes: nothing. Gives: `Activation`, and ACTIVATIONS by name; a file of this room that calls
`register` adds one. May import: numpy, scipy.

A step that is 0 for z <= off and 1 for z >= on is a sum of c_j act(k_j z + b_j) + constant.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

Array = np.ndarray


@dataclass(frozen=True)
class HiddenUnit:
    """act(gain * z + bias), written with weight `out`."""

    gain: float
    bias: float
    out: float


@dataclass(frozen=True)
class StepUnits:
    """The units of one step and the constant beside them."""

    units: tuple[HiddenUnit, ...]
    constant: float = 0.0


@dataclass(frozen=True)
class Activation:
    """`value` is the function; `step(off, on)` makes a step; `tail(t)` bounds, for |s| >= t,
    how far the activation is from its `limit`; `pass_positive` k makes act(k z) / k equal to
    z for z = 0 and, up to the tail, for z >= 1 (None where it cannot). `linear` k is for an
    activation that rises everywhere and is straight enough at 0: act(k z) / k is nearly z."""

    name: str
    value: Callable[[Array], Array]
    limit: Callable[[Array], Array]
    tail: Callable[[Array], Array]
    step: Callable[[float, float], StepUnits]
    pass_positive: float | None
    linear: float | None = None

    @property
    def copies(self) -> float | None:
        """The gain k with which one unit writes what it reads, act(k z) / k."""
        return self.pass_positive or self.linear

    def one(self) -> HiddenUnit:
        """A unit that is always the same, written so that it counts 1."""
        bias = 1.0 if self.tail(np.array(1.0)) == 0 else 32.0
        return HiddenUnit(0.0, bias, 1.0 / float(self.value(np.array(bias))))

    def reach(
        self, units: list[HiddenUnit], low: Array, high: Array, common: float = 0.0
    ) -> tuple[Array, Array]:
        """Bounds of sum of out * act(gain z + bias) for z in [low, high], elementwise.

        The limits are piecewise linear in z, so their sum's extremes lie at the ends or at
        a bend inside; the tails are added for the distance of z from each bend. `common`:
        all arguments, and what gates them, share a factor f of at least 1 - common; limits
        scale with it, or stay, and tails grow as arguments shrink.
        """
        if self.linear is not None and len(units) == 1:
            return self._rising(units[0], low, high, common)
        ends = [low, high]
        for unit in units:
            if unit.gain:
                ends.append(np.clip(-unit.bias / unit.gain, low, high))
        sums, slack = [], np.zeros_like(low)
        for z in ends:
            sums.append(sum((u.out * self.limit(u.gain * z + u.bias) for u in units),
                            np.zeros_like(z)))
        for u in units:
            first, last = u.gain * low + u.bias, u.gain * high + u.bias
            near = np.where((first <= 0) == (last <= 0), np.minimum(abs(first), abs(last)), 0.0)
            slack = slack + abs(u.out) * self.tail((1 - common) * near)
        sums += [(1 - common) ** 2 * total for total in sums] if common else []
        stacked = np.stack(sums)
        return stacked.min(axis=0) - slack, stacked.max(axis=0) + slack

    def _rising(
        self, unit: HiddenUnit, low: Array, high: Array, common: float
    ) -> tuple[Array, Array]:
        """`reach` of one unit that rises everywhere: its values at the ends."""
        factors = (1.0, 1 - common)
        found = np.stack([unit.out * gate * self.value(f * (unit.gain * z + unit.bias))
                          for z in (low, high) for f in factors for gate in factors])
        return found.min(axis=0), found.max(axis=0)


def hinge(off: float, on: float) -> StepUnits:
    """(relu(z - lo) - relu(z - hi)) / (hi - lo), off < lo < hi < on: exactly 0 up to lo and 1
    from hi on. The ramp is a power of two, the largest below 1/8 of the gap, so biases and
    weights are exact binary numbers and rounding is amplified little."""
    ramp = 2.0 ** math.floor(math.log2((on - off) / 8))
    low = math.floor((off + on - ramp) / 2 / ramp) * ramp
    if not off < low < low + ramp < on:
        low = (off + on - ramp) / 2
    return StepUnits((HiddenUnit(1.0, -low, 1 / ramp),
                      HiddenUnit(1.0, -(low + ramp), -1 / ramp)))


def saturated_pair(sharp: float) -> Callable[[float, float], StepUnits]:
    """The hinge with a smooth unit: act(k z) / k is relu(z) up to tails, `sharp` away from
    the bend; the ramp takes half of the gap."""

    def step(off: float, on: float) -> StepUnits:
        ramp, slack = (on - off) / 2, (on - off) / 4
        gain = 2.0 ** math.ceil(math.log2(2 * sharp / slack))
        low = off + slack
        return StepUnits((HiddenUnit(gain, -gain * low, 1 / (gain * ramp)),
                          HiddenUnit(gain, -gain * (low + ramp), -1 / (gain * ramp))))

    return step


def _relu(t: Array) -> Array:
    return np.maximum(t, 0.0)


def _silu_tail(t: Array) -> Array:
    """|silu(s) - relu(s)| = |s| / (1 + e^|s|) <= |s| e^-|s|; it peaks at 1.28 with 0.2785."""
    s = np.maximum(t, 1.2784645427610738)
    return np.where(t < 1.2784645427610738, 0.27846454276107385, s * np.exp(-s))


def _gelu_tail(t: Array) -> Array:
    """|gelu(s) - relu(s)| = |s| Phi(-|s|) for |s| >= t; it peaks at 0.752 with 0.17."""
    s = np.maximum(t, 0.7517915246935645)
    return np.where(t < 0.7517915246935645, 0.17004134, s * ndtr(-s))


ACTIVATIONS: dict[str, Activation] = {}


def register(activation: Activation) -> None:
    """Make an activation known by its name."""
    ACTIVATIONS[activation.name] = activation


register(Activation("relu", _relu, _relu, np.zeros_like, hinge, 1.0))
register(Activation("silu", lambda t: t / (1 + np.exp(-np.clip(t, -700, 700))), _relu,
                    _silu_tail, saturated_pair(16.0), 32.0))
register(Activation("gelu", lambda t: t * ndtr(t), _relu, _gelu_tail, saturated_pair(5.0), 8.0))
