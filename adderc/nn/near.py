"""Values with a bound beside each: how far the module's own can be, whatever its kernels do.

Takes: tensors, matrices, norms. Gives: `Near` and the operations of a module on it.
May import: nn.pattern, weights.structure.

`mid` is computed in float64 from the module's own rounded weights, `off` bounds the
difference to what the module computes in its dtype, for any order of summation, with or
without FMA, with elementary functions good to a few units in the last place and underflow
to 0. Features lie along the first axis, tokens behind it. u is the rounding unit of the
module's dtype plus that of float64, so that the rounding of `mid` is in the bound, too; a
sum of n products errs by at most g(n) = n u / (1 - n u) of the sum of their magnitudes.

A norm's factor errs for all features alike, and so does the mean that a LayerNorm takes off.
Both cancel in most of what is read next, so they are kept apart: with `rel` r and `lean` l
the module's value is (1 + s) (mid + d + t along), |s| <= r, |d| <= off, |t| <= l.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from adderc.nn.pattern import UNIT, rounding, roundings
from adderc.weights.structure import Norm

Array = np.ndarray
RSQRT_ULP = 4  # roundings allowed to one reciprocal square root
SMALLEST = {"float32": 2.0**-126, "float64": 2.0**-1022}
LARGEST = {"float32": 2.0**100, "float64": 2.0**1000}


@dataclass(frozen=True)
class Near:
    """`mid` and `off` [D, …]; after a norm `rel` and `lean` […] with `along` [D, 1, …]."""

    mid: Tensor
    off: Tensor
    rel: Tensor | None = None
    lean: Tensor | None = None
    along: Tensor | None = None

    @property
    def most(self) -> Tensor:
        """The largest magnitude the module's value can have, a norm's errors apart."""
        return self.mid.abs().add_(self.off)


@dataclass(frozen=True)
class Unit:
    """The rounding of one dtype, beside that of float64."""

    size: float
    tiny: float

    @staticmethod
    def of(dtype: str) -> Unit:
        return Unit(UNIT[dtype] + UNIT["float64"], SMALLEST[dtype])

    def sum(self, terms: int) -> float:
        """g(terms)."""
        return float(rounding(terms, self.size))


def plus(x: Near, y: Near, written: Tensor, unit: Unit) -> Near:
    """x + y; `written` [D, 1, …] is 0 for features to which y adds nothing, else 1."""
    mid = x.mid + y.mid
    off = x.off + y.off
    off.addcmul_(mid.abs().add_(off), written, value=unit.size)
    return Near(mid, off)


class Linear:
    """x -> weight @ x + bias, [D, N] to [O, N]; `steady` features [D] have their error apart.

    `read` gives the value with the errors of other features (which units with the same row
    share) and all the rest of the error.
    """

    def __init__(self, weight: Array, bias: Array | None, unit: Unit,
                 steady: Array | None = None) -> None:
        flat = None if bias is None else bias.reshape(-1)
        steady = np.zeros(weight.shape[1], dtype=bool) if steady is None else steady
        own = rounding(roundings(weight, flat), unit.size)[:, None]
        self.weight = torch.from_numpy(weight.copy())
        self.bias = None if flat is None else torch.from_numpy(flat[:, None].copy())
        size = np.abs(weight)
        self._free = torch.from_numpy(np.where(steady, 0.0, size))
        self._own = torch.from_numpy(own * size)
        floor = own * (0.0 if flat is None else np.abs(flat)[:, None])
        self._floor = torch.from_numpy(floor + weight.shape[1] * unit.tiny)
        self._split = bool(steady.any())
        self._steady = torch.from_numpy(np.where(steady, weight, 0.0))
        self.rows = np.where(steady, 0.0, weight)

    def alone(self, x: Near) -> Tensor:
        """The rounding of each sum by itself [O, N], a norm's factor apart."""
        most = x.most
        if x.lean is not None and x.along is not None:
            most.addcmul_(x.along.abs(), x.lean)
        return torch.addmm(self._floor, self._own, most)

    def __call__(self, x: Near) -> Near:
        mid, shared, own = self.read(x)
        return Near(mid, shared.add_(own))

    def read(self, x: Near) -> tuple[Tensor, Tensor, Tensor]:
        """(value, shared error, own error), [O, N] each."""
        mid = self.weight @ x.mid
        shared = self._free @ x.off
        own = self.alone(x).add_(self._steady.abs() @ x.off) if self._split else self.alone(x)
        if x.rel is not None:
            factor = 1 + x.rel
            carried = self._steady @ x.mid if self._split else None
            free = mid if carried is None else mid - carried
            shared.mul_(factor).addcmul_(free.abs(), x.rel)
            own.mul_(factor)
            if carried is not None:
                own.addcmul_(carried.abs(), x.rel)
            if x.lean is not None and x.along is not None:
                across = (self.weight @ x.along).abs()
                shift = x.lean * factor
                if carried is None:
                    shared.add_(across * shift)
                else:
                    own.add_(((self._steady @ x.along).abs()) * shift)
                    shared.add_(((self.weight - self._steady) @ x.along).abs() * shift)
        return (mid if self.bias is None else mid.add_(self.bias)), shared, own


