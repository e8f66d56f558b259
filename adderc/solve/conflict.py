"""Which constraints stand against each other where no solution was found.

Takes: a problem and the best point. Gives: `conflicting` → constraints.
May import: numpy, scipy, solve.problem.

At the best point the leads are taken as affine, and the largest step of the least lead in a
small box is a linear programme. The constraints with a multiplier hold each other: none of
them can gain without another one losing; a basic solution has no more than one for each
unknown, and one more. They are what stands in the way of this point, not a proof.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linprog

from adderc.solve.problem import Constraint, Field, Problem

Array = np.ndarray
LISTED, LOOKED_AT = 12, 400


def conflicting(problem: Problem, point: Array) -> tuple[Constraint, ...]:
    """The constraints with the largest multipliers, heaviest first."""
    leads = Field(problem).leads(Field(problem).logits(point[None]))[0]
    count = min(LOOKED_AT, leads.size)
    flat = np.sort(np.argpartition(leads, count - 1, axis=None)[:count])
    cases, tokens = np.unravel_index(flat, leads.shape)
    finite = np.isfinite(leads[cases, tokens])
    cases, tokens = cases[finite], tokens[finite]
    slopes = lead_slopes(problem, point, cases, tokens)
    own = leads[cases, tokens]
    box = 1e-3 * max(1.0, float(np.abs(point).max()))
    n = problem.size
    # the largest t with own + slopes . d >= t for |d| <= box
    result = linprog(np.append(np.zeros(n), -1.0), np.hstack([-slopes, np.ones((len(own), 1))]),
                     own, bounds=[(-box, box)] * n + [(None, None)], method="highs")
    if result.status != 0:
        order = np.argsort(own)[:LISTED]
    else:
        weights = -result.ineqlin.marginals
        order = np.argsort(-weights, kind="stable")[: min(LISTED, int((weights > 1e-9).sum()))]
    return tuple(problem.constraint(int(cases[k]), int(tokens[k]), float(own[k])) for k in order)


def lead_slopes(problem: Problem, point: Array, cases: Array, tokens: Array) -> Array:
    """The gradient [K, n] of the lead in each case over each token."""
    part = problem.take(cases)
    model, at = part.model(apart=True), np.arange(len(cases))
    values = model.tape.run(point[None])
    seed = np.zeros((len(cases), 1, problem.vocabulary))
    seed[at, 0, part.cases.right] += 1
    seed[at, 0, tokens] -= 1
    return model.tape.gradient(values, model.logits, seed)
