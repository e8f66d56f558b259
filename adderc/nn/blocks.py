"""The computation of one block: attention, feed-forward, norms, as functions of tensors.

Takes: a part of the structure, its matrices, its hook points. Gives: tensors.
May import: weights.structure.

B batch, T queries, S keys, D d_model, H heads, E head_dim, F hidden units. The functions
branch on the structure and on shapes only, never on the value of a tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from adderc.weights.structure import Attention, Block, FeedForward, Norm

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "silu": functional.silu,
    "gelu": functional.gelu,  # the exact one, with erf
    "tanh": torch.tanh,
}
ATTENTION_KINDS = ("softmax", "softmax1")
NORM_KINDS = ("rms", "layer")


@dataclass(frozen=True)
class Parts:
    """The matrices and hook points whose names begin with `prefix`: "blocks.0." or nothing.

    `mask`: where a table says which keys each head of this block sees, which scores to fill
    [H, T, T], and which queries see no key [H, T, 1].
    """

    weights: Mapping[str, Tensor]
    points: Mapping[str, Callable[[Tensor], Tensor]]
    prefix: str = ""
    mask: tuple[Tensor, Tensor] | None = None

    def weight(self, name: str) -> Tensor:
        return self.weights[self.prefix + name]

    def maybe(self, name: str) -> Tensor | None:
        return self.weights.get(self.prefix + name)

    def hook(self, name: str, value: Tensor) -> Tensor:
        return self.points[self.prefix + name](value)


@dataclass
class Memory:
    """Keys and values of the tokens seen so far, [B, H, E, capacity] each.

    Tokens lie along the last axis: products with one query are several times faster so.
    """

    keys: Tensor
    values: Tensor

    def extend(self, start: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store k and v [B, H, T, E] at `start`; all of them up to there, [B, H, S, E]."""
        stop = start + k.shape[2]
        self.keys[..., start:stop] = k.transpose(-2, -1)
        self.values[..., start:stop] = v.transpose(-2, -1)
        return tuple(  # type: ignore[return-value]
            kept[..., :stop].transpose(-2, -1) for kept in (self.keys, self.values)
        )


@dataclass(frozen=True)
class Window:
    """Which positions a call computes: from `start` on; `last_only` keeps the last query."""

    start: int = 0
    last_only: bool = False


def run_block(
    x: Tensor,
    block: Block,
    parts: Parts,
    turns: Tensor | None,
    window: Window = Window(),
    memory: Memory | None = None,
) -> Tensor:
    """The residual stream [B, T, D] after one pre-norm block, [B, 1, D] for `last_only`.

    `turns` [S, pairs, 2] are rotary (sin, cos) by position; `memory` holds earlier tokens.
    """
    if block.attention is not None:
        h = normalise(x, block.attention_norm, parts, "attention_norm")
        added = attend(h, block.attention, parts, turns, window, memory)
        x = (x[:, -1:] if window.last_only else x) + added
    elif window.last_only:
        x = x[:, -1:]
    x = parts.hook("mid", x)
    if block.feed_forward is not None:
        h = normalise(x, block.feed_forward_norm, parts, "feed_forward_norm")
        x = x + feed_forward(h, block.feed_forward, parts)
    return parts.hook("out", x)


