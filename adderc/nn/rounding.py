"""How far two evaluations of one model can differ: a bound on the logits' rounding.

Takes: matrices, a fixed pattern, magnitudes. Gives: `logit_doubt`, [V, V]: by how much
logit w must lead logit t for every summation order to agree that it leads.
May import: nn.pattern, weights.structure.

Every value of the residual stream carries its largest magnitude and its largest error, per
dimension, over all tokens and steps. Sums of n terms err by n u / (1 - n u) of the sum of
their magnitudes; products, activations and norms-free residual sums are Lipschitz. ReLU
units that read the same row share its error: what they do with it is the slope of their
sum, which is far less than the sum of their slopes where a pair saturates.
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
) -> Array:
    """How far logit[w] - logit[t] of the module can be from its exact value, [V, V].

    `weights` are all matrices by place, `positions` [T, D]; `pattern` is that of the first
    block's attention, the only one. Infinite where a number could overflow.
    """
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
        if block.feed_forward is not None:
            inside = {name.removeprefix(f"{prefix}feed_forward."): value
                      for name, value in weights.items() if name.startswith(prefix)}
            x = x.plus(*_feed_forward(block.feed_forward, inside, x, unit), unit)
    head, bias = weights["head.weight"], weights.get("head.bias")
    flat = None if bias is None else bias.reshape(-1)
    size, own = _linear(head, flat, x, unit)
    if not np.isfinite(size).all() or size.max() > 2.0**100:
        return np.full((len(head), len(head)), np.inf)
    return np.abs(head[:, None] - head[None]) @ x.off + own[:, None] + own[None]


def _linear(weight: Array, bias: Array | None, x: Extent, unit: float) -> tuple[Array, Array]:
    """Magnitude of x @ weight.T + bias, and its own rounding; x's error is left out."""
    size = np.abs(weight) @ x.size + (0.0 if bias is None else np.abs(bias))
    return size, rounding(roundings(weight, bias), unit) * size


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
    ffn: FeedForward, weights: Mapping[str, Array], x: Extent, unit: float
) -> tuple[Array, Array]:
    """Magnitude and error [D] of what a feed-forward half adds."""
    up, down = weights["up"], weights["down"]
    bias = weights["up_bias"].reshape(-1) if "up_bias" in weights else np.zeros(len(up))
    size, own = _linear(up, bias, x, unit)
    shared = np.abs(up) @ x.off
    steep = LIPSCHITZ[ffn.activation]
    if ffn.activation == "relu" and ffn.gate is None:
        off = _shared_slopes(up, bias, down) @ shared + np.abs(down) @ own
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
    return total, off + rounds


def _shared_slopes(up: Array, bias: Array, down: Array) -> Array:
    """[D, F]: the steepest slope of all units with one row, at the first of them; else 0.

    Units of one row are active from the one with the largest bias on, so their slopes add
    up in that order.
    """
    slopes = np.zeros_like(down)
    _, group = np.unique(up, axis=0, return_inverse=True)
    group = group.reshape(-1)
    for number in range(group.max(initial=-1) + 1):
        units = np.flatnonzero(group == number)
        ordered = units[np.argsort(-bias[units], kind="stable")]
        slopes[:, units[0]] = np.abs(np.cumsum(down[:, ordered], axis=1)).max(axis=1)
    return slopes
