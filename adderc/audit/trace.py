"""The ATen graph of one forward pass, by torch.export, by make_fx where export cannot.

Takes: a function of tensors, its arguments, the tensors the model holds. Gives: `Traced`.
May import: errors, audit.holders, audit.outputs and torch.

The held tensors become inputs of the graph; every other tensor that the code makes out of
Python numbers is a constant of the graph. A graph with an operation that is not torch's own
is none: it could hold any number.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from adderc.audit.holders import Held, replaced
from adderc.audit.outputs import listed_tokens, tensors_of
from adderc.errors import Undecided

OWN = ("aten", "prim", "prims")


@dataclass(frozen=True)
class Traced:
    """A straight-line graph of ATen operations.

    `held`, `constants` and `arguments` name the graph's inputs: the number of a held
    tensor, a literal tensor's value, the number of a tensor argument. `outputs` are the nodes
    that are returned, the logits first.
    """

    graph: fx.Graph
    held: dict[str, int]
    constants: dict[str, Tensor]
    arguments: dict[str, int]
    outputs: tuple[str, ...]
    how: str

    @property
    def logits(self) -> str:
        return self.outputs[0]

    def calls(self) -> list[fx.Node]:
        """The operations in order."""
        return [node for node in self.graph.nodes if node.op == "call_function"]


class _Rig(nn.Module):
    """The model with its held tensors as parameters and buffers of one flat module."""

    def __init__(self, held: list[Held], call: Callable[..., Any]) -> None:
        super().__init__()
        self.held, self.call = held, call
        for number, item in enumerate(held):
            if isinstance(item.tensor, nn.Parameter):
                self.register_parameter(f"held{number}", item.tensor)
            else:
                self.register_buffer(f"held{number}", item.tensor)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        own = [getattr(self, f"held{number}") for number in range(len(self.held))]
        return _returned(self.held, own, self.call, tensors)


def _returned(
    held: list[Held], own: Sequence[Tensor], call: Callable[..., Any], tensors: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """The outputs of the model with `own` in its slots, as tensors of their own."""
    with replaced(held, list(own)):
        outputs = tensors_of(call(own, tensors))
    if not outputs:
        raise TypeError("no tensor is returned")
    return tuple(output.clone() for output in outputs)


def trace(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], held: list[Held]
) -> Traced:
    """Trace one call; Undecided ("not audited: …") where neither way can follow it."""
    flat, layout = tree_flatten((args, kwargs))
    known = {id(item.tensor): number for number, item in enumerate(held)}
    tensors = [v for v in flat if isinstance(v, Tensor) and id(v) not in known]
    listed = [] if tensors else listed_tokens(flat)
    if not tensors and not listed:
        raise Undecided("not audited: the forward pass takes no tensor, so its tokens are "
                        "Python numbers that a trace cannot follow")

    def call(own: Sequence[Tensor], given: Sequence[Tensor]) -> Any:
        rest = iter(given)
        values = [own[known[id(v)]] if id(v) in known else
                  next(rest) if isinstance(v, Tensor) else v for v in flat]
        inner_args, inner_kwargs = tree_unflatten(values, layout)
        with _tokens_as(given[0], listed) if listed else contextlib.nullcontext():
            return function(*inner_args, **inner_kwargs)

    reasons = []
    for name, attempt in _ATTEMPTS:
        rig = _Rig(held, call)
        try:
            with (warnings.catch_warnings(), _quiet_logs(), _plain_mode(), torch.no_grad(),
                  contextlib.redirect_stderr(io.StringIO())):  # torch prints what it gave up on
                warnings.simplefilter("ignore")
                return _only_own(attempt(rig, tensors or listed), tensors or listed)
        except Exception as error:
            reasons.append(f"{name}: {_reason(error)}")
    raise Undecided("not audited: the forward pass could not be traced",
                    "\n  ".join(reasons))


def _only_own(traced: Traced, tensors: list[Tensor]) -> Traced:
    """The graph, if every step in it is an operation of torch on tensors."""
    if len(traced.arguments) != len(tensors):
        raise TypeError("the graph takes something else than tensors")
    known = {*traced.held, *traced.constants, *traced.arguments}
    for node in traced.graph.nodes:
        space = getattr(node.target, "namespace", "") or str(getattr(node.target, "__module__", ""))
        if node.op == "call_function" and space not in (*OWN, "_operator"):
            raise TypeError(f"the operation {node.target} is not one of torch's own")
        if node.op not in ("call_function", "output") and node.name not in known:
            raise TypeError(f"the graph holds {node.name}, which is no tensor")
    return traced


def _export(rig: _Rig, tensors: list[Tensor]) -> Traced:
    program = torch.export.export(rig, tuple(tensors), strict=False)
    signature = program.graph_signature
    state = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    lifted = signature.inputs_to_lifted_tensor_constants
    held: dict[str, int] = {}
    constants: dict[str, Tensor] = {}
    arguments: dict[str, int] = {}
    for node in program.graph.nodes:
        if node.op != "placeholder":
            continue
        if node.name in state:
            held[node.name] = int(state[node.name].removeprefix("held"))
        elif node.name in lifted:
            value = program.constants[lifted[node.name]]
            _sort(node.name, value, rig.held, held, constants)
        else:
            arguments[node.name] = len(arguments)
    output = next(node for node in program.graph.nodes if node.op == "output")
    results = signature.output_specs
    places = [n for n, spec in enumerate(results) if spec.kind.name == "USER_OUTPUT"]
    return Traced(program.graph, held, constants, arguments,
                  tuple(output.args[0][n].name for n in places), "torch.export")


def _sort(
    name: str, value: Tensor, known: Sequence[Held], held: dict[str, int],
    constants: dict[str, Tensor],
) -> None:
    """A tensor that the trace met: a literal, or a held one reached by way of its memory."""
    start = value.data_ptr() if value.layout == torch.strided else 0
    for number, item in enumerate(known):
        mine = item.tensor
        if not start or mine.layout != torch.strided or not mine.numel():
            continue
        if start == mine.data_ptr() and (value.shape, value.stride(), value.dtype) == (
            mine.shape, mine.stride(), mine.dtype
        ):
            held[name] = number
            return
        if value.untyped_storage().data_ptr() == mine.untyped_storage().data_ptr():
            raise TypeError(f"a part of {item.name} is read by way of its memory")
    constants[name] = value.detach().clone()


def _make_fx(rig: _Rig, tensors: list[Tensor], early: bool = True) -> Traced:
    from torch.fx.experimental.proxy_tensor import make_fx

    count = len(rig.held)
    own = [getattr(rig, f"held{number}").detach() for number in range(count)]

    def run(*given: Tensor) -> tuple[Tensor, ...]:
        return _returned(rig.held, given[:count], rig.call, given[count:])

    module = make_fx(run, pre_dispatch=early, record_stack_traces=True)(*own, *tensors)
    held: dict[str, int] = {}
    constants: dict[str, Tensor] = {}
    arguments: dict[str, int] = {}
    inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
    for number, node in enumerate(inputs):
        if number < count:
            held[node.name] = number
        else:
            arguments[node.name] = number - count
    for node in module.graph.nodes:
        if node.op == "get_attr":
            _sort(node.name, getattr(module, node.target), rig.held, held, constants)
    output = next(node for node in module.graph.nodes if node.op == "output")
    return Traced(module.graph, held, constants, arguments,
                  tuple(node.name for node in output.args[0]), "make_fx")


_ATTEMPTS: tuple[tuple[str, Callable[[_Rig, list[Tensor]], Traced]], ...] = (
    ("export", _export),
    ("make_fx", _make_fx),
    ("make_fx below autograd", lambda rig, tensors: _make_fx(rig, tensors, early=False)),
)


@contextlib.contextmanager
def _plain_mode() -> Iterator[None]:
    """inference_mode inside the model would forbid tracing; it changes no number."""
    mode = torch.inference_mode
    enter, leave = mode.__enter__, mode.__exit__
    mode.__enter__ = lambda self: None  # type: ignore[method-assign]
    mode.__exit__ = lambda self, *error: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        mode.__enter__, mode.__exit__ = enter, leave  # type: ignore[method-assign]


@contextlib.contextmanager
def _tokens_as(given: Tensor, listed: Sequence[Tensor]) -> Iterator[None]:
    """Where the model makes a tensor of its list of tokens, it gets the traced one."""
    names = ("tensor", "as_tensor", "LongTensor")
    before = {name: getattr(torch, name) for name in names}
    expected = listed[0].tolist()

    def made(name: str) -> Callable[..., Any]:
        def make(data: Any, *args: Any, **kwargs: Any) -> Any:
            rows = data
            while isinstance(rows, list | tuple) and len(rows) == 1:
                rows = rows[0]
            if isinstance(rows, list | tuple) and list(rows) == expected:
                return given.reshape((1,) * _depth(data) + (len(expected),))
            return before[name](data, *args, **kwargs)
        return make

    try:
        for name in names:
            setattr(torch, name, made(name))
        yield
    finally:
        for name in names:
            setattr(torch, name, before[name])


def _depth(data: Any) -> int:
    """How many lists of one stand around the tokens."""
    depth = 0
    while len(data) == 1:
        data, depth = data[0], depth + 1
    return depth


@contextlib.contextmanager
def _quiet_logs() -> Iterator[None]:
    import logging

    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _reason(error: Exception) -> str:
    first = str(error).strip().partition("\n")[0][:160]
    return f"{type(error).__name__}: {first}"


# ---------------------------------------------------------------- evaluation

Numbers = dict[tuple[str, tuple[Any, ...]], float]  # (node, path to the argument) -> value


def evaluate(
    traced: Traced,
    held: list[Tensor],
    arguments: list[Tensor],
    changed: Numbers | None = None,
    watch: Callable[[fx.Node, Any], None] | None = None,
    constants: dict[str, Tensor] | None = None,
) -> list[Tensor]:
    """The outputs of the graph on these tensors, the logits first.

    `changed` replaces scalar arguments; `watch` sees every value as it is when it is made.
    """
    values: dict[str, Any] = {n: held[i].detach().clone() for n, i in traced.held.items()}
    literals = constants if constants is not None else traced.constants
    values |= {n: t.clone() for n, t in literals.items()}
    values |= {n: arguments[i].clone() for n, i in traced.arguments.items()}
    with torch.no_grad():
        for node in traced.graph.nodes:
            if node.op == "call_function":
                args, kwargs = node.args, node.kwargs
                if changed:
                    args, kwargs = _patched(node, changed)
                args, kwargs = fx.node.map_arg((args, kwargs), lambda n: values[n.name])
                values[node.name] = node.target(*args, **kwargs)
            if watch is not None and node.name in values:
                watch(node, values[node.name])
    return [values[name] for name in traced.outputs]


def _patched(node: fx.Node, changed: Numbers) -> tuple[Any, Any]:
    args, kwargs = list(node.args), dict(node.kwargs)
    for (name, path), value in changed.items():
        if name == node.name:
            where: Any = args if isinstance(path[0], int) else kwargs
            if len(path) == 1:
                where[path[0]] = value
            else:
                inner = list(where[path[0]])
                inner[path[1]] = value
                where[path[0]] = inner
    return tuple(args), kwargs
