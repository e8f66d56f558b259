"""The second count: from the traced graph of a forward pass and nothing else.

Takes: a forward function, one call of it, the held tensors. Gives: `GraphCount`.
May import: results and the files of this room that look at graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from adderc.audit.classify import HIDDEN, POSITIONAL, Constants, Subject, classify
from adderc.audit.components import (
    component_in,
    position_rows,
    source_line,
    weight_tensors,
)
from adderc.audit.flow import Flow, build_flow, operation
from adderc.audit.holders import Held, stored_numbers
from adderc.audit.literals import Literals
from adderc.audit.numbers import line_of
from adderc.audit.recording import Origin
from adderc.audit.trace import trace
from adderc.errors import Undecided
from adderc.results import AuditConstant, AuditLeaf, AuditNote, Counts

CHANCE = ("rand", "normal", "bernoulli", "multinomial", "uniform", "native_dropout", "poisson")


@dataclass(frozen=True)
class GraphCount:
    """What the graph of one call says; `subject` is kept for further questions."""

    counts: Counts
    leaves: tuple[AuditLeaf, ...]
    constants: tuple[AuditConstant, ...]
    dead: tuple[AuditNote, ...]
    derived: tuple[AuditNote, ...]
    remarks: tuple[str, ...]
    subject: Subject


@dataclass(frozen=True)
class Example:
    """One call to trace: arguments, which tensor arguments carry tokens, limits of aranges."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    tensors: list[Tensor]
    tokens: list[bool]
    length: int
    vocabulary: int
    longest: int


def count_graph(
    function: Callable[..., Any],
    example: Example,
    held: Sequence[Held],
    origins: Sequence[Origin | None],
    path: str = "",
    literals: Literals | None = None,
) -> GraphCount:
    """Trace and count; Undecided where the call cannot be traced."""
    held = list(held)
    traced = trace(function, example.args, example.kwargs, held)
    flow = build_flow(traced, [h.tensor for h in held], example.tensors, example.tokens,
                      example.length)
    _refuse_chance(flow, path)
    if traced.logits not in flow.token:
        raise Undecided("not audited: no tensor of tokens leads to the logits, so the tokens "
                        "must go another way, as Python numbers")
    longest = max(example.vocabulary, example.longest)
    subject = Subject(flow, held, origins, example.tensors, example.tokens, path, longest)
    found = classify(subject)
    names: dict[int, str] = {}
    for name, number in traced.held.items():  # one that reaches the logits, if any does
        if number not in names or names[number] not in flow.reach:
            names[number] = name
    declared = [n for n, item in enumerate(held) if item.is_parameter and origins[n] is None]
    leaves = tuple(_leaf(flow, held[n], [names.get(k) for k in (*_made_from(n, held, origins), n)],
                         path) for n in declared)
    dead = tuple(note for n in declared if not any(
        names.get(k) in flow.reach for k in _made_from(n, held, origins))
        and (note := _dead(flow, held[n], names.get(n), path)))
    derived = tuple(_derived_note(item, origin) for item, origin in zip(held, origins, strict=True)
                    if origin is not None and item.is_parameter)
    return GraphCount(
        _counts(flow, leaves, found, literals, example), leaves,
        tuple(_named(record, literals) for record in found.records), dead, derived,
        _remarks(held, origins, traced.how), subject)


def _refuse_chance(flow: Flow, path: str) -> None:
    """Random numbers hold any number of weights behind one seed."""
    for node in flow.traced.calls():
        if node.name in flow.reach and operation(node).startswith(CHANCE):
            line = line_of(node, path)
            raise Undecided("not audited: the forward pass draws random numbers"
                            + (f" (line {line})" if line else ""))


def _counts(
    flow: Flow, leaves: tuple[AuditLeaf, ...], found: Constants, literals: Literals | None,
    example: Example,
) -> Counts:
    declared = sum(leaf.elements for leaf in leaves)
    weights = weight_tensors(flow)
    nonzero = sum(int(torch.count_nonzero(value)) for value in weights.values())
    dense = sum(value.numel() for value in weights.values()) + position_rows(flow)
    scalars = len({abs(v) for leaf in leaves for v in leaf.values} - {0.0})
    counts = Counts(declared, scalars, declared, declared, nonzero, dense)
    return counted_with(counts, found.records, literals)


def counted_with(
    counts: Counts, constants: Sequence[AuditConstant], literals: Literals | None
) -> Counts:
    """The same counts with other constants."""
    found = Constants(list(constants))
    hidden, positional = found.counted(HIDDEN), found.counted(POSITIONAL)
    count = literals.independent if literals is not None else len
    strict = counts.declared + count(hidden)
    both = counts.declared + count(hidden | positional)
    return replace(counts, strict=strict, strict_positional=max(both, strict))


def _made_from(number: int, held: Sequence[Held], origins: Sequence[Origin | None]) -> list[int]:
    """The tensors that the constructor computed from this one."""
    return [n for n, origin in enumerate(origins)
            if origin is not None and held[number].name in origin.held]


def _leaf(flow: Flow, item: Held, names: Sequence[str | None], path: str) -> AuditLeaf:
    """`names` are the graph's inputs that carry this leaf, itself or computed from it."""
    used = [name for name in names if name is not None and name in flow.reach]
    parts = list(dict.fromkeys(part for name in used for part in component_in(flow, name)))
    lines = [line for name in used if (line := source_line(flow, name, path))]
    return AuditLeaf(
        item.name, " + ".join(parts[:3]) or "not used", item.kind, tuple(item.tensor.shape),
        tuple(stored_numbers(item.tensor)), min(lines, default=0), "stored", "",
        tuple(item.paths[1:]))


def _dead(flow: Flow, item: Held, name: str | None, path: str) -> AuditNote | None:
    """Why a parameter cannot change the logits; None where it may."""
    if name is not None and name in flow.reach:
        return None
    node = flow.nodes.get(name or "")
    for reader in node.users if node is not None else ():
        if reader.name in flow.zeroed:
            return AuditNote(item.name, "multiplied by an exact 0", line_of(reader, path))
    below = set(flow.zeroed)
    for reader in node.users if node is not None else ():
        todo = [reader]
        while todo:
            here = todo.pop()
            if here.name in below:
                return AuditNote(item.name, "multiplied by an exact 0", line_of(here, path))
            todo += list(here.users)
    return AuditNote(item.name, "no path to the logits")


def _derived_note(item: Held, origin: Origin) -> AuditNote:
    sources = ", ".join(origin.held) or "shapes and aranges"
    return AuditNote(item.name, f"derived from {sources}")


def _named(record: AuditConstant, literals: Literals | None) -> AuditConstant:
    """With the way the number is written in the source, where it is one number."""
    if literals is None or not record.counted or len(record.values) != 1:
        return record
    form = literals.form(record.values[0], record.line)
    if not form or form == "literal":
        return record
    return replace(record, note=f"{record.note}; {form}" if record.note else form)


def _remarks(held: Sequence[Held], origins: Sequence[Origin | None], how: str) -> tuple[str, ...]:
    remarks = [f"traced by {how}"]
    stored = [item.name for item, origin in zip(held, origins, strict=True)
              if item.kind == "held tensor" and origin is None and item.tensor.numel() > 1]
    if stored:
        remarks.append("counted as stored: " + ", ".join(stored))
    return tuple(remarks)
