"""The margin of the right token in each case of one answer step.

Takes: the scalar nodes of a step's logits, cases. Gives: `Gap`, `Subject`, `case_gaps`,
`margins`, `margins_of`.
May import: prove.box, prove.carry, prove.doubt, prove.evaluate, prove.form, prove.ranges,
prove.rows, prove.scalars.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Subject:
    """What all steps share."""

    graph: ScalarGraph
    automaton: Automaton
    dtype: np.dtype[Any]
    shared: dict[int, Box]
    exact: bool = False  # leave the module's rounding out


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
    found, _ = margins(*_logits(subject, cases, step, roots, deadline))
    return found


def case_gaps(subject: Subject, cases: Cases, step: int, roots: Roots,
              deadline: float = np.inf) -> tuple[Array, list[Gap], Gap | None]:
    """Which cases are closed [C], the worst open gaps, and the smallest closed margin."""
    ranges, forms, expected = _logits(subject, cases, step, roots, deadline)
    gaps, tables = margins(ranges, forms, expected)
    largest = max(float(form.magnitude.max()) for form in forms)
    closed = np.asarray((gaps > 0).all(axis=1))
    open_cases = np.flatnonzero(~closed)
    worst_first = open_cases[np.argsort(gaps[open_cases].min(axis=1))][:GAPS_KEPT]
    found = []
    for case in worst_first:
        rival = int(gaps[case].argmin())
        found.append(_gap(gaps, case, rival, cases, expected, largest,
                          tables(case, rival)))
    least = None
    if closed.any():
        inside = np.where(closed[:, None], gaps, np.inf)
        at = np.unravel_index(inside.argmin(), inside.shape)
        least = _gap(gaps, int(at[0]), int(at[1]), cases, expected, largest, None)
    return closed, found, least


def _gap(margins: Array, case: int, rival: int, cases: Cases, expected: Array, largest: float,
         table: Array | None) -> Gap:
    return Gap(float(margins[case, rival]), largest, cases.choose(np.array([case])),
               int(expected[case]), rival, table)


def margins(ranges: Ranges, forms: Sequence[Form], expected: Array
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
