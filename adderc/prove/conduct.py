"""Whether a module behaves like a function of its tokens.

Takes: a module, tokens. Gives: `check_conduct`, Unsupported with the reason where not.
May import: nn.conditions, prove.doubt.

A trace of one run does not see Python code that looks at token values, remembers answers or
counts calls. So: while the module runs on real tokens, every way from a tensor to a Python
number is watched and refused, but for the values of constants; what the module, its classes
and the globals its code names hold must be the same before and after; and the run must carry
out the same arithmetic operations as the exported graph, so that code which knows when it is
traced is found out.
Code that hides state where none of this looks is beyond the proof; its assumptions say so.
"""

from __future__ import annotations

import hashlib
import random
import types
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from adderc.nn.conditions import QUESTIONS
from adderc.prove.doubt import Unsupported

_READS = frozenset(
    ("numpy", "tolist", "item", "__bool__", "__int__", "__float__", "__index__", "__array__",
     "data_ptr", "untyped_storage", "storage", "__dlpack__", "__complex__", "__repr__",
     "__format__", "__contains__", "equal", "allclose", "is_nonzero", "__reduce_ex__",
     "__deepcopy__", "_local_scalar_dense"))
_ARITHMETIC = frozenset((
    "add", "sub", "mul", "div", "neg", "exp", "sin", "cos", "tanh", "sigmoid", "silu",
    "gelu", "relu", "erf", "sqrt", "rsqrt", "reciprocal", "pow", "mm", "bmm", "addmm",
    "baddbmm", "dot", "mv", "sum", "mean", "_softmax", "clamp", "maximum", "minimum",
    "cumsum",
))
_MOST_OBJECTS = 50_000


class _Reached:
    """The storages that tokens have a part in."""

    def __init__(self, tokens: Tensor) -> None:
        self.storages: dict[int, Any] = {}  # kept alive, so that no other takes their address
        self.add(tokens)

    def add(self, *values: Any) -> None:
        with torch._C.DisableTorchFunction():
            for leaf in pytree.tree_leaves(values):
                if isinstance(leaf, Tensor):
                    storage = leaf.untyped_storage()
                    self.storages[storage.data_ptr()] = storage

    def holds(self, *values: Any) -> bool:
        """Whether a token has a part in one of the tensors."""
        with torch._C.DisableTorchFunction():
            return any(leaf.untyped_storage().data_ptr() in self.storages
                       for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor))


class _Reads(TorchFunctionMode):
    """Collects the names of the ways out of a tensor that were used."""

    def __init__(self, reached: _Reached) -> None:
        super().__init__()
        self.reached = reached
        self.seen: set[str] = set()
        self.checking = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "").split(".")[0]
        if name in _READS and not (name in QUESTIONS and not self.reached.holds(args)):
            self.seen.add(name)
        if name != "one_hot":
            return func(*args, **(kwargs or {}))
        self.checking = True  # it looks at its tokens only to check them
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.checking = False


class _Operations(TorchDispatchMode):
    """Counts the arithmetic operations that are carried out."""

    def __init__(self, calls: _Reads) -> None:
        super().__init__()
        self.calls, self.reached, self.reads = calls, calls.reached, False
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[-1].rstrip("_")
        if name in _ARITHMETIC:
            self.counts[name] += 1
        touched = self.reached.holds(args, kwargs)
        if name in ("_local_scalar_dense", "is_nonzero", "equal") and touched and (
                not self.calls.checking):
            self.reads = True
        result = func(*args, **(kwargs or {}))
        if touched:  # what is written in place is written to, whatever else is an argument
            self.reached.add(result, [
                given for given, argument in zip(args, func._schema.arguments, strict=False)
                if argument.alias_info is not None and argument.alias_info.is_write],
                {key: given for key, given in (kwargs or {}).items() if key == "out"})
        return result


