"""Real logits against what the prover says of their case, and how wide that is."""

from dataclasses import dataclass

import numpy as np
import torch

from adderc.nn.greedy import last_logits
from adderc.prove.carry import Automaton
from adderc.prove.evaluate import Evaluator
from adderc.prove.session import Session
from adderc.prove.steps import level_cases

CASES_AT_ONCE, CASES_KEPT = 500, 2_000


@dataclass
class Tally:
    """Logits outside their enclosure and all; per logit and case the width of the enclosure,
    and its ratio to the spread of the values seen, where they differ."""

    outside: int
    tried: int
    ratios: list
    widths: list


def totals(operands, place, base):
    """Carry into a place and digit sum at it."""
    below = sum(v % base**place for v in operands)
    return below // base**place, sum(v // base**place % base for v in operands)


def fitting(automaton, cases, row):
    """Which cases an operand tuple belongs to, bool [C]."""
    base = automaton.base
    carry, digit_sum = totals(row, cases.place, base)
    fits = (cases.carry == carry) & (cases.sums == digit_sum)
    if cases.near is not None:
        fits &= cases.near == sum(totals(row, cases.near_place, base))
    if cases.tuples is not None:
        digits = [v // base**cases.place % base for v in row]
        fits &= (automaton.digits[cases.tuples] == digits).all(axis=1)
    return fits


def near(form, step, anchors, count, dice):
    """Operand tuples that share an anchor's digits at a step's place and the two below."""
    base, place = form.number.base, form.answer_place(step)
    start, stop = base ** max(0, place - 2), base ** min(place + 1, form.number.width)

    def vary(value):
        drawn = dice.randrange(form.number.maximum + 1)
        return value % stop // start * start + drawn // stop * stop + drawn % start

    return [tuple(map(vary, row)) for row in anchors for _ in range(count)]


def check(module, form, pairs, level, steps=None):
    """A `Tally` of the logits of operand tuples at answer steps, cases split to a level.

    `pairs` are operand tuples, or a function that gives those of a step.
    """
    session = Session(module, form)
    captured, subject, interpreter, tokens = session.prepare()
    found = Tally(0, 0, [], [])
    for step, length in enumerate(session.lengths()):
        if steps is not None and step not in steps:
            continue
        rows = pairs(step) if callable(pairs) else pairs
        prompts, answers = form.encode(rows), np.array([form.expected(row) for row in rows])
        program = captured.program(length)
        roots = session._roots(interpreter, program, tokens[:length])
        cases = _cases(subject.automaton, step, level)
        whole = np.concatenate([prompts, answers[:, :step]], 1)
        with torch.inference_mode():
            logits = last_logits(module(torch.from_numpy(whole))).double().numpy()
        members = np.array([fitting(subject.automaton, cases, row) for row in rows])
        chosen = np.flatnonzero(members.any(axis=0))[:CASES_KEPT]
        for start in range(0, len(chosen), CASES_AT_ONCE):
            at = chosen[start : start + CASES_AT_ONCE]
            part = cases.choose(at)
            evaluator = Evaluator(subject.graph, subject.automaton, subject.dtype, part, length,
                                  subject.shared)
            ends = [evaluator.case_range(f) for f in evaluator.run(roots)]
            low, high = (np.stack([pair[i] for pair in ends], 1) for i in (0, 1))
            _compare(found, members[:, at], logits, low, high)
    return found


def _cases(automaton: Automaton, step, level):
    cases = None
    for at in range(level + 1):
        cases = level_cases(automaton, step, at, cases)
    return cases


def _compare(found, members, logits, low, high):
    """Count the logits [N, V] of each case's members against its bounds [C, V]."""
    for case, inside in enumerate(members.T):
        seen = logits[inside]
        found.outside += int((~((low[case] <= seen) & (seen <= high[case]))).sum())
        found.tried += seen.size
        bound = high[case] - low[case]
        found.widths += bound.tolist()
        if len(seen) > 1:
            true = seen.max(0) - seen.min(0)
            found.ratios += (bound[true > 0] / true[true > 0]).tolist()
