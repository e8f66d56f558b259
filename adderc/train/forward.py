"""The loss of several models on one batch, written for short sequences of fixed layout.

Takes: a `Structure`, leaf vectors [S, P], tokens. Gives: `Forward`: logits at the answer
steps, and each model's mean cross entropy. May import: nn, train.ensemble, weights.

S models, B sums, T tokens read, Q answer steps, V vocabulary, D d_model, H heads, E head_dim.
Only the answer is predicted, so the last layer computes its queries, its feed-forward half
and the logits for the Q positions before each answer token alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from adderc.nn.blocks import ACTIVATIONS, rotate
from adderc.nn.position import PositionSignals
from adderc.train.ensemble import EnsembleProgram, Leaves
from adderc.weights.structure import Attention, Block, FeedForward, Norm, PositionTable, Structure

DTYPES = {"float32": torch.float32, "float64": torch.float64}
Matrices = dict[str, Tensor]


@dataclass
class Forward:
    """`tokens` are what is read: prompt and answer without its last token."""

    structure: Structure

    def __post_init__(self) -> None:
        structure = self.structure
        self.form = structure.format
        self.dtype = DTYPES[structure.dtype]
        self.leaves = Leaves.of(structure)
        self.program = EnsembleProgram(dict(structure.expressions()), self.leaves, self.dtype)
        self.length = self.form.length - 1
        self.first = self.form.prompt_length - 1
        self.steps = self.length - self.first
        signals = PositionSignals(structure, self.dtype)
        self.signal = signals.residual(0, self.length)
        self.turns = [signals.turns(n, self.length) for n in range(len(structure.blocks))]
        self.masks = [self.mask(block.attention) for block in structure.blocks]

    def mask(self, attention: Attention | None) -> Tensor | None:
        """What each query may see, added to its scores: [H, T, T]."""
        if attention is None:
            return None
        seen = torch.zeros(attention.heads, self.length, self.length, dtype=torch.bool)
        for head in range(attention.heads):
            for query in range(self.length):
                seen[head, query, list(attention.keys(head, query))] = True
        return torch.zeros(seen.shape, dtype=self.dtype).masked_fill(~seen, -math.inf)

    # ------------------------------------------------------------ computation

    def losses(self, vectors: Tensor, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean cross entropy of each model [S]; targets [B, Q]."""
        logits = self.logits(vectors, tokens)
        chosen = functional.log_softmax(logits, dim=-1)
        wanted = self.hot(targets, logits.shape[-1])
        return -(chosen * wanted).sum((1, 2, 3)) / targets.numel()

    def logits(self, vectors: Tensor, tokens: Tensor) -> Tensor:
        """Logits [S, B, Q, V] of tokens [B, T]."""
        structure, weights = self.structure, self.program.run(vectors)
        count, batch = len(vectors), len(tokens)
        table = weights["embedding"].expand(count, -1, -1)
        hot = self.hot(tokens, table.shape[1]).reshape(1, -1, table.shape[1])
        x = (hot @ table).reshape(count, batch, self.length, -1)
        if isinstance(structure.position, PositionTable):
            x = x + weights["position"][:, : self.length].unsqueeze(1)
        elif self.signal is not None:
            x = x + self.signal
        last = len(structure.blocks) - 1
        for number, block in enumerate(structure.blocks):
            first = self.first if number == last else 0
            x = self.block(x, block, number, weights, first)
        x = normed(x, structure.final_norm, weights, "final_norm")
        logits = x @ weights["head.weight"].transpose(-2, -1).unsqueeze(1)
        bias = weights.get("head.bias")
        return logits if bias is None else logits + bias.unsqueeze(1)

    def hot(self, ids: Tensor, size: int) -> Tensor:
        """1 where the last axis is the id, else 0."""
        return (ids.unsqueeze(-1) == torch.arange(size)).to(self.dtype)

    def block(self, x: Tensor, block: Block, number: int, weights: Matrices, first: int) -> Tensor:
        """One residual block, for the positions from `first` on."""
        prefix = f"blocks.{number}."
        kept = x[:, :, first:]
        if block.attention is not None:
            inside = normed(x, block.attention_norm, weights, f"{prefix}attention_norm")
            kept = kept + self.attend(inside, block.attention, number, weights, first)
        if block.feed_forward is not None:
            inside = normed(kept, block.feed_forward_norm, weights, f"{prefix}feed_forward_norm")
            kept = kept + fed(inside, block.feed_forward, weights, f"{prefix}feed_forward.")
        return kept

    def attend(
        self, x: Tensor, attention: Attention, number: int, weights: Matrices, first: int
    ) -> Tensor:
        """What the heads write at the positions from `first` on."""
        prefix = f"blocks.{number}.attention."
        count, batch, length, _ = x.shape
        heads, width = attention.heads, attention.head_dim

        def project(source: Tensor, name: str) -> Tensor:
            value = applied(source, weights, prefix + name, f"{prefix}{name}_bias")
            return value.reshape(count, batch, -1, heads, width).transpose(2, 3)

        q, k, v = project(x[:, :, first:], "q"), project(x, "k"), project(x, "v")
        if (turns := self.turns[number]) is not None:
            q, k = rotate(q, turns[first:]), rotate(k, turns)
        scale = weights.get(f"{prefix}scale")
        q = q * (1 / math.sqrt(width)) if scale is None else q * scale.reshape(-1, 1, 1, 1, 1)
        scores = q @ k.transpose(-2, -1)
        mask = self.masks[number]
        assert mask is not None
        scores = scores + mask[:, first:]
        if (slopes := weights.get(f"{prefix}slopes")) is not None:
            distance = torch.arange(first, length).reshape(-1, 1) - torch.arange(length)
            scores = scores - slopes.reshape(-1, 1, heads, 1, 1) * distance.to(self.dtype)
        if attention.kind == "softmax1":
            scores = functional.pad(scores, (0, 1))
        pattern = torch.softmax(scores, dim=-1)[..., :length]
        read = (pattern @ v).transpose(2, 3).reshape(count, batch, -1, heads * width)
        return applied(read, weights, f"{prefix}out", f"{prefix}out_bias")


def applied(x: Tensor, weights: Matrices, name: str, bias: str) -> Tensor:
    """x @ W.T + bias for each model: x [S, B, T, columns]."""
    value = x @ weights[name].transpose(-2, -1).unsqueeze(-3)
    added = weights.get(bias)
    return value if added is None else value + added.unsqueeze(-3)


def fed(x: Tensor, layer: FeedForward, weights: Matrices, prefix: str) -> Tensor:
    """The feed-forward half."""
    active = layer.activation
    gated = f"{prefix}gate" in weights
    rows = applied(x, weights, f"{prefix}up", f"{prefix}up_bias")
    hidden = ACTIVATIONS[active](rows)
    if gated:
        hidden = hidden * applied(x, weights, f"{prefix}gate", f"{prefix}gate_bias")
    return applied(hidden, weights, f"{prefix}down", f"{prefix}down_bias")


def normed(x: Tensor, norm: Norm | None, weights: Matrices, place: str) -> Tensor:
    """RMSNorm or LayerNorm over the last axis."""
    if norm is None:
        return x
    if norm.kind == "layer":
        x = x - x.mean(-1, keepdim=True)
    x = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + norm.epsilon)
    if (weight := weights.get(f"{place}.weight")) is not None:
        x = x * weight.unsqueeze(1)
    if (bias := weights.get(f"{place}.bias")) is not None:
        x = x + bias.unsqueeze(1)
    return x

