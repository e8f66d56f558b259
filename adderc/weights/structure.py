"""The structure of a model: everything a module is, apart from the values of its leaves.

Takes: weight expressions, number and format. Gives: `Structure`, a frozen tree that the
module is built from and that the model file stores; nothing in it knows the compiler.
B batch, T tokens, D d_model, H heads, E head_dim, F hidden units, V vocabulary.
May import: format, weights.expr.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from adderc.format.number import NumberFormat
from adderc.format.prompt import Format
from adderc.weights.expr import Expr, Leaf, leaves_of


@dataclass(frozen=True)
class Sinusoid:
    """Position p adds gain(p) * (sin, cos)(2 pi p / period) to two residual slots.

    `gains` are (first position, gain), ascending from 0. The phase is reduced modulo the
    period in exact arithmetic before sin and cos are taken in float64 and rounded to the
    model's dtype, so that positions one period apart carry identical numbers. With
    `rounded`, a dtype, the phase is instead p times 2 pi / period in that dtype, unreduced,
    as published code computes it. Slot `balance`, if any, takes minus the sum of the two.
    """

    period: Fraction
    slots: tuple[int, int]
    gains: tuple[tuple[int, Fraction], ...]
    rounded: str | None = None
    balance: int | None = None


@dataclass(frozen=True)
class PositionTable:
    """Learned (or expressed) positions: row p of `table` [T, D] is added at position p."""

    table: Expr


@dataclass(frozen=True)
class Rope:
    """Rotary positions: pair j of a head's dimensions turns by 2 pi p / periods[j]."""

    periods: tuple[Fraction, ...]


@dataclass(frozen=True)
class Attention:
    """H heads of width E; q, k, v are [H*E, D] and out is [D, H*E], applied as x @ W.T.

    `scale` multiplies the scores: None is 1/sqrt(E), torch's default. `routes`, where
    given, are the offsets query - key that a head may see, per head; else causal. `visible`
    are the same as a table: per head and query position, the key positions. `slopes`
    [H] are ALiBi's: the score gains -slope * (query - key). kind "softmax" or "softmax1"
    (denominator plus one).
    """

    heads: int
    head_dim: int
    q: Expr
    k: Expr
    v: Expr
    out: Expr
    q_bias: Expr | None = None
    k_bias: Expr | None = None
    v_bias: Expr | None = None
    out_bias: Expr | None = None
    scale: Expr | None = None
    rope: Rope | None = None
    slopes: Expr | None = None
    routes: tuple[tuple[int, ...], ...] | None = None
    kind: str = "softmax"
    visible: tuple[tuple[tuple[int, ...], ...], ...] | None = None

    def keys(self, head: int, query: int) -> tuple[int, ...]:
        """The positions that a head may see from position `query`, ascending."""
        if self.visible is not None:
            return tuple(sorted(self.visible[head][query]))
        if self.routes is not None:
            return tuple(sorted(query - offset for offset in self.routes[head] if offset <= query))
        return tuple(range(query + 1))


@dataclass(frozen=True)
class FeedForward:
    """hidden = act(x @ up.T + up_bias), times (x @ gate.T + gate_bias) where gated.

    up, gate [F, D]; down [D, F]; activation "relu", "silu", "gelu", "tanh", …
    """

    activation: str
    up: Expr
    down: Expr
    up_bias: Expr | None = None
    down_bias: Expr | None = None
    gate: Expr | None = None
    gate_bias: Expr | None = None


@dataclass(frozen=True)
class Norm:
    """kind "rms" or "layer", over the last axis."""

    kind: str
    weight: Expr | None
    bias: Expr | None = None
    epsilon: float = 1e-6


@dataclass(frozen=True)
class Block:
    """Pre-norm residual block; either half may be absent."""

    attention: Attention | None
    feed_forward: FeedForward | None
    attention_norm: Norm | None = None
    feed_forward_norm: Norm | None = None


@dataclass(frozen=True)
class Head:
    """logits = x @ weight.T + bias; weight [V, D], bias [1, V]."""

    weight: Expr
    bias: Expr | None = None


@dataclass(frozen=True)
class LeafInfo:
    """How a leaf got its values: derived, given, solved or trained, and from which line."""

    name: str
    how: str
    line: int
    meaning: str


@dataclass(frozen=True)
class Structure:
    """A whole model. `slots` names each residual dimension (several signals may share one)."""

    number: NumberFormat
    format: Format
    dtype: str
    d_model: int
    slots: tuple[str, ...]
    embedding: Expr  # [V, D]
    position: Sinusoid | PositionTable | None
    blocks: tuple[Block, ...]
    final_norm: Norm | None
    head: Head
    leaves: tuple[LeafInfo, ...] = field(default=())

    def expressions(self) -> tuple[tuple[str, Expr], ...]:
        """Every weight expression with its dotted place, in the order of computation."""
        found: list[tuple[str, Expr | None]] = [("embedding", self.embedding)]
        if isinstance(self.position, PositionTable):
            found.append(("position", self.position.table))
        for number, block in enumerate(self.blocks):
            found.extend(_block_expressions(f"blocks.{number}", block))
        found.extend(_norm_expressions("final_norm", self.final_norm))
        found += [("head.weight", self.head.weight), ("head.bias", self.head.bias)]
        return tuple((name, expr) for name, expr in found if expr is not None)

    def leaf_shapes(self) -> tuple[Leaf, ...]:
        """The model's parameters, each once, in the order of computation."""
        return leaves_of(*(expr for _, expr in self.expressions()))


def _norm_expressions(place: str, norm: Norm | None) -> list[tuple[str, Expr | None]]:
    return [] if norm is None else [(f"{place}.weight", norm.weight), (f"{place}.bias", norm.bias)]


def _block_expressions(place: str, block: Block) -> list[tuple[str, Expr | None]]:
    found = _norm_expressions(f"{place}.attention_norm", block.attention_norm)
    if (attention := block.attention) is not None:
        for name in ("q", "q_bias", "k", "k_bias", "v", "v_bias", "scale", "slopes", "out",
                     "out_bias"):
            found.append((f"{place}.attention.{name}", getattr(attention, name)))
    found += _norm_expressions(f"{place}.feed_forward_norm", block.feed_forward_norm)
    if (ffn := block.feed_forward) is not None:
        for name in ("up", "up_bias", "gate", "gate_bias", "down", "down_bias"):
            found.append((f"{place}.feed_forward.{name}", getattr(ffn, name)))
    return found
