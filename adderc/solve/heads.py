"""What attention reads, enclosed for every context of a step.

Takes: the recheck's engine (its matrices and streams) and a `Sight`. Gives: `Heads.read`;
`factor_of`, what a norm multiplies by.
May import: errors, numpy, weights, solve.balls, solve.sight.

Scores are enclosed for every token that may stand at the query and at a key. Where other
tokens at a key move its score by almost nothing, the pattern depends on the query's token
alone, and is computed once for each; else once for each context.

C contexts, Q patterns, P positions, V vocabulary, H heads, E head_dim, M tuples of a kind.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from adderc.solve.balls import Ball, Rounding, hull
from adderc.solve.sight import Sight
from adderc.weights.expr import Expr
from adderc.weights.signal import rope_table
from adderc.weights.structure import Attention, Norm

Array = np.ndarray
CHUNK = 4_000_000
STILL = 2.0**-13  # a score that tokens move by less is taken as its hull


class Matrices(Protocol):
    """What this file needs of the recheck's engine."""

    @property
    def rounding(self) -> Rounding: ...
    def matrix(self, expr: Expr) -> Ball: ...
    def row(self, bias: Expr | None) -> Ball | None: ...
    def stream(self, positions: Array) -> Ball: ...
    def query_tokens(self, seen: Sight) -> Array: ...


@dataclass(frozen=True, eq=False)
class Pattern:
    """Weights [Q, P] up to `loose`, and which pattern each context has [C]."""

    weights: Array
    loose: Array
    of: Array


