"""How far two evaluations of one model can differ: a bound on the logits' rounding.

Takes: matrices, a fixed pattern. Gives: `logit_doubt` → `Doubt`: by how much logit w must
lead logit t for every summation order to agree that it leads.
May import: nn.pattern, weights.structure.

Every value of the residual stream carries its largest magnitude and its largest error, per
dimension, over all tokens and steps. Sums of n terms err by n u / (1 - n u) of the sum of
their magnitudes; activations are Lipschitz. ReLU units that read the same row share its
error: what they do with it is the slope of their sum. Two bounds come of this: `steep`
takes the steepest slope there is, the ramp of a hinge pair; `flat` holds where the units of
every row are surely all off or surely all on, as they are beyond a ramp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from adderc.nn.pattern import FixedPattern, rounding, roundings
from adderc.weights.structure import Attention, FeedForward, Structure

Array = np.ndarray
LIPSCHITZ = {"relu": 1.0, "silu": 1.1, "gelu": 1.13, "tanh": 1.0}
ACTIVATION_ULP = 8
SMALLEST = {2.0**-24: 2.0**-126, 2.0**-53: 2.0**-1022}  # what a product may lose to underflow


@dataclass(frozen=True)
class Doubt:
    """`lead` [V, V]: how far logit[w] - logit[t] can be off; infinite after an overflow.

    `bends` holds, per block, how far each unit's sum can be off, [F]; None without ReLU.
    """

    lead: Array
    bends: tuple[Array | None, ...]

    def widened(self, factor: float) -> Doubt:
        return Doubt(self.lead * factor,
                     tuple(None if b is None else b * factor for b in self.bends))


@dataclass(frozen=True)
class Extent:
    """The residual stream of the queries: largest magnitude and largest error, [D] each."""

    size: Array
    off: Array

    def plus(self, size: Array, off: Array, unit: float) -> Extent:
        """After adding a value of this extent, the addition's rounding included."""
        total = self.size + size
        rounds = np.where((self.size > 0) & (size > 0), unit * total, 0.0)
        return Extent(total, self.off + off + rounds)


def logit_doubt(
    structure: Structure,
    weights: Mapping[str, Array],
    positions: Array,
    pattern: FixedPattern | None,
    unit: float,
    flat_ramps: bool = False,
) -> Doubt:
    """How far the module's logits can be from their exact values.

    `weights` are all matrices by place, `positions` [T, D]; `pattern` is that of the first
    block's attention, the only one. `flat_ramps` asks for the bound that holds off ramps.
    """
    bends: list[Array | None] = []
    first = structure.format.prompt_length - 1
    tokens = np.abs(weights["embedding"]).max(axis=0)
    x = Extent(tokens, np.zeros_like(tokens)).plus(
        np.abs(positions[first:]).max(axis=0), np.zeros_like(tokens), unit)
    for number, block in enumerate(structure.blocks):
        prefix = f"blocks.{number}."
        if block.attention is not None:
            assert number == 0
            assert pattern is not None
            size, off = _attention(block.attention, weights, positions, pattern, unit)
            x = x.plus(size, off, unit)
        if (ffn := block.feed_forward) is None:
            bends.append(None)
        else:
            inside = {name.removeprefix(f"{prefix}feed_forward."): value
                      for name, value in weights.items() if name.startswith(prefix)}
            size, off, bend = _feed_forward(ffn, inside, x, unit, flat_ramps)
            bends.append(bend)
            x = x.plus(size, off, unit)
    head, bias = weights["head.weight"], weights.get("head.bias")
    flat = None if bias is None else bias.reshape(-1)
    size, own = _linear(head, flat, x, unit)
    if not np.isfinite(size).all() or size.max() > 2.0**100:
        return Doubt(np.full((len(head), len(head)), np.inf), tuple(bends))
    lead = np.abs(head[:, None] - head[None]) @ x.off + own[:, None] + own[None]
    return Doubt(lead, tuple(bends))


def _linear(weight: Array, bias: Array | None, x: Extent, unit: float) -> tuple[Array, Array]:
    """Magnitude of x @ weight.T + bias, and its own rounding; x's error is left out."""
    size = np.abs(weight) @ x.size + (0.0 if bias is None else np.abs(bias))
    return size, rounding(roundings(weight, bias), unit) * size + weight.shape[1] * SMALLEST[unit]


