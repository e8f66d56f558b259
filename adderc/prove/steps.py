"""One answer step: cases from coarse to fine, and the margin of the right token in each.

Takes: the scalar nodes of a step's logits. Gives: `StepProof`, `prove_step`.
May import: prove.carry, prove.doubt, prove.evaluate, prove.form, prove.ranges, prove.rows,
prove.scalars.

The cases of a level cover all operands; a case whose margin is not positive is split at the
next level: first by carry and digit sum at the step's place, then by the current token, then
by the digit tuple at the place.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from adderc.prove.box import Box
from adderc.prove.carry import Automaton, Cases
from adderc.prove.doubt import Doubt
from adderc.prove.evaluate import Evaluator
from adderc.prove.form import Form
from adderc.prove.ranges import Ranges
from adderc.prove.rows import meet, rows_by
from adderc.prove.scalars import Roots, ScalarGraph

Array = np.ndarray
TABLE_BYTES = 2**26
CASES_AT_ONCE = 4_000
GAPS_KEPT = 24


@dataclass(frozen=True)
class Gap:
    """A lower bound on logit[expected] - logit[rival] in one case, and the tables behind it."""

    margin: float
    largest: float  # of the logits' magnitudes
    case: Cases  # one case
    expected: int
    rival: int
    table: Array | None = None  # [P, D], of logit[rival] - logit[expected]


@dataclass
class StepProof:
    """What was shown at one step; `open` are the gaps that no level closed, worst first."""

    step: int
    cases: int = 0
    worst: Gap | None = None
    open: list[Gap] = field(default_factory=list)
    doubt: str = ""
    complete: bool = False
    leaves: list[tuple[int, Cases]] = field(default_factory=list)
    left: Cases | None = None  # those that stayed open

    @property
    def proven(self) -> bool:
        return self.complete and not self.open and not self.doubt


@dataclass(frozen=True)
class Subject:
    """What all steps share."""

    graph: ScalarGraph
    automaton: Automaton
    dtype: np.dtype[Any]
    shared: dict[int, Box]
    exact: bool = False  # leave the module's rounding out


LEVELS = 3


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
    return Cases(chosen.place, chosen.carry, chosen.sums, chosen.tuples,
                 np.tile(totals, len(parents)), holder.place)


def _split_tuples(automaton: Automaton, parents: Cases) -> Cases:
    first = np.append(automaton.first_of_sum, len(automaton.digits))
    counts = first[parents.sums + 1] - first[parents.sums]
    index = np.repeat(np.arange(len(parents)), counts)
    offsets = np.arange(len(index)) - np.repeat(np.cumsum(counts) - counts, counts)
    chosen = parents.choose(index)
    return Cases(chosen.place, chosen.carry, chosen.sums, first[chosen.sums] + offsets,
                 chosen.near, chosen.near_place)


def prove_step(subject: Subject, step: int, roots: Roots,
               deadline: float = np.inf, levels: int = LEVELS) -> StepProof:
    """Split cases until every margin is positive or the levels or the time are used up."""
    proof = StepProof(step)
    parents: Cases | None = None
    for level in range(levels):
        cases = level_cases(subject.automaton, step, level, parents)
        left, gaps, doubt = _prove_level(subject, cases, step, level, roots, proof, deadline)
        proof.open, proof.doubt, proof.left, parents = gaps, doubt, left, left
        if left is None:
            proof.complete = True
            return proof
    return proof


def _prove_level(subject: Subject, cases: Cases, step: int, level: int, roots: Roots,
                 proof: StepProof, deadline: float) -> tuple[Cases | None, list[Gap], str]:
    """Cases left open (None: none), their worst gaps, and a doubt if that is why."""
    open_at: list[Array] = []
    gaps: list[Gap] = []
    doubt = ""
    for start in range(0, len(cases), CASES_AT_ONCE):
        at = np.arange(start, min(start + CASES_AT_ONCE, len(cases)))
        if time.monotonic() > deadline:
            open_at.append(np.arange(start, len(cases)))
            doubt = "out of budget"
            break
        chosen = cases.choose(at)
        try:
            closed, found, least = case_gaps(subject, chosen, step, roots, deadline)
        except Doubt as problem:
            doubt = str(problem)
            open_at.append(at)
            continue
        open_at.append(at[~closed])
        gaps += found
        proof.cases += int(closed.sum())
        if closed.any():
            proof.leaves.append((level, chosen.choose(np.flatnonzero(closed))))
        if least is not None and (proof.worst is None or least.margin < proof.worst.margin):
            proof.worst = least
    left = np.concatenate(open_at) if open_at else np.zeros(0, dtype=np.int64)
    gaps.sort(key=lambda gap: gap.margin)
    return (cases.choose(left) if len(left) else None), gaps[:GAPS_KEPT], doubt


def _logits(subject: Subject, cases: Cases, step: int, roots: Roots, deadline: float
            ) -> tuple[Ranges, list[Form], Array]:
    """The forms of all logits, and the right token of each case [C]."""
    positions = subject.automaton.format.prompt_length + step
    evaluator = Evaluator(subject.graph, subject.automaton, subject.dtype, cases, positions,
                          subject.shared, exact=subject.exact)
    forms = evaluator.run(roots, deadline)
    expected = subject.automaton.expected(step, cases.carry, cases.sums)
    if expected.max() >= len(forms):
        raise Doubt(f"the module has no logit for token {int(expected.max())}")
    return evaluator.ranges, forms, expected


def margins_of(subject: Subject, cases: Cases, step: int, roots: Roots,
               deadline: float = np.inf) -> Array:
    """Lower bounds [C, V] of the right token's logit less every other, inf at its own."""
    margins, _ = _margins(*_logits(subject, cases, step, roots, deadline))
    return margins


