"""The torch module of a structure: leaves as parameters, everything else from the structure.

Takes: `Structure`, leaf values. Gives: `AdderModule`, tokens [B, T] to logits [B, T, V].
May import: errors, format, nn.blocks, nn.greedy, nn.hooks, nn.position, weights.

B batch, T tokens, D d_model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from adderc.errors import InputError
from adderc.format.batches import checked_batch, prompts_of, sums_written
from adderc.format.number import NumberFormat
from adderc.format.prompt import Format
from adderc.nn import greedy
from adderc.nn.blocks import (
    ACTIVATIONS,
    ATTENTION_KINDS,
    NORM_KINDS,
    Memory,
    Parts,
    Window,
    normalise,
    project,
    run_block,
)
from adderc.nn.hooks import HookPoint, hook_shapes, hook_tree
from adderc.nn.position import PositionSignals
from adderc.weights.file import match_leaves
from adderc.weights.structure import Attention, Norm, PositionTable, Structure
from adderc.weights.torch_reading import WeightProgram

DTYPES = {"float32": torch.float32, "float64": torch.float64}
HOOKS = "hooks"  # the one first name that a leaf may not have


@dataclass
class Cache:
    """One batch on its way: the matrices, the keys and values of `length` tokens so far."""

    weights: dict[str, Tensor]
    memories: list[Memory | None]
    capacity: int
    length: int = 0


class AdderModule(nn.Module):
    """A model built from its structure and leaf values alone.

    The parameters are exactly the leaves, under their dotted names; `state_dict` holds
    nothing else. The matrices are computed from the leaves in every forward, so training
    and edits of the state take effect. `hooks` is the tree of hook points
    (`module.hook_point("blocks.0.attention.pattern").register_forward_hook(…)`).
    InputError where values do not match the structure or the structure asks for something
    this version does not know.
    """

    def __init__(self, structure: Structure, values: Mapping[str, np.ndarray]) -> None:
        super().__init__()
        matched = match_leaves(structure, values)
        check_structure(structure)
        self.structure = structure
        self._dtype, self._device = DTYPES[structure.dtype], torch.device("cpu")
        self._places: list[tuple[str, nn.Module, str]] = []
        for name, value in matched.items():
            self._place_leaf(name, torch.from_numpy(value))
        self._points = {name: HookPoint(shape) for name, shape in hook_shapes(structure).items()}
        self.add_module(HOOKS, hook_tree(self._points))
        self._program = WeightProgram(dict(structure.expressions()), self._dtype)
        self._signals = PositionSignals(structure, self._dtype)

    def _place_leaf(self, name: str, value: Tensor) -> None:
        """Register a leaf under its dotted name, whatever Python attributes exist there."""
        place: nn.Module = self
        *path, last = name.split(".")
        for part in path:
            if part not in place._modules:
                place._modules[part] = nn.Module()
            place = place._modules[part]  # type: ignore[assignment]
        place._parameters[last] = nn.Parameter(value)
        self._places.append((name, place, last))

    @property
    def number(self) -> NumberFormat:
        return self.structure.number

    @property
    def format(self) -> Format:
        return self.structure.format

    @property
    def device(self) -> torch.device:
        return self._device

    def leaves(self) -> dict[str, Tensor]:
        """The parameters by leaf name, in the order of computation."""
        return {name: place._parameters[last] for name, place, last in self._places}  # type: ignore[misc]

    def leaf_values(self) -> dict[str, np.ndarray]:
        """A copy of the leaves as arrays, as `save_model` takes them."""
        return {name: leaf.detach().cpu().numpy().copy() for name, leaf in self.leaves().items()}

    def matrices(self) -> dict[str, Tensor]:
        """Every matrix by its place in the structure, computed from the leaves as they are."""
        return self._program.run(self.leaves())

    def hook_point(self, name: str) -> HookPoint:
        """The hook point `name`; KeyError with the known names for another."""
        if name not in self._points:
            raise KeyError(f"no hook point {name!r}; there are {', '.join(self._points)}")
        return self._points[name]

    def hook_points(self) -> dict[str, HookPoint]:
        """Every hook point by its name, in the order of computation."""
        return dict(self._points)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What `.to`, `.cuda` and `.double` call: constants and signals follow the leaves."""
        super()._apply(fn, recurse)
        probe = fn(torch.empty(0, dtype=self._dtype, device=self._device))
        if (probe.dtype, probe.device) != (self._dtype, self._device):
            self._dtype, self._device = probe.dtype, probe.device
            self._program.move(self._dtype, self._device)
            self._signals.move(self._dtype, self._device)
        return self

    # ------------------------------------------------------------ computation

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [B, T, V] of tokens [B, T] (int64); InputError beyond a position table."""
        memories: list[Memory | None] = [None] * len(self.structure.blocks)
        return self._run(tokens, self.matrices(), memories, Window())

    def frozen(self) -> Callable[[Tensor], Tensor]:
        """`forward` with the matrices of this moment, for use under inference_mode or no_grad.

        The same operations on the same numbers in the same order; hooks are left out.
        """
        weights = self.matrices()
        points = dict.fromkeys(self._points, _unhooked)
        memories: list[Memory | None] = [None] * len(self.structure.blocks)
        return lambda tokens: self._run(tokens, weights, memories, Window(), points)

    def open_cache(self, batch: int, capacity: int) -> Cache:
        """An empty cache for `batch` sequences of at most `capacity` tokens.

        It keeps the matrices of this moment; later edits of the leaves need a new cache.
        """
        memories: list[Memory | None] = []
        for block in self.structure.blocks:
            if (attention := block.attention) is None:
                memories.append(None)
                continue
            shape = (batch, attention.heads, attention.head_dim, capacity)
            room = [torch.empty(shape, dtype=self._dtype, device=self._device) for _ in "kv"]
            memories.append(Memory(*room))
        return Cache(self.matrices(), memories, capacity)

    def peak_scores(self, capacity: int) -> int:
        """The most attention scores one sequence needs at once while a cache fills."""
        last = len(self.structure.blocks) - 1
        return max(
            (
                block.attention.heads * capacity * (1 if number == last else capacity)
                for number, block in enumerate(self.structure.blocks)
                if block.attention is not None
            ),
            default=1,
        )

    def advance(self, tokens: Tensor, cache: Cache) -> Tensor:
        """Logits [B, V] after the next tokens [B, T] of the cache's sequences.

        The same terms as `forward` at the last position, without computing earlier ones
        again; for use under inference_mode or no_grad.
        """
        assert cache.length + tokens.shape[1] <= cache.capacity
        window = Window(cache.length, last_only=True)
        logits = self._run(tokens, cache.weights, cache.memories, window)
        cache.length += tokens.shape[1]
        return logits[:, -1]

    def _run(
        self,
        tokens: Tensor,
        weights: Mapping[str, Tensor],
        memories: Sequence[Memory | None],
        window: Window,
        points: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
    ) -> Tensor:
        structure, points = self.structure, points or self._points
        start, stop = window.start, window.start + tokens.shape[1]
        parts = Parts(weights, points)
        x = parts.hook("embed", functional.embedding(tokens, weights["embedding"]))
        if (signal := self._position(weights, start, stop)) is not None:
            x = x + parts.hook("position", signal)
        x = parts.hook("start", x)
        last = len(structure.blocks) - 1
        for number, block in enumerate(structure.blocks):
            inside = Parts(weights, points, f"blocks.{number}.", self._mask(number, stop))
            here = Window(start, window.last_only and number == last)
            turns = self._signals.turns(number, stop)
            x = run_block(x, block, inside, turns, here, memories[number])
        if window.last_only:
            x = x[:, -1:]
        x = normalise(x, structure.final_norm, parts, "final_norm")
        logits = project(x, weights["head.weight"], weights.get("head.bias"))
        return parts.hook("logits", logits)

    def _mask(self, number: int, stop: int) -> tuple[Tensor, Tensor] | None:
        """The mask of block `number`, as `Parts` takes it."""
        mask = self._signals.mask(number)
        if mask is not None and stop > mask[0].shape[-1]:
            raise InputError(f"the model's mask is for {mask[0].shape[-1]} tokens, got {stop}")
        return mask

    def _position(self, weights: Mapping[str, Tensor], start: int, stop: int) -> Tensor | None:
        """What positions start … stop - 1 add to the residual stream, [T, D]."""
        if not isinstance(self.structure.position, PositionTable):
            return self._signals.residual(start, stop)
        table = weights["position"]
        if stop > table.shape[0]:
            raise InputError(f"the model has positions for {table.shape[0]} tokens, got {stop}")
        return table[start:stop]

    def position_signals(self, length: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """What the first `length` positions add [T, D], and the first block's turns [T, pairs, 2].

        The module's own rounded numbers, as float64 arrays; None for what it has not.
        InputError beyond a position table.
        """
        with torch.no_grad():
            found = (self._position(self.matrices(), 0, length), self._signals.turns(0, length))
            residual, turns = (None if t is None else t.double().cpu().numpy() for t in found)
        return residual, turns

    def block_turns(self, number: int, length: int) -> Tensor | None:
        """The rotary (sin, cos) of block `number` at the first positions [T, pairs, 2], rounded."""
        return self._signals.turns(number, length)

    # ------------------------------------------------------------ addition

    def add(self, *operands: int) -> int | None:
        """The sum the model writes, one token at a time; None where it writes no number.

        InputError for operands out of range or too many or few of them.
        """
        return greedy.decode_one(self, self.format, operands)

    def add_many(
        self, pairs: Sequence[Sequence[int]], batch_size: int | None = None
    ) -> list[int | None]:
        """The sums of many operand tuples, computed in batches; None as for `add`.

        `pairs` is a sequence of N tuples, or an integer array [N, operands].
        """
        prompts = prompts_of(self.format, checked_batch(self.number, pairs))
        return sums_written(
            self.format, greedy.decode_greedy(self, self.format, prompts, batch_size))


def _unhooked(value: Tensor) -> Tensor:
    return value


def check_structure(structure: Structure) -> None:
    """InputError for what this version cannot run: an unknown kind, a route to the future."""
    for leaf in structure.leaf_shapes():
        first = leaf.name.split(".")[0]
        if first == HOOKS or not all(leaf.name.split(".")):
            raise InputError(f"a leaf cannot be named {leaf.name!r}")
    norms: list[Norm | None] = [structure.final_norm]
    for block in structure.blocks:
        norms += [block.attention_norm, block.feed_forward_norm]
        _check_attention(block.attention)
        if block.feed_forward is not None:
            _check_kind("activation", block.feed_forward.activation, ACTIVATIONS)
    for norm in norms:
        if norm is not None:
            _check_kind("norm", norm.kind, NORM_KINDS)


def _check_attention(attention: Attention | None) -> None:
    if attention is None:
        return
    _check_kind("attention", attention.kind, ATTENTION_KINDS)
    routes = attention.routes
    if routes is not None and (
        len(routes) != attention.heads or any(offset < 0 for r in routes for offset in r)
    ):
        raise InputError("attention routes must be one list of offsets >= 0 for each head")
    table = attention.visible
    if table is not None and (routes is not None or len(table) != attention.heads or any(
            not 0 <= key <= query for head in table
            for query, keys in enumerate(head) for key in keys)
            or len({len(head) for head in table}) != 1):
        raise InputError("a table of visible positions has one list of earlier positions for "
                         "each head and query, and no routes beside it")


def _check_kind(what: str, kind: str, known: Any) -> None:
    if kind not in known:
        raise InputError(f"this adderc has no {what} {kind!r}", f"it has {', '.join(known)}")
