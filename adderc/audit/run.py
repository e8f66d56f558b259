"""Audits one model: a compiled one by two counts, a Python file by its traced graph.

Takes: a module or a `PythonModel`, sums to sample with. Gives: `AuditReport`.
May import: errors, results, format, nn, weights, the rest of this room.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adderc.audit import rules as rule
from adderc.audit.capture import (
    Call,
    Capture,
    logits_of,
    tensors_in,
    token_inputs,
    watch_add,
)
from adderc.audit.driver import inspect_add, inspect_forward
from adderc.audit.graphcount import Example, GraphCount, count_graph
from adderc.audit.holders import Held, find_held
from adderc.audit.literals import Literals
from adderc.audit.recording import Origin, Recording, storage_key
from adderc.audit.sampling import Answers, find_duplicates, find_insensitive
from adderc.audit.structure import StructureCount, count_structure
from adderc.audit.trace import evaluate
from adderc.errors import InputError, Undecided
from adderc.format.prompt import Format
from adderc.nn.greedy import decode_greedy
from adderc.nn.thirdparty import MODULE_NAME, PythonModel, ThirdPartyModule, callable_of, run_add
from adderc.results import AuditNote, AuditReport, Counts, RuleVerdict

LONG_SEQUENCE = 400
SCORES = 20_000_000  # attention scores that one sampled question may cost
SLOW_SUMS = 40  # sums for a model that can only be asked one at a time
CLAIMS = ("params", "parameters", "param_count", "n_params", "num_params", "total_params")
Sums = Sequence[tuple[int, ...]]


# ---------------------------------------------------------------- compiled models


def audit_structure(structure: Any, name: str) -> AuditReport:
    """The cost of a structure before it has values."""
    found = count_structure(structure, None)
    return AuditReport(name, "spec", found.counts, found.leaves, found.constants,
                       choices=found.choices, components=_component_totals(found.leaves))


def audit_compiled(module: Any, name: str, sums: Sums = (), kind: str = "compiled",
                   with_rules: bool = False) -> AuditReport:
    """Two independent counts of a module of ours; `agrees` says whether they are the same."""
    own = count_structure(module.structure, module.leaf_values())
    held = find_held(module, {}, "")
    second = count_graph(module, _example(module, module.format), held, [None] * len(held))
    differences = compare_counts(own, second)
    few = sums[: sample_size(module.format)]
    answers, total = _batch_answers(module, module.format, few)
    dead = {note.name for note in second.dead}
    remarks = second.remarks
    if sums and not few:
        remarks = (*remarks, "no sums were sampled, the sequences being too long")
    return AuditReport(
        name, kind, own.counts, own.leaves, own.constants, second.dead,
        tuple(find_insensitive(held, answers, total, dead)), tuple(find_duplicates(held)),
        choices=own.choices, components=_component_totals(own.leaves),
        rules=_rules_of_ours(module, second) if with_rules else (),
        remarks=remarks,
        second="; ".join(differences) or "the traced graph gives the same counts",
        agrees=not differences)


def sample_size(form: Format) -> int:
    """How many sums are sampled: fewer of long ones, none beyond LONG_SEQUENCE tokens."""
    return 0 if form.length > LONG_SEQUENCE else max(64, SCORES // form.length**2)


def compare_counts(own: StructureCount, second: GraphCount) -> list[str]:
    """Every difference between the two counts, with both lists; [] where they agree."""
    found = []
    for field in fields(Counts):
        ours, theirs = getattr(own.counts, field.name), getattr(second.counts, field.name)
        if ours != theirs:
            found.append(f"{field.name}: {ours} by expressions, {theirs} by the traced graph")
    mine = sorted((leaf.name, leaf.shape, leaf.values) for leaf in own.leaves)
    its = sorted((leaf.name, leaf.shape, leaf.values) for leaf in second.leaves)
    if mine != its:
        found.append("leaves by expressions: " + ", ".join(f"{n} {list(s)}" for n, s, _ in mine)
                     + "; by the traced graph: " + ", ".join(f"{n} {list(s)}" for n, s, _ in its))
    for role in ("hidden constant", "positional"):
        left = sorted({v for c in own.constants if c.role == role for v in c.values})
        right = sorted({v for c in second.constants if c.role == role for v in c.values})
        if len(left) != len(right) or not np.allclose(left, right, rtol=1e-4):
            found.append(f"{role}s by expressions: {_numbers(left)}; by the traced graph: "
                         f"{_numbers(right)}")
    return found


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{v:.7g}" for v in values) or "none"


def _example(module: Any, form: Format) -> Example:
    """A prompt with part of its answer, of a length that no tensor of the model has."""
    operands = [_sample(form, seed) for seed in range(1)]
    prompts = form.encode(operands)
    answers = decode_greedy(module, form, prompts)
    tokens = torch.from_numpy(np.concatenate([prompts, np.maximum(answers, 0)], axis=1))
    sizes = {size for item in find_held(module, {}, MODULE_NAME) for size in item.tensor.shape}
    sizes |= {form.vocabulary, getattr(getattr(module, "structure", None), "d_model", 0)}
    lengths = range(tokens.shape[1] - 1, form.prompt_length - 1, -1)
    length = next((n for n in lengths if n not in sizes), tokens.shape[1] - 1)
    chosen = tokens[:, :length].contiguous()
    return Example((chosen,), {}, [chosen], [True], length, form.vocabulary, form.length)


def _sample(form: Format, seed: int) -> tuple[int, ...]:
    chance = np.random.default_rng(seed)
    top = form.number.maximum
    return tuple(int(chance.random() * top) for _ in range(form.number.operands))


def _batch_answers(module: Any, form: Format, sums: Sums) -> tuple[Answers, int]:
    """Answers by teacher-forced passes over the model's own first answers, all places at once.

    As long as every token is the one written before, the greedy text is the same.
    """
    if not sums:
        return (lambda first, last: []), 0
    prompts = form.encode(list(sums))
    answers = np.maximum(decode_greedy(module, form, prompts), 0)
    whole = torch.from_numpy(np.concatenate([prompts, answers[:, :-1]], axis=1))
    start = form.prompt_length - 1

    def ask(first: int, last: int) -> list[object]:
        with torch.inference_mode():
            logits = logits_of(module(whole[first:last]))
        assert logits is not None
        return logits[:, start:].argmax(-1).tolist()

    return ask, len(sums)


def _rules_of_ours(module: Any, second: GraphCount) -> tuple[RuleVerdict, ...]:
    tokens = second.subject.arguments[0]

    def run(given: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = module(given)
        return logits

    return (
        rule.attention_rule(second.subject.flow),
        rule.autoregressive_rule(
            run, tokens, range(module.format.prompt_length, tokens.shape[1])),
        rule.loop_rule(None),
        rule.arithmetic_rule((), compiled=True),
    )


def _component_totals(leaves: Sequence[Any]) -> tuple[tuple[str, int], ...]:
    totals: dict[str, int] = {}
    for leaf in leaves:
        totals[leaf.component] = totals.get(leaf.component, 0) + leaf.elements
    return tuple(totals.items())


# ---------------------------------------------------------------- Python files


def audit_python(
    python: PythonModel, recording: Recording, form: Format | None, sums: Sums = (),
    with_rules: bool = False,
) -> AuditReport:
    """The audit of a third-party model from one traced call of it.

    The call is taken from the file's own `add`; without one, from `form`. Undecided where
    nothing can be called or traced.
    """
    model = python.model
    if isinstance(model, torch.nn.Module):
        model.eval()
    literals = Literals(python.source)
    held = find_held(model, python.namespace, MODULE_NAME)
    capture, function, example = _captured(python, form, held)
    origins = _origins(held, recording)
    found = count_graph(function, example, held, origins, python.path, literals)
    check_trace(found, capture, [item.tensor for item in held])
    findings = (*inspect_add(python.source), *inspect_forward(python.source))
    declared = [h for h, o in zip(held, origins, strict=True) if h.is_parameter and o is None]
    answers, total = _foreign_answers(python, form, sums)
    dead = {note.name for note in found.dead}
    claimed = next((v for k in CLAIMS if isinstance(v := python.metadata.get(k), int)), None)
    return AuditReport(
        python.name, "python", found.counts, found.leaves, found.constants, found.dead,
        tuple(find_insensitive(declared, answers, total, dead | _sources(origins))),
        tuple(find_duplicates(declared)), found.derived, findings,
        rules=_rules_of_theirs(python, capture, found, findings, claimed) if with_rules else (),
        components=_component_totals(found.leaves), remarks=found.remarks, claimed=claimed)


def check_trace(found: GraphCount, capture: Capture | None, own: list[Tensor]) -> None:
    """The graph must do what the model did, on other tokens of the same shape as well.

    Undecided where it does not: something went past the trace.
    """
    traced, arguments = found.subject.flow.traced, found.subject.arguments
    shapes = [tensor.shape for tensor in arguments]
    for call in capture.calls if capture is not None else ():
        given = tensors_in(call, own)
        if [tensor.shape for tensor in given] != shapes:
            continue
        logits = evaluate(traced, own, given)
        if logits.shape != call.logits.shape or not torch.allclose(
            logits.double(), call.logits.double(), rtol=1e-4, atol=1e-6, equal_nan=True
        ):
            raise Undecided("not audited: the traced graph does not repeat what the model does",
                            "something in the forward pass goes past the trace: state that it "
                            "keeps, numpy, or Python numbers made from tokens")


def _captured(
    python: PythonModel, form: Format | None, held: list[Held]
) -> tuple[Capture | None, Any, Example]:
    if python.add is not None:
        own = [item.tensor for item in held]
        capture = watch_add(python, _probe_sums(python, form), own)
        call, length = _choose(capture, held)
        tensors, tokens = tensors_in(call, own), token_inputs(capture, call, own)
        longest = max(_length(c) for c in capture.calls)
        vocabulary = int(call.logits.shape[-1])
        return capture, capture.function, Example(
            call.args, call.kwargs, tensors, tokens, length, vocabulary, longest)
    if form is None:
        raise Undecided(f"not audited: {python.path} has no add(model, a, b), so that the shape "
                        "of its input is not known", "give its number and format parts with "
                        "--format SPEC")
    module = ThirdPartyModule(python, form)
    return None, callable_of(python), _example(module, form)


def _probe_sums(python: PythonModel, form: Format | None) -> list[tuple[int, ...]]:
    if form is not None:
        return [_sample(form, seed) for seed in range(3)]
    wide: list[tuple[int, ...]] = [
        (1234567890, 9876543210), (5555555555, 4444444444), (9999999999, 1)]
    narrow: list[tuple[int, ...]] = [(12, 34), (55, 44), (99, 1)]
    try:
        run_add(python, *wide[0])
    except InputError:
        run_add(python, *narrow[0])
        return narrow
    return wide


def _length(call: Call) -> int:
    sizes = [v.shape[-1] for v in tensors_in(call) if v.ndim and not v.is_floating_point()]
    return max(sizes, default=0)


def _choose(capture: Capture, held: list[Held]) -> tuple[Call, int]:
    """A late call of the first sum, of a length that no held tensor has, where there is one."""
    sizes = {size for item in held for size in item.tensor.shape}
    first = [call for call in capture.calls if call.sum == 0] or capture.calls
    free = [call for call in first if _length(call) not in sizes | {c.logits.shape[-1]
                                                                     for c in first}]
    call = (free or first)[-1]
    return call, _length(call)


def _origins(held: list[Held], recording: Recording) -> list[Origin | None]:
    """Where each tensor came from; parameters of a module stand for themselves.

    A tensor may only be derived from tensors that are held too.
    """
    keys = {storage_key(item.tensor): item.name for item in held}
    found: list[Origin | None] = []
    for item in held:
        origin = None
        if not isinstance(item.tensor, torch.nn.Parameter):
            origin = recording.origin(item.tensor, keys)
        if origin is not None and not origin.held and (
            (item.is_parameter and origin.numbers)
            or (not origin.numbers and item.tensor.numel() == 1)
        ):
            origin = None  # filled with numbers, or one number picked out of a shape
        found.append(origin)
    return found


def _sources(origins: Sequence[Origin | None]) -> set[str]:
    """Tensors from which others were computed: scaling one alone would mean nothing."""
    return {name for origin in origins if origin is not None for name in origin.held}


def _foreign_answers(
    python: PythonModel, form: Format | None, sums: Sums
) -> tuple[Answers, int]:
    if not sums:
        return (lambda first, last: []), 0
    if form is not None:
        return _batch_answers(ThirdPartyModule(python, form), form, sums[: sample_size(form)])
    if python.add is None:
        return (lambda first, last: []), 0
    few = list(itertools.islice(sums, SLOW_SUMS))

    def ask(first: int, last: int) -> list[object]:
        answers: list[object] = []
        for operands in few[first:last]:
            try:
                answers.append(run_add(python, *operands))
            except InputError:
                answers.append(None)
        return answers

    return ask, len(few)


def _rules_of_theirs(
    python: PythonModel, capture: Capture | None, found: GraphCount,
    findings: Sequence[AuditNote], claimed: int | None,
) -> tuple[RuleVerdict, ...]:
    run = tokens = None
    places: list[int] = []
    if capture is not None:
        first, *_, last = [call for call in capture.calls if call.sum == 0] * 2
        given = _token_tensor(last)
        if given is not None and (start := _token_tensor(first)) is not None:
            tokens, places = given, _written(start, given)

            def run(changed: Tensor) -> Tensor:
                with torch.no_grad():
                    logits = logits_of(capture.function(changed))
                assert logits is not None
                return logits if logits.ndim > 2 else logits.unsqueeze(-2).expand(
                    *logits.shape[:-1], changed.shape[-1], -1)

    return (
        rule.attention_rule(found.subject.flow),
        rule.autoregressive_rule(run, tokens, places),
        rule.loop_rule(python.source),
        rule.arithmetic_rule(findings, compiled=False),
        rule.claim_rule(claimed, found.counts.declared),
    )


def _token_tensor(call: Call) -> Tensor | None:
    """The only tensor of a call, where it is one of whole numbers."""
    given = tensors_in(call)
    alone = len(given) == 1 and not call.kwargs and not given[0].is_floating_point()
    return given[0] if alone and given[0].ndim else None


def _written(first: Tensor, last: Tensor) -> list[int]:
    """Positions of the last call whose tokens the first call did not have."""
    common = min(first.shape[-1], last.shape[-1])
    head = [n for n in range(common) if not torch.equal(first[..., n], last[..., n])]
    return [*head, *range(common, last.shape[-1])]
