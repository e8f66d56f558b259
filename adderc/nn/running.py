"""Greedy decoding of many prompts at once, for every model, with the answers of the plain loop.

Takes: a module, prompts. Gives: `running_decoder` → `RunningDecoder`, or None.
May import: nn.near, nn.near_cached, nn.near_ffn, nn.near_heads, nn.pattern,
weights.structure.

All values are computed in float64 beside a bound on the difference to the module's own
(nn.near), token by token with a cache of keys. A digit counts as decided only where its
logit leads every other by more than both can be off; every other digit is asked of the
module itself, one sequence at a time. Nothing is assumed of the model but that its numbers
are far from overflow.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adderc.nn.near import LARGEST, Linear, Near, NormNear, Unit, lead, plus
from adderc.nn.near_cached import Cached, Columns, columns_of, pick
from adderc.nn.near_ffn import FeedForwardNear
from adderc.nn.near_heads import WIDE, HeadsNear, Loud
from adderc.nn.pattern import UNIT
from adderc.weights.structure import Block, Norm, Structure

Array = np.ndarray
Ask = Callable[[Tensor], int]  # one sequence [1, T] -> the module's next token
LOUD_BATCH = 2048
CACHED_VALUES = 2**21  # numbers in the largest tensor of one chunk
LARGEST_TABLE = 2**20  # tokens times positions
MANY_TOKENS = 64

_known: weakref.WeakKeyDictionary[Any, tuple[bytes, RunningDecoder | None]]


def has_bounds(module: Any) -> bool:
    """Whether the bounds hold for a module: one of ours, its products in a dtype we know."""
    if not isinstance(getattr(module, "structure", None), Structure):
        return False
    dtype = str(next(iter(module.parameters()), torch.empty(0)).dtype).removeprefix("torch.")
    exact = module.device.type == "cpu" or torch.get_float32_matmul_precision() == "highest"
    return dtype in UNIT and exact


def running_decoder(module: Any) -> RunningDecoder | None:
    """The decoder of a module with its leaves as they are now; None where numbers may overflow.

    Kept as long as the module lives and its leaves stay the same.
    """
    structure = module.structure
    key = b"".join(leaf.tobytes() for leaf in module.leaf_values().values())
    key += str(next(iter(module.parameters())).dtype).encode() if key else b""
    kept = _known.get(module)
    if kept is None or kept[0] != key:
        kept = (key, _build(module, structure))
        _known[module] = kept
    return kept[1]


def _build(module: Any, structure: Structure) -> RunningDecoder | None:
    length = structure.format.prompt_length + structure.format.steps - 1
    with torch.inference_mode():
        matrices = module.matrices()
        dtype = str(matrices["embedding"].dtype).removeprefix("torch.")
        weights = {name: value.double().cpu().numpy() for name, value in matrices.items()}
        signal, _ = module.position_signals(length)
        turns = {number: None if (t := module.block_turns(number, length)) is None
                 else t.double().cpu().numpy() for number in range(len(structure.blocks))}
    positions = np.zeros((length, structure.d_model)) if signal is None else signal
    values = (*weights.values(), positions, *(t for t in turns.values() if t is not None))
    if not all(np.isfinite(value).all() for value in values):
        return None
    if not peak(structure, weights, positions) < LARGEST[dtype]:
        return None
    return RunningDecoder(structure, weights, positions, turns, dtype)


def peak(structure: Structure, weights: Mapping[str, Array], positions: Array) -> float:
    """No value of the model is larger than this, squares in norms and scores included."""
    sizes = _Sizes(weights)
    x = np.abs(weights["embedding"]).max(axis=0) + np.abs(positions).max(axis=0, initial=0.0)
    for number, block in enumerate(structure.blocks):
        place = f"blocks.{number}."
        if block.attention is not None:
            h = sizes.norm(block.attention_norm, f"{place}attention_norm", x)
            x = x + sizes.attention(f"{place}attention.", h, len(positions))
        if (ffn := block.feed_forward) is not None:
            h = sizes.norm(block.feed_forward_norm, f"{place}feed_forward_norm", x)
            hidden = sizes.linear(f"{place}feed_forward.up", h)
            if ffn.gate is not None:
                hidden = hidden * sizes.linear(f"{place}feed_forward.gate", h)
            x = x + sizes.linear(f"{place}feed_forward.down", hidden)
        sizes.seen.append(float(x.max()))
    sizes.linear("head.weight", sizes.norm(structure.final_norm, "final_norm", x))
    return max(sizes.seen) if np.isfinite(sizes.seen).all() else float("inf")


class _Sizes:
    """Magnitudes by feature; `seen` collects the largest of everything."""

    def __init__(self, weights: Mapping[str, Array]) -> None:
        self._weights = weights
        self.seen = [0.0]

    def linear(self, name: str, size: Array) -> Array:
        y: Array = np.abs(self._weights[name]) @ size
        bias = self._weights.get("head.bias" if name == "head.weight" else f"{name}_bias")
        if bias is not None:
            y = y + np.abs(bias.reshape(-1))
        self.seen.append(float(y.max(initial=0.0)))
        return y

    def norm(self, norm: Norm | None, name: str, size: Array) -> Array:
        if norm is None:
            return size
        self.seen.append(4 * len(size) * float(size.max()) ** 2)
        y = np.full(len(size), 2 * np.sqrt(len(size)))
        if (weight := self._weights.get(f"{name}.weight")) is not None:
            y = y * np.abs(weight.reshape(-1))
        if (bias := self._weights.get(f"{name}.bias")) is not None:
            y = y + np.abs(bias.reshape(-1))
        return y

    def attention(self, place: str, size: Array, length: int) -> Array:
        q, k, v = (self.linear(f"{place}{name}", size) for name in "qkv")
        scale, slopes = (self._weights.get(f"{place}{name}") for name in ("scale", "slopes"))
        score = 2 * float(q.sum() * k.sum())
        score *= 1.0 if scale is None else max(1.0, float(np.abs(scale).max()))
        self.seen.append(score + (0.0 if slopes is None else length * float(np.abs(slopes).max())))
        return self.linear(f"{place}out", v)


class BlockNear:
    """One block: norms, heads, feed-forward."""

    def __init__(self, block: Block, weights: Mapping[str, Array], place: str, unit: Unit,
                 turns: Array | None, steady: Array) -> None:
        self._unit = unit
        norms = {name: None if (norm := getattr(block, name)) is None
                 else NormNear(norm, weights, f"{place}{name}", unit)
                 for name in ("attention_norm", "feed_forward_norm")}
        self._before, self._after = norms["attention_norm"], norms["feed_forward_norm"]
        self.heads = None if block.attention is None else HeadsNear(
            block.attention, weights, f"{place}attention.", unit, turns)
        if self.heads is not None:
            steady = steady & (self.heads.written[:, 0].numpy() == 0)
        self.ffn = None if block.feed_forward is None else FeedForwardNear(
            block.feed_forward, weights, f"{place}feed_forward.", unit, steady)
        if self.ffn is not None:
            steady = steady & (self.ffn.written[:, 0].numpy() == 0)
        self.steady = steady

    def before(self, x: Near) -> Near:
        """What attention sees."""
        return x if self._before is None else self._before(x)

    def after(self, x: Near, added: Near | None) -> Near:
        """The residual after the block, with what attention added."""
        if added is not None:
            assert self.heads is not None
            x = plus(x, added, self.heads.written, self._unit)
        if self.ffn is None:
            return x
        return plus(x, self.ffn(x if self._after is None else self._after(x)),
                    self.ffn.written, self._unit)


class RunningDecoder:
    """One model; N sums are decoded together, their values along the last axis."""

    def __init__(self, structure: Structure, weights: dict[str, Array], positions: Array,
                 turns: Mapping[int, Array | None], dtype: str) -> None:
        self.structure, self.form = structure, structure.format
        self._unit = unit = Unit.of(dtype)
        table = weights["embedding"]
        self._embedding = torch.from_numpy(table.T.copy())  # [D, V]
        self._positions = torch.from_numpy(positions.T.copy())  # [D, T]
        steady = (table == table[:1]).all(axis=0) & ~np.abs(positions).any(axis=0)
        self._blocks: list[BlockNear] = []
        for number, block in enumerate(structure.blocks):
            made = BlockNear(block, weights, f"blocks.{number}.", unit, turns[number], steady)
            self._blocks.append(made)
            steady = made.steady
        self._final = None if structure.final_norm is None else NormNear(
            structure.final_norm, weights, "final_norm", unit)
        self._head = Linear(weights["head.weight"], weights.get("head.bias"), unit)
        attending = [n for n, block in enumerate(structure.blocks) if block.attention is not None]
        self._last = max(attending, default=-1)
        heads = [b.attention.heads * b.attention.head_dim for b in structure.blocks if b.attention]
        units = [len(v) for name, v in weights.items() if name.endswith("feed_forward.up")]
        self._widest = max(structure.d_model, *heads, *units, 1)
        self._loud: Loud | None = None
        if attending == [0]:
            self._loud = self._tables()

    def _tables(self) -> Loud | None:
        """The first block's heads as tables, where those are not too large."""
        heads, size = self._blocks[0].heads, self._embedding.shape[1]
        assert heads is not None
        if size > MANY_TOKENS or size * self._positions.shape[1] > LARGEST_TABLE:
            return None
        length = self._positions.shape[1]
        tokens = torch.arange(size).repeat(length)
        places = torch.arange(length).repeat_interleave(size)
        with torch.inference_mode():
            seen = self._blocks[0].before(self._start(tokens, places))
            loud = Loud(heads, seen, self.form.prompt_length - 1, size)
        return loud if loud.widest < WIDE else None

    def _start(self, tokens: Tensor, places: Tensor) -> Near:
        """The residual before the first block [D, N] of tokens [N] at places [N]."""
        own = self._embedding[:, tokens]
        added = self._positions[:, places]
        mid = own + added
        rounds = (own != 0) & (added != 0)
        return Near(mid, mid.abs().mul_(self._unit.size).masked_fill_(~rounds, 0.0))

    def chunk(self) -> int:
        """How many sums to decode together."""
        if self._loud is not None or self._last < 0:
            return LOUD_BATCH
        return max(1, CACHED_VALUES // (self.form.length * self._widest))

    def decode(self, prompts: Array, ask: Ask, size: int | None = None) -> Array:
        """Answer tokens [N, steps] of prompts [N, P]; `ask` gives a token the module's way."""
        answers = np.empty((len(prompts), self.form.steps), dtype=np.int64)
        size = min(size or self.chunk(), self.chunk())
        for first in range(0, len(prompts), size):
            chunk = torch.tensor(prompts[first : first + size].T, dtype=torch.int64)
            answers[first : first + size] = self._decode(chunk, ask).T.numpy()
        return answers

    def _decode(self, prompts: Tensor, ask: Ask) -> Tensor:
        """Answer tokens [steps, B] of prompts [P, B]."""
        steps, batch = self.form.steps, prompts.shape[1]
        first, length = len(prompts), len(prompts) + steps
        tokens = torch.empty((length, batch), dtype=torch.int64)
        tokens[:first] = prompts
        caches = {number: Cached(block.heads, batch, length)
                  for number, block in enumerate(self._blocks)
                  if block.heads is not None and self._loud is None}
        answers = torch.empty((steps, batch), dtype=torch.int64)
        for step in range(steps):
            start = 0 if step == 0 else first + step - 1
            residual = self._residual(step, tokens[: first + step], start, caches)
            chosen, sure = self._choose(residual)
            for row in torch.nonzero(~sure)[:, 0].tolist():
                chosen[row] = ask(tokens[: first + step, row][None].contiguous())
            answers[step] = chosen
            tokens[first + step] = chosen.clamp(min=0)
        return answers

    def _residual(self, step: int, tokens: Tensor, start: int,
                  caches: Mapping[int, Cached]) -> Near:
        """The residual of the last of `tokens` [T, B] after all blocks, those from `start` on
        being new."""
        alone = self._loud is not None or self._last < 0
        start = len(tokens) - 1 if alone else start
        size = self._embedding.shape[1]
        ids, places, index = columns_of(tokens[start:], start, None if alone else size)
        x = Columns(self._start(ids, places), places, index)
        for number, block in enumerate(self._blocks):
            added = None
            if block.heads is not None and self._loud is not None:
                added = self._loud.attend(step, tokens)
            elif block.heads is not None:
                only, first = number == self._last, int(x.places[x.index[0, 0]])
                seen = replace(x, near=block.before(x.near))
                added, shared = caches[number].attend(seen, only)
                first = first + len(x.index) - 1 if only else first
                x = x.last() if only else x
                if shared:
                    added = pick(added, x.places - first)
                else:
                    x = x.each()
            x = replace(x, near=block.after(x.near, added))
        x = x.last()
        return x.near if self._final is None else self._final(x.near)

    def _choose(self, x: Near) -> tuple[Tensor, Tensor]:
        """(token, whether it is the module's own, too) [B]."""
        found = self._head(x)
        logits = found.mid
        top, chosen = logits.max(0)
        off = found.off.gather(0, chosen[None])
        clear = (logits + (found.off + off) * (1 + 1e-9)) < top
        sure = (clear.sum(0) == len(logits) - 1)
        if not sure.all():
            open_ = torch.nonzero(~sure)[:, 0]
            pick = {name: None if (v := getattr(x, name)) is None else v[..., open_]
                    for name in ("mid", "off", "rel", "lean")}
            near = Near(**pick, along=x.along)  # type: ignore[arg-type]
            left = lead(self._head.weight, self._head.alone(near), near, logits[:, open_],
                        self._head.bias, chosen[open_])
            sure[open_] = (left > 0).all(0)
        return chosen, sure


_known = weakref.WeakKeyDictionary()
