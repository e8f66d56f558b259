"""What a circuit must satisfy at each stage, checked between passes.

Takes: `Circuit` and a stage name. Gives: `check_circuit`, raising `IllFormed` with every
broken rule. A rule that breaks is a bug of the pass before, never a user's fault.
May import: ir.ops, ir.graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from adderc.ir.graph import depths
from adderc.ir.ops import (
    Affine,
    Circuit,
    Decode,
    Fetch,
    Index,
    Node,
    Power,
    Prefix,
    Product,
    Step,
    Total,
    Wave,
    arguments,
)


class IllFormed(AssertionError):
    """A pass broke the circuit."""


@dataclass(frozen=True)
class Limits:
    """What the model part allows: the number of feed-forward layers."""

    layers: int


Rule = Callable[[Circuit, Limits], list[str]]


def _order(circuit: Circuit, _: Limits) -> list[str]:
    """Names are unique and every argument stands before its reader."""
    seen: set[str] = set()
    wrong = []
    for node in circuit.nodes:
        wrong += [f"{node.name} reads {name} before it is known"
                  for name in arguments(node.op) if name not in seen]
        if node.name in seen:
            wrong.append(f"{node.name} occurs twice")
        seen.add(node.name)
    return wrong


def _one_decode(circuit: Circuit, _: Limits) -> list[str]:
    """There is one decode, and it comes last."""
    places = [at for at, node in enumerate(circuit.nodes) if isinstance(node.op, Decode)]
    return [] if places == [len(circuit.nodes) - 1] else [f"decode at {places}"]


def _per_node(test: Callable[[Node], str]) -> Rule:
    def rule(circuit: Circuit, _: Limits) -> list[str]:
        return [f"{node.name}: {reason}" for node in circuit.nodes if (reason := test(node))]

    rule.__doc__ = test.__doc__
    return rule


def _positive_fetch(node: Node) -> str:
    """A fetch has at least one target, and positive coefficients (softmax weights)."""
    if isinstance(node.op, Fetch) and (
        not node.op.targets or any(t.coefficient <= 0 for t in node.op.targets)
    ):
        return "a fetch needs positive coefficients"
    return ""


def _nonzero_terms(node: Node) -> str:
    """An affine form has no zero coefficient and names nothing twice."""
    if isinstance(node.op, Affine):
        names = [name for name, _ in node.op.terms]
        if len(set(names)) < len(names) or any(c == 0 for _, c in node.op.terms):
            return "an affine form has a zero or repeated term"
    return ""


def _settled_step(node: Node) -> str:
    """A step is 0 in some context and 1 in another."""
    if isinstance(node.op, Step) and node.values and len(node.values) != 2:
        return f"a step has the values {node.values}"
    return ""


def _sound_places(node: Node) -> str:
    """A place value has a ratio of at least 2 and counts each number once."""
    match node.op:
        case Prefix(names, ratio, _):
            counted = names
        case Power(plus, minus, ratio):
            counted = (*plus, *minus)
        case _:
            return ""
    sound = ratio >= 2 and counted and len(set(counted)) == len(counted)
    return "" if sound else "a place value needs a ratio and numbers that differ"


def _one_position(node: Node) -> str:
    """Nothing is multiplied at every position any more."""
    return "a product over positions" if isinstance(node.op, Power | Product | Total) else ""


def _no_index(node: Node) -> str:
    """The index has become waves."""
    return "the index is no signal of a model" if isinstance(node.op, Index) else ""


def _no_wave(node: Node) -> str:
    """No wave yet: the period is not known before alignment."""
    return "a wave before alignment" if isinstance(node.op, Wave) else ""


def _depth(circuit: Circuit, limits: Limits) -> list[str]:
    """No step lies deeper than the model has layers."""
    if _order(circuit, limits):
        return []  # there is no depth then
    return [f"{name} needs layer {depth}" for name, depth in depths(circuit).items()
            if depth > limits.layers]


WELL_FORMED: tuple[Rule, ...] = (
    _order, _one_decode, _per_node(_positive_fetch), _per_node(_nonzero_terms),
    _per_node(_settled_step), _per_node(_sound_places),
)
STAGES: dict[str, tuple[Rule, ...]] = {
    "lowered": (*WELL_FORMED, _per_node(_no_wave)),
    "places": (*WELL_FORMED, _per_node(_no_wave), _per_node(_one_position)),
    "spread": (*WELL_FORMED, _per_node(_no_wave)),
    "flat": (*WELL_FORMED, _per_node(_no_index), _depth),
}


def check_circuit(circuit: Circuit, stage: str, layers: int = 10**6) -> Circuit:
    """`circuit` itself, if every rule of `stage` holds."""
    broken = [text for rule in STAGES[stage] for text in rule(circuit, Limits(layers))]
    if broken:
        raise IllFormed(f"after {stage}: " + "; ".join(broken))
    return circuit
