"""Every tensor that a model object holds, and how to put another one in its place.

Takes: any Python object. Gives: `Held` tensors with their slots.
May import: the standard library and torch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import CellType, FunctionType, MethodType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

Setter = Callable[[Any], None]
DEEPEST = 12
_INTERNAL = {"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"}

PARAMETERS = ("parameter", "frozen parameter", "held tensor")


@dataclass
class Held:
    """One tensor by identity: its first path, all its paths, how it is held."""

    tensor: Tensor
    kind: str
    paths: list[str] = field(default_factory=list)
    setters: list[Setter] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.paths[0]

    @property
    def is_parameter(self) -> bool:
        return self.kind in PARAMETERS


def find_held(model: Any, namespace: dict[str, Any], home: str) -> list[Held]:
    """The tensors of `model`, then those at the top of its file; each identity once.

    `home` is the module name of the file: objects of its classes are looked into, objects
    of libraries other than torch modules and plain containers are not.
    """
    walk = _Walk(home)
    walk.visit(model, "", lambda value: None, "held tensor", 0)
    for name, value in list(namespace.items()):
        if name.startswith("__"):
            continue
        if isinstance(value, Tensor):
            walk.add(value, name, _item_setter(namespace, name), "module-level tensor")
        elif isinstance(value, list | dict | tuple):
            walk.visit(value, name, _item_setter(namespace, name), "module-level tensor", 1)
    return list(walk.found.values())


@contextlib.contextmanager
def replaced(held: list[Held], tensors: list[Tensor]) -> Iterator[None]:
    """The model with other tensors in its slots, put back at the end."""
    try:
        for item, tensor in zip(held, tensors, strict=True):
            for setter in item.setters:
                setter(tensor)
        yield
    finally:
        for item in held:
            for setter in item.setters:
                setter(item.tensor)


class _Walk:
    def __init__(self, home: str) -> None:
        self.home = home
        self.found: dict[int, Held] = {}
        self.seen: set[int] = set()
        self.alive: list[Any] = []  # ids stay distinct only while their objects live

    def add(self, tensor: Tensor, path: str, setter: Setter, kind: str) -> None:
        if isinstance(tensor, nn.Parameter):
            kind = "parameter" if tensor.requires_grad else "frozen parameter"
        held = self.found.setdefault(id(tensor), Held(tensor, kind))
        if held.kind not in PARAMETERS and kind in PARAMETERS:
            held.kind = kind
        held.paths.append(path or "tensor")
        held.setters.append(setter)

    def visit(self, value: Any, path: str, setter: Setter, kind: str, depth: int) -> None:
        """`kind` is what a raw tensor found here is called."""
        if isinstance(value, Tensor):
            self.add(value, path, setter, kind)
            return
        if id(value) in self.seen or depth > DEEPEST:
            return
        self.seen.add(id(value))
        self.alive.append(value)
        if isinstance(value, nn.Module):
            self._module(value, path, depth)
        elif isinstance(value, dict):
            for key in list(value):
                self.visit(value[key], _join(path, str(key)), _item_setter(value, key), kind,
                           depth + 1)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                self.visit(item, _join(path, str(index)), _item_setter(value, index), kind,
                           depth + 1)
        elif isinstance(value, tuple):
            self._tuple(value, path, setter, kind, depth)
        elif isinstance(value, FunctionType | MethodType):
            self._function(value, path, depth)
        elif isinstance(value, SimpleNamespace) or (
            type(value).__module__ == self.home and hasattr(value, "__dict__")
        ):
            for name, item in list(vars(value).items()):
                self.visit(item, _join(path, name), _attribute_setter(value, name),
                           "held tensor", depth + 1)

    def _module(self, module: nn.Module, path: str, depth: int) -> None:
        for name, parameter in module._parameters.items():
            if parameter is not None:
                self.add(parameter, _join(path, name), _item_setter(module._parameters, name),
                         "parameter")
        for name, buffer in module._buffers.items():
            if buffer is not None:
                kept = name not in module._non_persistent_buffers_set
                self.add(buffer, _join(path, name), _item_setter(module._buffers, name),
                         "buffer" if kept else "non-persistent buffer")
        for name, child in module._modules.items():
            self.visit(child, _join(path, name), lambda value: None, "tensor attribute",
                       depth + 1)
        for name, value in list(vars(module).items()):
            if name not in _INTERNAL and not name.endswith(("_hooks", "_hooks_with_kwargs")):
                self.visit(value, _join(path, name), _item_setter(vars(module), name),
                           "tensor attribute", depth + 1)

    def _tuple(self, value: Any, path: str, setter: Setter, kind: str, depth: int) -> None:
        state = [list(value)]

        def put(index: int) -> Setter:
            def change(item: Any) -> None:
                state[0][index] = item
                make = getattr(type(value), "_make", type(value))
                setter(make(state[0]))
            return change

        for index, item in enumerate(value):
            self.visit(item, _join(path, str(index)), put(index), kind, depth + 1)

    def _function(self, value: Any, path: str, depth: int) -> None:
        function = value.__func__ if isinstance(value, MethodType) else value
        if function.__module__ != self.home:
            return
        if isinstance(value, MethodType):
            self.visit(value.__self__, path, lambda item: None, "held tensor", depth + 1)
        names = function.__code__.co_freevars
        for name, cell in zip(names, function.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # a cell that is still empty
                self.visit(cell.cell_contents, _join(path, name), _cell_setter(cell),
                           "closure tensor", depth + 1)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _item_setter(container: Any, key: Any) -> Setter:
    def put(value: Any) -> None:
        container[key] = value
    return put


def _attribute_setter(owner: Any, name: str) -> Setter:
    def put(value: Any) -> None:
        object.__setattr__(owner, name, value)
    return put


def _cell_setter(cell: CellType) -> Setter:
    def put(value: Any) -> None:
        cell.cell_contents = value
    return put


def stored_numbers(tensor: Tensor) -> list[float]:
    """The elements of a tensor as Python floats, in row order; a complex one counts as two."""
    return [float(v) for v in plain(tensor).flatten().tolist()]


def plain(tensor: Tensor) -> Tensor:
    """A dense float64 copy of any tensor; complex numbers as pairs on a last axis."""
    tensor = tensor.detach()
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return tensor.to(torch.float64)
