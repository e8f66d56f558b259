"""Numbers made without writing one: picked out of aranges, summed from ones, taken from shapes.

Takes: a `Flow` and the numbers written in it. Gives: `made_numbers`.
May import: audit.flow, audit.holders, audit.numbers, audit.patterns.

A table that no literal went into is looked at where it meets the tokens or the weights. It
holds a number if all of it is one magnitude, if it was made of shapes and ones alone, or if
parts of a larger table were picked.
A whole arange, or a function of one, holds none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import networkx as nx
from torch import fx

from adderc.audit.flow import Flow, only_index, operation, reads_as_index
from adderc.audit.holders import plain
from adderc.audit.numbers import CREATORS, SPACES, Number, line_of
from adderc.audit.patterns import magnitude, magnitudes, recognise

PICKS = ("select", "index", "slice", "index_select", "gather", "narrow", "take", "diagonal",
         "split", "chunk", "unbind", "masked_select", "take_along_dim")
PICKED = "picked out of an arange or made of shapes"


def made_numbers(flow: Flow, written: Sequence[Number], longest: int, path: str) -> list[Number]:
    """Numbers that stand in fixed tables although none was written, each where it is used."""
    by_node: dict[str, set[float]] = {}
    for number in written:
        if number.role not in ("structural", "internal", "squaring"):
            by_node.setdefault(number.node, set()).add(magnitude(number.value))
    found: list[Number] = []
    for node in flow.traced.calls():
        if node.name not in flow.reach or not flow.is_fixed(node.name):
            continue
        sizes: tuple[float, ...] = ()
        if operation(node) in SPACES:
            sizes = _held(flow, node.name, longest)
        elif any(_takes_value(flow, node, reader) for reader in flow.edges.successors(node.name)):
            sizes = tuple(_unwritten(flow, node, by_node, longest))
        found += [Number(node.name, (), size, "value", line_of(node, path), "", PICKED)
                  for size in sizes]
        if sizes and operation(node) in SPACES:
            by_node[node.name] = set(sizes)
    return found


def _takes_value(flow: Flow, node: fx.Node, reader: str) -> bool:
    """Whether an operation on tokens or weights reads the numbers in a fixed table."""
    taker = flow.nodes[reader]
    return (reader in flow.reach and not flow.is_fixed(reader) and taker.op == "call_function"
            and operation(taker) not in CREATORS and not reads_as_index(flow, node.name, reader))


def _held(flow: Flow, name: str, longest: int) -> tuple[float, ...]:
    """The numbers that a table comes down to."""
    value = flow.values.get(name)
    if value is None:
        return ()
    table = plain(value)
    pattern = recognise(table.numpy(), longest)
    return magnitudes(table.flatten().tolist()) if pattern is None else pattern.numbers


def _unwritten(
    flow: Flow, node: fx.Node, by_node: dict[str, set[float]], longest: int
) -> Iterator[float]:
    value = flow.values.get(node.name)
    if value is None or flow.is_signal(node.name):
        return
    sizes = _held(flow, node.name, longest)
    if not sizes:
        return
    above = {node.name} | nx.ancestors(flow.edges, node.name)
    known = {size for name in above for size in by_node.get(name, ())}
    for name in above & set(flow.traced.constants):
        if not only_index(flow, name):
            known |= set(magnitudes(plain(flow.traced.constants[name]).flatten().tolist()))
    if set(sizes) <= known:
        return
    every = magnitudes(plain(value).flatten().tolist())
    if any(_picks(flow, name) for name in above):
        yield from (size for size in every if size not in known)
    elif not known and (len(every) == 1 or not _counts(flow, above)):
        yield from sizes


def _counts(flow: Flow, names: set[str]) -> bool:
    """Whether an arange or a literal table is among these values."""
    return any(name in flow.traced.constants or operation(flow.nodes[name]) == "arange"
               for name in names if flow.nodes[name].op != "output")


def _picks(flow: Flow, name: str) -> bool:
    """Whether an operation takes a part of a table that was computed."""
    node = flow.nodes[name]
    if node.op != "call_function" or operation(node) not in PICKS:
        return False
    source = node.all_input_nodes[0]
    if source.op != "call_function" or not flow.is_fixed(source.name):
        return False
    before, after = flow.values.get(source.name), flow.values.get(name)
    return before is None or after is None or after.numel() < before.numel()
