"""A feed-forward half on values with bounds beside them.

Takes: `Near`, a feed-forward part, its matrices. Gives: `FeedForwardNear`.
May import: nn.near, weights.structure.

Units that read the same features with the same weights share the error d of what they read,
so what they write together is off by |d| times the slope of their sum: for a hinge pair off
its ramp that is 0, however steep each unit is by itself. The slope of each unit lies within
`bent` of `slope` over all that its sum can be (mean value theorem). What a unit has for itself,
its rounding and the error of features that never change and that carry its bias, counts by
itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from adderc.nn.near import Linear, Near, Unit
from adderc.nn.pattern import rounding, roundings
from adderc.weights.structure import FeedForward

Array = np.ndarray
ACTIVATION_ULP = 8  # roundings allowed to one activation, of its argument


@dataclass(frozen=True)
class Curve:
    """An activation, its slope, and the largest curvature at arguments of at least a size.

    Without `curvature` it is ReLU, whose slope is 0 or 1.
    """

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    curvature: Callable[[Tensor], Tensor] | None = None

    def slopes(self, z: Tensor, off: Tensor) -> tuple[Tensor, Tensor]:
        """(slope, bent): every slope between z - off and z + off is within bent of slope."""
        if self.curvature is None:
            surely, maybe = (z > off).double(), (z >= -off).double()
            return (surely + maybe) / 2, (maybe - surely) / 2
        inner = (z.abs() - off).clamp_(min=0.0)
        # both slopes lie between -0.2 and 1.2, whatever the curvature says
        return self.slope(z), (off * self.curvature(inner)).clamp_(max=1.4)


def _silu_slope(z: Tensor) -> Tensor:
    share = torch.sigmoid(z)
    return share * (1 + z * (1 - share))


def _gelu_slope(z: Tensor) -> Tensor:
    bell = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return torch.special.ndtr(z) + z * bell


def _gelu_curvature(r: Tensor) -> Tensor:
    """|gelu''(z)| = phi(z) |2 - z^2| <= phi(z) max(2, z^2), which falls as |z| grows."""
    square = r * r
    return torch.exp(-square / 2) / math.sqrt(2 * math.pi) * square.clamp(min=2.0)


CURVES: dict[str, Curve] = {
    "relu": Curve(torch.relu, lambda z: (z > 0).double()),
    # |silu''| = s (1 - s) |2 + z (1 - 2 s)| <= e^-|z| (2 + |z|), which falls as |z| grows
    "silu": Curve(functional.silu, _silu_slope, lambda r: torch.exp(-r) * (2 + r)),
    "gelu": Curve(functional.gelu, _gelu_slope, _gelu_curvature),
    # |tanh''| = 2 |tanh| (1 - tanh^2) <= 8 e^-2|z|
    "tanh": Curve(torch.tanh, lambda z: 1 - torch.tanh(z) ** 2, lambda r: 8 * torch.exp(-2 * r)),
}


class FeedForwardNear:
    """up, activation, gate, down. `steady` [D] says which features no token ever changes."""

    def __init__(self, ffn: FeedForward, weights: Mapping[str, Array], prefix: str, unit: Unit,
                 steady: Array) -> None:
        def matrix(name: str) -> Array | None:
            return weights.get(f"{prefix}{name}")

        down = weights[f"{prefix}down"]
        self._curve, self._unit = CURVES[ffn.activation], unit
        self._bends = ffn.activation != "relu"
        self._up = Linear(weights[f"{prefix}up"], matrix("up_bias"), unit, steady)
        self._gate = None if ffn.gate is None else Linear(
            weights[f"{prefix}gate"], matrix("gate_bias"), unit, steady)
        flat = None if (bias := matrix("down_bias")) is None else bias.reshape(-1, 1)
        self._down = torch.from_numpy(down.copy())
        self._bias = None if flat is None else torch.from_numpy(flat.copy())
        size = np.abs(down)
        own = rounding(roundings(down, None if flat is None else flat[:, 0]), unit.size)[:, None]
        self._size, self._own = torch.from_numpy(size), torch.from_numpy(own * size)
        self._floor = torch.from_numpy(
            own * (0.0 if flat is None else np.abs(flat)) + len(size[0]) * unit.tiny)
        self.written = torch.from_numpy((size.any(axis=1, keepdims=True) | (
            np.zeros((len(size), 1), bool) if flat is None else flat != 0)).astype(np.float64))
        self._group(down)

    def _group(self, down: Array) -> None:
        """Rows (feature, group of units) of what groups of several units write."""
        read = self._up.rows if self._gate is None else np.hstack(
            [self._up.rows, self._gate.rows])
        _, group = np.unique(read, axis=0, return_inverse=True)
        group = group.reshape(-1)
        alone, rows, features, firsts = np.zeros(len(group)), [], [], []
        for number in range(group.max(initial=-1) + 1):
            units = np.flatnonzero(group == number)
            if len(units) == 1:
                alone[units] = 1.0
                continue
            for feature in np.flatnonzero(down[:, units].any(axis=1)):
                row = np.zeros(len(group))
                row[units] = down[feature, units]
                rows.append(row)
                features.append(feature)
                firsts.append(units[0])
        self._alone = torch.from_numpy(np.abs(down) * alone)
        self._together = torch.from_numpy(np.array(rows)) if rows else None
        self._features, self._firsts = torch.tensor(features), torch.tensor(firsts)

    def __call__(self, x: Near) -> Near:
        """What this half adds to the residual."""
        z, shared, own = self._up.read(x)
        wide = shared + own
        slope, bent = self._curve.slopes(z, wide)
        steepest = slope.abs() + bent
        hidden = self._curve.value(z)
        apart = steepest * own
        if self._bends:
            apart.add_(z.abs() + wide, alpha=ACTIVATION_ULP * self._unit.size).add_(
                self._unit.tiny)
        if self._gate is not None:
            return self._gated(x, hidden, apart, slope, bent, wide, shared)
        off = steepest * shared + apart
        return self._written(hidden, off, apart, [(slope, bent, shared)])

    def _gated(self, x: Near, hidden: Tensor, apart: Tensor, slope: Tensor, bent: Tensor,
               wide: Tensor, shared: Tensor) -> Near:
        assert self._gate is not None
        gate, gate_shared, gate_own = self._gate.read(x)
        gate_wide = gate_shared + gate_own
        moved = (slope.abs() + bent) * wide  # of the activation, by its argument
        size = gate.abs()
        product = hidden * gate
        apart = apart * (size + gate_wide) + hidden.abs() * gate_own + moved * gate_wide
        both = [(slope * gate, bent * size, shared), (hidden, torch.zeros_like(hidden),
                                                      gate_shared)]
        off = apart + sum(((s.abs() + b) * d for s, b, d in both), torch.zeros_like(apart))
        round_off = self._unit.size * (product.abs() + off) + self._unit.tiny
        return self._written(product, off + round_off, apart + round_off, both)

    def _written(self, hidden: Tensor, off: Tensor, apart: Tensor,
                 parts: list[tuple[Tensor, Tensor, Tensor]]) -> Near:
        """down @ hidden; `apart` is what each unit errs by itself, `parts` (slope, bent,
        error) what they share."""
        mid = self._down @ hidden
        error = torch.addmm(self._floor, self._own, hidden.abs() + off)
        error.addmm_(self._size, apart)
        for slope, bent, shared in parts:
            error.addmm_(self._alone, (slope.abs() + bent) * shared)
            if self._together is not None:
                steep = (self._together @ slope).abs_().addmm_(self._together.abs(), bent)
                steep.mul_(shared.index_select(0, self._firsts))
                error.index_add_(0, self._features, steep)
        return Near(mid if self._bias is None else mid.add_(self._bias), error)
