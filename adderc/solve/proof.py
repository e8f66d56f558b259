"""Checks a backend's claim that no weights do: every number of it computed again.

Takes: a problem and a `Bound`. Gives: `proved_bound`, an upper bound of the margin that
holds for every point within the norm.
May import: weights, solve.balls, solve.problem, solve.recheck, solve.sight; never a backend.

The bound is a weighted mean of leads, affine in the unknowns, of cases that are prompts that
occur. Leads are enclosed at 0 and at one point along each axis by the recheck's own forward
in float64; so are the mean's level and slopes, and with them its largest value in the ball.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from adderc.solve.problem import Bound, Problem
from adderc.solve.recheck import Engine
from adderc.solve.sight import Sight, Table

Array = np.ndarray


def proved_bound(problem: Problem, bound: Bound) -> float:
    """No point with norm at most `problem.norm` has a larger least lead, leak not counted."""
    weights = np.maximum(bound.weights, 0.0)
    total = math.fsum(weights)
    own = problem.cases.right[bound.cases]
    if not total > 0 or np.any(bound.tokens == own):  # a token never leads itself
        return math.inf
    zero = np.zeros(problem.size)
    low, high = mean_lead(problem, bound, weights, zero)
    slopes = []
    for axis in range(problem.size):
        point = zero.copy()
        point[axis] = 1.0
        least, most = mean_lead(problem, bound, weights, point)
        slopes.append(max(abs(most - low), abs(least - high)))
    value = high + problem.norm * math.sqrt(math.fsum(s * s for s in slopes)) * (1 + 2.0**-40)
    value = value / total + 2.0**-40 * abs(value / total)
    return math.inf if math.isnan(value) else value


def mean_lead(
    problem: Problem, bound: Bound, weights: Array, point: Array
) -> tuple[float, float]:
    """The least and the largest value of the weighted sum of leads at a point."""
    low = high = 0.0
    structure = replace(problem.structure, dtype="float64")
    values = {name: np.asarray(v) for name, v in problem.values(point).items()}
    cases = problem.cases.take(bound.cases)
    for step in np.unique(cases.positions[:, -1]):
        part = np.flatnonzero(cases.positions[:, -1] == step)
        own = cases.take(part)
        for sign, right, wrong in ((1, own.right, bound.tokens[part]),
                                   (-1, bound.tokens[part], own.right)):
            engine = Engine(structure, values, _table(right))
            lead = engine.lead_table(_sight(problem, own.tokens, own.positions))[0]
            summed = math.fsum(weights[part] * lead[np.arange(len(part)), wrong])
            if sign > 0:
                low += summed
            else:
                high -= summed
    slack = 1e-12 * (abs(low) + abs(high))
    return low - slack, high + slack


def _sight(problem: Problem, tokens: Array, positions: Array) -> Sight:
    """Whole prompts, every token known."""
    query = int(positions[0, -1])
    known = {int(p): tokens[:, at] for at, p in enumerate(positions[0])}
    allowed = np.ones((query + 1, problem.vocabulary), dtype=bool)
    return Sight(query, np.arange(len(tokens)), allowed, known, ())


def _table(right: Array) -> Table:
    """A table of nothing but right tokens."""
    none = np.zeros((len(right), 0), dtype=np.int64)
    return Table(0, none, none, none, none, none, none, none, right)
