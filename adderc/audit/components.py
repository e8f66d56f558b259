"""Which part of a transformer a held tensor belongs to, from where its value goes.

Takes: a `Flow`. Gives: `component_in` and the weight tensors that a forward pass reads.
May import: audit.flow, audit.numbers.
"""

from __future__ import annotations

from collections.abc import Iterator

import networkx as nx
import torch
from torch import fx

from adderc.audit.flow import Flow, operation, unwrapped
from adderc.audit.numbers import CREATORS, NORMS, line_of

SOFTMAX = ("softmax", "_softmax")
ACTIVATIONS = ("relu", "gelu", "silu", "tanh", "sigmoid", "leaky_relu", "elu", "softplus",
               "hardtanh", "relu6", "mish", "abs", "clamp", "clamp_min", "step", "heaviside")
PRODUCTS = ("matmul", "bmm", "mm", "baddbmm", "einsum")
ATTENTION = "scaled_dot_product_attention"
ORDER = ("embedding", "positions", "norms", "attention Q", "attention K", "attention V",
         "attention O", "FFN in", "FFN gate", "FFN out", "head", "other")
LOOKUPS = ("embedding", "index", "index_select", "gather")
SLICES = ("slice", "select", "narrow", "index", "index_select")


def component_in(flow: Flow, name: str) -> tuple[str, ...]:
    """The components that read this value, in their usual order."""
    found = {part for value, reader in flow.crossings(name)
             for part in _parts(flow, value, reader)}
    return tuple(sorted(found, key=ORDER.index))


def _parts(flow: Flow, value: str, reader: str) -> list[str]:
    node = flow.nodes[reader]
    kind = operation(node)
    if kind in LOOKUPS and node.args and node.args[0] is flow.nodes[value]:
        return ["embedding"]
    if flow.is_signal(value):
        return ["positions"]
    if kind in NORMS or (kind in ("mul", "add") and _after_norm(flow, node)):
        return ["norms"]
    if kind == ATTENTION:
        return ["attention Q"]
    if direct := _reads(flow, node):
        return [direct]
    ahead = list(dict.fromkeys(_ahead(flow, reader)))
    inside = [part for part in ahead if part.startswith("attention ") and part[-1] in "QKV"]
    return inside or ahead[:1]


def _after_norm(flow: Flow, node: fx.Node) -> bool:
    """A gain or shift right behind a division by a root mean square."""
    for source in node.all_input_nodes:
        if source.name in flow.token:
            behind = flow.nodes[unwrapped(flow, source.name)]
            inner = [operation(flow.nodes[unwrapped(flow, s.name)])
                     for s in behind.all_input_nodes if s.op == "call_function"]
            if behind.op == "call_function" and operation(behind) in ("mul", "div") and any(
                i in ("rsqrt", "sqrt", "reciprocal", "pow") for i in inner
            ):
                return True
    return False


def _reads(flow: Flow, node: fx.Node) -> str:
    """The component of an operation by what it reads at once, through views only."""
    for source in node.all_input_nodes:
        if source.name not in flow.token:
            continue
        behind = flow.nodes[unwrapped(flow, source.name)]
        kind = operation(behind) if behind.op == "call_function" else ""
        if kind in ACTIVATIONS:
            return "FFN out"
        if applies_pattern(flow, behind, kind):
            return "attention O"
        if kind in LOOKUPS and not _is_slice(flow, behind):
            return "embedding"
    return ""


def applies_pattern(flow: Flow, node: fx.Node, kind: str) -> bool:
    """Whether an operation applies an attention pattern."""
    return kind == ATTENTION or (kind in PRODUCTS and bool(node.all_input_nodes)
                                 and _is_pattern(flow, node.all_input_nodes[0].name))


def _is_slice(flow: Flow, node: fx.Node) -> bool:
    """An index operation that takes parts of the token stream, not rows of a table."""
    return node.all_input_nodes[0].name in flow.token


def _ahead(flow: Flow, start: str) -> Iterator[str]:
    """What the value meets on its way to the logits, the nearest first."""
    order = {node: number for number, node in enumerate(flow.nodes)}
    todo, seen = [start], {start}
    while todo:
        todo.sort(key=order.__getitem__, reverse=True)
        here = todo.pop()
        if here in flow.traced.outputs:
            yield "head"
        for reader in flow.edges.successors(here):
            if reader not in flow.reach or reader in seen:
                continue
            verdict = _meets(flow, start, here, reader)
            if verdict:
                yield verdict
            else:
                seen.add(reader)
                todo.append(reader)


