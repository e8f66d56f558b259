"""Questions about a circuit as a graph: depth, liveness, affine forms.

Takes: `Circuit`. Gives: `depths`, `live`, `form_of`, `as_networkx`.
May import: ir.form, ir.ops.
"""

from __future__ import annotations

import networkx as nx

from adderc.ir.form import Form
from adderc.ir.ops import Affine, Circuit, Step, arguments


def as_networkx(circuit: Circuit) -> nx.DiGraph:
    """Edges run from an argument to the node that reads it; nodes carry their `Node`."""
    graph = nx.DiGraph()
    for node in circuit.nodes:
        graph.add_node(node.name, node=node)
        graph.add_edges_from((argument, node.name) for argument in arguments(node.op))
    return graph


def depths(circuit: Circuit) -> dict[str, int]:
    """Per node, the number of feed-forward layers it needs before it is known."""
    depth: dict[str, int] = {}
    for node in circuit.nodes:
        below = max((depth[name] for name in arguments(node.op)), default=0)
        depth[node.name] = below + isinstance(node.op, Step)
    return depth


def live(circuit: Circuit) -> Circuit:
    """The circuit without nodes that the decode does not need."""
    needed = {circuit.nodes[-1].name}
    for node in reversed(circuit.nodes):
        if node.name in needed:
            needed.update(arguments(node.op))
    return Circuit(tuple(node for node in circuit.nodes if node.name in needed))


def form_of(circuit: Circuit, name: str) -> Form:
    """A node as an affine form over nodes that are not affine themselves."""
    known: dict[str, Form] = {}

    def read(name: str) -> Form:
        if name not in known:
            op = circuit[name].op
            known[name] = Form.of(name) if not isinstance(op, Affine) else Form.total(
                ((read(argument), factor) for argument, factor in op.terms), op.constant)
        return known[name]

    return read(name)


def decoded(circuit: Circuit) -> Form:
    """The decoded quantity as an affine form over sources and steps."""
    return form_of(circuit, circuit.decode.argument)