@dataclass(frozen=True, eq=False)
class Heads:
    engine: Matrices
    seen: Sight
    attention: Attention

    @property
    def rounding(self) -> Rounding:
        return self.engine.rounding

    @property
    def query(self) -> int:
        return len(self.seen.allowed) - 1

    def read(self, norm: Norm | None) -> Ball:
        """What all heads read [C, H*E]."""
        attention = self.attention
        keys = (attention.keys(head, self.query) for head in range(attention.heads))
        places = np.array(sorted({self.query}.union(*keys)))
        x = self.normalised(self.engine.stream(places), norm)
        q = self.projected(x[-1], attention.q, attention.q_bias)
        k = self.projected(x, attention.k, attention.k_bias)
        v = self.projected(x, attention.v, attention.v_bias)
        if attention.rope is not None:
            q = self.turned(q[None], places[-1:])[0]
            k = self.turned(k, places)
        heads = [self.head(head, places, q[:, head], k[:, :, head], v[:, :, head])
                 for head in range(attention.heads)]
        return Ball(np.concatenate([h.mid for h in heads], axis=1),
                    np.concatenate([h.rad for h in heads], axis=1))

    def projected(self, x: Ball, weight: Expr, bias: Expr | None) -> Ball:
        """Heads of x @ W.T + b, [..., H, E]."""
        y = self.rounding.matmul(x, self.engine.matrix(weight).move(np.transpose))
        if (row := self.engine.row(bias)) is not None:
            y = self.rounding.add(y, row)
        shape = (self.attention.heads, self.attention.head_dim)
        return y.move(lambda a: a.reshape(*a.shape[:-1], *shape))

    def normalised(self, x: Ball, norm: Norm | None) -> Ball:
        """Tokens [P, V, D] behind the norm."""
        if norm is None:
            return x
        r, n = self.rounding, x.shape[-1]
        if norm.kind == "layer":
            moved = (n + 4) * r.unit * x.size.mean(axis=-1, keepdims=True)
            x = r.matmul(x, Ball.exact(np.eye(n) - 1 / n))
            x = replace(x, rad=x.rad + moved)
        x = r.mul(x, factor_of(x, norm, r))
        if norm.weight is not None:
            x = r.mul(x, self.engine.matrix(norm.weight).move(lambda a: a.reshape(-1)))
        return x

    def turned(self, x: Ball, places: Array) -> Ball:
        """Rotary positions on [P, V, H, E]."""
        rope, r = self.attention.rope, self.rounding
        assert rope is not None
        turns = rope_table(rope, int(places.max()) + 1)[places]  # [P, pairs, 2]
        waves = replace(Ball.exact(turns), rad=8 * r.unit * np.abs(turns) + r.unit * 2.0**-20)
        parts = []
        for pair in range(len(rope.periods)):
            even, odd = x[..., 2 * pair], x[..., 2 * pair + 1]
            sine, cosine = (waves[:, pair, k].move(lambda a: a[:, None, None]) for k in (0, 1))
            parts.append(r.add(r.mul(even, cosine), r.neg(r.mul(odd, sine))))
            parts.append(r.add(r.mul(even, sine), r.mul(odd, cosine)))
        parts += [x[..., at] for at in range(len(parts), x.shape[-1])]
        return Ball(np.stack([p.mid for p in parts], -1), np.stack([p.rad for p in parts], -1))

    # ------------------------------------------------------------ one head

    def head(self, head: int, places: Array, q: Ball, k: Ball, v: Ball) -> Ball:
        """What one head reads [C, E], from q [V, E], k and v [P, V, E]."""
        count = len(self.seen.rows)
        visible = np.isin(places, self.attention.keys(head, self.query))
        if not visible.any():
            return Ball.exact(np.zeros((count, self.attention.head_dim)))
        places, k, v = places[visible], k[visible], v[visible]
        pattern = self.pattern(self.scores(q, k, head, self.query - places), places)
        return self.averaged(pattern, places, v)

    def scores(self, q: Ball, k: Ball, head: int, apart: Array) -> Ball:
        """Scores of every query token against every token at every place [Vq, P, V]."""
        r, attention = self.rounding, self.attention
        flat = k.move(lambda a: a.reshape(-1, a.shape[-1]).T)
        raw = r.matmul(q, flat).move(lambda a: a.reshape(len(a), *k.shape[:2]))
        if attention.scale is None:
            one = np.asarray(1 / math.sqrt(attention.head_dim))
            raw = r.mul(raw, Ball(one, r.unit * one))
        else:
            scale = self.engine.matrix(attention.scale).move(lambda a: a.reshape(-1))
            raw = r.mul(raw, scale[head if len(scale.mid) > 1 else 0])
        if attention.slopes is not None:
            slope = self.engine.matrix(attention.slopes).move(lambda a: a.reshape(-1))[head]
            fall = r.mul(slope, Ball.exact(-apart.astype(np.float64)))
            raw = r.add(raw, fall.move(lambda a: a[None, :, None]))
        return raw

    def pattern(self, scores: Ball, places: Array) -> Pattern:
        """The pattern of each context, or of each token at the query."""
        tokens = self.engine.query_tokens(self.seen)
        used, of = np.unique(tokens, return_inverse=True)
        allowed = self.seen.allowed[places][None]
        low = np.where(allowed, scores.low[used], np.inf).min(axis=2)
        high = np.where(allowed, scores.high[used], -np.inf).max(axis=2)
        inner = np.where(allowed, scores.mid[used], np.nan)
        moved = np.nanmax(inner, axis=2) - np.nanmin(inner, axis=2)
        if float(moved.max()) > STILL:
            low, high = self.spans(scores, places, tokens, low[of], high[of])
            of = np.arange(len(tokens))
        weights, loose = softmax(low, high, self.attention.kind, self.rounding)
        return Pattern(weights, loose, of.reshape(-1))

    def spans(self, scores: Ball, places: Array, tokens: Array, low: Array, high: Array
              ) -> tuple[Array, Array]:
        """The least and the largest score of every context at every place [C, P]."""
        least, most = scores.low, scores.high
        for at, place in enumerate(places):
            if int(place) in self.seen.known:
                own = self.seen.known[int(place)]
                low[:, at], high[:, at] = least[tokens, at, own], most[tokens, at, own]
        for cells, held, real, kinds in self.seen.groups:
            for column, cell in enumerate(cells):
                for at in np.flatnonzero(places == cell).tolist():
                    there, rows = held[kinds, :, column], tokens[:, None]  # [C, M]
                    low[:, at] = np.where(real[kinds], least[rows, at, there], np.inf).min(1)
                    high[:, at] = np.where(real[kinds], most[rows, at, there], -np.inf).max(1)
        return low, high

    def averaged(self, pattern: Pattern, places: Array, v: Ball) -> Ball:
        """Sum over places of weight times value [C, E].

        Weights are up to `loose` off and sum to 1 but for rounding, so a common part of all
        values does not feel it: it is taken away first.
        """
        at_place = {int(p): at for at, p in enumerate(places)}
        allowed = self.seen.allowed[places][:, :, None]
        low = np.where(allowed, v.low, np.inf).min(axis=1)  # [P, E]
        high = np.where(allowed, v.high, -np.inf).max(axis=1)
        plain = self.attention.kind == "softmax"
        common = (low.min(axis=0) + high.max(axis=0)) / 2 if plain else 0.0
        apart = np.maximum(high - common, common - low)  # [P, E]: |v - common|
        size = np.maximum(np.abs(low), np.abs(high))
        weights, loose, of = pattern.weights, pattern.loose, pattern.of
        ends = [np.zeros((len(of), v.shape[-1])) for _ in range(2)]
        free = np.ones(len(places), dtype=bool)
        for place, own in self.seen.known.items():
            if (at := at_place.get(place)) is not None:
                free[at] = False
                for end, part in zip(ends, (v.low, v.high), strict=True):
                    end += weights[of, at][:, None] * part[at, own]
        for cells, held, real, kinds in self.seen.groups:
            inside = [(column, at_place[c]) for column, c in enumerate(cells) if c in at_place]
            if inside:
                free[[at for _, at in inside]] = False
                self.grouped(ends, pattern, v, held, real, kinds, inside)
        ball = hull(ends[0] + (weights[:, free] @ low[free])[of],
                    ends[1] + (weights[:, free] @ high[free])[of])
        terms = (len(places) + 12) * self.rounding.unit
        rad = (loose @ apart + terms * ((weights + loose) @ size))[of]
        return Ball(ball.mid, (ball.rad + rad) * (1 + 1e-9) + len(places) * self.rounding.tiny)

    def grouped(self, ends: list[Array], pattern: Pattern, v: Ball, held: Array, real: Array,
                kinds: Array, inside: list[tuple[int, int]]) -> None:
        """Adds the least and the largest of what the tuples of a place give together."""
        pairs = np.stack([pattern.of, kinds], axis=1)
        distinct, back = np.unique(pairs, axis=0, return_inverse=True)
        back = back.reshape(-1)
        found = [np.empty((len(distinct), v.shape[-1])) for _ in range(2)]
        step = max(1, CHUNK // (held.shape[1] * v.shape[-1]))
        for start in range(0, len(distinct), step):
            part = slice(start, start + step)
            rows, kind = distinct[part].T
            there = real[kind][:, :, None]
            for end, values, sign in ((found[0], v.low, 1.0), (found[1], v.high, -1.0)):
                summed = np.zeros((len(rows), held.shape[1], v.shape[-1]))
                for column, at in inside:
                    weight = pattern.weights[rows, at][:, None, None]
                    summed += weight * values[at, held[kind, :, column]]
                end[part] = sign * np.where(there, sign * summed, np.inf).min(axis=1)
        for end, part_ in zip(ends, found, strict=True):
            end += part_[back]


def factor_of(x: Ball, norm: Norm, rounding: Rounding) -> Ball:
    """1 / sqrt(mean of squares + epsilon), over the last axis."""
    n = x.shape[-1]
    least = np.maximum(np.abs(x.mid) - x.rad, 0.0)
    low, high = (least**2).mean(axis=-1, keepdims=True), (x.size**2).mean(axis=-1, keepdims=True)
    square = hull(low + norm.epsilon, high + norm.epsilon)
    loose = (n + 6) * rounding.unit * square.size + (n + 1) * rounding.tiny
    return rounding.rsqrt(Ball(square.mid, square.rad + loose))


def softmax(low: Array, high: Array, kind: str, rounding: Rounding) -> tuple[Array, Array]:
    """Weights [Q, P] in the middle, summing to 1 for a plain softmax, and how far off."""
    top = high.max(axis=1, keepdims=True)
    slack = 16 * rounding.unit  # exp within 4 ulp twice, the division
    slack += (low.shape[1] + 2) * rounding.unit  # the sum
    shift = rounding.unit * 4 * np.maximum(np.abs(low), np.abs(high)).max(axis=1, keepdims=True)
    least, most = np.exp(low - top - shift), np.exp(high - top + shift)
    spare = np.exp(-top) if kind == "softmax1" else 0.0
    others_least = least.sum(axis=1, keepdims=True) - least + spare
    others_most = most.sum(axis=1, keepdims=True) - most + spare
    under = least / (least + others_most) * (1 - slack)
    over = most / (most + others_least) * (1 + slack)
    middle = np.exp((low + high) / 2 - top)
    middle = middle / (middle.sum(axis=1, keepdims=True) + spare)
    loose = np.maximum(over - middle, middle - under) + rounding.tiny
    return middle, loose * (1 + 1e-9) + 2.0**-1000
