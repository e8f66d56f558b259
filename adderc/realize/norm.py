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

from adderc.passes.place import ANTI, ONE, PlacedCircuit
from adderc.realize.store import Store
from adderc.weights.structure import Norm

Array = np.ndarray
HEIGHT = {("rms", "float32"): 2**16, ("rms", "float64"): 2**20,
          ("layer", "float32"): 2**12, ("layer", "float64"): 2**20}
KINDS = ("none", "rms", "layer")


def height_of(kind: str, dtype: str, curved: bool, base: int) -> Fraction:
    """The constant channel: 1 without a norm; smaller where tokens lie on a curve, whose
    bend d^2 / c must be resolved beside c."""
    if curved:
        return Fraction(2 ** (8 if dtype == "float32" else 16) * (2 if base > 16 else 1))
    return Fraction(HEIGHT.get((kind, dtype), 1))


@dataclass(frozen=True)
class Norms:
    """The norms of a model: `kind`, and whether all sites share one weight."""

    kind: str
    shared: bool
    placed: PlacedCircuit

    def length(self) -> float:
        """|x| when only the constant channels count."""
        slots = [float(self.placed.column(ONE)[at]) for at, s in enumerate(self.placed.slots)
                 if s.name in (ONE, ANTI)]
        return math.sqrt(sum(v * v for v in slots))

    def build(self, site: str, store: Store) -> Norm | None:
        """The norm of one site; None without norms."""
        if self.kind == "none":
            return None
        size = self.placed.d_model
        wanted = np.full((1, size), self.length() / math.sqrt(size))
        name = "norm" if self.shared else f"{site}_norm"
        weight = store.matrix("norm.weight", "dense", f"{name}.weight", wanted,
                              "undoes the norm of the constant channel")
        return Norm(self.kind, weight)
