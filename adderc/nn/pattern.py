"""Attention patterns that no token can change, in float64, and how far rounding moves them.

Takes: a structure, its matrices and position signals. Gives: `fixed_patterns` → one
`FixedPattern`, or None where some token could change where a head looks.
May import: weights.signal, weights.structure.

A head looks at positions alone where q and k read only residual dimensions in which every
token has the same embedding. Its pattern is then a table [steps, T], the same for every sum.

The module computes that table in its own dtype, in whatever order its kernels choose.
`drift` bounds what this can do to a read value: score p is off by what the query is off
(the same error for all keys, so only the keys' difference from the best one counts) and by
rounding of its own; weights then move as w exp(d) / sum w exp(d). A set of errors within
[-m, m] moves an average of values that spread over R by at most R tanh(m / 2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from adderc.weights.signal import seen_keys
from adderc.weights.structure import Attention

Array = np.ndarray
UNIT = {"float32": 2.0**-24, "float64": 2.0**-53}
FAINT = 1e-9  # weights below this are bounded by their mass, not one by one
EXP_ULP = 4  # roundings allowed to one exponential


@dataclass(frozen=True)
class FixedPattern:
    """`table` [H, steps, T] in float64; `drift` and `spill` [H, steps] bound the module's own.

    A head's average of values that spread over R, and are at most M large, is off by at
    most R drift + M spill.
    """

    table: Array
    drift: Array
    spill: Array


def rounding(terms: int | Array, unit: float) -> Array:
    """The relative error of a sum of `terms` products in any order, with or without FMA."""
    small = np.asarray(terms, dtype=np.float64) * unit
    return small / (1 - small)


def roundings(weight: Array, bias: Array | None) -> Array:
    """How many roundings each row of x @ weight.T + bias can suffer: its terms that count."""
    count = np.count_nonzero(weight, axis=1)
    if bias is not None:
        count = count + (bias != 0)
    alone = np.abs(weight).max(axis=1, initial=0.0)
    exact = (count <= 1) & ((alone == 0) | (np.frexp(alone)[0] == 0.5))
    return np.where(exact, 0, count)


def reads_positions_only(embedding: Array, weights: tuple[Array, ...]) -> bool:
    """Whether the matrices [., D] read only dimensions in which all tokens are alike."""
    read = np.any([np.any(weight != 0, axis=0) for weight in weights], axis=0)
    return bool(np.all(embedding[:, read] == embedding[:1, read]))


def fixed_patterns(
    attention: Attention,
    weights: Mapping[str, Array],
    embedding: Array,
    positions: Array,
    turns: Array | None,
    first_query: int,
    unit: float,
) -> FixedPattern | None:
    """The patterns of queries from `first_query` on; `weights` are attention's, by name.

    embedding [V, D], positions [T, D], turns [T, pairs, 2], all float64 and exactly the
    module's numbers; `unit` is the rounding unit of the module's dtype.
    """
    if not reads_positions_only(embedding, (weights["q"], weights["k"])):
        return None
    start = embedding[0] + positions
    both = (embedding[0] != 0) & (positions != 0)
    blur = np.where(both, unit * np.abs(start), 0.0)
    scores = _Scores(attention, weights, turns, first_query, unit)
    return scores.pattern(start, blur)


@dataclass(frozen=True)
class _Scores:
    attention: Attention
    weights: Mapping[str, Array]
    turns: Array | None
    first: int
    unit: float

    def pattern(self, x: Array, blur: Array) -> FixedPattern:
        q, q_off = self.project("q", x[self.first :], blur[self.first :], self.first)
        k, k_off = self.project("k", x, blur, 0)
        tables, drifts, spills = [], [], []
        for head in range(self.attention.heads):
            scores, apart = self.head_scores(head, q, q_off, k, k_off)
            table, drift, spill = self.settle(scores, apart)
            tables.append(table)
            drifts.append(drift)
            spills.append(spill)
        return FixedPattern(np.stack(tables), np.stack(drifts), np.stack(spills))

    def project(self, name: str, x: Array, blur: Array, first: int) -> tuple[Array, Array]:
        """q or k as [H, T, E], and how far off the module's may be."""
        weight, bias = self.weights[name], self.weights.get(f"{name}_bias")
        flat = None if bias is None else bias.reshape(-1)
        y = x @ weight.T + (0.0 if flat is None else flat)
        size = np.abs(x) @ np.abs(weight).T + (0.0 if flat is None else np.abs(flat))
        off = blur @ np.abs(weight).T + rounding(roundings(weight, flat), self.unit) * size
        heads, width = self.attention.heads, self.attention.head_dim
        y, off = (v.reshape(len(x), heads, width).swapaxes(0, 1) for v in (y, off))
        if self.turns is not None:
            y, off = self.turn(y, off, self.turns[first : first + len(x)])
        return y, off

    def turn(self, y: Array, off: Array, turns: Array) -> tuple[Array, Array]:
        """Rotary positions: pair (2j, 2j + 1) turned, its errors with it."""
        pairs = turns.shape[1]
        sine, cosine = turns[..., 0], turns[..., 1]
        even, odd = y[..., 0 : 2 * pairs : 2], y[..., 1 : 2 * pairs : 2]
        e_off, o_off = off[..., 0 : 2 * pairs : 2], off[..., 1 : 2 * pairs : 2]
        turned, wide = y.copy(), off.copy()
        turned[..., 0 : 2 * pairs : 2] = even * cosine - odd * sine
        turned[..., 1 : 2 * pairs : 2] = even * sine + odd * cosine
        error = e_off + o_off + 3 * self.unit * (np.abs(even) + np.abs(odd))
        wide[..., 0 : 2 * pairs : 2] = wide[..., 1 : 2 * pairs : 2] = error
        return turned, wide

    def head_scores(
        self, head: int, q: Array, q_off: Array, k: Array, k_off: Array
    ) -> tuple[Array, Array]:
        """Scores [steps, T] of one head, -inf where hidden, and their errors beside the best."""
        attention, unit = self.attention, self.unit
        scale = 1 / math.sqrt(attention.head_dim)
        if attention.scale is not None:
            scales = self.weights["scale"].reshape(-1)
            scale = float(scales[head % len(scales)])
        raw = q[head] @ k[head].T
        size = np.abs(q[head]) @ np.abs(k[head]).T
        own = np.abs(q[head]) @ k_off[head].T + q_off[head] @ k_off[head].T
        own = own + rounding(attention.head_dim + 1, unit) * size
        scores, apart = raw * scale, own * abs(scale)
        offsets = (np.arange(len(raw)) + self.first)[:, None] - np.arange(raw.shape[1])
        if attention.slopes is not None:
            slopes = self.weights["slopes"].reshape(-1)
            bend = float(slopes[head % len(slopes)]) * offsets
            apart = apart + 2 * unit * (np.abs(bend) + np.abs(scores))
            scores = scores - bend
        queries = np.arange(len(raw)) + self.first
        seen = seen_keys(attention, head, queries, raw.shape[1])
        scores = np.where(seen, scores, -np.inf)
        if attention.kind == "softmax1":  # the key with score 0 shares no error
            common = q_off[head] @ np.abs(k[head]).T * abs(scale)
            return scores, apart + common + 2 * unit * np.abs(raw * scale)
        best = np.argmax(scores, axis=1)
        for step, leader in enumerate(best):
            across = np.abs(k[head] - k[head][leader]) @ q_off[head][step] * abs(scale)
            apart[step] += across + 2 * unit * np.abs((raw[step] - raw[step, leader]) * scale)
        return scores, apart

    def settle(self, scores: Array, apart: Array) -> tuple[Array, Array, Array]:
        """Weights [steps, T], drift and spill [steps]; a query that sees no key reads 0."""
        if self.attention.kind == "softmax1":
            scores = np.hstack([scores, np.zeros((len(scores), 1))])
            apart = np.hstack([apart, np.zeros((len(apart), 1))])
        blind = ~np.isfinite(scores).any(axis=1)
        top = np.where(blind, 0.0, scores.max(axis=1))[:, None]
        below = np.where(np.isfinite(scores), scores - top, -np.inf)
        weights = np.exp(below)
        weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-300)
        seen = np.isfinite(below)
        apart = np.where(seen, apart + self.unit * (np.where(seen, np.abs(below), 0.0)
                                                    + EXP_ULP), 0.0)
        loud = np.where(seen, weights * np.exp(np.minimum(apart, 600.0)), 0.0)
        clear = loud >= FAINT
        most = np.where(clear, apart, 0.0).max(axis=1)
        rest = np.where(clear, 0.0, loud).sum(axis=1) * np.exp(np.minimum(most, 600.0))
        drift = np.tanh(most / 2) + 2 * rest / np.maximum(1 - rest, 1e-3)
        # the weights' own sum and their sum with values: a faint term errs by itself at most
        spill = rounding(2 * np.count_nonzero(clear, axis=1) + 4, self.unit) + 2 * rest
        table = weights[:, :-1] if self.attention.kind == "softmax1" else weights
        return np.where(blind[:, None], 0.0, table), drift, spill