def _attention(
    attention: Attention, weights: Mapping[str, Array], positions: Array,
    pattern: FixedPattern, unit: float,
) -> tuple[Array, Array]:
    """Magnitude and error [D] of what attention adds."""
    place = "blocks.0.attention."
    embedding = weights["embedding"]
    value, bias = weights[f"{place}v"], weights.get(f"{place}v_bias")
    flat = None if bias is None else bias.reshape(-1)
    keys = Extent(np.abs(embedding).max(axis=0), np.zeros(embedding.shape[1])).plus(
        np.abs(positions).max(axis=0), np.zeros(embedding.shape[1]), unit)
    size, own = _linear(value, flat, keys, unit)
    own = own + np.abs(value) @ keys.off
    by_token, by_position = embedding @ value.T, positions @ value.T
    spread = np.ptp(by_token, axis=0) + np.ptp(by_position, axis=0)
    if attention.kind == "softmax1":
        spread = np.maximum(spread, size)
    heads, width = attention.heads, attention.head_dim
    drift = np.repeat(pattern.drift.max(axis=1), width)
    spill = np.repeat(pattern.spill.max(axis=1), width)
    assert len(drift) == heads * width
    read_off = drift * spread + spill * size + own * (1 + spill)
    out, out_bias = weights[f"{place}out"], weights.get(f"{place}out_bias")
    flat = None if out_bias is None else out_bias.reshape(-1)
    total, rounds = _linear(out, flat, Extent(size, read_off), unit)
    return total, rounds + np.abs(out) @ read_off


def _feed_forward(
    ffn: FeedForward, weights: Mapping[str, Array], x: Extent, unit: float, flat_ramps: bool
) -> tuple[Array, Array, Array | None]:
    """Magnitude and error [D] of what a feed-forward half adds; its units' bends [F]."""
    bend = reach = None
    up, down = weights["up"], weights["down"]
    bias = weights["up_bias"].reshape(-1) if "up_bias" in weights else np.zeros(len(up))
    size, own = _linear(up, bias, x, unit)
    shared = np.abs(up) @ x.off
    steep = LIPSCHITZ[ffn.activation]
    if ffn.activation == "relu" and ffn.gate is None:
        bend = shared + own
        off = _shared_slopes(up, bias, down, flat_ramps) @ shared + np.abs(down) @ own
        reach = _shared_reach(up, bias, down, np.abs(up) @ x.size)
    else:
        own = steep * (own + shared) + ACTIVATION_ULP * unit * size
        if ffn.gate is not None:
            flat = weights["gate_bias"].reshape(-1) if "gate_bias" in weights else None
            gate, gate_own = _linear(weights["gate"], flat, x, unit)
            gate_off = gate_own + np.abs(weights["gate"]) @ x.off
            own = own * (gate + gate_off) + size * gate_off + unit * size * gate
            size = size * gate
        off = np.abs(down) @ own
    down_bias = weights["down_bias"].reshape(-1) if "down_bias" in weights else None
    total, rounds = _linear(down, down_bias, Extent(size, own), unit)
    if reach is not None:  # the units' sums cancel, their rounding does not
        total = reach + (0.0 if down_bias is None else np.abs(down_bias)) + off + rounds
    return total, off + rounds, bend


def units_by_row(up: Array, bias: Array) -> list[Array]:
    """The numbers of the units that read one row, in the order in which they come on.

    That is from the largest bias down.
    """
    _, group = np.unique(up, axis=0, return_inverse=True)
    group = group.reshape(-1)
    found = [np.flatnonzero(group == number) for number in range(group.max(initial=-1) + 1)]
    return [units[np.argsort(-bias[units], kind="stable")] for units in found]


def _shared_slopes(up: Array, bias: Array, down: Array, flat_ramps: bool) -> Array:
    """[D, F]: the steepest slope of the units of one row, at the first of them; else 0."""
    slopes = np.zeros_like(down)
    for units in units_by_row(up, bias):
        rising = np.abs(np.cumsum(down[:, units], axis=1))
        slopes[:, units[0]] = rising[:, -1] if flat_ramps else rising.max(axis=1)
    return slopes


def _shared_reach(up: Array, bias: Array, down: Array, size: Array) -> Array:
    """How large what the units write can be, [D]; `size` [F] bounds |x . row|.

    What the units of one row write is linear between their bends, so it is largest at a
    bend or at an end.
    """
    reach = np.zeros(len(down))
    for units in units_by_row(up, bias):
        most = size[units[0]]
        points = np.clip(np.array([-most, most, *-bias[units]]), -most, most)
        written = np.maximum(points[:, None] + bias[units], 0.0) @ down[:, units].T
        reach += np.abs(written).max(axis=0)
    return reach
