"""Watches a model at work: the calls that its own `add` makes, with their arguments.

Takes: a `PythonModel` and sums. Gives: `Capture`, the recorded calls of the forward pass.
May import: errors, nn.thirdparty, audit.fingerprint, audit.outputs, audit.replay.

Three kinds of calls are recorded side by side, of each kind the outermost: torch modules,
methods of the model's own class, functions of the file. The forward pass is the first of
them from which alone the answers follow.
"""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from adderc.audit.fingerprint import Fingerprint
from adderc.audit.outputs import listed_tokens, tensors_of
from adderc.audit.replay import poisoned, spelled
from adderc.errors import InputError, Undecided
from adderc.nn.thirdparty import PythonModel, run_add

MOST_CALLS = 4096
MODULE, METHOD, FUNCTION = "module", "method", "function"
Entry = tuple[str, int, str]  # kind, id of the object, name


@dataclass
class Call:
    """One call: the arguments as they were, and what came out (detached, logits first).

    `step` is its number within its sum; `given` the tokens of the calls before it; `path`
    is equal for calls that ran the same operations with the same numbers.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: list[Tensor]
    returned: Any = None
    sum: int = 0
    step: int = 0
    path: int = 0

    @property
    def logits(self) -> Tensor:
        return self.outputs[0]


@dataclass
class Capture:
    """The forward function and its calls, in order.

    `spelled` says that every answer is what the tokens chosen by the logits spell, whatever
    the operands were.
    """

    function: Callable[..., Any]
    calls: list[Call] = field(default_factory=list)
    spelled: bool = False


def watch_add(
    python: PythonModel, sums: Sequence[tuple[int, ...]], held: Sequence[Tensor] = ()
) -> Capture:
    """Run `add` on every sum and record the model's calls.

    Undecided if it makes none, or if the answers do not follow from the recorded calls.
    Arguments are copied, except for `held` tensors, which stay recognisable.
    """
    watcher = _Watcher(python, held)
    with watcher.installed():
        answers = [watcher.add(number, operands) for number, operands in enumerate(sums)]
    entries = watcher.entries()
    for entry in entries:
        calls = watcher.calls[entry]
        spells = spelled([[c.outputs for c in calls if c.sum == n] for n in range(len(sums))],
                         answers)
        other = [*sums[1:], *sums[:1]]  # the model's outputs decide, not the operands
        follows = spells and watcher.replays(entry, other, answers)
        if follows or spells or watcher.replays(entry, sums, answers):
            return Capture(watcher.functions[entry], calls, follows)
    if not entries:
        raise Undecided(f"not audited: {python.path}: add() calls nothing that returns logits",
                        "a forward pass of torch tensors is needed; numpy is not followed")
    names = ", ".join(sorted({entry[2] for entry in entries}))
    raise Undecided(f"not audited: {python.path}: what add() answers does not follow from its "
                    f"calls of {names} alone", "it reads the model in another way as well")


def watch_calls(function: Callable[..., Any], batches: Sequence[Sequence[Tensor]]) -> Capture:
    """Call a function on given tokens, the batches of one sum after another."""
    capture = Capture(function, spelled=True)
    paths: dict[Any, int] = {}
    for number, batch in enumerate(batches):
        for step, tokens in enumerate(batch):
            with torch.no_grad(), Fingerprint([tokens]) as seen:
                output = function(tokens)
            outputs = [t.detach().clone() for t in tensors_of(output)]
            path = paths.setdefault(seen.key(), len(paths))
            capture.calls.append(Call((tokens,), {}, outputs, None, number, step, path))
    return capture


class _Watcher:
    """Wraps the ways in which a model can be called."""

    def __init__(self, python: PythonModel, held: Sequence[Tensor]) -> None:
        self.python, self.model = python, python.model
        self.held = {id(tensor): tensor for tensor in held}
        self.sum = 0
        self.depth = {MODULE: 0, METHOD: 0, FUNCTION: 0}
        self.calls: dict[Entry, list[Call]] = {}
        self.functions: dict[Entry, Callable[..., Any]] = {}
        self.paths: dict[Any, int] = {}
        self.replaying: Entry | None = None
        self.recorded: Iterator[Call] = iter(())

    def add(self, number: int, operands: tuple[int, ...]) -> Any:
        self.sum = number
        return run_add(replace(self.python, model=self.model), *operands)

    def entries(self) -> list[Entry]:
        """The recorded ways to call, the likeliest to be the forward pass first."""
        kinds = [MODULE, METHOD, FUNCTION]
        if not isinstance(self.python.model, nn.Module):
            plain = _is_own(self.python)
            kinds = [METHOD, MODULE, FUNCTION] if plain else [FUNCTION, MODULE, METHOD]

        def order(entry: Entry) -> tuple[int, bool, bool, int]:
            kind, owner, name = entry
            return (kinds.index(kind), owner != id(self.python.model),
                    name not in ("__call__", "forward", "model"), -len(self.calls[entry]))

        return sorted(self.calls, key=order)

    def replays(self, entry: Entry, sums: Sequence[tuple[int, ...]], answers: list[Any]) -> bool:
        """Whether the recorded outputs of one entry alone give the same answers again."""
        self.replaying, self.recorded = entry, iter(self.calls[entry])
        try:
            with self.installed(), poisoned(list(self.held.values())):
                return [self.add(n, operands) for n, operands in enumerate(sums)] == answers
        except InputError:
            return False
        finally:
            self.replaying = None

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        undo: list[Callable[[], None]] = []
        try:
            self._install(undo)
            yield
        finally:
            self.model = self.python.model
            for step in reversed(undo):
                step()

    def _install(self, undo: list[Callable[[], None]]) -> None:
        model, namespace = self.python.model, self.python.namespace
        self._patch(nn.Module, "__call__", MODULE, undo, None)
        if isinstance(model, nn.Module):
            if not isinstance(model, torch.jit.ScriptModule):
                self._patch(type(model), "forward", MODULE, undo, model)
            if type(model).__call__ is not nn.Module.__call__:
                self._patch(type(model), "__call__", MODULE, undo, model)
        elif _is_own(self.python):
            for name in _entries(model, self.python.source):
                self._patch(type(model), name, METHOD, undo, model)
        elif callable(model):
            self.model = self.wrap(model, (FUNCTION, id(model), "model"), model)
        for name, value in list(namespace.items()):
            own = getattr(value, "__module__", None) == namespace["__name__"]
            if own and name not in ("add", "build_model") and _is_function(value):
                namespace[name] = self.wrap(value, (FUNCTION, id(value), name), value)
                undo.append(_putter(namespace, name, value))

    def _patch(
        self, kind: type, name: str, group: str, undo: list[Callable[[], None]], only: Any
    ) -> None:
        """Record calls of a method on `only`, or on any object where that is None."""
        inherited = getattr(kind, name)
        owned = name in vars(kind)
        watcher = self

        def patched(self: Any, *args: Any, **kwargs: Any) -> Any:
            bound = inherited.__get__(self, type(self))
            if only is not None and self is not only:
                return bound(*args, **kwargs)
            entry = (group, id(self), name)
            target = self if name == "__call__" else getattr(self, name)
            return watcher.wrap(bound, entry, target)(*args, **kwargs)

        setattr(kind, name, patched)

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

    def wrap(
        self, function: Callable[..., Any], entry: Entry, target: Any
    ) -> Callable[..., Any]:
        """`function` with its outermost calls recorded, or answered from the record.

        `target` is what a trace has to call in its place.
        """
        self.functions.setdefault(entry, target)
        group = entry[0]

        def called(*args: Any, **kwargs: Any) -> Any:
            outer = self.depth[group] == 0
            if outer and self.replaying == entry:
                call = next(self.recorded, None)
                if call is None:
                    raise RuntimeError("one call more than before")
                return tree_map(self._copy, call.returned)
            if not outer or self.replaying is not None:
                return function(*args, **kwargs)
            self.depth[group] += 1
            try:
                kept = tree_map(self._copy, (args, kwargs))
                flat = tree_flatten((args, kwargs))[0]
                given = [v for v in flat if isinstance(v, Tensor)]
                with Fingerprint([*given, *self.held.values()], listed_tokens(flat)) as seen:
                    output = function(*args, **kwargs)
            finally:
                self.depth[group] -= 1
            self._keep(entry, kept, output, seen)
            return output

        return called

    def _keep(self, entry: Entry, kept: Any, output: Any, seen: Fingerprint) -> None:
        outputs = [t.detach().clone() for t in tensors_of(output)]
        known = self.calls.setdefault(entry, []) if outputs else []
        if outputs and len(known) < MOST_CALLS:
            step = sum(call.sum == self.sum for call in known)
            path = self.paths.setdefault(seen.key(), len(self.paths))
            known.append(Call(kept[0], kept[1], outputs, tree_map(self._copy, output),
                              self.sum, step, path))


def _putter(namespace: dict[str, Any], name: str, value: Any) -> Callable[[], None]:
    def put() -> None:
        namespace[name] = value
    return put


def _is_own(python: PythonModel) -> bool:
    """Whether the model is an object of a class of its file."""
    return type(python.model).__module__ == python.namespace["__name__"]


def _entries(model: Any, source: str) -> list[str]:
    """__call__ and forward where the class has them, and methods that the file calls."""
    kind = type(model)
    names = [n for n in ("__call__", "forward") if callable(getattr(kind, n, None))]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and node.name == "add":
            for inner in ast.walk(node):
                if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Attribute):
                    name = inner.func.attr
                    if name not in names and callable(vars(kind).get(name)):
                        names.append(name)
    return names


def _is_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, type | nn.Module)


def tensors_in(call: Call, held: Sequence[Tensor] = ()) -> list[Tensor]:
    """The tensor arguments of a call but for held tensors, in the order of their tree.

    A call on a list of token numbers counts as one on their tensor.
    """
    own = {id(tensor) for tensor in held}
    flat = tree_flatten((call.args, call.kwargs))[0]
    tensors = [v for v in flat if isinstance(v, Tensor) and id(v) not in own]
    return tensors or listed_tokens(flat)


def token_inputs(
    capture: Capture, chosen: Call, held: Sequence[Tensor] = ()
) -> list[bool]:
    """For each tensor argument of a call: does it depend on the operands or earlier outputs?

    It does where it differs between sums at the same step; where none does, the tensors of
    whole numbers are taken to be the tokens.
    """
    tensors = tensors_in(chosen, held)
    varies = [False] * len(tensors)
    for other in capture.calls:
        theirs = tensors_in(other, held)
        if other.step == chosen.step and [t.shape for t in theirs] == [t.shape for t in tensors]:
            for place, (mine, its) in enumerate(zip(tensors, theirs, strict=True)):
                varies[place] = varies[place] or not torch.equal(mine, its)
    if not any(varies):
        return [not tensor.is_floating_point() for tensor in tensors]
    return varies