class NormNear:
    """One norm, over the first axis."""

    def __init__(self, norm: Norm, weights: Mapping[str, Array], name: str, unit: Unit) -> None:
        self._norm, self._unit = norm, unit
        self._weight, self._bias = (
            None if (kept := weights.get(f"{name}.{part}")) is None
            else torch.from_numpy(kept.reshape(-1, 1).copy()) for part in ("weight", "bias"))

    def __call__(self, x: Near) -> Near:
        mid, off, unit, lean = x.mid, x.off, self._unit, None
        count = len(mid)
        if self._norm.kind == "layer":
            lean = off.mean(0) + unit.sum(count + 1) * (mid.abs() + off).mean(0)
            lean = lean + count * unit.tiny
            mid = mid - mid.mean(0)
            off = off + unit.size * (mid.abs() + off + lean)
        wide = off if lean is None else off + lean
        square = (mid * mid).mean(0) + self._norm.epsilon
        moved = (2 * (mid.abs() * wide).mean(0) + (wide * wide).mean(0) + unit.tiny) / square
        factor = torch.rsqrt(square)
        # theirs: a sum of squares, its mean, epsilon; half of their error; the root and x r
        own = unit.sum((count + 4) // 2 + RSQRT_ULP + 1)
        apart = torch.where(moved < 1, torch.rsqrt((1 - moved).clamp(min=1e-300)) - 1, torch.inf)
        rel = apart + own * (1 + apart)
        gain = factor if self._weight is None else factor * self._weight
        mid, off = mid * gain, off * gain.abs()
        off = off + 2 * unit.size * (mid.abs() + off) + 2 * unit.tiny
        along = None
        if lean is not None:
            lean = lean * factor
            along = torch.ones((count, 1), dtype=mid.dtype) if self._weight is None else (
                self._weight)
        if self._bias is None:
            return Near(mid, off, rel, lean, along)
        off = off * (1 + rel) + rel * mid.abs()
        if lean is not None and along is not None:
            off = off + lean * (1 + rel) * along.abs()
        mid = mid + self._bias
        return Near(mid, off + unit.size * (mid.abs() + off))


def lead(
    weight: Tensor, own: Tensor, x: Near, logits: Tensor, bias: Tensor | None, winner: Tensor
) -> Tensor:
    """By how much the logit of `winner` [N] leads each other, less all that rounding can take,
    [V, N]; the winner's own row is infinite.

    `own` [V, N] is the rounding of each logit by itself.
    """
    ahead = logits.gather(0, winner[None]) - logits
    doubt = own + own.gather(0, winner[None])
    rows = weight[winner].T  # [D, N]
    for at in torch.nonzero(weight.any(0))[:, 0].tolist():
        doubt.addcmul_((rows[at] - weight[:, at : at + 1]).abs(), x.off[at])
    if x.rel is not None:
        free = ahead if bias is None else ahead - (bias[winner, 0] - bias)
        if x.lean is not None and x.along is not None:
            lean = weight @ x.along
            doubt.addcmul_((lean[winner, 0] - lean).abs(), x.lean)
        doubt = doubt * (1 + x.rel) + x.rel * free.abs()
    left = ahead - doubt * (1 + 1e-9)
    return left.scatter_(0, winner[None], torch.inf)