def case_gaps(subject: Subject, cases: Cases, step: int, roots: Roots,
              deadline: float = np.inf) -> tuple[Array, list[Gap], Gap | None]:
    """Which cases are closed [C], the worst open gaps, and the smallest closed margin."""
    ranges, forms, expected = _logits(subject, cases, step, roots, deadline)
    margins, tables = _margins(ranges, forms, expected)
    largest = max(float(form.magnitude.max()) for form in forms)
    closed = np.asarray((margins > 0).all(axis=1))
    open_cases = np.flatnonzero(~closed)
    worst_first = open_cases[np.argsort(margins[open_cases].min(axis=1))][:GAPS_KEPT]
    found = []
    for case in worst_first:
        rival = int(margins[case].argmin())
        found.append(_gap(margins, case, rival, cases, expected, largest,
                          tables(case, rival)))
    least = None
    if closed.any():
        inside = np.where(closed[:, None], margins, np.inf)
        at = np.unravel_index(inside.argmin(), inside.shape)
        least = _gap(margins, int(at[0]), int(at[1]), cases, expected, largest, None)
    return closed, found, least


def _gap(margins: Array, case: int, rival: int, cases: Cases, expected: Array, largest: float,
         table: Array | None) -> Gap:
    return Gap(float(margins[case, rival]), largest, cases.choose(np.array([case])),
               int(expected[case]), rival, table)


def _margins(ranges: Ranges, forms: Sequence[Form], expected: Array
             ) -> tuple[Array, Callable[[int, int], Array]]:
    """Lower bounds [C, V] of logit[expected] - logit[v], inf at the expected one.

    Also a function of case and rival that gives the tables [P, D] behind a bound.
    """
    rows = forms[0].rows
    for form in forms:
        rows = meet(rows, form.rows)
    pairs = meet(rows, rows_by(expected))  # U units: rows and the token they must emit
    index, token = pairs.of(len(expected)), expected[pairs.first]
    here = [form.on(rows).on(pairs) for form in forms]
    units = np.arange(len(token))
    base, mass = (_columns([getattr(f, name) for f in here], len(token))
                  for name in ("base", "mass"))
    aside = _noise_gaps(here, token) + 2 * ranges.own * (mass[units, token][:, None] + mass)
    least = base[units, token][:, None] - base - aside
    margins = np.empty((len(expected), len(forms)))
    order = np.argsort(index, kind="stable")
    bounds = np.searchsorted(index[order], np.arange(len(token) + 1))
    size = max(1, TABLE_BYTES // (8 * len(forms) * forms[0].tables[:, :, 0].size))
    for start in range(0, len(token), size):
        at = np.arange(start, min(start + size, len(token)))
        cases = order[bounds[at[0]] : bounds[at[-1] + 1]]
        behind = _differences(here, token, at)
        where = np.arange(len(forms)) * len(at) + (index[cases] - start)[:, None]
        part = Ranges(ranges.automaton, ranges.cases.choose(cases), ranges.positions)
        top = part.largest(behind.reshape(*behind.shape[:2], -1), where)
        margins[cases] = least[index[cases]] - top
    margins[np.arange(len(expected)), expected] = np.inf
    return margins, lambda case, rival: _differences(
        here, token, index[case : case + 1])[:, :, rival, 0].T


def _differences(forms: Sequence[Form], token: Array, at: Array) -> Array:
    """Tables of logit[v] - logit[token] for some units, [D, P, V, len(at)]."""
    shape = (*forms[0].tables.shape[:2], len(forms), len(at))
    tables = np.empty(shape)
    for number, form in enumerate(forms):
        wide = form.tables.shape[2] > 1
        tables[:, :, number] = form.tables[:, :, at] if wide else form.tables
    tables -= tables[:, :, token[at], np.arange(len(at))][:, :, None]
    return tables


def _columns(arrays: Sequence[Array], count: int) -> Array:
    """Arrays [U] or [1] side by side, [U, V]."""
    return np.stack([np.broadcast_to(array, count) for array in arrays], axis=1)


def _noise_gaps(forms: Sequence[Form], token: Array) -> Array:
    """Σ |noise[expected] - noise[v]| + radii, [U, V]."""
    units = np.arange(len(token))
    radii = _columns([form.radius for form in forms], len(token))
    total = radii + radii[units, token][:, None]
    for symbol in {symbol for form in forms for symbol in form.noise}:
        held = _columns([form.noise.get(symbol, np.zeros(1)) for form in forms], len(token))
        total += np.abs(held[units, token][:, None] - held)
    return total * (1 + 2.0**-40)
