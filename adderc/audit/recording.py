"""Follows a constructor: which tensors were computed from which others, and from what.

Takes: the tensor operations while a model is built. Gives: `Recording.origin`.
May import: audit.holders and torch.

A tensor that a constructor computes from other held tensors by exact operations (an arange
times a held scalar, a negation, a copy into zeros) holds no number of its own. Tracking is
by storage: everything ever written into a storage belongs to its origin.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

SHAPING = {
    "aten.zeros", "aten.ones", "aten.empty", "aten.zeros_like", "aten.ones_like",
    "aten.empty_like", "aten.new_zeros", "aten.new_ones", "aten.new_empty", "aten.eye",
    "aten.empty_strided", "aten.new_empty_strided", "aten.zero_",
}
EXACT = {
    "aten.mul", "aten.add", "aten.sub", "aten.neg", "aten.div", "aten.copy_", "aten.fill_",
    "aten.clone", "aten.cat", "aten.stack", "aten.index_put_", "aten.mul_", "aten.neg_",
    "aten.sin", "aten.cos", "aten.pow", "aten.exp", "aten.log", "aten.sqrt", "aten.reciprocal",
    "aten._to_copy", "aten.triu", "aten.tril", "aten.add_", "aten.sub_", "aten.div_", "aten.abs",
    "aten.index", "aten.mm", "aten.repeat", "aten.where", "aten.masked_fill", "aten.le",
    "aten.lt", "aten.ge", "aten.gt", "aten.eq", "aten.masked_fill_", "aten.index_select",
    "aten.flip", "aten.floor", "aten.remainder", "aten.fmod", "aten._softmax", "aten.outer",
}


@dataclass
class _Storage:
    """What went into one storage: other storages, numbers, and whether all of it is exact."""

    inputs: set[int] = field(default_factory=set)
    numbers: list[float] = field(default_factory=list)
    literal: bool = False  # its elements came from Python numbers or from outside
    followed: bool = True
    elements: int = 0


@dataclass(frozen=True)
class Origin:
    """`held` names of tensors it was computed from and `numbers` that went in besides."""

    held: tuple[str, ...]
    numbers: tuple[float, ...]


class Recording(TorchDispatchMode):
    """Active while the file is run and the model is built."""

    def __init__(self) -> None:
        super().__init__()
        self._storages: dict[int, _Storage] = {}
        self._alive: list[Tensor] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        name = str(func).rsplit(".", 1)[0]
        sources = [t for t in tree_iter((args, kwargs)) if isinstance(t, Tensor)]
        for result in (t for t in tree_iter(made) if isinstance(t, Tensor)):
            self._note(name, func, args, result, sources)
        return made

    def _note(
        self, name: str, func: Any, args: tuple[Any, ...], result: Tensor, sources: list[Tensor]
    ) -> None:
        key = _key(result)
        known = key in self._storages
        self._alive.append(result)
        storage = self._storages.setdefault(key, _Storage(elements=result.numel()))
        others = {_key(t) for t in sources} - {key}
        if known and not func._schema.is_mutable:
            return  # a view
        if name == "aten.lift_fresh" or name.startswith("aten.lift"):
            storage.literal = True
        elif name == "aten.arange":
            storage.numbers += _arange_numbers(args)
        elif name == "aten.scalar_tensor" or name in ("aten.full", "aten.full_like"):
            storage.numbers += [float(a) for a in args if isinstance(a, int | float)]
        elif name not in SHAPING and name not in EXACT:
            if not (func._schema.is_mutable and name in ("aten.detach_", "aten.set_")):
                storage.followed = False
        else:
            storage.inputs |= others
            storage.numbers += [float(a) for a in args[1:] if _is_number(a)]
            if name.startswith(("aten.index", "aten.cat", "aten.stack", "aten.repeat")):
                storage.numbers = [n for n in storage.numbers if not float(n).is_integer()]

    def origin(self, tensor: Tensor, held: Mapping[int, str]) -> Origin | None:
        """Where a tensor came from; None where it is a number of its own or not followed.

        `held` maps storage keys of the other held tensors to their names.
        """
        names: set[str] = set()
        numbers: list[float] = []
        seen: set[int] = set()
        own = _key(tensor)
        todo = [own]
        while todo:
            key = todo.pop()
            if key in seen:
                continue
            seen.add(key)
            if key != own and key in held:
                names.add(held[key])
                continue
            storage = self._storages.get(key)
            if storage is None or storage.literal or not storage.followed:
                return None
            numbers += storage.numbers
            todo += storage.inputs
        own_numbers = {abs(n) for n in numbers} - {0.0, 1.0}
        return Origin(tuple(sorted(names)), tuple(sorted(own_numbers)))


def storage_key(tensor: Tensor) -> int:
    """What identifies a tensor's storage while it is alive."""
    return _key(tensor)


def _key(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage()._cdata
    except (RuntimeError, NotImplementedError):
        return id(tensor)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _arange_numbers(args: tuple[Any, ...]) -> list[float]:
    """Start beyond 1 and a step other than 1; the end of an arange is a shape."""
    start = float(args[0]) if len(args) > 1 else 0.0
    step = float(args[2]) if len(args) > 2 else 1.0
    return [start if start > 1 else 0.0, step]
