"""Audits one model of ours by two counts that know nothing of one another.

Takes: a module or a structure, sums to sample with. Gives: `AuditReport`.
May import: errors, results, format, nn, weights, the rest of this room.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adderc.audit import rules as rule
from adderc.audit.graphcount import Example, GraphCount, count_graph
from adderc.audit.holders import find_held
from adderc.audit.outputs import logits_of
from adderc.audit.sampling import Answers, find_duplicates, find_insensitive
from adderc.audit.structure import StructureCount, count_structure
from adderc.format.prompt import Format
from adderc.nn.greedy import decode_greedy
from adderc.nn.thirdparty import MODULE_NAME
from adderc.results import AuditReport, Counts, RuleVerdict

LONG_SEQUENCE = 400
SCORES = 20_000_000  # attention scores that one sampled question may cost
Sums = Sequence[tuple[int, ...]]

def audit_structure(structure: Any, name: str) -> AuditReport:
    """The cost of a structure before it has values."""
    found = count_structure(structure, None)
    return AuditReport(name, "spec", found.counts, found.leaves, found.constants,
                       choices=found.choices, components=component_totals(found.leaves))


def audit_compiled(module: Any, name: str, sums: Sums = (), kind: str = "compiled",
                   with_rules: bool = False) -> AuditReport:
    """Two independent counts of a module of ours; `agrees` says whether they are the same."""
    own = count_structure(module.structure, module.leaf_values())
    held = find_held(module, {}, "")
    second = count_graph(module, example(module, module.format), held, [None] * len(held))
    differences = compare_counts(own, second)
    few = sums[: sample_size(module.format)]
    answers, total = batch_answers(module, module.format, few)
    dead = {note.name for note in second.dead}
    remarks = second.remarks
    if sums and not few:
        remarks = (*remarks, "no sums were sampled, the sequences being too long")
    return AuditReport(
        name, kind, own.counts, own.leaves, own.constants, second.dead,
        tuple(find_insensitive(held, answers, total, dead)), tuple(find_duplicates(held)),
        choices=own.choices, components=component_totals(own.leaves),
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


def example(module: Any, form: Format) -> Example:
    """A prompt with part of its answer, of a length that no tensor of the model has."""
    operands = [sample(form, seed) for seed in range(1)]
    prompts = form.encode(operands)
    answers = decode_greedy(module, form, prompts)
    tokens = torch.from_numpy(np.concatenate([prompts, np.maximum(answers, 0)], axis=1))
    sizes = {size for item in find_held(module, {}, MODULE_NAME) for size in item.tensor.shape}
    sizes |= {form.vocabulary, getattr(getattr(module, "structure", None), "d_model", 0)}
    lengths = range(tokens.shape[1] - 1, form.prompt_length - 1, -1)
    length = next((n for n in lengths if n not in sizes), tokens.shape[1] - 1)
    chosen = tokens[:, :length].contiguous()
    return Example((chosen,), {}, [chosen], [True], length, form.vocabulary, form.length)


def sample(form: Format, seed: int) -> tuple[int, ...]:
    chance = np.random.default_rng(seed)
    top = form.number.maximum
    return tuple(int(chance.random() * top) for _ in range(form.number.operands))


def batch_answers(module: Any, form: Format, sums: Sums) -> tuple[Answers, int]:
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

    def run(given: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return [module(given)]

    return (
        rule.attention_rule(second.subject.flow),
        rule.autoregressive_rule(
            run, tokens, range(module.format.prompt_length, tokens.shape[1])),
        rule.loop_rule(None),
        rule.arithmetic_rule((), compiled=True),
    )


def component_totals(leaves: Sequence[Any]) -> tuple[tuple[str, int], ...]:
    totals: dict[str, int] = {}
    for leaf in leaves:
        totals[leaf.component] = totals.get(leaf.component, 0) + leaf.elements
    return tuple(totals.items())
