"""Resolves the names of an algorithm: what is defined, in which order, and seen where.

Takes: the algorithm part and the number format. Gives: `settle_algorithm` → `Algorithm`;
faults go to the caller's list. May import: errors, format, lang.
"""

from __future__ import annotations

import networkx as nx

from adderc.errors import FaultList, did_you_mean
from adderc.format.number import OPERAND_NAMES, NumberFormat
from adderc.lang.checked import Algorithm
from adderc.lang.linear import Definitions, mentions_index
from adderc.lang.places import check_places, opened
from adderc.lang.settle import constants_of
from adderc.lang.states import ANSWERS, PARTS, settle_states
from adderc.lang.syntax import (
    AlgorithmPart,
    Binary,
    Call,
    Digit,
    Expr,
    Name,
    Number,
    Sequence,
    Text,
    walk,
)

INTEGER_FUNCTIONS = {"min": 2, "max": 2, "abs": 1}
SIGNALS = ("token", "sin", "cos", "out")  # what the model part calls parts of the residual
RESERVED = (*OPERAND_NAMES, "s", "i", "width", "base", "operands", *INTEGER_FUNCTIONS, *SIGNALS)


def settle_algorithm(
    part: AlgorithmPart, number: NumberFormat, faults: FaultList
) -> Algorithm | None:
    """The algorithm with its quantities in an order of evaluation; None after a fault."""
    before = len(faults.faults)
    part, parts = settle_states(part, faults)
    if len(faults.faults) > before:
        return None
    quantities: dict[str, Expr] = {}
    for definition in part.definitions:
        if definition.name in RESERVED:
            faults.add(f"{definition.name!r} cannot be redefined", definition.span,
                       f"reserved names: {', '.join(RESERVED)}")
        elif definition.name in quantities:
            faults.add(f"{definition.name!r} is defined twice", definition.span)
        quantities[definition.name] = definition.value
    check_places(part, number, faults)
    for expr in (*(d.value for d in part.definitions), part.emit):
        _check_names(opened(expr), quantities, number, faults)
    if len(faults.faults) > before:
        return None
    order = _order(part, quantities, faults)
    if order is None:
        return None
    constants = tuple(constants_of(number).items())
    definitions = Definitions(tuple(quantities.items()), constants)
    return _algorithm(part, definitions, order, number, parts)


def _algorithm(
    part: AlgorithmPart, definitions: Definitions, order: tuple[str, ...], number: NumberFormat,
    parts: tuple[Expr, Expr] | None,
) -> Algorithm:
    seen = (part.emit, *dict(definitions.quantities).values())
    digits = [node for expr in seen for node in walk(expr) if isinstance(node, Digit)]
    return Algorithm(
        definitions=definitions,
        order=order,
        lines=tuple((d.name, d.span.line) for d in part.definitions),
        emit=part.emit,
        emit_line=part.emit.span.line,
        operand_offsets=tuple(sorted({d.offset for d in digits if d.name in number.names})),
        answer_offsets=tuple(sorted({d.offset for d in digits if d.name in ANSWERS})),
        uses_index=any(mentions_index(definitions, expr) for expr in seen),
        parts=parts,
        answer_parts=tuple(sorted({d.name for d in digits if d.name in ANSWERS})),
    )


def _check_names(
    expr: Expr, quantities: dict[str, Expr], number: NumberFormat, faults: FaultList
) -> None:
    known = {*quantities, "i", "width", "base", "operands"}
    for node in walk(expr):
        match node:
            case Name(name) if name in number.names or name == "s":
                faults.add(f"{name} needs an index", node.span, f"write {name}[i] or {name}[i-1]")
            case Name(name) if name not in known:
                faults.add(f"unknown name {name!r}", node.span,
                           did_you_mean(name, known) or f"known: {', '.join(sorted(known))}")
            case Digit():
                _check_digit(node, quantities, number, faults)
            case Number(value) if value.denominator != 1:
                faults.add(f"{value} is not an integer", node.span,
                           "quantities of an algorithm are integers; use div")
            case Binary("/"):
                faults.add("/ does not give an integer", node.span, "write div for floor division")
            case Binary("^", _, Number(value)) if value > 64 or value < 0:
                faults.add(f"power {value} is out of range: 0 to 64", node.span)
            case Binary("^", _, right) if not isinstance(right, Number):
                faults.add("a power needs a literal exponent", right.span)
            case Call(name, args, options):
                _check_call(node, name, len(args), bool(options), faults)
            case Text():
                faults.add("a token has no integer value", node.span)
            case Sequence():
                faults.add("a list is no quantity", node.span, "emit one digit")
            case _:
                pass


def _check_digit(
    node: Digit, quantities: dict[str, Expr], number: NumberFormat, faults: FaultList
) -> None:
    if node.name in ANSWERS:
        if node.offset >= 0:
            faults.add(f"s[i{node.offset:+d}] is not written yet at step i".replace("+0", ""),
                       node.span, "only s[i-1], s[i-2], … are known when digit i is written")
    elif node.name in quantities:
        faults.add(f"{node.name} is a quantity of step i and has no index", node.span,
                   "define another quantity with shifted digits, as prev = a[i-1] + b[i-1]")
    elif node.name not in number.names:
        known = (*number.names, "s")
        faults.add(f"{node.name!r} is neither an operand nor the answer", node.span,
                   did_you_mean(node.name, known) or f"known: {', '.join(known)}")
    if abs(node.offset) > 64:
        faults.add(f"offset {node.offset} is out of range: -64 to 64", node.span)


def _check_call(node: Call, name: str, count: int, options: bool, faults: FaultList) -> None:
    if name in PARTS:
        faults.add(f"{name} reads a state, and this algorithm writes digits", node.span,
                   "write states with emit (t mod base, t div base)")
    elif name not in INTEGER_FUNCTIONS:
        faults.add(f"unknown function {name!r} in an algorithm", node.span,
                   did_you_mean(name, INTEGER_FUNCTIONS)
                   or f"known: {', '.join(INTEGER_FUNCTIONS)}")
    elif options or (count != 1 if name == "abs" else count < 2):
        wanted = "one value" if name == "abs" else "two or more values"
        faults.add(f"{name} takes {wanted}", node.span)


def _order(
    part: AlgorithmPart, quantities: dict[str, Expr], faults: FaultList
) -> tuple[str, ...] | None:
    graph = nx.DiGraph()
    graph.add_nodes_from(quantities)
    for name, expr in quantities.items():
        for node in walk(expr):
            if isinstance(node, Name) and node.name in quantities:
                graph.add_edge(node.name, name)
    if not nx.is_directed_acyclic_graph(graph):
        cycle = [edge[0] for edge in nx.find_cycle(graph)]
        span = next(d.span for d in part.definitions if d.name == cycle[0])
        faults.add(f"{' and '.join(cycle)} are defined through each other" if len(cycle) > 1
                   else f"{cycle[0]} is defined through itself", span)
        return None
    written = [d.name for d in part.definitions]
    return tuple(nx.lexicographical_topological_sort(graph, key=written.index))

