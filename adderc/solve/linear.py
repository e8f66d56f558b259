"""Logits that are affine in the unknowns: rows, and the largest margin in a ball.

Takes: a `Problem` whose logits are affine. Gives: `Rows`, `relaxed`, the cutting planes
that the `lp` and `milp` backends share.
May import: numpy, scipy, solve.problem, solve.conflict.

lead_k(w) = slopes_k . w + levels_k. The L2 ball is an intersection of half spaces
(u . w <= norm for every unit u); those that a solution violates are added until it fits.
Constraints likewise: only those that some solution violated are ever in the programme, so
its optimum bounds the margin from above at every stage.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from adderc.solve.conflict import lead_slopes
from adderc.solve.problem import Field, Problem

Array = np.ndarray
FIRST, MORE, ROUNDS, CLOSE = 300, 100, 40, 1e-4


@dataclass(frozen=True, eq=False)
class Rows:
    """Active constraints of a problem as affine functions of the unknowns."""

    cases: Array
    tokens: Array
    slopes: Array  # [K, n]
    levels: Array  # [K]

    @classmethod
    def of(cls, problem: Problem, cases: Array, tokens: Array) -> Rows:
        zero = np.zeros(problem.size)
        part = problem.take(cases)
        at = np.arange(len(cases))
        levels = Field(part).leads(Field(part).logits(zero[None]))[0][at, tokens]
        return cls(cases, tokens, lead_slopes(problem, zero, cases, tokens), levels)

    def joined(self, problem: Problem, cases: Array, tokens: Array) -> Rows:
        """With some more constraints, none twice."""
        known = set(zip(self.cases.tolist(), self.tokens.tolist(), strict=True))
        fresh = [(c, t) for c, t in zip(cases.tolist(), tokens.tolist(), strict=True)
                 if (c, t) not in known]
        if not fresh:
            return self
        more = Rows.of(problem, *np.array(fresh).T)
        return Rows(*(np.concatenate([getattr(self, name), getattr(more, name)])
                      for name in self.__dataclass_fields__))


@dataclass(frozen=True, eq=False)
class Ceiling:
    """sign * logit <= ceiling for cases and tokens whose logit came too high."""

    slopes: Array
    levels: Array


def least(problem: Problem, field: Field, point: Array, count: int) -> tuple[Array, Array, float]:
    """The `count` constraints that lead least at a point, and the least lead."""
    leads = field.leads(field.logits(point[None]))[0]
    count = min(count, leads.size)
    flat = np.sort(np.argpartition(leads, count - 1, axis=None)[:count])
    cases, tokens = np.unravel_index(flat, leads.shape)
    finite = np.isfinite(leads[cases, tokens])
    return cases[finite], tokens[finite], float(leads.min())


def too_high(problem: Problem, field: Field, point: Array) -> Ceiling | None:
    """The logits above the ceiling at a point, as rows; None where all keep below."""
    if problem.ceiling is None:
        return None
    logits = field.logits(point[None])[0]
    over = np.abs(logits) - problem.ceiling * (1 + 1e-9)
    flat = np.argsort(-over, axis=None, kind="stable")[:50]
    cases, tokens = np.unravel_index(flat[over.ravel()[flat] > 0], over.shape)
    if not len(cases):
        return None
    signs = np.sign(logits[cases, tokens])
    slopes, levels = _logit_rows(problem, cases, tokens)
    return Ceiling(slopes * signs[:, None], levels * signs)


def _logit_rows(problem: Problem, cases: Array, tokens: Array) -> tuple[Array, Array]:
    part = problem.take(cases)
    model, at, zero = part.model(apart=True), np.arange(len(cases)), np.zeros((1, problem.size))
    values = model.tape.run(zero)
    seed = np.zeros((len(cases), 1, problem.vocabulary))
    seed[at, 0, tokens] = 1
    levels = np.broadcast_to(values[model.logits], seed.shape)[at, 0, tokens]
    return model.tape.gradient(values, model.logits, seed), levels
