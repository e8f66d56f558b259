"""The independent recheck: every constraint recomputed from the solution, outward rounded.

Takes: a structure, its leaf values rounded to the dtype, the truth table. Gives: `recheck` →
`Checked`: for every context at every step a lower bound of the right token's lead over any
other, in the model's own arithmetic, whatever the digits that the context leaves open.
May import: format, weights, solve.balls, solve.sight; never a backend, a tape or a case.

C contexts, P positions, V vocabulary, H heads, E head_dim, D d_model, M tuples of a kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from adderc.errors import Fault, Refusal
from adderc.solve.balls import Ball, Rounding, enclose
from adderc.solve.heads import Heads, factor_of
from adderc.solve.sight import Sight, Table, sights
from adderc.solve.spans import Span, Spans
from adderc.weights.expr import Expr
from adderc.weights.signal import sinusoid_table
from adderc.weights.structure import (
    FeedForward,
    Norm,
    PositionTable,
    Sinusoid,
    Structure,
)

Array = np.ndarray
CHUNK = 2_000_000


@dataclass(frozen=True, eq=False)
class Checked:
    """Lower bounds of the lead by step and row (`bounds`), with the nearest token; the
    largest |logit| that can occur."""

    margin: float
    step: int
    row: int
    token: int
    largest: float
    bounds: tuple[tuple[int, Array, Array, Array], ...]  # step, rows, lead, nearest token

    @property
    def holds(self) -> bool:
        return self.margin > 0  # false for NaN


def recheck(structure: Structure, values: Mapping[str, Array], table: Table) -> Checked:
    """Every constraint, from the leaves alone."""
    engine = Engine(structure, values, table)
    found, largest = [], 0.0
    before: tuple[object, tuple[Array, Array]] | None = None
    for seen in sights(structure.format, table):
        key = engine.signature(seen)
        if before is None or key is None or key != before[0]:
            lead, nearest, size = engine.leads(seen)
            before, largest = (key, (lead, nearest)), max(largest, size)
        found.append((seen.step, seen.rows, *before[1]))
    worst = min(found, key=lambda f: float(np.nan_to_num(f[2], nan=-np.inf).min(initial=np.inf)))
    at = int(np.argmin(np.nan_to_num(worst[2], nan=-np.inf)))
    return Checked(float(worst[2][at]), worst[0], int(worst[1][at]), int(worst[3][at]),
                   largest, tuple(found))


@dataclass(frozen=True, eq=False)
class Engine:
    structure: Structure
    values: Mapping[str, Array]
    table: Table

    @cached_property
    def rounding(self) -> Rounding:
        return Rounding.of(self.structure.dtype)

    @property
    def spans(self) -> Spans:
        return Spans(self.rounding)

    def matrix(self, expr: Expr) -> Ball:
        return enclose(expr, self.values, self.rounding)

    def row(self, bias: Expr | None) -> Ball | None:
        return None if bias is None else self.matrix(bias).move(lambda a: a.reshape(-1))

    @cached_property
    def placed(self) -> bool:
        """Whether the model can tell positions apart otherwise than by routes."""
        first = self.structure.blocks[0].attention
        return self.structure.position is not None or (
            first is not None and (first.rope is not None or first.slopes is not None))

    def signature(self, seen: Sight) -> object | None:
        """Equal for steps of a routed model that see the same; None where none are equal."""
        first = self.structure.blocks[0].attention
        if self.placed or first is None or first.routes is None:
            return None
        query = len(seen.allowed) - 1
        keys = {key for head in range(first.heads) for key in first.keys(head, query)}
        groups = tuple(tuple(query - c for c in cells if c in keys)
                       for cells, _, _, _ in seen.groups)
        return (tuple(query - p for p in sorted(keys)), groups, seen.rows.tobytes(),
                tuple(sorted(query - p for p in seen.known)),
                tuple(seen.allowed[p].tobytes() for p in sorted(keys)))

    # ------------------------------------------------------------ the whole forward

    def leads(self, seen: Sight) -> tuple[Array, Array, float]:
        """Lower bounds of the lead [C], the nearest tokens [C], the largest |logit|."""
        low, largest = self.lead_table(seen)
        return low.min(axis=1), low.argmin(axis=1), largest

    def lead_table(self, seen: Sight) -> tuple[Array, float]:
        """Lower bounds of the lead over every token [C, V], and the largest |logit|."""
        structure = self.structure
        start = self.tokens_at(seen)
        x = Span.apart(start, 0)
        for number, block in enumerate(structure.blocks):
            if (attention := block.attention) is not None:
                if number:
                    raise Refusal(kind="not implemented", faults=(Fault(
                        "the recheck takes attention in the first block only"),))
                read = Span.sources(Heads(self, seen, attention).read(block.attention_norm))
                out = self.spans.project(read, self.matrix(attention.out),
                                         self.row(attention.out_bias))
                x = self.spans.add(Span.apart(start, read.lin.shape[-1]), out)
            if block.feed_forward is not None:
                x = self.spans.add(x, self.fed(x, block.feed_forward, block.feed_forward_norm))
        return self.decided(x, seen)

    def stream(self, positions: Array) -> Ball:
        """What every token is at every position [P, V, D]."""
        table = self.matrix(self.structure.embedding)
        signal, last = self.structure.position, int(positions.max()) + 1
        tokens = table.move(lambda a: np.broadcast_to(a, (len(positions), *a.shape)))
        if signal is None:
            return tokens
        if isinstance(signal, PositionTable):
            rows = self.matrix(signal.table)[positions]
        else:
            assert isinstance(signal, Sinusoid)
            rows = Ball.exact(sinusoid_table(signal, last, self.structure.d_model)[positions])
            rows = replace(rows, rad=8 * self.rounding.unit * np.abs(rows.mid))
        return self.rounding.add(tokens, rows.move(lambda a: a[:, None]))

    def query_tokens(self, seen: Sight) -> Array:
        """The token at the query of each row [C]."""
        query = len(seen.allowed) - 1
        if query in seen.known:
            return seen.known[query]
        token = np.flatnonzero(seen.allowed[query])
        if len(token) != 1:
            raise Refusal(kind="not implemented", faults=(Fault(
                "the recheck needs to know the token it answers after"),))
        return np.full(len(seen.rows), token[0])

    def tokens_at(self, seen: Sight) -> Ball:
        """The residual of the query before the first block [C, D]."""
        query = np.array([len(seen.allowed) - 1])
        return self.stream(query)[0][self.query_tokens(seen)]

    # ------------------------------------------------------------ the rest

    def fed(self, x: Span, ffn: FeedForward, norm: Norm | None) -> Span:
        """What a feed-forward half adds."""
        vector, factor = self.normalised(x, norm)
        hidden = self.spans.activation(
            ffn.activation, self.projected(vector, factor, ffn.up, ffn.up_bias))
        if ffn.gate is not None:
            gate = self.projected(vector, factor, ffn.gate, ffn.gate_bias)
            hidden = self.spans.mul(hidden, gate)
        return self.spans.project(hidden, self.matrix(ffn.down), self.row(ffn.down_bias))

    def projected(self, vector: Span, factor: Ball | None, weight: Expr, bias: Expr | None
                  ) -> Span:
        """(vector times factor) @ W.T + b; the common factor is taken in last."""
        own = self.row(bias)
        y = self.spans.project(vector, self.matrix(weight), own if factor is None else None)
        if factor is None:
            return y
        y = self.spans.scaled(y, factor)
        if own is None:
            return y
        wide = own.move(lambda a: np.broadcast_to(a, y.mid.shape))
        return self.spans.add(y, Span.apart(wide, y.lin.shape[-1]))

    def normalised(self, x: Span, norm: Norm | None) -> tuple[Span, Ball | None]:
        """The vector with the norm's weight on it, and the factor that the norm divides by."""
        if norm is None:
            return x, None
        if norm.kind == "layer":
            n = x.mid.shape[1]
            centred = self.spans.project(x, Ball.exact(np.eye(n) - 1 / n), None)
            moved = (n + 4) * self.rounding.unit * (np.abs(x.mid) + x.reach).mean(1, keepdims=True)
            x = replace(centred, rad=centred.rad + moved)
        factor = factor_of(x.ball, norm, self.rounding)
        x = replace(x, rad=x.rad + 3 * self.rounding.unit * (np.abs(x.mid) + x.reach))
        if norm.weight is not None:
            x = self.spans.scaled(x, self.matrix(norm.weight).move(lambda a: a.reshape(1, -1)))
        return x, factor

    def decided(self, x: Span, seen: Sight) -> tuple[Array, float]:
        """How far the right logit leads each other one at least, and the largest |logit|.

        Differences of logits are taken before the bounds, and a norm's factor after them.
        """
        unit, head = self.rounding.unit, self.structure.head
        vector, scale = self.normalised(x, self.structure.final_norm)
        weight, right = self.matrix(head.weight), self.table.right[seen.rows]
        count, terms = weight.shape[0], weight.shape[1] + 4
        bias = self.row(head.bias) or Ball.exact(np.zeros(count))
        factor = Ball.exact(np.ones((len(right), 1))) if scale is None else scale
        sizes = (vector.ball.size @ weight.size.T) * factor.size + bias.size  # [C, V]
        low = np.empty((len(right), count))
        step = max(1, CHUNK // (count * weight.shape[1]))
        for start in range(0, len(right), step):
            part = slice(start, start + step)
            own = right[part]
            apart = Ball(weight.mid[own][:, None] - weight.mid[None],  # [C, V, D]
                         weight.rad[own][:, None] + weight.rad[None])
            value, spread = _products(apart, vector, part)
            mid, rad = factor.mid[part], factor.rad[part]
            lead = value * mid - np.abs(value) * rad - spread * (mid + rad)
            lead += (bias.mid[own][:, None] - bias.mid) - bias.rad[own][:, None] - bias.rad
            loss = sizes[part] + sizes[part][np.arange(len(own)), own][:, None]
            lead -= terms * (unit * loss + self.rounding.tiny) + 1e-12 * np.abs(lead)
            lead[np.arange(len(own)), own] = np.inf
            low[part] = np.where(np.isnan(lead), -np.inf, lead)
        logits = vector.mid @ weight.mid.T * factor.mid + bias.mid
        return low, float(np.abs(logits).max(initial=0.0))


def _products(apart: Ball, vector: Span, part: slice) -> tuple[Array, Array]:
    """apart . vector over the entries [C, V], and how far off it can be."""
    mid, reach = vector.mid[part][:, None], vector.reach[part][:, None]
    value = (apart.mid * mid).sum(-1)
    spread = (np.abs(apart.mid) * vector.rad[part][:, None]).sum(-1)
    spread += (apart.rad * (np.abs(mid) + reach)).sum(-1)
    return value, spread + np.abs(apart.mid @ vector.lin[part]).sum(-1)
