"""The attention of one block on values with bounds beside them.

Takes: `Near`, an attention part, its matrices. Gives: `HeadsNear`, and `Loud` for a first
block, whose keys are tables.
May import: nn.near, nn.near_attention, weights.signal, weights.structure.

In a first block a key depends on its token and its position alone. So do bounds on all
scores: for each query position only the keys are read whose weight can count at all, and
`missed` bounds the weight of the others. Tokens lie [T, B], features [H * E, T, B].
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from adderc.nn.near import Linear, Near, Unit
from adderc.nn.near_attention import Reader, Weighed
from adderc.weights.signal import seen_keys
from adderc.weights.structure import Attention

Array = np.ndarray
WIDE = 100.0  # scores that differ by more are no table: the weights would underflow
RAISED = 2.0**20  # from here on a reading with small weights counts much
QUIET = 40.0  # keys whose score is below the best one's by this count for nothing
KEPT_VALUES = 2**22  # of the tables that are kept


class HeadsNear:
    """Projections and heads; `turns` [T, pairs, 2] are rotary (sin, cos) by position."""

    def __init__(self, attention: Attention, weights: Mapping[str, Array], prefix: str,
                 unit: Unit, turns: Array | None) -> None:
        self.attention, self.unit = attention, unit
        self._turns = None if turns is None else torch.from_numpy(turns)
        parts = {name: weights.get(f"{prefix}{name}")
                 for name in ("q", "k", "v", "out", "scale", "slopes")}
        self._linear = {
            name: Linear(weights[f"{prefix}{name}"], weights.get(f"{prefix}{name}_bias"), unit)
            for name in ("q", "k", "v", "out")}
        value, out, bias = parts["v"], parts["out"], weights.get(f"{prefix}v_bias")
        assert value is not None
        assert out is not None
        written = np.abs(out).any(axis=1, keepdims=True)
        if (flat := weights.get(f"{prefix}out_bias")) is not None:
            written = written | (flat.reshape(-1, 1) != 0)
        self.written = torch.from_numpy(written.astype(np.float64))
        brings = np.abs(value).any(axis=1)
        if bias is not None:
            brings = brings | (bias.reshape(-1) != 0)
        size = attention.head_dim
        used = brings & np.abs(out).any(axis=0)
        self.used = [[at for at in range(head * size, (head + 1) * size) if used[at]]
                     for head in range(attention.heads)]
        scales = None if parts["scale"] is None else parts["scale"].reshape(-1)
        slopes = None if parts["slopes"] is None else parts["slopes"].reshape(-1)
        self.slopes = None if slopes is None else [
            float(slopes[head % len(slopes)]) for head in range(attention.heads)]
        self.readers = [
            Reader(1 / math.sqrt(size) if scales is None else float(scales[head % len(scales)]),
                   scales is not None, attention.kind == "softmax1", unit,
                   attention.kind == "softmax1" or self._raised(value, out, head) > RAISED)
            for head in range(attention.heads)]

    def _raised(self, value: Array, out: Array, head: int) -> float:
        """The largest factor between what is read and what is written."""
        read, written = np.abs(value[self.used[head]]), np.abs(out[:, self.used[head]])
        return float(read.max(initial=0.0) * written.max(initial=0.0))

    def project(self, name: str, x: Near, places: Tensor) -> Near:
        """q, k or v [H * E, N] of tokens at `places` [N]; turned where they are to be."""
        y = self._linear[name](x)
        if self._turns is None or name == "v":
            return y
        size, pairs = self.attention.head_dim, self._turns.shape[1]
        turns = self._turns[places]  # [N, pairs, 2]
        mid, off = y.mid.clone(), y.off.clone()
        for pair in range(pairs):
            sine, cosine = turns[:, pair, 0], turns[:, pair, 1]
            even = slice(2 * pair, len(mid), size)
            odd = slice(2 * pair + 1, len(mid), size)
            a, b, a_off, b_off = y.mid[even], y.mid[odd], y.off[even], y.off[odd]
            mid[even], mid[odd] = a * cosine - b * sine, a * sine + b * cosine
            for at, (with_a, with_b) in ((even, (cosine, sine)), (odd, (sine, cosine))):
                error = a_off * with_a.abs() + b_off * with_b.abs()
                most = (a.abs() + a_off) * with_a.abs() + (b.abs() + b_off) * with_b.abs()
                off[at] = error + self.unit.sum(2) * most + 2 * self.unit.tiny
        return Near(mid, off)

    def head(self, y: Near, head: int) -> list[tuple[Tensor, Tensor]]:
        """(mid, off) of each dimension of one head."""
        size = self.attention.head_dim
        return [(y.mid[at], y.off[at]) for at in range(head * size, (head + 1) * size)]

    def out(self, read: dict[int, tuple[Tensor, Tensor]], columns: int) -> Near:
        """What is added to the residual [D, columns], of what is read by feature."""
        count = self.attention.heads * self.attention.head_dim
        mid, off = (torch.zeros((count, columns), dtype=torch.float64) for _ in "zz")
        for at, (value, error) in read.items():
            mid[at], off[at] = value.reshape(-1), error.reshape(-1)
        return self._linear["out"](Near(mid, off))

    def bend(self, head: int, queries: Array, keys: Array) -> Tensor | None:
        """What ALiBi takes off each score, [S, T, 1]."""
        if self.slopes is None:
            return None
        return torch.from_numpy(self.slopes[head] * (queries - keys[:, None]))[..., None]


def part(x: Near, first: int, count: int, batch: int) -> Near:
    """The tokens from number `first` on, of `count` of them."""
    if first == 0:
        return x
    kept = slice(first * batch, count * batch)
    pick = {name: None if (v := getattr(x, name)) is None else v[..., kept]
            for name in ("mid", "off", "rel", "lean")}
    return Near(**pick, along=x.along)  # type: ignore[arg-type]


class Loud:
    """A first block by tables: keys and values of every token at every position.

    A head's weights at one step are a table by place, key token and query token.
    """

    def __init__(self, heads: HeadsNear, x: Near, first: int, vocabulary: int) -> None:
        """`x` [D, T * V] is what is seen of every token at every position."""
        self._heads, self._first, self._vocabulary = heads, first, vocabulary
        length = x.mid.shape[1] // vocabulary
        places = torch.arange(length).repeat_interleave(vocabulary)
        self._keys, self._values = (heads.project(name, x, places) for name in "kv")
        seen = part(x, first, length, vocabulary)
        self._queries = heads.project("q", seen, places[first * vocabulary :])
        self._offs = self._values.off.amax(1, keepdim=True)
        self._largest = (self._values.mid.abs() + self._values.off).amax(1)
        self.widest = 0.0  # how far one token's score can be from another's at a place
        self._heard = [self._listen(head, length) for head in range(heads.attention.heads)]
        self._kept: dict[tuple[int, int], Weighed] = {}

    def _listen(self, head: int, length: int) -> list[tuple[Array, float]]:
        """At each step the positions that one head must read, and the weight of the others."""
        heads, reader = self._heads, self._heads.readers[head]
        size = heads.attention.head_dim
        rows = slice(head * size, (head + 1) * size)
        (q, q_wide), (k, k_wide) = (
            _spans(near, rows, self._vocabulary) for near in (self._queries, self._keys))
        scale, found = abs(reader.scale), []
        for step in range(length - self._first):
            place = self._first + step
            at = np.flatnonzero(seen_keys(heads.attention, head, np.array([place]), length)[0])
            most = np.abs(q[step]) + q_wide[step]
            centre = (k[at] @ q[step]) * reader.scale
            reach = (k_wide[at] @ most + np.abs(k[at]) @ q_wide[step]) * scale
            loudest = (np.abs(k[at]) + k_wide[at]) @ most * scale
            if heads.slopes is not None:
                bend = heads.slopes[head] * (place - at)
                centre, loudest = centre - bend, loudest + np.abs(bend)
            reach = reach + (size + 6) * heads.unit.size * loudest
            best = np.max(centre - reach, initial=0.0 if reader.softmax1 else -np.inf)
            above = centre + reach - best
            kept = (above > -QUIET) | reader.fine  # small weights may bear large values
            found.append((at[kept], float(np.exp(above[~kept]).sum()) * (1 + 1e-9)))
            self.widest = max(self.widest, float(reach[kept].max(initial=0.0)))
        return found

    def _weighed(self, head: int, step: int) -> Weighed:
        """Weights [S * V, V] of every token at the places read, by query token."""
        if (head, step) in self._kept:
            return self._kept[head, step]
        heads, count = self._heads, self._vocabulary
        places = self._heard[head][step][0]
        index = (torch.from_numpy(places)[:, None] * count + torch.arange(count)).reshape(-1, 1)
        own = torch.arange(count) + step * count
        bend = heads.bend(head, np.array([self._first + step]), np.repeat(places, count))
        found = heads.readers[head].weigh(
            [(m[own], e[own]) for m, e in heads.head(self._queries, head)],
            [(m[index], e[index]) for m, e in heads.head(self._keys, head)],
            None, None if bend is None else bend[:, 0])
        if (len(self._kept) + 1) * found.weight.numel() < KEPT_VALUES:
            self._kept[head, step] = found
        return found

    def attend(self, step: int, tokens: Tensor) -> Near:
        """What is added to the residual [D, B] of the query at `step`, of tokens [T, B]."""
        heads, count = self._heads, self._vocabulary
        read: dict[int, tuple[Tensor, Tensor]] = {}
        own = tokens[self._first + step]
        for head, reader in enumerate(heads.readers):
            places, missed = self._heard[head][step]
            used = heads.used[head]
            if not len(places) or not used:
                continue
            table, at = self._weighed(head, step), torch.from_numpy(places)
            index = tokens.index_select(0, at)
            values = index + at[:, None] * count
            index.add_(torch.arange(len(places))[:, None] * count).mul_(count).add_(own)
            if reader.softmax1:
                index = torch.cat([index, own[None] + len(places) * count**2])
            found = reader.average(
                table.take(index),
                [(self._values.mid[at].take(values), self._values.off[at].take(values)
                  if reader.fine else self._offs[at]) for at in used],
                [self._largest[at] for at in used], missed)
            read |= dict(zip(used, found, strict=True))
        return heads.out(read, len(own))


def _spans(near: Near, rows: slice, vocabulary: int) -> tuple[Array, Array]:
    """The middle and half width of what any token can be at each position, [T, E] each."""
    mid, off = (v[rows].view(v[rows].shape[0], -1, vocabulary) for v in (near.mid, near.off))
    low, high = (mid - off).amin(2), (mid + off).amax(2)
    return ((low + high) / 2).T.numpy(), ((high - low) / 2).T.numpy()
