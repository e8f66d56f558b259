"""Where training starts: the first values of every leaf.

Takes: a `Structure`, a seed. Gives: `start_values`. May import: train.data, train.ensemble,
weights.

Factors and plain matrices are even in ±sqrt(6 / (rows + columns)), norms start as no
change, offsets at 0, and what a narrow attention writes starts at 0, so that it has to be
found useful first. Tokens start on a quarter of a circle, so that both coordinates tell all
digits apart and neither changes its sign; positions on the spiral's usual turn; tables of
tokens and positions near 0. Where queries are keys turned by an angle, a head can
only look a fixed way along the spiral: keys start near a multiple of the identity, so that
places tell apart from the first step on, and the angle at one place further.
"""

from __future__ import annotations

import math

import numpy as np

from adderc.train.data import STARTS, stream
from adderc.train.ensemble import Leaves
from adderc.weights.expr import Leaf
from adderc.weights.structure import Structure

FIXED = {
    "embed.radius": 2.5,
    "position.amplitude": 3.5, "position.phase": 0.0, "position.slope": 0.15,
    "position.offset": 0.0,
}
TABLE, NEAR = 0.1, 0.02
CLEAR, BLUR = 2.0, 0.1  # keys of a turned head: multiple of the identity, and noise on it


def start_values(structure: Structure, seed: int) -> np.ndarray:
    """The flat vector of leaves that a run with this seed starts from."""
    leaves, rng = Leaves.of(structure), stream(seed, STARTS, 0)
    dtype = np.dtype(structure.dtype)
    turned = any(leaf.name.endswith("attention.q.angle") for leaf in leaves.shapes)
    place = 2 * math.pi / structure.number.width
    stride = math.pi / 2 / structure.number.base
    arc = {"embed.start": stride / 2, "embed.stride": stride}
    return leaves.flat({leaf.name: np.full(leaf.shape, arc[leaf.name]) if leaf.name in arc
                        else _start(leaf, rng, place if turned else 0.0)
                        for leaf in leaves.shapes}).astype(dtype)


def _start(leaf: Leaf, rng: np.random.Generator, place: float) -> np.ndarray:
    """`place` is the angle between neighbours on the spiral, 0 where no head is turned."""
    name, shape = leaf.name, leaf.shape
    last = name.rpartition(".")[2]
    if place and name.endswith("attention.q.angle"):
        return np.full(shape, place)
    if place and name.endswith("attention.k"):
        return CLEAR * np.eye(shape[0], shape[1]) + BLUR * rng.normal(size=shape)
    if name in FIXED:
        return np.full(shape, FIXED[name])
    if "norm" in name:
        return np.full(shape, float(last == "weight"))
    narrow = shape[1] == 1 and name.endswith("attention.out.left")
    if narrow or last in ("angle", "bias", "shift"):
        return np.zeros(shape)
    if name.startswith("position.") and shape[0] == 1:
        return rng.normal(size=shape) * NEAR
    if name.startswith("position"):
        return rng.normal(size=shape) * TABLE
    if name.startswith("embed"):
        return rng.normal(size=shape) * NEAR
    if name.endswith("attention.out.right") and shape[0] == 1:
        return rng.uniform(-1, 1, shape)
    return rng.uniform(-1, 1, shape) * math.sqrt(6 / sum(shape))
