"""The attention of a block that sees what came before, for many sums at once.

Takes: `HeadsNear`, residuals by column. Gives: `Columns`, tokens that share what they have in
common, and `Cached`, the keys and values of one batch on its way through a block.
May import: nn.near, nn.near_attention, nn.near_heads, weights.signal.

Before any head has read, a residual depends on its token and its position alone; where heads
read the same for all sums, as those do that look at positions only, it still does. So tokens
that are equal at a place share a column, and what is alike for all sums is computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from adderc.nn.near import Near
from adderc.nn.near_heads import HeadsNear
from adderc.weights.signal import seen_keys

Array = np.ndarray
Pairs = list[tuple[Tensor, Tensor]]
CACHED_SCORES = 2**17  # that one head weighs at once


@dataclass(frozen=True)
class Columns:
    """Values `near` [D, U] of columns at `places` [U]; `index` [T, B] is each token's column."""

    near: Near
    places: Tensor
    index: Tensor

    def last(self) -> Columns:
        """The last token of each sum, a column each."""
        return self._own(self.index[-1:])

    def each(self) -> Columns:
        """A column for each token."""
        return self._own(self.index)

    def _own(self, index: Tensor) -> Columns:
        flat = index.reshape(-1)
        if len(flat) == len(self.places) and bool((flat[1:] > flat[:-1]).all()):
            return self  # every column once, in order
        own = torch.arange(len(flat)).view(index.shape)
        return Columns(pick(self.near, flat), self.places[flat], own)


def columns_of(
    tokens: Tensor, start: int, size: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """(token, place, index): the columns of tokens [T, B] from place `start` on.

    Ids are less than `size`; None: every token has a column of its own, in order.
    """
    count, batch = tokens.shape
    if size is None or size >= batch:
        places = torch.arange(start, start + count).repeat_interleave(batch)
        return tokens.reshape(-1), places, torch.arange(tokens.numel()).view(count, batch)
    index = tokens + torch.arange(count)[:, None] * size
    met = torch.zeros(count * size, dtype=torch.bool)
    met[index.reshape(-1)] = True
    used = torch.nonzero(met)[:, 0]
    return used % size, start + used // size, (met.cumsum(0) - 1)[index]


def pick(x: Near, index: Tensor) -> Near:
    """Some columns, by number."""
    taken = {name: None if (v := getattr(x, name)) is None else v.index_select(-1, index)
             for name in ("mid", "off", "rel", "lean")}
    return Near(**taken, along=x.along)  # type: ignore[arg-type]


class Cached:
    """One batch on its way through a block that sees what came before: all its keys."""

    def __init__(self, heads: HeadsNear, batch: int, capacity: int) -> None:
        self._heads = heads
        size = heads.attention.heads * heads.attention.head_dim
        self._room = {name: Near(*(torch.empty((size, capacity, batch), dtype=torch.float64)
                                   for _ in "mo")) for name in "kv"}
        self._alike = {name: [True] * heads.attention.heads for name in "kv"}

    def attend(self, x: Columns, last_only: bool) -> tuple[Near, bool]:
        """What is added for the tokens x, which follow those before; keeps their keys.

        (residual, whether it has a column a place, alike for all sums, not one a token).
        """
        heads, index = self._heads, x.index
        count, batch = index.shape
        start = int(x.places[index[0, 0]])
        stop, first = start + count, start + count - 1 if last_only else start
        for name in "kv":
            y, kept = heads.project(name, x.near, x.places), self._room[name]
            for room, new in ((kept.mid, y.mid), (kept.off, y.off)):
                room[:, start:stop] = new[:, index.view(-1)].view(-1, count, batch)
            same = self._same(y, x, start)
            self._alike[name] = [a and b for a, b in zip(self._alike[name], same, strict=True)]
        asking = x.last() if last_only else x
        q = heads.project("q", asking.near, asking.places)
        same = self._same(q, asking, first)
        queries = np.arange(first, stop)
        read: dict[int, tuple[Tensor, Tensor]] = {}
        for head, used in enumerate(heads.used):
            if used:
                shown = asking.index[:, :1] if same[head] else asking.index
                asked = [(m[shown], e[shown]) for m, e in heads.head(q, head)]
                read |= self._read(head, asked, queries)
        return self._added(read, len(queries), batch)

    def _same(self, y: Near, x: Columns, start: int) -> list[bool]:
        """Whether all columns of a place are alike, by head."""
        size = self._heads.attention.head_dim
        first = x.index[:, 0][x.places - start]
        alike = [(v == v[:, first]).all(1).view(-1, size).all(1) for v in (y.mid, y.off)]
        found: list[bool] = (alike[0] & alike[1]).tolist()
        return found

    def _added(self, read: dict[int, tuple[Tensor, Tensor]], count: int,
               batch: int) -> tuple[Near, bool]:
        """What is added, of (mid, off) [T, 1 or B] by feature."""
        shared = all(mid.shape[1] == 1 for mid, _ in read.values())
        shape = (count, 1 if shared else batch)
        wide = {at: (mid.expand(shape), off.expand(shape)) for at, (mid, off) in read.items()}
        return self._heads.out(wide, shape[0] * shape[1]), shared

    def _kept(self, name: str, head: int, at: int, stop: int) -> tuple[Tensor, Tensor]:
        """(mid, off) [S, 1, 1 or B] of one feature of the keys or values so far."""
        room, batch = self._room[name], slice(0, 1 if self._alike[name][head] else None)
        return room.mid[at, :stop, None, batch], room.off[at, :stop, None, batch]

    def _read(self, head: int, q: Pairs, queries: Array) -> dict[int, tuple[Tensor, Tensor]]:
        """(mid, off) [T, 1 or B] of what one head reads, by feature; a few sums at a time."""
        heads, used, stop = self._heads, self._heads.used[head], int(queries[-1]) + 1
        reader, bend = heads.readers[head], heads.bend(head, queries, np.arange(stop))
        seen = torch.from_numpy(np.ascontiguousarray(
            seen_keys(heads.attention, head, queries, stop).T))[..., None]
        size = heads.attention.head_dim
        k = [self._kept("k", head, at, stop) for at in range(head * size, (head + 1) * size)]
        v = [self._kept("v", head, at, stop) for at in used]
        weighed = None
        if _sums(q) == _sums(k) == 1:  # then to count key by key costs little
            reader = replace(reader, fine=True)
            weighed = reader.weigh(q, k, seen, bend)
        batch, found = max(map(_sums, (q, k, v))), []
        most = max(1, CACHED_SCORES // (len(queries) * stop))
        for first in range(0, batch, most):
            rows = slice(first, first + most)
            of = weighed or reader.weigh(_some(q, rows), _some(k, rows), seen, bend)
            values = _some(v, rows)
            found.append(reader.average(
                of, values, [mid.abs().add_(off).amax(0) for mid, off in values]))
        return {at: (torch.cat([piece[number][0] for piece in found], 1),
                     torch.cat([piece[number][1] for piece in found], 1))
                for number, at in enumerate(used)}


def _sums(pairs: Sequence[tuple[Tensor, Tensor]]) -> int:
    return pairs[0][0].shape[-1]


def _some(pairs: Pairs, rows: slice) -> Pairs:
    """Some of the sums, or the one that stands for all."""
    return pairs if _sums(pairs) == 1 else [(mid[..., rows], off[..., rows]) for mid, off in pairs]
