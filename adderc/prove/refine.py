"""Cases that no level closed, split by the token behind most of their doubt.

Takes: a step's proof with open cases. Gives: `refine`.
May import: prove.box, prove.carry, prove.doubt, prove.evaluate, prove.form, prove.gaps,
prove.ranges, prove.scalars, prove.scaled, prove.steps.

Depth first, the worst case at the head: where it closes after a few splits, so will the
others; where it does not, the splits lead to the operands that fail, or to rounding that no
split can lessen, and the rest is not worth the time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from adderc.prove.box import Box
from adderc.prove.carry import Cases
from adderc.prove.doubt import Doubt
from adderc.prove.evaluate import Evaluator
from adderc.prove.form import Form
from adderc.prove.gaps import GAPS_KEPT, Gap, Subject, case_gaps, margins
from adderc.prove.ranges import Ranges
from adderc.prove.scalars import Roots
from adderc.prove.scaled import PRODUCT
from adderc.prove.steps import StepProof

Array = np.ndarray
LEAF_LEVEL = 3
SYMBOLS_ASKED = 4
CASES_AT_ONCE = 1_000


@dataclass(frozen=True)
class Group:
    """Open cases that all hold tokens at the same positions, and the gap of the worst."""

    cases: Cases
    worst: Gap


def refine(subject: Subject, roots: Roots, proof: StepProof, deadline: float) -> None:
    """Close the open cases of a step as far as splits and time go."""
    if proof.left is None or not proof.open or proof.doubt:
        return
    groups: list[Group] = []
    _push(groups, proof.left, proof.open)
    try:
        while groups:
            _split_one(subject, roots, proof, groups, deadline)
    except Doubt as doubt:
        proof.doubt = str(doubt) if time.monotonic() > deadline else ""
        return
    proof.open, proof.left, proof.complete = [], None, True


def _split_one(subject: Subject, roots: Roots, proof: StepProof, groups: list[Group],
               deadline: float) -> None:
    """Split the last group; its open children come last, the worst by itself."""
    group = groups[-1]
    position = culprit(subject, proof.step, roots, group.worst)
    parents = group.cases
    children = _children(subject, proof.step, parents, position)
    open_at, gaps = [], []
    for start in range(0, len(children), CASES_AT_ONCE):
        chosen = children.choose(np.arange(start, min(start + CASES_AT_ONCE, len(children))))
        closed, found, least = case_gaps(subject, chosen, proof.step, roots, deadline)
        proof.close(LEAF_LEVEL, chosen.choose(np.flatnonzero(closed)), least)
        open_at.append(start + np.flatnonzero(~closed))
        gaps += found
    groups.pop()
    proof.splits.append((position, parents))
    left = np.concatenate(open_at)
    if len(left):
        proof.open = sorted(gaps, key=lambda gap: gap.margin)[:GAPS_KEPT]
        _push(groups, children.choose(left), proof.open)


def _push(groups: list[Group], cases: Cases, gaps: list[Gap]) -> None:
    """Open cases, the worst last and by itself: one path down tells whether splits help."""
    same = np.all([held == worst for held, worst in zip(
        _keys(cases), _keys(gaps[0].case), strict=True)], axis=0)
    others = np.flatnonzero(~same)
    if len(others):
        groups.append(Group(cases.choose(others), gaps[min(1, len(gaps) - 1)]))
    groups.append(Group(gaps[0].case, gaps[0]))


def _keys(cases: Cases) -> list[Array]:
    """All that tells cases of one group apart, [C] each."""
    parts = [cases.carry, cases.sums, cases.tuples, cases.near, *(held for _, held in cases.pins)]
    return [part for part in parts if part is not None]


def _children(subject: Subject, step: int, parents: Cases, position: int) -> Cases:
    """The cases split by the token at a position, those that some operands fit."""
    auto = subject.automaton
    tokens = np.arange(auto.domain(position))
    chosen = parents.choose(np.repeat(np.arange(len(parents)), len(tokens)))
    cases = chosen.pinned(position, np.tile(tokens, len(parents)))
    ranges = Ranges(auto, cases, auto.format.prompt_length + step)
    return cases.choose(np.flatnonzero(ranges.possible()))


# ---------------------------------------------------------------- which token


def culprit(subject: Subject, step: int, roots: Roots, gap: Gap) -> int:
    """The position whose token the bound of a gap suffers from most; Doubt where none is.

    The gap is bounded once more with a name for every error. Those that come from a product
    or a curved function of several tokens are asked which of their tokens varies most.
    """
    positions = subject.automaton.format.prompt_length + step
    evaluator = Evaluator(subject.graph, subject.automaton, subject.dtype, gap.case, positions,
                          {}, exact=True, named=True)
    forms = evaluator.run(roots)
    votes = np.zeros(positions)
    right, wrong = forms[gap.expected], forms[gap.rival]
    errors = {symbol: abs(_first(right.noise.get(symbol)) - _first(wrong.noise.get(symbol)))
              for symbol in {*right.noise, *wrong.noise}}
    exact = float(margins(evaluator.ranges, forms, np.array([gap.expected]),
                          evaluator.common)[0][0, gap.rival])
    if exact > 0 and gap.margin + 2 * sum(errors.values()) <= 0:
        raise Doubt("no split can lessen the rounding")
    largest = sorted(errors, key=lambda symbol: -errors[symbol])[:SYMBOLS_ASKED]
    for symbol in largest:
        share = sum((_spread(evaluator, arg) for arg in subject.graph.args[symbol % PRODUCT]),
                    np.zeros(positions))
        if share.any():
            votes += errors[symbol] * share / share.sum()
    known = [p for p in range(positions) if subject.automaton.holders[p].place < 0]
    votes[[*known, *evaluator.known]] = 0.0
    if not votes.any():
        raise Doubt("no split can lessen the error")
    return int(votes.argmax())


def _first(values: Array | None) -> float:
    return 0.0 if values is None else float(values[0])


def _spread(evaluator: Evaluator, number: int) -> Array:
    """How much the token at each position moves a value, [P]; an interval's is its source's."""
    value, spread = evaluator.values[number], np.zeros(evaluator.positions)
    if isinstance(value, Form):
        tables = value.tables[:, :, 0]
        return np.asarray(tables.max(axis=0) - tables.min(axis=0))
    if isinstance(value, Box) and value.position >= 0:
        spread[value.position] = float(value.hi.max() - value.lo.min())
    elif not isinstance(value, Box) or value.hi[0, 0] > value.lo[0, 0]:
        for arg in evaluator.graph.args[number]:
            spread = spread + _spread(evaluator, arg)
    return spread
