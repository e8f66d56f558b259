"""Puts every constant of a traced forward pass into its class.

Takes: a `Flow`, the held tensors, where they came from. Gives: `AuditConstant` records.
May import: results, audit.flow, audit.holders, audit.numbers, audit.patterns, audit.trace.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from adderc.audit.flow import Flow, only_index, operation, varies_by_position
from adderc.audit.holders import Held, plain, stored_numbers
from adderc.audit.made import made_numbers
from adderc.audit.numbers import SELECTORS, Number, line_of, numbers_of, reaches_softmax
from adderc.audit.patterns import magnitude, magnitudes, recognise, recognise_signal
from adderc.audit.recording import Origin
from adderc.audit.trace import evaluate
from adderc.results import AuditConstant

HIDDEN, POSITIONAL = "hidden constant", "positional"
SATURATING = "saturating: a deeper one gives the same logits"
DEEP_MASK = -100.0
SMALL_EFFECT = 0.05
MOST_SHOWN = 64
FEW_NUMBERS = 6


@dataclass
class Constants:
    """What was found: records in order, and the counted magnitudes of both classes."""

    records: list[AuditConstant] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def counted(self, role: str) -> set[float]:
        """Distinct magnitudes of one class."""
        return {size for record in self.records if record.role == role
                for size in map(magnitude, record.values)}


@dataclass(frozen=True)
class Subject:
    """One traced call with the tensors it ran on."""

    flow: Flow
    held: Sequence[Held]
    origins: Sequence[Origin | None]
    arguments: list[Tensor]
    tokens: list[bool]
    path: str
    longest: int
    literal_places: dict[str, int] = field(default_factory=dict)

    def run(self, **changes: Any) -> list[Tensor]:
        """The outputs of the graph, with changes as `evaluate` takes them."""
        tensors = changes.pop("held", [item.tensor for item in self.held])
        return evaluate(self.flow.traced, tensors, self.arguments, **changes)

    def saturated(self, *changes: dict[str, Any]) -> bool:
        """Whether every change leaves all outputs as they are, as far as it can be made.

        A change that cannot be made, or gives no numbers at all, says nothing.
        """
        before, shown = self.run(), False
        for change in changes:
            try:
                after = self.run(**change)
            except (RuntimeError, TypeError):
                continue
            if any(bool(torch.isnan(t).any()) for t in after):
                continue
            shown = True
            if not all(torch.equal(b, a) for b, a in zip(before, after, strict=True)):
                return False
        return shown

    def effect(self, **changes: Any) -> float:
        """How far a change moves the outputs, relative to the largest."""
        moved = 0.0
        for before, after in zip(self.run(), self.run(**changes), strict=True):
            size = float(before.double().abs().max()) if before.numel() else 0.0
            far = float((after.double() - before.double()).abs().max()) if size else 0.0
            moved = max(moved, far / size if size else 0.0)
        return moved


def classify(subject: Subject) -> Constants:
    """Every number that is no declared parameter, in the order of the graph."""
    found = Constants()
    flow = subject.flow
    for name, number in flow.traced.held.items():
        item, origin = subject.held[number], subject.origins[number]
        if origin is not None:
            found.records.extend(_derived(subject, name, item, origin))
        elif not item.is_parameter:
            line = _reader_line(subject, name)
            found.records.append(_tensor(subject, name, item.tensor, item.kind, item.name, line))
    for name, number in flow.traced.arguments.items():
        if not subject.tokens[number]:
            line = _reader_line(subject, name)
            found.records.append(_tensor(subject, name, subject.arguments[number],
                                         "argument made by add", name, line))
    for name, tensor in flow.traced.constants.items():
        line = _reader_line(subject, name)
        where = f"line {line}" if line else name
        found.records.append(_tensor(subject, name, tensor, "tensor literal", where, line))
    written = numbers_of(flow, subject.longest, subject.path)
    for scalar in [*written, *made_numbers(flow, written, subject.longest, subject.path)]:
        found.records.append(_scalar(subject, scalar))
    return found


# ---------------------------------------------------------------- scalars


def _scalar(subject: Subject, number: Number) -> AuditConstant:
    node = subject.flow.nodes[number.node]
    role, note = number.role, number.note
    if role == "epsilon" and subject.effect(
        changed={(number.node, number.path): number.value / 2}
    ) > SMALL_EFFECT:
        role, note = "", "an epsilon that the logits depend on"
    if not role and _fills_a_mask(subject, number):
        role, note = "mask fill", SATURATING
    if not role:
        role = POSITIONAL if _feeds_positions(subject, number) else HIDDEN
    form = f"{number.argument} of {operation(node)}" if number.path else "made value"
    where = f"line {number.line}" if number.line else number.node
    return AuditConstant((abs(number.value),), role, f"scalar literal ({form})", where,
                         number.line, note)


def _feeds_positions(subject: Subject, number: Number) -> bool:
    """All its ways lead through values that vary by position, and so does its effect."""
    crossings = subject.flow.crossings(number.node)
    if not _only_signals(subject.flow, crossings):
        return False
    if not number.path:
        return True
    moved = _moved(subject, number)
    effects = []
    for name, _ in crossings:
        before, after = subject.flow.values.get(name), moved.get(name)
        if before is None or after is None or before.shape != after.shape:
            return True
        change = torch.nan_to_num(plain(after)) - torch.nan_to_num(plain(before))
        if bool(change.any()):
            effects.append(varies_by_position(change, subject.flow.length))
    return all(effects)


def _moved(subject: Subject, number: Number) -> dict[str, Tensor]:
    """The position signals with this number half as large again."""
    seen: dict[str, Tensor] = {}
    names = {name for name, _ in subject.flow.crossings(number.node)}

    def watch(node: object, value: object) -> None:
        name = getattr(node, "name", "")
        if name in names and isinstance(value, Tensor):
            seen[name] = value.clone()

    try:
        subject.run(changed={(number.node, number.path): number.value * 1.5}, watch=watch)
    except (RuntimeError, IndexError, ValueError, TypeError):
        return {}
    return seen


def _only_signals(flow: Flow, crossings: list[tuple[str, str]]) -> bool:
    return bool(crossings) and all(flow.is_signal(value) for value, _ in crossings)


def _fills_a_mask(subject: Subject, number: Number) -> bool:
    """A large negative number in a mask that twice it, or -inf, could replace."""
    if number.value > DEEP_MASK or not number.path:
        return False
    if not reaches_softmax(subject.flow, number.node):
        return False
    kind = operation(subject.flow.nodes[number.node])
    if number.node in subject.flow.token and kind not in SELECTORS:
        return False
    where = (number.node, number.path)
    return subject.saturated({"changed": {where: 2 * number.value}},
                             {"changed": {where: -math.inf}})


# ---------------------------------------------------------------- tensors


def _tensor(
    subject: Subject, name: str, tensor: Tensor, form: str, where: str, line: int
) -> AuditConstant:
    """A tensor that is no parameter, by what its values are and where they go."""
    flow = subject.flow
    values = stored_numbers(tensor)
    sizes = magnitudes(values)
    table = plain(tensor).numpy()

    def record(role: str, numbers: tuple[float, ...] = (), note: str = "") -> AuditConstant:
        return AuditConstant(numbers, role, form, where, line, note)

    if name not in flow.reach:
        return record("unused", sizes[:MOST_SHOWN], "does not reach the logits")
    if tensor.dtype == torch.bool:
        return record("structural", note="a mask")
    if only_index(flow, name):
        return record("index", note="used as an index only")
    if not sizes:
        filled = any(math.isinf(v) for v in values)
        return record("mask fill" if filled else "structural", note="" if filled else "0 and ±1")
    pattern = recognise(table, subject.longest)
    if pattern is not None and not pattern.numbers:
        return record("squaring" if "squared" in pattern.name else "structural",
                      note=pattern.name)
    if _is_mask_tensor(subject, name, tensor):
        return record("mask fill", note=SATURATING)
    if _only_signals(flow, flow.crossings(name)):
        signal = pattern or recognise_signal(table)
        stored = f"{len(values)} elements, counted as stored" if len(values) > 1 else ""
        note = signal.name if signal else stored
        return record(POSITIONAL, signal.numbers if signal else sizes, note)
    if pattern is not None:
        return record(HIDDEN, pattern.numbers, pattern.name)
    return record(HIDDEN, sizes, "counted as stored" if len(values) > 1 else "")


def _derived(
    subject: Subject, name: str, item: Held, origin: Origin
) -> list[AuditConstant]:
    """The numbers that went into a tensor computed by the constructor."""
    if name not in subject.flow.reach or not origin.numbers:
        return []
    positional = _only_signals(subject.flow, subject.flow.crossings(name))
    if len(origin.numbers) > FEW_NUMBERS and not origin.held:  # filled element by element
        return [_tensor(subject, name, item.tensor, item.kind, item.name,
                        _reader_line(subject, name))]
    made = f"computed from {', '.join(origin.held)}" if origin.held else "computed"
    return [AuditConstant(
        magnitudes(origin.numbers), POSITIONAL if positional else HIDDEN,
        f"number in the constructor of {item.name}", item.name, 0, made)]


def _is_mask_tensor(subject: Subject, name: str, tensor: Tensor) -> bool:
    traced = subject.flow.traced
    if not tensor.is_floating_point() or tensor.layout != torch.strided:
        return False
    deep = tensor <= DEEP_MASK
    rest = tensor[~deep]
    if not bool(deep.any()) or bool((rest != 0).any()):
        return False
    if not reaches_softmax(subject.flow, name):
        return False
    changes: list[dict[str, Any]] = []
    for other in (2 * tensor, tensor.masked_fill(deep, -math.inf)):
        if name in traced.constants:
            changes.append({"constants": {**traced.constants, name: other}})
        elif name in traced.held:
            own = [item.tensor for item in subject.held]
            own[traced.held[name]] = other
            changes.append({"held": own})
    return subject.saturated(*changes)


def _reader_line(subject: Subject, name: str) -> int:
    for reader in subject.flow.edges.successors(name):
        if line := line_of(subject.flow.nodes[reader], subject.path):
            return line
    return 0
