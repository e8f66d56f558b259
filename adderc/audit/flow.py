"""Data flow of a traced forward pass: what reaches the logits, and by which way.

Takes: a `Traced` graph and one run of it. Gives: `Flow`.
May import: audit.trace and torch.

An edge leads from a value to every operation that reads it; what an in-place operation
writes into a tensor reaches all later readers of the same memory. An operation whose result
is 0 whatever its inputs are (a product with an exact zero of the code that nothing is written
into) cuts its inputs off.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import networkx as nx
import torch
from torch import Tensor, fx

from adderc.audit.trace import Traced, evaluate

PRODUCTS = ("mul", "matmul", "mm", "bmm", "linear", "mul_", "dot", "mv", "einsum")
VIEWS = {
    "view", "reshape", "transpose", "t", "numpy_T", "permute", "unsqueeze", "squeeze", "expand",
    "alias", "detach", "detach_", "flatten", "unflatten", "contiguous", "clone", "to", "_to_copy",
    "lift_fresh_copy", "lift_fresh", "view_as", "expand_as", "type_as", "_unsafe_view", "mT",
    "swapaxes", "movedim", "float", "double", "squeeze_", "unsqueeze_", "t_", "transpose_",
}
KEPT_ELEMENTS = 1 << 20
INDEXED = {"index": 1, "index_put": 1, "index_put_": 1, "index_select": 2, "gather": 2,
           "embedding": 1, "scatter": 2, "take_along_dim": 1, "masked_select": 1}


@dataclass
class Flow:
    """The graph by node names, with the sets that the counts rest on.

    `reach`: on a way to the logits. `token`: depends on the tokens. `fixed`: depends on
    neither tokens nor held tensors. `written`: its memory is written into; `tainted`: with
    something that is not fixed. `values` of everything that is independent of tokens, as they
    are when they are made, of written ones as they are at the end.
    """

    traced: Traced
    nodes: dict[str, fx.Node]
    edges: nx.DiGraph
    length: int
    token: set[str] = field(default_factory=set)
    stateful: set[str] = field(default_factory=set)
    reach: set[str] = field(default_factory=set)
    zeroed: set[str] = field(default_factory=set)
    written: set[str] = field(default_factory=set)
    tainted: set[str] = field(default_factory=set)
    values: dict[str, Tensor] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def is_fixed(self, name: str) -> bool:
        """Made of Python numbers and shapes alone."""
        return not (name in self.token or name in self.stateful or name in self.tainted)

    def crossings(self, start: str) -> list[tuple[str, str]]:
        """Where what starts at `start` first meets the tokens: (value, operation) edges."""
        if start in self.token:
            return []
        found, seen, todo = [], {start}, [start]
        while todo:
            name = todo.pop()
            for reader in self.edges.successors(name):
                if reader not in self.reach:
                    continue
                if reader in self.token:
                    found.append((name, reader))
                elif reader not in seen:
                    seen.add(reader)
                    todo.append(reader)
        return found

    def is_signal(self, name: str) -> bool:
        """Does this value, which depends on no token, differ from position to position?"""
        value = self.values.get(name)
        if self.length < 2:
            return False
        if value is None:  # too large to be kept
            return name not in self.token and self.length in self.shapes.get(name, ())
        return varies_by_position(value, self.length)


def varies_by_position(value: Tensor, length: int) -> bool:
    """Whether some axis has the length of the sequence and the entries along it differ."""
    return any(
        size == length and not bool((value == value.narrow(axis, 0, 1)).all())
        for axis, size in enumerate(value.shape)
    )


def build_flow(
    traced: Traced, held: list[Tensor], arguments: list[Tensor], tokens: list[bool], length: int
) -> Flow:
    """The flow of one traced call; `tokens` says which arguments carry tokens."""
    nodes = {node.name: node for node in traced.graph.nodes}
    edges, writers = _edges(traced)
    flow = Flow(traced, nodes, edges, length, written=set(writers))
    inputs = [name for name, number in traced.arguments.items() if tokens[number]]
    flow.token = _downstream(flow.edges, inputs)
    flow.stateful = _downstream(flow.edges, traced.held)
    flow.tainted = {name for name, by in writers.items()
                    if any(w in flow.token or w in flow.stateful for w in by)}

    def watch(node: fx.Node, value: Any) -> None:
        if isinstance(value, Tensor):
            flow.shapes[node.name] = tuple(value.shape)
            if node.name not in flow.token and value.numel() <= KEPT_ELEMENTS:
                flow.values[node.name] = value if node.name in flow.written else value.clone()

    evaluate(traced, held, arguments, watch=watch)
    flow.zeroed = {name for name in nodes if _is_zero_product(flow, name)}
    for name in flow.zeroed:
        flow.edges.remove_edges_from(list(flow.edges.in_edges(name)))
    for output in traced.outputs:
        flow.reach |= {output} | nx.ancestors(flow.edges, output)
    return flow


def operation(node: fx.Node) -> str:
    """"mul" for aten.mul.Tensor; the bare name of any other call."""
    name = str(node.target)
    if name.startswith(("aten.", "prim.", "prims.")):
        return name.split(".")[1]
    return getattr(node.target, "__name__", name)


def reads_as_index(flow: Flow, name: str, reader: str) -> bool:
    """Whether an operation takes a value only to say where, not how much."""
    node = flow.nodes[reader]
    place = INDEXED.get(operation(node)) if node.op == "call_function" else None
    if place is None or place >= len(node.args):
        return False
    held, wanted = node.args[place], flow.nodes[name]
    inside = wanted in held if isinstance(held, list | tuple) else held is wanted
    return inside and node.args[0] is not wanted


def only_index(flow: Flow, name: str) -> bool:
    """Whether a fixed tensor is only ever used to say where, not how much."""
    todo, seen, used = [name], {name}, False
    while todo:
        here = todo.pop()
        for reader in flow.edges.successors(here):
            if reader not in flow.reach:
                continue
            if reads_as_index(flow, here, reader):
                used = True
            elif flow.is_fixed(reader) and flow.values.get(reader, torch.zeros(())).dtype in (
                torch.int64, torch.int32, torch.bool
            ):
                if reader not in seen:
                    seen.add(reader)
                    todo.append(reader)
            else:
                return False
    return used


def unwrapped(flow: Flow, name: str) -> str:
    """The value behind views, copies and casts."""
    while True:
        node = flow.nodes[name]
        if node.op != "call_function" or operation(node) not in VIEWS:
            return name
        name = node.all_input_nodes[0].name


def _downstream(edges: nx.DiGraph, starts: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for start in starts:
        if start not in found:
            found |= {start} | nx.descendants(edges, start)
    return found


def _edges(traced: Traced) -> tuple[nx.DiGraph, dict[str, list[str]]]:
    """Who reads what, and for each node whose memory is written into: by whom."""
    edges = nx.DiGraph()
    memory: dict[str, str] = {}  # node -> the node whose memory it looks at
    writers: dict[str, list[str]] = defaultdict(list)
    for node in traced.graph.nodes:
        if node.op == "output":
            continue
        edges.add_node(node.name)
        memory[node.name] = node.name
        if node.op != "call_function":
            continue
        for source in node.all_input_nodes:
            edges.add_edge(source.name, node.name)
            for writer in writers[memory[source.name]]:
                if writer != node.name:
                    edges.add_edge(writer, node.name)
        written = _written(node)
        if written is not None:
            root = memory[written.name]
            memory[node.name] = root
            writers[root].append(node.name)
        elif (viewed := _viewed(node)) is not None:
            memory[node.name] = memory[viewed.name]
    return edges, {name: writers[root] for name, root in memory.items() if writers[root]}


def _schema(node: fx.Node) -> Any:
    return getattr(node.target, "_schema", None)


def _written(node: fx.Node) -> fx.Node | None:
    """The argument that an in-place operation writes into."""
    schema = _schema(node)
    if schema is None or not schema.is_mutable:
        return None
    for position, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = _argument(node, position, argument.name)
            if isinstance(value, fx.Node):
                return value
    return None


def _viewed(node: fx.Node) -> fx.Node | None:
    """The argument whose memory the result may share."""
    schema = _schema(node)
    if schema is None:
        return None
    if operation(node) in VIEWS:
        return node.all_input_nodes[0] if node.all_input_nodes else None
    if any(result.alias_info is not None for result in schema.returns):
        for position, argument in enumerate(schema.arguments):
            value = _argument(node, position, argument.name)
            if argument.alias_info is not None and isinstance(value, fx.Node):
                return value
    return None


def _argument(node: fx.Node, position: int, name: str) -> Any:
    return node.args[position] if position < len(node.args) else node.kwargs.get(name)


def _is_zero_product(flow: Flow, name: str) -> bool:
    node = flow.nodes[name]
    if node.op != "call_function" or operation(node) not in PRODUCTS:
        return False
    for value in (*node.args[:2],):
        if isinstance(value, int | float) and value == 0:
            return True
        if (isinstance(value, fx.Node) and flow.is_fixed(value.name)
                and value.name not in flow.written):
            known = flow.values.get(value.name)
            if known is not None and known.numel() and not bool(torch.count_nonzero(known)):
                return True
    return False
