"""Norms that a large constant channel makes nearly linear.

Takes: the placed circuit. Gives: NORMS by name: the structure's norms, and how far from
linear they are. May import: passes, realize.store, weights.

With a constant channel of height c, RMSNorm gives x w sqrt(D) / |x|, and |x|^2 = c^2 + R^2
where R collects everything else: with w = c / sqrt(D) that is x times a factor between
1 / sqrt(1 + R^2 / c^2) and 1. LayerNorm first subtracts the mean, which a balancing slot
keeps at 0, and its |x|^2 is 2 c^2 + R^2 with the channels c and -c: w = c sqrt(2 / D).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from adderc.passes.place import NEGATIVE, ONE, PlacedCircuit
from adderc.realize.store import Store
from adderc.weights.structure import Norm

Array = np.ndarray
HEIGHT = {("rms", "float32"): 2**16, ("rms", "float64"): 2**20,
          ("layer", "float32"): 2**12, ("layer", "float64"): 2**20}
KINDS = ("none", "rms", "layer")


def height_of(kind: str, dtype: str) -> Fraction:
    """The constant channel: 1 without a norm."""
    return Fraction(HEIGHT.get((kind, dtype), 1))


@dataclass(frozen=True)
class Norms:
    """The norms of a model: `kind`, and whether all sites share one weight."""

    kind: str
    shared: bool
    placed: PlacedCircuit

    def build(self, site: str, store: Store) -> Norm | None:
        """The norm of one site; None without norms. The last one, in front of a tied head,
        drops what is not the curve, as constants would only add the same to every logit,
        and brings the digit to the scale of the curve."""
        if self.kind == "none":
            return None
        placed, size = self.placed, self.placed.d_model
        length = math.sqrt(sum(float(c) ** 2 for c in placed.constant))
        wanted = np.full((1, size), length / math.sqrt(size))
        if site == "final" and placed.needs.tied:
            for at, slot in enumerate(placed.slots):
                if slot.name == ONE or slot.name.startswith(NEGATIVE) or at == placed.balance:
                    wanted[0, at] = 0.0
            wanted[0, placed.out] *= float(placed.needs.tied / placed.digit_factor)
        name = "norm" if self.shared else f"{site}_norm"
        weight = store.matrix("norm.weight", "dense", f"{name}.weight", wanted,
                              "undoes the norm of the constant channel")
        return Norm(self.kind, weight)
