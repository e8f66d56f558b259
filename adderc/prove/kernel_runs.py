"""What torch computes on the way, operation by operation.

Takes: a module or an exported program, tokens. Gives: `recorded`, `walk`,
`own_tensors`, `digest`, `constants`, `Record`.
May import: prove.doubt, torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from adderc.prove.doubt import Unsupported

COPIES = frozenset((  # they move numbers and compute none
    "_to_copy", "alias", "clone", "contiguous", "copy", "detach", "detach_", "empty",
    "empty_like", "lift_fresh_copy", "new_empty"))
_NUMERIC = ("Tensor", "float", "number", "Optional[float]", "Optional[number]")


@dataclass(frozen=True)
class Record:
    """One computed tensor: the operation, its inputs' layouts, its numbers, its value.

    `key` tells whether two runs did the same: name, layouts and every bit of the value.
    """

    name: str
    layouts: tuple[Any, ...]
    numbers: tuple[float, ...]  # among the arguments, but for sizes and places
    value: Tensor

    @property
    def key(self) -> tuple[Any, ...]:
        shape, stride = tuple(self.value.shape), self.value.stride()
        return (self.name, self.layouts, self.numbers, shape, stride, self.bits().tobytes())

    def bits(self) -> np.ndarray:
        """The value as whole numbers, so that 0 and -0 differ and NaN equals NaN."""
        flat = self.value.contiguous().reshape(-1)
        found: np.ndarray = flat.view(
            torch.int64 if flat.dtype == torch.float64 else torch.int32).numpy()
        return found


class _Recorder(TorchDispatchMode):
    """Keeps what every operation that computes floating-point numbers gives."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[Record] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = pytree.tree_leaves((args, kwargs))
        layouts = tuple((tuple(leaf.shape), leaf.stride(), str(leaf.dtype))
                        for leaf in leaves if isinstance(leaf, Tensor))
        arguments = func._schema.arguments
        given = {**dict(zip((a.name for a in arguments), args, strict=False)), **(kwargs or {})}
        numbers = tuple(given[a.name] for a in arguments if str(a.type) in _NUMERIC
                        and isinstance(given.get(a.name), (int, float)))
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[-1]
        if name in COPIES or any(
                returned.alias_info is not None and not returned.alias_info.is_write
                for returned in func._schema.returns):
            return result
        for leaf in pytree.tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.dtype in (torch.float32, torch.float64):
                self.records.append(Record(name, layouts, numbers, leaf.detach().clone()))
        return result


def recorded(run: Callable[[Tensor], Any], tokens: Tensor) -> tuple[Any, list[Record]]:
    """The result of a run as the greedy loop makes it, and all it computed on the way."""
    recorder = _Recorder()
    with torch.inference_mode(), recorder:
        result = run(tokens)
    return result, recorder.records


def constants(records: Sequence[Record]) -> np.ndarray:
    """Where the values of several runs agree in every bit, flat."""
    bits = [record.bits() for record in records]
    if len({len(one) for one in bits}) > 1:
        raise Unsupported("the module's tensors change their shapes from prompt to prompt")
    return np.asarray(np.logical_and.reduce([one == bits[0] for one in bits]))


def digest(runs: Sequence[Sequence[Record]]) -> str:
    """A digest of every number, in order, that several runs agree on."""
    found = hashlib.sha256()
    for records in zip(*runs, strict=True):
        same = constants(records)
        name, shape = records[0].name, tuple(records[0].value.shape)
        found.update(f"{name} {shape} ".encode() + np.packbits(same).tobytes())
        found.update(records[0].bits()[same].tobytes())
    return found.hexdigest()


# ---------------------------------------------------------------- graphs


def walk(program: Any, tokens: Tensor, values: dict[Any, Tensor],
         held: Sequence[Tensor] | None = None) -> Any:
    """Run an exported program node by node; `values` gets what each node gives.

    `held` are its parameters and constants; its own where none are given.
    """
    rest = iter(own_tensors(program) if held is None else held)
    inputs = [tokens if spec.kind.name == "USER_INPUT" else next(rest)
              for spec in program.graph_signature.input_specs]
    return _walk(program.graph_module, inputs, values, set())


def own_tensors(program: Any, shift: int = 0) -> list[Tensor]:
    """A program's parameters and constants; moved by `shift` numbers against their alignment."""
    found = []
    for spec in program.graph_signature.input_specs:
        if spec.kind.name != "USER_INPUT":
            source = (program.state_dict if spec.target in program.state_dict
                      else program.constants)
            found.append(source[spec.target])
    return [_moved(tensor, shift) for tensor in found] if shift else found


def _moved(tensor: Tensor, shift: int) -> Tensor:
    """The same numbers, strides and flags at another place modulo 64 bytes."""
    if not tensor.is_floating_point():
        return tensor
    extent = 1 + sum((size - 1) * stride
                     for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    room = torch.empty(max(0, extent) + shift, dtype=tensor.dtype)
    with torch.no_grad():
        copy = room.as_strided(tensor.shape, tensor.stride(), shift)
        copy.copy_(tensor)
    return copy.requires_grad_(tensor.requires_grad)


def _walk(graph_module: Any, inputs: Sequence[Any], values: dict[Any, Tensor], met: set[Any]
          ) -> Any:
    env: dict[Any, Any] = {}
    given = iter(inputs)
    for node in graph_module.graph.nodes:
        if node.op == "placeholder":
            env[node] = next(given)
            continue
        if node.op == "get_attr":
            env[node] = graph_module
            for part in node.target.split("."):
                env[node] = getattr(env[node], part)
            continue
        args = torch.fx.node.map_arg(node.args, env.__getitem__)
        if node.op == "output":
            return args[0]
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            if "wrap_with_set_grad_enabled" not in str(node.target):
                raise Unsupported(f"a region of kind {node.target}")
            env[node] = _walk(args[1], args[2:], values, met)
            continue
        env[node] = node.target(*args, **torch.fx.node.map_arg(node.kwargs, env.__getitem__))
        if isinstance(env[node], Tensor) and env[node].is_floating_point():
            values[node] = env[node].detach().clone()
        if node in met:
            values.pop(node, None)  # a region that is entered twice has two values
        met.add(node)
    raise Unsupported("a graph with no output")