def project(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x @ weight.T + bias: [..., in] to [..., out]."""
    y = x @ weight.T
    return y if bias is None else y + bias.reshape(-1)


# ---------------------------------------------------------------- attention


def attend(
    x: Tensor,
    attention: Attention,
    parts: Parts,
    turns: Tensor | None,
    window: Window = Window(),
    memory: Memory | None = None,
) -> Tensor:
    """What attention adds to the residual stream, [B, T, D]; causal."""
    start, stop = window.start, window.start + x.shape[1]
    first = stop - 1 if window.last_only else start  # position of the first query
    q = _heads(x[:, first - start :], "q", attention, parts)  # [B, H, T, E]
    k = _heads(x, "k", attention, parts)
    v = _heads(x, "v", attention, parts)
    if attention.rope is not None:
        assert turns is not None
        q = parts.hook("attention.q_turned", rotate(q, turns[first:stop]))
        k = parts.hook("attention.k_turned", rotate(k, turns[start:stop]))
    if memory is not None:
        k, v = memory.extend(start, k, v)
    scores = _scores(q, k, attention, parts)  # [B, H, T, S]
    queries = torch.arange(first, stop, device=x.device).reshape(-1, 1)
    keys = torch.arange(stop - k.shape[2], stop, device=x.device).reshape(1, -1)
    if attention.slopes is not None:
        slopes = parts.weight("attention.slopes").reshape(-1, 1, 1)
        scores = scores - slopes * (queries - keys).to(scores.dtype)
    pattern = _pattern(scores, attention, queries - keys, first, parts)
    z = parts.hook("attention.z", pattern @ v)
    merged = z.transpose(1, 2).flatten(2)  # [B, T, H * E]
    out = project(merged, parts.weight("attention.out"), parts.maybe("attention.out_bias"))
    return parts.hook("attention.out", out)


def _heads(x: Tensor, name: str, attention: Attention, parts: Parts) -> Tensor:
    weight, bias = parts.weight(f"attention.{name}"), parts.maybe(f"attention.{name}_bias")
    y = project(x, weight, bias).unflatten(-1, (attention.heads, attention.head_dim))
    return parts.hook(f"attention.{name}", y.transpose(1, 2))


def _scores(q: Tensor, k: Tensor, attention: Attention, parts: Parts) -> Tensor:
    scores = q @ k.transpose(-2, -1)
    if attention.scale is None:
        return scores * (1 / math.sqrt(attention.head_dim))
    return scores * parts.weight("attention.scale").reshape(-1, 1, 1)  # one, or one a head


def _pattern(
    scores: Tensor, attention: Attention, offsets: Tensor, first: int, parts: Parts
) -> Tensor:
    """Masked softmax [B, H, T, S]; a query that may see no key gets a row of zeros."""
    hidden, blind = _hidden(attention, offsets, first, parts.mask)
    scores = parts.hook("attention.scores", scores.masked_fill(hidden, -math.inf))
    if attention.kind == "softmax1":  # one more key with score 0 and value 0
        zero = torch.zeros_like(scores[..., :1])
        pattern = torch.softmax(torch.cat([scores, zero], -1), -1)[..., :-1]
    else:
        pattern = torch.softmax(scores, -1)
    if blind is not None:
        pattern = pattern.masked_fill(blind, 0.0)
    return parts.hook("attention.pattern", pattern)


def _hidden(
    attention: Attention, offsets: Tensor, first: int, mask: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor | None]:
    """Which scores to fill [T, S] or [H, T, S], and which queries see no key [H, T, 1]; what
    those score is left alone."""
    if mask is not None:
        queries = slice(first, first + offsets.shape[0])
        return mask[0][:, queries, : offsets.shape[1]], mask[1][:, queries]
    if attention.routes is None:
        return ~(offsets >= 0), None
    seen, blind = [], []
    queries_at = torch.arange(first, first + offsets.shape[0], device=offsets.device)
    for route in attention.routes:
        near = torch.zeros_like(offsets, dtype=torch.bool)
        for offset in route:
            near = near | (offsets == offset)
        seen.append(near)
        nearest = min(route, default=first + offsets.shape[0])
        blind.append((queries_at < nearest).reshape(-1, 1))
    if all(route and min(route) <= first for route in attention.routes):
        return ~torch.stack(seen), None
    return ~(torch.stack(seen) | torch.stack(blind)), torch.stack(blind)


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Turn dimensions (2j, 2j + 1) of [B, H, T, E] by the angle of pair j at each position.

    `turns` [T, pairs, 2] holds (sin, cos); dimensions beyond the pairs stay as they are.
    """
    pairs = turns.shape[1]
    even, odd = x[..., : 2 * pairs].unflatten(-1, (pairs, 2)).unbind(-1)
    sin, cos = turns.unbind(-1)
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)
    return torch.cat([turned, x[..., 2 * pairs :]], -1) if 2 * pairs < x.shape[-1] else turned


# ---------------------------------------------------------------- feed-forward and norms


def feed_forward(x: Tensor, ffn: FeedForward, parts: Parts) -> Tensor:
    """What the feed-forward half adds to the residual stream, [B, T, D]."""
    up = project(x, parts.weight("feed_forward.up"), parts.maybe("feed_forward.up_bias"))
    hidden = ACTIVATIONS[ffn.activation](parts.hook("ffn.pre", up))
    if ffn.gate is not None:
        gate = project(
            x, parts.weight("feed_forward.gate"), parts.maybe("feed_forward.gate_bias")
        )
        hidden = hidden * parts.hook("ffn.gate", gate)
    hidden = parts.hook("ffn.post", hidden)
    down = project(
        hidden, parts.weight("feed_forward.down"), parts.maybe("feed_forward.down_bias")
    )
    return parts.hook("ffn.out", down)


def normalise(x: Tensor, norm: Norm | None, parts: Parts, name: str) -> Tensor:
    """`x` over its last axis by RMS or by mean and variance; `x` itself without a norm."""
    if norm is None:
        return x
    if norm.kind == "layer":
        x = x - x.mean(-1, keepdim=True)
    x = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + norm.epsilon)
    if (weight := parts.maybe(f"{name}.weight")) is not None:
        x = x * weight.reshape(-1)
    if (bias := parts.maybe(f"{name}.bias")) is not None:
        x = x + bias.reshape(-1)
    return parts.hook(name, x)
