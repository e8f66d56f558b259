"""Fixed position signals as tensors: they are no parameters and not in the state.

Takes: a structure, a dtype, a device. Gives: sinusoid rows, rotary turns and masks by position.
May import: weights.signal, weights.structure.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from adderc.weights.signal import gains, rope_table, seen_keys, sinusoid_table
from adderc.weights.structure import Attention, Rope, Sinusoid, Structure


class _Table:
    """Rows by position: float64 numbers from `compute`, kept rounded for the usual length."""

    def __init__(self, compute: Callable[[int], np.ndarray], length: int) -> None:
        self._compute, self._usual = compute, length
        self._exact = compute(length)

    def move(self, dtype: torch.dtype, device: torch.device | str) -> None:
        self._dtype, self._device = dtype, device
        with torch.inference_mode(False):
            self._kept = self._tensor(self._exact[: self._usual])

    def rows(self, start: int, stop: int) -> Tensor:
        if stop <= self._usual:
            return self._kept[start:stop]
        if stop > len(self._exact):
            self._exact = self._compute(max(stop, 2 * len(self._exact)))
        return self._tensor(self._exact[start:stop])

    def _tensor(self, rows: np.ndarray) -> Tensor:
        return torch.tensor(rows, dtype=self._dtype, device=self._device)


class PositionSignals:
    """The sinusoid of a structure, and the turns of each block that has rotary positions."""

    def __init__(self, structure: Structure, dtype: torch.dtype,
                 device: torch.device | str = "cpu") -> None:
        length = structure.format.length
        self._residual: _Table | None = None
        if isinstance(signal := structure.position, Sinusoid):
            self._residual = _Table(_sinusoid(signal, structure.d_model), length)
        ropes = {
            number: block.attention.rope
            for number, block in enumerate(structure.blocks)
            if block.attention is not None and block.attention.rope is not None
        }
        shared = {rope: _Table(_rope(rope), length) for rope in set(ropes.values())}
        self._turns = {number: shared[rope] for number, rope in ropes.items()}
        self._masks = {
            number: _mask(block.attention)
            for number, block in enumerate(structure.blocks)
            if block.attention is not None and block.attention.visible is not None
        }
        self.move(dtype, device)

    def move(self, dtype: torch.dtype, device: torch.device | str) -> None:
        """Round the float64 numbers to `dtype` on `device`."""
        tables = {id(table): table for table in self._turns.values()}
        for table in [*tables.values(), *([self._residual] if self._residual else [])]:
            table.move(dtype, device)
        with torch.inference_mode(False):
            self._masks = {number: (hidden.to(device), blind.to(device))
                           for number, (hidden, blind) in self._masks.items()}

    def residual(self, start: int, stop: int) -> Tensor | None:
        """Rows start … stop - 1 of what is added to the residual stream, [T, D]."""
        return None if self._residual is None else self._residual.rows(start, stop)

    def turns(self, block: int, stop: int) -> Tensor | None:
        """(sin, cos) of positions 0 … stop - 1 in `block`, [stop, pairs, 2]."""
        return self._turns[block].rows(0, stop) if block in self._turns else None

    def mask(self, block: int) -> tuple[Tensor, Tensor] | None:
        """Which scores a table of `block` fills, bool [H, T, T], and which queries see no key
        [H, T, 1]; None without a table."""
        return self._masks.get(block)


def _mask(attention: Attention) -> tuple[Tensor, Tensor]:
    assert attention.visible is not None
    length = len(attention.visible[0])
    queries = np.arange(length)
    seen = torch.from_numpy(np.stack([
        seen_keys(attention, head, queries, length) for head in range(attention.heads)]))
    blind = ~seen.any(-1, keepdim=True)
    return ~(seen | blind), blind


def _sinusoid(signal: Sinusoid, d_model: int) -> Callable[[int], np.ndarray]:
    if signal.rounded is not None:
        return lambda length: _rounded_sinusoid(signal, length, d_model)
    return lambda length: sinusoid_table(signal, length, d_model)


def _rounded_sinusoid(signal: Sinusoid, length: int, d_model: int) -> np.ndarray:
    """The signal with every step in the dtype `signal.rounded`, by torch's own kernels."""
    dtype = getattr(torch, str(signal.rounded))
    angle = torch.arange(length, dtype=dtype) * (2 * math.pi / float(signal.period))
    height = torch.tensor(gains(signal, length), dtype=dtype)
    table = np.zeros((length, d_model))
    for slot, wave in zip(signal.slots, (torch.sin(angle), torch.cos(angle)), strict=True):
        added = (height * wave).double().numpy()
        table[:, slot] += added
        if signal.balance is not None:
            table[:, signal.balance] -= added
    return table


def _rope(rope: Rope) -> Callable[[int], np.ndarray]:
    return lambda length: rope_table(rope, length)
