"""The margin of the right token in each case of one answer step.

Takes: the scalar nodes of a step's logits, cases. Gives: `Gap`, `Subject`, `case_gaps`,
`margins`, `margins_of`.
May import: prove.box, prove.carry, prove.doubt, prove.evaluate, prove.form, prove.ranges,
prove.rows, prove.scalars, prove.scaled.
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
from adderc.prove.form import OWN, Form, up
from adderc.prove.ranges import Ranges
from adderc.prove.rows import meet, rows_by
from adderc.prove.scalars import Roots, ScalarGraph
from adderc.prove.scaled import Common

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
            ) -> tuple[Ranges, list[Form], Array, Common | None]:
    """The forms of all logits, the right token of each case [C], a factor of all logits."""
    positions = subject.automaton.format.prompt_length + step
    evaluator = Evaluator(subject.graph, subject.automaton, subject.dtype, cases, positions,
                          subject.shared, exact=subject.exact)
    forms = evaluator.run(roots, deadline)
    expected = subject.automaton.expected(step, cases.carry, cases.sums)
    if expected.max() >= len(forms):
        raise Doubt(f"the module has no logit for token {int(expected.max())}")
    return evaluator.ranges, forms, expected, evaluator.common


def margins_of(subject: Subject, cases: Cases, step: int, roots: Roots,
               deadline: float = np.inf) -> Array:
    """Lower bounds [C, V] of the right token's logit less every other, inf at its own."""
    found, _ = margins(*_logits(subject, cases, step, roots, deadline))
    return found


def case_gaps(subject: Subject, cases: Cases, step: int, roots: Roots,
              deadline: float = np.inf, thin: float = 0.0) -> tuple[Array, list[Gap], Gap | None]:
    """Which cases are closed [C], the worst open gaps, and the smallest closed margin.

    A case whose margin is less than `thin` times the median one stays open.
    """
    ranges, forms, expected, common = _logits(subject, cases, step, roots, deadline)
    gaps, tables = margins(ranges, forms, expected, common)
    largest = max(float(form.magnitude.max()) for form in forms)
    least_of = gaps.min(axis=1)
    closed = np.asarray(least_of > 0)
    if closed.any():
        closed &= least_of > thin * np.median(least_of[closed])
    open_cases = np.flatnonzero(~closed)
    worst_first = open_cases[np.argsort(least_of[open_cases])][:GAPS_KEPT]
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


def margins(ranges: Ranges, forms: Sequence[Form], expected: Array, common: Common | None = None
            ) -> tuple[Array, Callable[[int, int], Array]]:
    """Lower bounds [C, V] of logit[expected] - logit[v], inf at the expected one.

    Also a function of case and rival that gives the tables [P, D] behind a bound. Where the
    logits are inner * factor + rest with 0 < low <= factor <= high, the gap is no less than
    low or high times the least gap of the inner forms, after its sign, and that of the rests.
    """
    if common is None:
        return _separable(ranges, forms, expected)
    inner, tables = _separable(ranges, common.inner, expected)
    low, high = common.low[:, None], common.high[:, None]
    least = np.where(inner > 0, low * inner, high * inner)
    rests = _least(ranges, common.rests, expected)
    least[np.arange(len(expected)), expected] = 0.0
    rests[np.arange(len(expected)), expected] = 0.0
    with np.errstate(invalid="ignore"):  # what overflowed is no number, and stays open
        found = least + rests - 2.0**-50 * (np.abs(least) + np.abs(rests))
    found[np.arange(len(expected)), expected] = np.inf
    return found, tables


def _separable(ranges: Ranges, forms: Sequence[Form], expected: Array
               ) -> tuple[Array, Callable[[int, int], Array]]:
    """The same for forms by themselves."""
    here, index, token, least = _units(ranges, forms, expected)
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


def _units(ranges: Ranges, forms: Sequence[Form], expected: Array
           ) -> tuple[list[Form], Array, Array, Array]:
    """Units U of cases with equal forms and expected token: the forms on them, the unit of each
    case [C], the token of each unit, and the least gaps but for what the tables add [U, V]."""
    rows = forms[0].rows
    for form in forms:
        rows = meet(rows, form.rows)
    pairs = meet(rows, rows_by(expected))
    index, token = pairs.of(len(expected)), expected[pairs.first]
    here = [form.on(rows).on(pairs) for form in forms]
    units = np.arange(len(token))
    base = _columns([form.base for form in here], len(token))
    off = _columns([ranges.error(form.largest) + OWN * 2 * np.abs(form.base) for form in here],
                   len(token))
    aside = (_noise_gaps(here, token) + off[units, token][:, None] + off) * up(3)
    return here, index, token, base[units, token][:, None] - base - aside


def _least(ranges: Ranges, forms: Sequence[Form], expected: Array) -> Array:
    """The least gaps [C, V] of forms whose tables are 0."""
    _, index, _, least = _units(ranges, forms, expected)
    return least[index]


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
    symbols = {symbol for form in forms for symbol in form.noise}
    for symbol in symbols:
        held = _columns([form.noise.get(symbol, np.zeros(1)) for form in forms], len(token))
        total += np.abs(held[units, token][:, None] - held)
    return total * up(len(symbols) + 2)
