"""Watches a model at work: the calls that its own `add` makes, with their arguments.

Takes: a `PythonModel` and sums. Gives: `Capture`, the recorded calls of the forward pass.
May import: errors, nn.thirdparty.
"""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_iter, tree_map

from adderc.errors import Undecided
from adderc.nn.thirdparty import PythonModel, run_add

MOST_CALLS = 4096
FEWEST_TOKENS = 3


@dataclass
class Call:
    """One call: the arguments as they were, and the logits that came out (detached)."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    logits: Tensor
    sum: int = 0


@dataclass
class Capture:
    """The forward function and its calls, in order; `entry` is how the model is called."""

    function: Callable[..., Any]
    entry: str
    calls: list[Call] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)


def logits_of(output: Any) -> Tensor | None:
    """The logits in whatever a forward returns: the first floating tensor with a last axis."""
    if isinstance(output, dict) and isinstance(output.get("logits"), Tensor):
        return output["logits"]
    if isinstance(getattr(output, "logits", None), Tensor):
        return output.logits
    tensors = [t for t in tree_iter(output) if isinstance(t, Tensor)]
    floating = [t for t in tensors if t.is_floating_point() and t.ndim > 0]
    return floating[0] if floating else (tensors[0] if tensors else None)


def watch_add(
    python: PythonModel, sums: Sequence[tuple[int, ...]], held: Sequence[Tensor] = ()
) -> Capture:
    """Run `add` on every sum and record the model's calls; Undecided if it makes none.

    Arguments are copied, except for `held` tensors, which stay recognisable.
    """
    watcher = _Watcher(python, {id(tensor) for tensor in held})
    with watcher.installed():
        for number, operands in enumerate(sums):
            watcher.sum = number
            watcher.answers.append(run_add(watcher.python, *operands))
    best = watcher.best()
    if best is None:
        raise Undecided(f"not audited: {python.path}: add() calls nothing that returns logits")
    function, entry = best
    calls = [call for name, call in watcher.calls if name == entry]
    return Capture(function, entry, calls, watcher.answers)


class _Watcher:
    """Wraps the ways in which a model can be called; only the outermost call counts."""

    def __init__(self, python: PythonModel, held: set[int]) -> None:
        self.python, self.held, self.sum, self.depth = python, held, 0, 0
        self.calls: list[tuple[str, Call]] = []
        self.answers: list[Any] = []
        self.functions: dict[str, Callable[..., Any]] = {}

    def best(self) -> tuple[Callable[..., Any], str] | None:
        """The entry that was called most often."""
        names = [name for name, _ in self.calls]
        if not names:
            return None
        entry = max(self.functions, key=names.count)
        return self.functions[entry], entry

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        undo: list[Callable[[], None]] = []
        try:
            self._install(undo)
            yield
        finally:
            for step in reversed(undo):
                step()

    def _install(self, undo: list[Callable[[], None]]) -> None:
        model, namespace = self.python.model, self.python.namespace
        if isinstance(model, nn.Module) or type(model).__module__ == namespace["__name__"]:
            for name in _entries(model, self.python.source):
                self._patch_method(model, name, undo)
        else:
            if callable(model):
                self.python = _with_model(self.python, self.wrap(model, "model"))
            for name, value in list(namespace.items()):
                own = getattr(value, "__module__", None) == namespace["__name__"]
                if own and name not in ("add", "build_model") and _is_function(value):
                    namespace[name] = self.wrap(value, name)
                    undo.append(_putter(namespace, name, value))

    def _patch_method(self, model: Any, name: str, undo: list[Callable[[], None]]) -> None:
        kind = type(model)
        inherited = getattr(kind, name)
        owned = name in vars(kind)
        watcher = self

        def patched(self: Any, *args: Any, **kwargs: Any) -> Any:
            if self is not model:
                return inherited(self, *args, **kwargs)
            bound = inherited.__get__(self, kind)
            return watcher.wrap(bound, name)(*args, **kwargs)

        setattr(kind, name, patched)
        self.functions.setdefault(name, getattr(model, name))

        def restore() -> None:
            if owned:
                setattr(kind, name, inherited)
            else:
                delattr(kind, name)

        undo.append(restore)

    def _copy(self, value: Any) -> Any:
        if isinstance(value, Tensor) and id(value) not in self.held:
            return value.detach().clone()
        return value

    def wrap(self, function: Callable[..., Any], entry: str) -> Callable[..., Any]:
        """`function`, its outermost calls recorded under `entry`."""
        self.functions[entry] = function

        def called(*args: Any, **kwargs: Any) -> Any:
            self.depth += 1
            try:
                kept = tree_map(self._copy, (args, kwargs))
                output = function(*args, **kwargs)
            finally:
                self.depth -= 1
            logits = logits_of(output)
            if (self.depth == 0 and logits is not None and logits.is_floating_point()
                    and len(self.calls) < MOST_CALLS):
                self.calls.append((entry, Call(kept[0], kept[1], logits.detach().clone(),
                                               self.sum)))
            return output

        return called


def _putter(namespace: dict[str, Any], name: str, value: Any) -> Callable[[], None]:
    def put() -> None:
        namespace[name] = value
    return put


def _with_model(python: PythonModel, model: Any) -> PythonModel:
    from dataclasses import replace

    return replace(python, model=model)


def _entries(model: Any, source: str) -> list[str]:
    """forward and __call__ where the class has them, and methods that the file calls."""
    kind = type(model)
    names = [n for n in ("__call__", "forward") if callable(getattr(kind, n, None))]
    if isinstance(model, nn.Module):
        return ["forward"]  # __call__ leads there, and so do other methods
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and node.name == "add":
            for inner in ast.walk(node):
                if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Attribute):
                    name = inner.func.attr
                    if name not in names and callable(vars(kind).get(name)):
                        names.append(name)
    return names


def _is_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, type)


def tensors_in(call: Call, held: Sequence[Tensor] = ()) -> list[Tensor]:
    """The tensor arguments of a call but for held tensors, in the order of their tree.

    A call on a list of token numbers counts as one on their tensor.
    """
    own = {id(tensor) for tensor in held}
    flat = tree_flatten((call.args, call.kwargs))[0]
    tensors = [v for v in flat if isinstance(v, Tensor) and id(v) not in own]
    return tensors or listed_tokens(flat)


def listed_tokens(flat: Sequence[Any]) -> list[Tensor]:
    """Tokens given as Python numbers, as one tensor; nothing where there are too few."""
    numbers = [v for v in flat if isinstance(v, int) and not isinstance(v, bool)]
    return [torch.tensor(numbers)] if len(numbers) >= FEWEST_TOKENS else []


def token_inputs(
    capture: Capture, chosen: Call, held: Sequence[Tensor] = ()
) -> list[bool]:
    """For each tensor argument of a call: does it depend on the operands or earlier outputs?

    It does where it differs between calls of the same shapes; where none does, the tensors
    of whole numbers are taken to be the tokens.
    """
    tensors = tensors_in(chosen, held)
    varies = [False] * len(tensors)
    for other in capture.calls:
        theirs = tensors_in(other, held)
        if [t.shape for t in theirs] == [t.shape for t in tensors]:
            for place, (mine, its) in enumerate(zip(tensors, theirs, strict=True)):
                varies[place] = varies[place] or not torch.equal(mine, its)
    if not any(varies):
        return [not tensor.is_floating_point() for tensor in tensors]
    return varies
