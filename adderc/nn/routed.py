"""Greedy decoding of many prompts at once, for models whose heads look at positions only.

Takes: a module, prompts. Gives: `routed_decoder` → `RoutedDecoder`, or None.
May import: nn.pattern, nn.rounding, weights.structure.

Where a pattern is one table for all sums, everything a head reads from the prompt is one
matrix product for all steps and all sums, and a step costs a few products of small
matrices with [., N]. This is done in float64 with the module's own rounded weights, so it
is nearly exact. A digit counts as decided only if its logit leads every other by more than
the module's own rounding could take away in any summation order (nn.rounding); every other
digit is asked of the module itself, one sequence at a time. So the answers are those of the
one-at-a-time loop.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from adderc.nn.pattern import UNIT, FixedPattern, fixed_patterns
from adderc.nn.rounding import LIPSCHITZ, Doubt, logit_doubt, units_by_row
from adderc.weights.structure import Attention, PositionTable, Structure

Array = np.ndarray
CHUNK_VALUES = 2**22  # float64 numbers in the largest tensor of one chunk
STEP_VALUES = 2**17  # and in the largest tensor of one step
FAR = 1e300
PATIENCE = 0.02  # the share of undecided digits beyond which this is no gain
FEW = 64
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu, "silu": functional.silu, "gelu": functional.gelu, "tanh": torch.tanh,
}
Ask = Callable[[Tensor], int]  # one sequence [1, T] -> the module's next token

_known: weakref.WeakKeyDictionary[Any, tuple[bytes, RoutedDecoder | None]]


class TooManyDoubts(Exception):
    """Too many digits are within rounding of another: the module itself is the quicker way."""


def routed_decoder(module: Any) -> RoutedDecoder | None:
    """The decoder of a module with its leaves as they are now; None where it has none.

    Kept as long as the module lives and its leaves stay the same.
    """
    structure = getattr(module, "structure", None)
    if not isinstance(structure, Structure) or not _is_simple(structure):
        return None
    if module.device.type != "cpu":
        return None
    key = b"".join(leaf.tobytes() for leaf in module.leaf_values().values())
    key += str(next(iter(module.parameters())).dtype).encode() if key else b""
    kept = _known.get(module)
    if kept is None or kept[0] != key:
        kept = (key, _build(module, structure))
        _known[module] = kept
    return kept[1]


def _is_simple(structure: Structure) -> bool:
    """Attention in the first block at most, and no norms."""
    return structure.final_norm is None and all(
        block.attention_norm is None and block.feed_forward_norm is None
        and (block.attention is None or number == 0)
        and (block.feed_forward is None or block.feed_forward.activation in LIPSCHITZ)
        for number, block in enumerate(structure.blocks))


def _build(module: Any, structure: Structure) -> RoutedDecoder | None:
    length = structure.format.prompt_length + structure.format.steps - 1
    with torch.inference_mode():
        matrices = module.matrices()
        dtype = str(matrices["embedding"].dtype).removeprefix("torch.")
        weights = {name: value.double().numpy() for name, value in matrices.items()}
        signal, turns = module.position_signals(length)
    if dtype not in UNIT:
        return None
    positions = np.zeros((length, structure.d_model)) if signal is None else signal
    if not all(np.isfinite(value).all() for value in weights.values()):
        return None
    pattern = None
    if structure.blocks and (attention := structure.blocks[0].attention) is not None:
        if isinstance(structure.position, PositionTable) and len(positions) < length:
            return None
        inside = {name.removeprefix("blocks.0.attention."): value
                  for name, value in weights.items() if name.startswith("blocks.0.attention.")}
        pattern = fixed_patterns(attention, inside, weights["embedding"], positions,
                                 turns, structure.format.prompt_length - 1, UNIT[dtype])
        if pattern is None:
            return None
    factor = 1 + 4 * length * 2.0**-53 / UNIT[dtype]  # this decoder rounds, too
    steep, flat = (
        logit_doubt(structure, weights, positions, pattern, UNIT[dtype], ramps).widened(factor)
        for ramps in (False, True))
    if not np.isfinite(steep.lead).all():
        return None
    return RoutedDecoder(structure, weights, positions, pattern, steep, flat)


class RoutedDecoder:
    """Tables of one model; N sums are decoded together, their values along the last axis."""

    def __init__(
        self, structure: Structure, weights: dict[str, Array], positions: Array,
        pattern: FixedPattern | None, steep: Doubt, flat: Doubt,
    ) -> None:
        self.structure, self.form = structure, structure.format
        self.steep, self.flat, self.pattern = steep, flat, pattern
        self._size = len(steep.lead)
        self._weights = {name: torch.from_numpy(value) for name, value in weights.items()}
        self._embedding = self._weights["embedding"].T.contiguous()  # [D, V]
        first = self.form.prompt_length - 1
        base = positions[first:].T.copy()  # [D, steps]: what no token changes
        self._columns: list[Tensor] = []  # values of the tokens that heads read, [V] each
        self._tables: list[Tensor] = []  # patterns [heads, steps, T] of those heads
        outs = []
        if pattern is not None:
            attention = structure.blocks[0].attention
            assert attention is not None
            base += self._fixed_reading(attention, weights, positions, pattern.table)
            outs = self._channels(attention, weights, pattern.table)
        self._base = torch.from_numpy(base)
        self._out = torch.from_numpy(np.hstack(outs)) if outs else None  # [D, channels]
        self._ramps = [self._bends(number, weights) for number in range(len(structure.blocks))]
        self._steep = torch.from_numpy(steep.lead.T.copy()).fill_diagonal_(-FAR)
        self._after_token = self._lookup(flat.lead)

    def _fixed_reading(
        self, attention: Attention, weights: dict[str, Array], positions: Array, table: Array
    ) -> Array:
        """What attention adds whatever the tokens are, [D, steps]."""
        place = "blocks.0.attention."
        values = positions @ weights[f"{place}v"].T
        if f"{place}v_bias" in weights:
            values = values + weights[f"{place}v_bias"].reshape(-1)
        by_head = values.reshape(len(values), attention.heads, attention.head_dim)
        read = np.einsum("hip,phe->ihe", table, by_head).reshape(table.shape[1], -1)
        added = read @ weights[f"{place}out"].T
        if f"{place}out_bias" in weights:
            added = added + weights[f"{place}out_bias"].reshape(-1)
        return added.T

    def _channels(
        self, attention: Attention, weights: dict[str, Array], table: Array
    ) -> list[Array]:
        """Fill columns and tables, equal columns once; the residual columns of each [D, n]."""
        values = weights["embedding"] @ weights["blocks.0.attention.v"].T  # [V, H * E]
        out = weights["blocks.0.attention.out"]
        groups: dict[bytes, dict[int, Array]] = {}
        for flat in range(values.shape[1]):
            if values[:, flat].any() and out[:, flat].any():
                heads = groups.setdefault(values[:, flat].tobytes(), {})
                head = flat // attention.head_dim
                heads[head] = heads.get(head, np.zeros(len(out))) + out[:, flat]
        for key, heads in groups.items():
            self._columns.append(torch.from_numpy(np.frombuffer(key).copy()))
            self._tables.append(torch.from_numpy(table[list(heads)]))
        return [np.stack(list(heads.values()), axis=1) for heads in groups.values()]

    def _bends(self, number: int, weights: dict[str, Array]) -> tuple[Tensor, ...] | None:
        """Per row of a ReLU block its first and last unit to come on, and their doubt."""
        bend, place = self.flat.bends[number], f"blocks.{number}.feed_forward."
        if bend is None:
            return None
        bias = weights.get(f"{place}up_bias", np.zeros(len(bend))).reshape(-1)
        rows = units_by_row(weights[f"{place}up"], bias)
        first, last = ([units[at] for units in rows] for at in (0, -1))
        return (torch.tensor(first), torch.tensor(last),
                torch.from_numpy(bend[first]).reshape(-1, 1),
                torch.from_numpy(bend[last]).reshape(-1, 1))

    def _lookup(self, doubt: Array) -> Tensor:
        """[2 + V + D + columns, V]: times a one-hot token, all that it brings."""
        size = len(doubt)
        lead = doubt.T.copy()  # [t, w]
        np.fill_diagonal(lead, -FAR)
        rows = [np.arange(size)[None], np.ones((1, size)), lead, self._embedding.numpy()]
        rows += [column.numpy()[None] for column in self._columns]
        return torch.from_numpy(np.vstack(rows))

    # ------------------------------------------------------------ decoding

    def chunk(self) -> int:
        """How many sums to decode together."""
        heads = sum(len(table) for table in self._tables)
        widest = max(self.form.prompt_length, (heads + 1) * self.form.steps)
        return max(16, min(STEP_VALUES // len(self._after_token), CHUNK_VALUES // widest))

    def decode(self, prompts: Array, ask: Ask, most: int | None = None) -> Array:
        """Answer tokens [N, steps] of prompts [N, P], at most `most` at once; TooManyDoubts if
        `ask` is the rule."""
        answers = np.empty((len(prompts), self.form.steps), dtype=np.int64)
        size = min(self.chunk(), most or len(prompts) or 1)
        for first in range(0, len(prompts), size):
            chunk = prompts[first : first + size].T.astype(np.int64, order="C")
            found = self._decode(torch.from_numpy(chunk), ask)
            answers[first : first + size] = found.numpy().T
        return answers

    def _decode(self, prompts: Tensor, ask: Ask) -> Tensor:
        """Answer tokens [steps, N] of prompts [P, N]."""
        count = prompts.shape[1]
        steps, size = self.form.steps, self._size
        answers = torch.empty((steps, count), dtype=torch.int64)
        told = [torch.empty((steps, count), dtype=torch.float64) for _ in self._columns]
        read = [self._read_prompt(column, table, prompts)
                for column, table in zip(self._columns, self._tables, strict=True)]
        own = self._embedding.index_select(1, prompts[-1])
        patience = max(FEW, int(PATIENCE * steps * count))
        for step in range(steps):
            logits, ramps = self._logits(step, own, read, told)
            top = logits.amax(0)
            chosen = (logits >= top).double()  # one-hot, but for ties
            brought = self._after_token @ chosen
            led = brought[2 : 2 + size].add_(logits).amax(0) < top
            led = self._on_ramps(led, ramps, logits, top, brought[0]) & (brought[1] == 1)
            unsure = torch.nonzero(~led)[:, 0]
            answers[step] = brought[0]
            if len(unsure):
                patience -= len(unsure)
                if patience < 0:
                    raise TooManyDoubts
                self._settle(step, unsure, prompts, answers, brought, ask)
            own = brought[2 + size : 2 + size + len(self._embedding)]
            for number, values in enumerate(told):
                values[step] = brought[len(brought) - len(told) + number]
        return answers

    def _read_prompt(self, column: Tensor, table: Tensor, prompts: Tensor) -> Tensor:
        """What the heads of one column read from the prompt, [heads, steps, N]."""
        length, count = prompts.shape
        values = column.index_select(0, prompts.flatten()).view(length, count)
        rows = table[:, :, :length].reshape(-1, length)
        return (rows @ values).view(table.shape[0], -1, count)

    def _logits(
        self, step: int, own: Tensor, read: list[Tensor], told: list[Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        """Logits [V, N] of one step, and which sums may stand on some ramp, [N].

        `own` [D, N] is the current token's embedding.
        """
        x = own + self._base[:, step : step + 1]
        if self._out is not None:
            first = self.form.prompt_length
            parts = []
            for table, prompt, values in zip(self._tables, read, told, strict=True):
                part = prompt[:, step]
                if step:
                    part = torch.addmm(part, table[:, step, first : first + step], values[:step])
                parts.append(part)
            x = torch.addmm(x, self._out, parts[0] if len(parts) == 1 else torch.cat(parts))
        ramps = None
        for number in range(len(self.structure.blocks)):
            x, here = self._feed_forward(number, x)
            ramps = here if ramps is None else ramps if here is None else ramps | here
        return self._affine("head.weight", "head.bias", x), ramps

    def _on_ramps(
        self, led: Tensor, ramps: Tensor | None, logits: Tensor, top: Tensor, token: Tensor
    ) -> Tensor:
        """`led`, but for sums that may stand on a ramp with the bound that holds there."""
        if ramps is None or not ramps.any():
            return led
        rows = torch.nonzero(ramps)[:, 0]
        winner = token[rows].long().clamp(0, self._size - 1)  # beyond it only after a tie
        lead = self._steep.index_select(1, winner) + logits[:, rows]
        return led.index_put((rows,), lead.amax(0) < top[rows])

    def _feed_forward(self, number: int, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The residual [D, N] after a block, and which sums may stand on a ramp of it."""
        ffn, ramps = self.structure.blocks[number].feed_forward, None
        if ffn is None:
            return x, None
        place = f"blocks.{number}.feed_forward."
        sums = self._affine(f"{place}up", f"{place}up_bias", x)
        if (bends := self._ramps[number]) is not None:
            first, last, first_off, last_off = bends
            settled = sums.index_select(0, first) < -first_off
            settled |= sums.index_select(0, last) > last_off
            ramps = ~settled.all(0)
        hidden = ACTIVATIONS[ffn.activation](sums)
        if ffn.gate is not None:
            hidden = hidden * self._affine(f"{place}gate", f"{place}gate_bias", x)
        return x + self._affine(f"{place}down", f"{place}down_bias", hidden), ramps

    def _affine(self, weight: str, bias: str, x: Tensor) -> Tensor:
        if bias in self._weights:
            return torch.addmm(self._weights[bias].reshape(-1, 1), self._weights[weight], x)
        return self._weights[weight] @ x

    def _settle(
        self, step: int, unsure: Tensor, prompts: Tensor, answers: Tensor, brought: Tensor,
        ask: Ask,
    ) -> None:
        """Ask the module for the digits that rounding could change, and correct the record."""
        for row in unsure.tolist():
            token = ask(torch.cat([prompts[:, row], answers[:step, row].clamp(min=0)])[None])
            answers[step, row] = token
            brought[:, row] = self._after_token[:, max(token, 0)]


_known = weakref.WeakKeyDictionary()