def watch(run: Callable[[Tensor], Any], tokens: Tensor) -> Counter[str]:
    """Run once; the arithmetic carried out. Unsupported where a number leaves a tensor."""
    reads = _Reads(_Reached(tokens))
    operations = _Operations(reads)
    before = _chance()
    with torch.no_grad(), reads, operations:
        run(tokens)
    if _chance() != before:
        raise Unsupported("the module draws random numbers")
    if reads.seen or operations.reads:
        how = ", ".join(sorted(reads.seen)) or "item"
        raise Unsupported(f"the module's Python code reads values out of tensors ({how})")
    return operations.counts


def _chance() -> str:
    """The states of the random number generators that everyone shares."""
    return repr((random.getstate(), np.random.get_state(), torch.get_rng_state().tolist()))


def check_conduct(module: torch.nn.Module, program: Callable[[Tensor], Any],
                  samples: Sequence[Tensor]) -> None:
    """Unsupported where the module is not seen to be the function that was exported."""
    for tokens in samples:
        if watch(module, tokens) != watch(program, tokens):
            raise Unsupported("the module does other arithmetic when it runs than when exported")


# ---------------------------------------------------------------- state


def fingerprint(module: torch.nn.Module) -> str:
    """A digest of all state that the module's code is seen to reach."""
    digest, seen, todo = hashlib.sha256(), set(), [("module", module)]
    count = 0
    while todo:
        name, value = todo.pop()
        count += 1
        if count > _MOST_OBJECTS:
            break
        digest.update(name.encode())
        if isinstance(value, (int, float, str, bytes, bool, complex, type(None))):
            digest.update(repr(value).encode())
            continue
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            digest.update(value.detach().cpu().contiguous().view(-1).numpy().tobytes())
            continue
        todo += [(f"{name}.{key}", inner) for key, inner in _parts(value)]
    return digest.hexdigest()


def _parts(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [(str(key), inner) for key, inner in value.items()]
    if isinstance(value, (list, tuple)):
        return [(str(number), inner) for number, inner in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        return [("set", sorted(map(repr, value)))]
    if isinstance(value, types.MethodType):
        return [("function", value.__func__), ("self", value.__self__)]
    if isinstance(value, types.FunctionType):
        return _function_parts(value)
    if isinstance(value, types.GeneratorType):
        frame = value.gi_frame
        return [] if frame is None else [("at", frame.f_lasti), *frame.f_locals.items()]
    if isinstance(value, Iterator) and type(value).__module__ in ("builtins", "itertools"):
        return [("state", value.__reduce__())]
    if isinstance(value, (types.ModuleType, types.BuiltinFunctionType)):
        return []
    if _foreign(value if isinstance(value, type) else type(value)):
        inside = getattr(value, "__dict__", None)
        return [] if isinstance(value, type) or inside is None else _attributes(inside)
    if isinstance(value, type):
        return _attributes(dict(vars(value)))
    return [("class", type(value)), *_attributes(getattr(value, "__dict__", {}))]


def _foreign(kind: type) -> bool:
    """Whether a class comes with Python, torch or numpy, so that its code is not examined."""
    root = (kind.__module__ or "").split(".")[0]
    return root in ("builtins", "torch", "numpy", "collections", "typing", "abc", "enum")


def _attributes(inside: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(key, inner) for key, inner in inside.items()
            if not (key.startswith("__") and key.endswith("__") and key != "__dict__")]


def _function_parts(function: types.FunctionType) -> list[tuple[str, Any]]:
    if (function.__module__ or "").split(".")[0] in ("torch", "numpy", "math"):
        return []
    names = set(function.__code__.co_names)
    for constant in function.__code__.co_consts:
        if isinstance(constant, types.CodeType):
            names |= set(constant.co_names)
    parts = [(name, function.__globals__[name]) for name in sorted(names)
             if name in function.__globals__]
    parts += [("defaults", function.__defaults__), ("keywords", function.__kwdefaults__)]
    for cell in function.__closure__ or ():
        try:
            parts.append(("cell", cell.cell_contents))
        except ValueError:
            continue
    parts += [("attribute", vars(function))]
    return parts
