"""The Python numbers inside a traced graph, with what each of them is for.

Takes: a `Flow`. Gives: `Number` for each scalar argument that is a value.
May import: audit.flow, audit.patterns and torch.

Dimensions, sizes and indices are no values; everything else is, until a rule says why not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import fx

from adderc.audit.flow import Flow, operation, unwrapped

NORMS = ("layer_norm", "native_layer_norm", "rms_norm", "group_norm", "batch_norm",
         "instance_norm", "_fused_rms_norm")
LARGEST_EPSILON = 1e-3
CREATORS = ("zeros", "ones", "empty", "eye", "zeros_like", "ones_like", "empty_like",
            "new_zeros", "new_ones", "new_empty")
SELECTORS = ("masked_fill", "masked_fill_", "where", "full", "full_like", "fill_", "new_full")
SUMMARIES = ("sum", "mean", "prod", "matmul", "mm", "bmm", "dot", "norm", "linalg_vector_norm",
             "var", "std", "count_nonzero", "amax", "amin", "max", "min", "argmax", "numel",
             "bincount")


@dataclass(frozen=True)
class Number:
    """A scalar argument of an operation; `role` is "" where it must be counted."""

    node: str
    path: tuple[Any, ...]
    value: float
    argument: str
    line: int
    role: str = ""
    note: str = ""


def numbers_of(flow: Flow, longest: int, path: str) -> list[Number]:
    """Every scalar value on the way to the logits; `path` is the audited file."""
    found = []
    for node in flow.traced.calls():
        if node.name in flow.reach and node.name not in flow.zeroed:
            for where, name, value, default in _scalars(node):
                role, note = _role(flow, node, name, value, default, longest)
                found.append(Number(node.name, where, value, name, line_of(node, path), role,
                                    note))
            found.extend(_picked(flow, node, longest, path))
    return found


def line_of(node: fx.Node, path: str) -> int:
    """The innermost line of the file `path` that made this operation; 0 if unknown."""
    line = 0
    for text in (node.meta.get("stack_trace") or "").splitlines():
        if text.strip().startswith(f'File "{path}", line '):
            line = int(text.split("line ")[1].split(",")[0])
    return line


def _scalars(node: fx.Node) -> Iterator[tuple[tuple[Any, ...], str, float, bool]]:
    """(path, argument name, value, is it the operation's default) of value arguments."""
    if operation(node) == "getitem":
        return
    schema = getattr(node.target, "_schema", None)
    arguments = schema.arguments if schema is not None else ()
    seen = len(node.args)
    for position, value in enumerate(node.args):
        known = arguments[position] if position < len(arguments) else None
        yield from _values((position,), known, value)
    for known in arguments[seen:]:
        if known.name in node.kwargs:
            yield from _values((known.name,), known, node.kwargs[known.name])


def _values(
    path: tuple[Any, ...], known: Any, value: Any
) -> Iterator[tuple[tuple[Any, ...], str, float, bool]]:
    kind, name = (str(known.type), known.name) if known is not None else ("number", "value")
    if any(word in kind for word in ("int", "bool", "Device", "ScalarType", "str", "Layout")):
        return
    items = enumerate(value) if isinstance(value, list | tuple) else [(None, value)]
    for index, item in items:
        if isinstance(item, int | float) and not isinstance(item, bool):
            default = known is not None and known.has_default_value()
            same = default and known.default_value == item
            yield (path if index is None else (*path, index)), name, float(item), same


def _role(
    flow: Flow, node: fx.Node, name: str, value: float, default: bool, longest: int
) -> tuple[str, str]:
    kind = operation(node)
    if math.isinf(value):
        return "mask fill", ""
    if abs(value) in (0.0, 1.0):
        return "structural", ""
    if default or (kind == "dropout" and not node.args[2]):
        return "internal", f"{kind}'s own {name}"
    if kind == "arange":
        return _arange_role(node, name, value, longest)
    if kind in CREATORS:
        return "structural", "a shape"
    if kind.startswith("pow") and name == "exponent":
        if value == 2:
            return "squaring", ""
        if abs(value) == 0.5:
            return "internal", "a square root"
    if _is_epsilon(flow, node, kind, name, value):
        return "epsilon", ""
    if _is_default_scale(flow, node, kind, name, value):
        return "internal", "attention's default 1/√d"
    return "", ""


def _arange_role(node: fx.Node, name: str, value: float, longest: int) -> tuple[str, str]:
    if name == "end" and value <= longest and value.is_integer():
        return "structural", "length of an arange"
    return "", f"{name} of an arange"


def _is_epsilon(flow: Flow, node: fx.Node, kind: str, name: str, value: float) -> bool:
    if not 0 < value <= LARGEST_EPSILON:
        return False
    if kind in NORMS:
        return name == "eps"
    if kind not in ("add", "add_", "clamp", "clamp_min", "maximum"):
        return False
    readers = [operation(flow.nodes[n]) for n in flow.edges.successors(node.name)]
    source = node.args[0]
    return bool(readers) and isinstance(source, fx.Node) and all(
        r in ("rsqrt", "sqrt", "div", "reciprocal", "pow") for r in readers)


def _is_default_scale(flow: Flow, node: fx.Node, kind: str, name: str, value: float) -> bool:
    """1/√d on scores that sum d products, or on the queries of width d themselves."""
    if kind == "scaled_dot_product_attention" and name == "scale":
        query = node.args[0]
        width = flow.shapes[query.name][-1] if isinstance(query, fx.Node) else 0
        return width > 0 and math.isclose(value, width**-0.5, rel_tol=1e-6)
    if kind not in ("mul", "div", "mul_", "div_") or not isinstance(node.args[0], fx.Node):
        return False
    factor = value if kind.startswith("mul") else 1 / value
    source = flow.nodes[unwrapped(flow, node.args[0].name)]
    widths = flow.shapes.get(node.args[0].name, (0,))[-1:]
    if source.op == "call_function" and operation(source) in ("matmul", "bmm", "mm", "baddbmm"):
        left = source.args[0]
        inner = flow.shapes.get(left.name, (0,))[-1] if isinstance(left, fx.Node) else 0
        if inner and math.isclose(factor, inner**-0.5, rel_tol=1e-6):
            return reaches_softmax(flow, node.name)
    if widths and widths[0] and math.isclose(factor, widths[0] ** -0.5, rel_tol=1e-6):
        return reaches_softmax(flow, node.name)
    return False


def reaches_softmax(flow: Flow, name: str) -> bool:
    """Whether a value ends in the scores of an attention."""
    todo, seen = [name], {name}
    while todo:
        here = todo.pop()
        for reader in flow.edges.successors(here):
            kind = operation(flow.nodes[reader]) if flow.nodes[reader].op != "output" else ""
            if kind in ("softmax", "_softmax", "exp", "scaled_dot_product_attention"):
                return True
            if reader not in seen and kind not in ("relu", "gelu", "silu", "tanh", "embedding"):
                seen.add(reader)
                todo.append(reader)
    return False


def _picked(flow: Flow, node: fx.Node, longest: int, path: str) -> Iterator[Number]:
    """Numbers made out of shapes: an element picked from an arange, a sum of ones."""
    kind = operation(node)
    if kind not in (*SUMMARIES, "select", "index", "index_select", "slice", "add", "mul"):
        return
    value = flow.values.get(node.name)
    sources = [s for s in node.all_input_nodes if s.name in flow.values]
    if value is None or not flow.is_fixed(node.name) or not sources or value.dtype.is_complex:
        return
    if kind in ("add", "mul") and (value.numel() > 1 or _has_number(node)):
        return
    if any(_has_literal(flow, source.name) for source in sources):
        return
    if kind not in SUMMARIES and value.numel() > 1:
        return
    from adderc.audit.patterns import magnitudes, recognise

    sizes = magnitudes(value.double().flatten().tolist())
    if not sizes or recognise(value.double().numpy(), longest) is not None:
        return
    for size in sizes:
        yield Number(node.name, (), size, "value", line_of(node, path), "",
                     "picked out of an arange or made of shapes")


def _has_number(node: fx.Node) -> bool:
    return any(isinstance(a, int | float) and abs(a) not in (0, 1) for a in node.args)


def _has_literal(flow: Flow, name: str) -> bool:
    """Whether numbers that are counted elsewhere went into this value."""
    import networkx as nx

    above = {name} | nx.ancestors(flow.edges, name)
    if above & set(flow.traced.constants):
        return True
    return any(
        abs(value) not in (0.0, 1.0) and operation(flow.nodes[n]) != "arange"
        and operation(flow.nodes[n]) not in CREATORS
        for n in above if flow.nodes[n].op == "call_function"
        for _, _, value, default in _scalars(flow.nodes[n]) if not default
    )
