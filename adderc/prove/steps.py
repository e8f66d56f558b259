"""One answer step: cases from coarse to fine until every margin is positive.

Takes: the scalar nodes of a step's logits. Gives: `StepProof`, `prove_step`.
May import: prove.carry, prove.doubt, prove.gaps, prove.ranges, prove.scalars, results.

The cases of a level cover all operands; a case whose margin is not positive is split at the
next level: first by carry and digit sum at the step's place, then by the current token, then
by the digit tuple at the place. What is open then goes to prove.refine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from adderc.prove.carry import Automaton, Cases
from adderc.prove.doubt import Doubt, Unsupported
from adderc.prove.gaps import GAPS_KEPT, Gap, Subject, case_gaps
from adderc.prove.ranges import Ranges
from adderc.prove.scalars import Roots
from adderc.results import Failure

Array = np.ndarray
Attack = Callable[["StepProof"], Failure | None]
CASES_AT_ONCE = 4_000
LEVELS = 3
ATTACKED = (0, LEVELS - 1)  # levels whose gaps are worth a search, which costs like a level
THIN = 1 / 4  # of the median margin


@dataclass
class StepProof:
    """What was shown at one step; `open` are the worst gaps that no level closed yet.

    `leaves` are the cases that were closed and the level that closed them, `left` those that
    stayed open, `splits` the cases that were split by one more token, with its position.
    `failure` are operands found wrong on the way, which ends the proof.
    """

    step: int
    cases: int = 0
    worst: Gap | None = None
    open: list[Gap] = field(default_factory=list)
    doubt: str = ""
    complete: bool = False
    leaves: list[tuple[int, Cases]] = field(default_factory=list)
    left: Cases | None = None
    splits: list[tuple[int, Cases]] = field(default_factory=list)
    failure: Failure | None = None
    thin: bool = False  # a case with a positive margin was split

    @property
    def proven(self) -> bool:
        return self.complete and not self.open and not self.doubt

    def close(self, level: int, cases: Cases, least: Gap | None) -> None:
        """Cases whose margins are all positive, and the smallest of those."""
        if len(cases):
            self.cases += len(cases)
            self.leaves.append((level, cases))
        if least is not None and (self.worst is None or least.margin < self.worst.margin):
            self.worst = least


def level_cases(automaton: Automaton, step: int, level: int, parents: Cases | None) -> Cases:
    """The cases of a level, those of `parents` split; level 0 covers everything."""
    if parents is None:
        carry, sums = np.divmod(np.arange(automaton.k * automaton.sums), automaton.sums)
        cases = Cases(automaton.format.answer_place(step), carry, sums)
    elif level == 1:
        cases = _split_near(automaton, step, parents)
    else:
        cases = _split_tuples(automaton, parents)
    positions = automaton.format.prompt_length + step
    return cases.choose(np.flatnonzero(Ranges(automaton, cases, positions).possible()))


def _split_near(automaton: Automaton, step: int, parents: Cases) -> Cases:
    holder = automaton.holders[automaton.format.prompt_length + step - 1]
    if holder.kind not in ("answer", "state"):
        return parents
    totals = np.arange(automaton.sums + automaton.k - 1)
    index = np.repeat(np.arange(len(parents)), len(totals))
    chosen = parents.choose(index)
    return replace(chosen, near=np.tile(totals, len(parents)), near_place=holder.place)


def _split_tuples(automaton: Automaton, parents: Cases) -> Cases:
    first = np.append(automaton.first_of_sum, len(automaton.digits))
    counts = first[parents.sums + 1] - first[parents.sums]
    index = np.repeat(np.arange(len(parents)), counts)
    offsets = np.arange(len(index)) - np.repeat(np.cumsum(counts) - counts, counts)
    chosen = parents.choose(index)
    return replace(chosen, tuples=first[chosen.sums] + offsets)


def prove_step(subject: Subject, step: int, roots: Roots, deadline: float = np.inf,
               first: int = 0, attack: Attack | None = None) -> StepProof:
    """Split cases until every margin is positive or the levels or the time are used up.

    `first` is the level to begin with; `attack` looks for failing operands behind the gaps
    of the first level and of the last.
    """
    proof = _by_levels(subject, step, roots, deadline, first, attack, THIN)
    if proof.complete or proof.failure is not None or not proof.thin:
        return proof
    return _by_levels(subject, step, roots, deadline, first, attack, 0.0)


def _by_levels(subject: Subject, step: int, roots: Roots, deadline: float, first: int,
               attack: Attack | None, thin: float) -> StepProof:
    proof = StepProof(step)
    parents: Cases | None = None
    for level in range(LEVELS):
        cases = level_cases(subject.automaton, step, level, parents)
        if level < first or (proof.left is not None and len(cases) == len(proof.left)):
            parents = cases
            continue
        _prove_level(subject, cases, level, roots, proof, deadline,
                     thin if level < LEVELS - 1 else 0.0)
        parents = proof.left
        if parents is None:
            proof.complete = True
            return proof
        if attack is not None and level in ATTACKED and (failure := attack(proof)):
            proof.failure = failure
            return proof
    return proof


def _prove_level(subject: Subject, cases: Cases, level: int, roots: Roots, proof: StepProof,
                 deadline: float, thin: float) -> None:
    """Close what can be closed; leaves what is left, its worst gaps, and a doubt if any."""
    open_at: list[Array] = []
    gaps: list[Gap] = []
    proof.doubt = ""
    for start in range(0, len(cases), CASES_AT_ONCE):
        at = np.arange(start, min(start + CASES_AT_ONCE, len(cases)))
        if time.monotonic() > deadline:
            open_at.append(np.arange(start, len(cases)))
            proof.doubt = "out of budget"
            break
        chosen = cases.choose(at)
        try:
            closed, found, least = case_gaps(subject, chosen, proof.step, roots, deadline, thin)
        except Unsupported:
            raise
        except Doubt as problem:
            proof.doubt = str(problem)
            open_at.append(at)
            continue
        open_at.append(at[~closed])
        gaps += found
        proof.close(level, chosen.choose(np.flatnonzero(closed)), least)
    proof.thin |= any(gap.margin > 0 for gap in gaps)
    left = np.concatenate(open_at) if open_at else np.zeros(0, dtype=np.int64)
    proof.open = sorted(gaps, key=lambda gap: gap.margin)[:GAPS_KEPT]
    proof.left = cases.choose(left) if len(left) else None
