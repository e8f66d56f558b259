"""Tells whether two calls of a model ran the same operations with the same numbers.

Takes: the operations of one call, as they run. Gives: `Fingerprint.key`.
May import: torch.

Sizes and indices are left out, since they grow with the sequence; so are tensors that came
out of operations, out of the arguments or of what the model holds. A tensor from elsewhere
(a literal, a numpy array) is part of the fingerprint by its values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

LARGEST_LITERAL = 1 << 16
LENGTHS = ("aten.arange", "aten.range", "aten.linspace", "aten.full", "aten.new_full")


class Fingerprint(TorchDispatchMode):
    """Active while one call runs; `known` tensors are the arguments and the held ones, `listed`
    the tokens where they are given as Python numbers."""

    supports_higher_order_operators = True  # a trace will say what it makes of them

    def __init__(self, known: Sequence[Tensor], listed: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self._listed = [t.tolist() for t in listed]
        self._known = {id(t) for t in known}
        self._alive: list[Tensor] = list(known)
        self._steps: list[Any] = []

    def key(self) -> tuple[Any, ...]:
        return tuple(self._steps)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        foreign = [self._values(t) for t in tree_iter((args, kwargs))
                   if isinstance(t, Tensor) and id(t) not in self._known]
        self._steps.append((str(func), *_numbers(func, args, kwargs), *foreign))
        for tensor in tree_iter((args, kwargs, made)):
            if isinstance(tensor, Tensor) and id(tensor) not in self._known:
                self._known.add(id(tensor))
                self._alive.append(tensor)
        return made

    def _values(self, tensor: Tensor) -> Any:
        if tensor.numel() > LARGEST_LITERAL or tensor.layout != torch.strided:
            return tuple(tensor.shape)
        try:
            values = tensor.detach().flatten().tolist()
        except (RuntimeError, NotImplementedError):
            return tuple(tensor.shape)
        return "tokens" if values in self._listed else (tuple(tensor.shape), tuple(values))


def _numbers(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    """The scalars of an operation that are no sizes."""
    if str(func).startswith(LENGTHS[:3]):
        return []
    found = []
    for place, known in enumerate(getattr(getattr(func, "_schema", None), "arguments", ())):
        value = args[place] if place < len(args) else kwargs.get(known.name)
        if "int" not in str(known.type):
            found += [v for v in tree_iter(value) if isinstance(v, int | float | complex)]
    return found
