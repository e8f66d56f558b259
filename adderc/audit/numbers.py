"""The Python numbers inside a traced graph, with what each of them is for.

Takes: a `Flow`. Gives: `Number` for each scalar argument that is a value.
May import: audit.flow and torch.

Dimensions, sizes and indices are no values; everything else is, until a rule says why not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import fx

from adderc.audit.flow import VIEWS, Flow, operation, unwrapped

NORMS = ("layer_norm", "native_layer_norm", "rms_norm", "group_norm", "batch_norm",
         "instance_norm", "_fused_rms_norm")
LARGEST_EPSILON = 1e-3
CREATORS = ("zeros", "ones", "empty", "eye", "zeros_like", "ones_like", "empty_like",
            "new_zeros", "new_ones", "new_empty")
SPACES = ("linspace", "logspace")  # counted by what they hold
SELECTORS = ("masked_fill", "masked_fill_", "where", "full", "full_like", "fill_", "new_full")
SCORES = ("matmul", "bmm", "mm", "baddbmm", "einsum")
WHOLE_VALUES = {"round": "decimals", "linalg_matrix_power": "n", "matrix_power": "n",
                "polygamma": "n", "special_polygamma": "n", "tril": "diagonal",
                "triu": "diagonal", "roll": "shifts"}  # integers that are no sizes
PASSES = ("mul", "add", "sub", "neg", "cat", "stack", "slice", "select", "index", "split",
          "chunk", "unbind", "getitem", "roll", "dropout")


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
            for where, name, value, default in scalars_of(node):
                role, note = _role(flow, node, name, value, default, longest)
                found.append(Number(node.name, where, value, name, line_of(node, path), role,
                                    note))
            if (copies := _copies_summed(flow, node)) > 1:
                found.append(Number(node.name, (), copies, "copies", line_of(node, path), "",
                                    "a sum of as many copies"))
    return found


def line_of(node: fx.Node, path: str) -> int:
    """The innermost line of the file `path` that made this operation; 0 if unknown."""
    line = 0
    for text in (node.meta.get("stack_trace") or "").splitlines():
        if text.strip().startswith(f'File "{path}", line '):
            line = int(text.split("line ")[1].split(",")[0])
    return line


def scalars_of(node: fx.Node) -> Iterator[tuple[tuple[Any, ...], str, float, bool]]:
    """(path, argument name, value, is it the operation's default) of value arguments."""
    if operation(node) == "getitem":
        return
    schema = getattr(node.target, "_schema", None)
    arguments = schema.arguments if schema is not None else ()
    seen = len(node.args)
    for position, value in enumerate(node.args):
        known = arguments[position] if position < len(arguments) else None
        yield from _values((position,), known, value, WHOLE_VALUES.get(operation(node)))
    for known in arguments[seen:]:
        if known.name in node.kwargs:
            yield from _values((known.name,), known, node.kwargs[known.name],
                               WHOLE_VALUES.get(operation(node)))


def _values(
    path: tuple[Any, ...], known: Any, value: Any, whole: str | None
) -> Iterator[tuple[tuple[Any, ...], str, float, bool]]:
    kind, name = (str(known.type), known.name) if known is not None else ("number", "value")
    if name != whole and any(
        word in kind for word in ("int", "bool", "Device", "ScalarType", "str", "Layout")
    ):
        return
    items = enumerate(value) if isinstance(value, list | tuple) else [(None, value)]
    for index, item in items:
        where = path if index is None else (*path, index)
        if isinstance(item, complex):
            yield from ((where, name, part, False) for part in (item.real, item.imag) if part)
        elif isinstance(item, int | float) and not isinstance(item, bool):
            default = known is not None and known.has_default_value()
            yield where, name, float(item), default and known.default_value == item


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
    if kind in SPACES:
        return "structural", "counted by what the table holds"
    if kind == "batch_norm" and name == "momentum" and node.args[5] is False:
        return "internal", "used in training only"
    if kind == "roll" and not _along_positions(flow, node):
        return "structural", "an index"
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


def _along_positions(flow: Flow, node: fx.Node) -> bool:
    """Whether a roll moves values from position to position."""
    shape = flow.shapes.get(node.name, ())
    axes: Any = node.args[2] if len(node.args) > 2 else ()
    return not axes or any(shape[axis] == flow.length for axis in axes)


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
    if (inner := _summed(flow, source)) and math.isclose(factor, inner**-0.5, rel_tol=1e-6):
        return reaches_softmax(flow, node.name)
    width = (flow.shapes.get(node.args[0].name) or (0,))[-1]
    return (width > 0 and math.isclose(factor, width**-0.5, rel_tol=1e-6)
            and _only_scores(flow, node.name))


def _summed(flow: Flow, node: fx.Node) -> int:
    """Over how many products a matrix product sums; 0 for anything else."""
    if node.op != "call_function" or operation(node) not in SCORES:
        return 0
    if operation(node) == "einsum":
        factors, _, result = str(node.args[0]).replace(" ", "").partition("->")
        parts = zip(factors.split(","), node.all_input_nodes, strict=False)
        sizes = {letter: size for letters, source in parts
                 for letter, size in zip(letters, flow.shapes.get(source.name, ()), strict=False)}
        return math.prod(size for letter, size in sizes.items() if letter not in result)
    left = node.args[1 if operation(node) == "baddbmm" else 0]
    return (flow.shapes.get(left.name) or (0,))[-1] if isinstance(left, fx.Node) else 0


def _only_scores(flow: Flow, name: str) -> bool:
    """Whether a value is used for nothing but attention scores: it is a query or a key."""
    todo, seen = [name], {name}
    while todo:
        here = todo.pop()
        for reader in flow.edges.successors(here):
            node = flow.nodes[reader]
            kind = operation(node)
            if kind == "scaled_dot_product_attention" and flow.nodes[here] in node.args[:2]:
                continue
            if kind in SCORES and flow.shapes.get(reader, ()).count(flow.length) >= 2:
                continue
            if kind not in (*PASSES, *VIEWS) or reader in flow.traced.outputs:
                return False
            if reader not in seen:
                seen.add(reader)
                todo.append(reader)
    return True


def _copies_summed(flow: Flow, node: fx.Node) -> int:
    """How many copies of a value, made by repeating it, a sum adds up."""
    source = node.args[0] if node.args else None
    if operation(node) != "sum" or not isinstance(source, fx.Node) or (
        source.op != "call_function"
    ):
        return 1
    kind = operation(source)
    if kind == "stack":
        parts: Any = source.args[0]
        return max(parts.count(part) for part in parts)
    if kind not in ("expand", "repeat", "repeat_interleave"):
        return 1
    after = flow.shapes[source.name]
    before = flow.shapes[source.all_input_nodes[0].name]
    before = (1,) * (len(after) - len(before)) + before
    axes: Any = node.args[1] if len(node.args) > 1 else range(len(after))
    return math.prod(after[axis] // max(1, before[axis]) for axis in axes or range(len(after)))


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
