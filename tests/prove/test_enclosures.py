"""Every real logit lies inside what the prover says of its case."""

import numpy as np
import pytest
import torch
from modules import Resonant, plain_format

from adderc.nn.greedy import last_logits
from adderc.prove.carry import Automaton
from adderc.prove.evaluate import Evaluator
from adderc.prove.ranges import Ranges
from adderc.prove.session import Session
from adderc.prove.steps import level_cases


def totals(operands, place, base):
    """Carry into a place and digit sum at it."""
    below = sum(v % base**place for v in operands)
    return below // base**place, sum(v // base**place % base for v in operands)


def outside(module, form, count, level):
    """Logits outside their enclosure among `count` random operand pairs, and all tried."""
    session = Session(module, form)
    captured, subject, interpreter, tokens = session.prepare()
    number, bad, tried = form.number, 0, 0
    pairs = session.search.structured(count)
    prompts, answers = form.encode(pairs), [form.expected(row) for row in pairs]
    for step, length in enumerate(session.lengths()):
        roots = interpreter.run(captured.program(length), torch.tensor([tokens[:length]]))
        cases = None
        for at in range(level + 1):
            cases = level_cases(subject.automaton, step, at, cases)
        evaluator = Evaluator(subject.graph, subject.automaton, subject.dtype, cases, length,
                              subject.shared)
        ranges = [evaluator.case_range(f) for f in evaluator.run(roots)]
        low, high = (np.stack([r[i] for r in ranges], 1) for i in (0, 1))
        whole = np.concatenate([prompts, np.array(answers)[:, :step]], 1)
        logits = last_logits(module(torch.from_numpy(whole))).detach().double().numpy()
        place = form.answer_place(step)
        for row, logit in zip(pairs, logits, strict=True):
            carry, digit_sum = totals(row, place, number.base)
            fits = (cases.carry == carry) & (cases.sums == digit_sum)
            inside = ((low[fits] <= logit) & (logit <= high[fits])).all(axis=1)
            bad += not inside.any()
            tried += logit.size
    return bad, tried


@pytest.mark.parametrize("level", [0, 1])
def test_compiled_logits_lie_inside(small, level):
    bad, tried = outside(small, small.format, 100, level)
    assert tried >= 3000
    assert bad == 0


@pytest.mark.parametrize("leak", [0.0, 0.5, 3.0])
def test_logits_of_attention_by_content_lie_inside(leak):
    bad, _ = outside(Resonant(3, leak), plain_format(3), 60, 0)
    assert bad == 0


def test_ranges_are_the_exact_extremes():
    """The dynamic programme against all operand pairs, random tables."""
    form = plain_format(2, base=3)
    automaton = Automaton(form)
    step, positions = 2, form.prompt_length + 2
    rng = np.random.default_rng(0)
    table = rng.normal(size=(1, positions, 3))
    table[0, [p for p, h in enumerate(automaton.holders[:positions]) if h.place < 0]] = 0
    cases = level_cases(automaton, step, 0, None)
    rows = np.zeros(len(cases), dtype=int)
    top = Ranges(automaton, cases, positions).largest(table.transpose(2, 1, 0), rows)
    best = np.full(len(cases), -np.inf)
    for a in range(9):
        for b in range(9):
            sequence = [*form.encode([(a, b)])[0], *form.expected((a, b))][:positions]
            value = sum(table[0, p, t] for p, t in enumerate(sequence)
                        if automaton.holders[p].place >= 0)
            carry, digit_sum = totals((a, b), form.answer_place(step), 3)
            fits = (cases.carry == carry) & (cases.sums == digit_sum)
            best[fits] = np.maximum(best[fits], value)
    assert np.allclose(top, best)