def _meets(flow: Flow, start: str, here: str, reader: str) -> str:
    node = flow.nodes[reader]
    kind = operation(node)
    arguments = [a for a in node.args if isinstance(a, fx.Node)]
    if kind == "baddbmm":  # the sum's first term is the mask
        arguments = arguments[1:]
    place = next((n for n, a in enumerate(arguments) if a.name == here), 0)
    both = [a.name for a in arguments[:2]]
    mixing = len(both) == 2 and all(name in flow.token for name in both)
    if kind == ATTENTION:
        return f"attention {'QKV'[min(place, 2)]}"
    if kind in PRODUCTS and len(both) == 2 and _is_pattern(flow, both[0]) and place == 1:
        return "attention V"
    if kind in PRODUCTS and mixing:
        return f"attention {'QK'[min(place, 1)]}"
    if kind in (*SOFTMAX, "exp"):
        return "attention Q"
    if kind in ACTIVATIONS:
        return "FFN in"
    if kind in ("mul", "mul_") and mixing and place == 1:
        return "FFN gate"
    if kind in ("add", "add_", "copy_") and mixing and _is_residual(flow, *both):
        return _behind(flow, start)
    return ""


def _is_residual(flow: Flow, left: str, right: str) -> bool:
    """x + f(x): one of the two went into the other."""
    first, second = unwrapped(flow, left), unwrapped(flow, right)
    return first in nx.ancestors(flow.edges, right) or second in nx.ancestors(flow.edges, left)


def _is_pattern(flow: Flow, name: str) -> bool:
    """Whether a value is an attention pattern: a softmax, perhaps masked or scaled again."""
    for _ in range(8):
        node = flow.nodes[unwrapped(flow, name)]
        if node.op != "call_function":
            return False
        kind = operation(node)
        if kind in SOFTMAX:
            return True
        if kind == "div":  # a softmax written out
            numerator = node.args[0]
            return isinstance(numerator, fx.Node) and operation(numerator) == "exp"
        if kind not in ("masked_fill", "slice", "select", "dropout", "mul", "where"):
            return False
        name = node.all_input_nodes[0].name
    return False


def _behind(flow: Flow, start: str) -> str:
    """What an operation that ends in the residual stream reads from."""
    todo, seen = [start], {start}
    while todo:
        node = flow.nodes[todo.pop(0)]
        kind = operation(node) if node.op == "call_function" else ""
        if kind in ACTIVATIONS:
            return "FFN out"
        if applies_pattern(flow, node, kind):
            return "attention O"
        if kind in LOOKUPS and not _is_slice(flow, node):
            return "embedding"
        for source in node.all_input_nodes:
            if source.name in flow.token and source.name not in seen:
                seen.add(source.name)
                todo.append(source.name)
    return "other"


def source_line(flow: Flow, name: str, path: str) -> int:
    """The first line of the file that uses a value together with tokens."""
    lines = [line_of(flow.nodes[reader], path) for _, reader in flow.crossings(name)]
    return min((line for line in lines if line), default=0)


# ---------------------------------------------------------------- weight tensors


def weight_tensors(flow: Flow) -> dict[tuple[str, str], torch.Tensor]:
    """The materialised weights that the token stream reads, one for each operation that
    reads one; a tied matrix comes once for each of its places.

    Position signals of the code are left out, learned ones count with their whole table;
    what only scales or shifts attention scores [T, T] is no weight matrix.
    """
    found: dict[tuple[str, str], torch.Tensor] = {}
    for name in flow.nodes:
        if name in flow.token or name not in flow.reach:
            continue
        readers = [r for r in flow.edges.successors(name) if r in flow.token and r in flow.reach
                   and _sequence_axes(flow, r) < 2]
        base = unwrapped(flow, name)
        if not readers or (flow.is_signal(name) and name not in flow.stateful):
            continue
        if flow.is_signal(name):
            base = _table(flow, base)
        value = flow.values.get(base)
        if value is None or not value.is_floating_point() or _is_filler(flow, base, value):
            continue
        if bool(torch.isfinite(value).all()):
            found |= {(base, reader): value for reader in readers}
    return found


def position_rows(flow: Flow) -> int:
    """Elements of the fixed position tables that are added to the residual stream."""
    total, seen = 0, set()
    for name in flow.nodes:
        if name in flow.token or name in flow.stateful or not flow.is_signal(name):
            continue
        adds = any(r in flow.token and operation(flow.nodes[r]) in ("add", "add_")
                   for r in flow.edges.successors(name) if r in flow.reach)
        base = _table(flow, unwrapped(flow, name))
        if adds and base not in seen and _sequence_axes(flow, name) == 1:
            seen.add(base)
            total += flow.values[base].numel()
    return total


def _sequence_axes(flow: Flow, name: str) -> int:
    return sum(size == flow.length for size in flow.shapes.get(name, ()))


def _table(flow: Flow, name: str) -> str:
    """The table that a slice was taken from."""
    while flow.nodes[name].op == "call_function" and operation(flow.nodes[name]) in (
        *SLICES, "embedding"
    ):
        name = unwrapped(flow, flow.nodes[name].all_input_nodes[0].name)
    return name


def _is_filler(flow: Flow, name: str, value: torch.Tensor) -> bool:
    """Zeros for padding, ones for broadcasting, literals without an axis."""
    node = flow.nodes[name]
    if name in flow.stateful:
        return False
    if node.op == "call_function" and operation(node) in (*CREATORS, "arange", "scalar_tensor"):
        return not (nx.ancestors(flow.edges, name) & set(flow.traced.held))
    return value.ndim == 0 or not bool(value.any())
