"""The `milp` backend: leaves that are small integers, as few of them not zero as can be.

Takes: `Problem` with affine logits. Gives: `Answer`.
May import: numpy, scipy, solve.linear, solve.problem.

Without a wanted margin: the largest margin with whole numbers within the norm. With one: the
fewest leaves that are not zero, then the fewest different magnitudes, that reach it. HiGHS
searches to the end, so "none" is a proof for whole numbers in this ball, if one that no
second programme checks; the constraints of the linear relaxation are checked where it is
infeasible already.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from adderc.solve.linear import FIRST, MORE, ROUNDS, Rows, least
from adderc.solve.lp import Lp
from adderc.solve.problem import Answer, Field, Problem, Watch, no_watch

Array = np.ndarray
SECONDS, GAP = 20.0, 0.01  # of one programme
MAGNITUDES = 300  # unknowns times magnitudes at most


class Milp:
    name = "milp"

    def refuses(self, problem: Problem) -> str:
        return Lp().refuses(problem)

    def solve(self, problem: Problem, seed: int, watch: Watch = no_watch) -> Answer:
        """Programmes with more and more constraints; an interrupt, seen between two of them,
        keeps the best point so far."""
        relaxed = Lp().largest(problem, no_watch)
        if not relaxed.found and relaxed.bound is not None and relaxed.bound.value <= 0:
            return Answer(self.name, relaxed.point, relaxed.margin, 1, relaxed.bound,
                          relaxed.conflict)
        field, n = Field(problem), problem.size
        rows = Rows.of(problem, *least(problem, field, relaxed.point, FIRST)[:2])
        planes = np.zeros((0, n))
        best, tried = (np.rint(relaxed.point), -math.inf), 0
        try:
            for tried in range(ROUNDS):
                point, complete = _Programme(problem, rows, planes).solve()
                if point is None:
                    return Answer(self.name, np.rint(relaxed.point), -math.inf, tried + 1,
                                  relaxed.bound, relaxed.conflict, exhausted=complete)
                cases, tokens, margin = least(problem, field, point, MORE)
                watch(margin, tried + 1)
                length = float(np.linalg.norm(point))
                wanted = self.wanted(problem, rows, point)
                if length > problem.norm * (1 + 1e-9):
                    planes = np.vstack([planes, point / length])
                elif margin >= wanted - 1e-9 * max(1.0, abs(wanted)):
                    return Answer(self.name, point, margin, tried + 1, relaxed.bound)
                elif margin > best[1]:
                    best = (point, margin)
                rows = rows.joined(problem, cases, tokens)
        except KeyboardInterrupt:
            return Answer(self.name, *best, tried + 1, relaxed.bound, stopped=True)
        return Answer(self.name, *best, ROUNDS)

    def wanted(self, problem: Problem, rows: Rows, point: Array) -> float:
        """The margin that ends the rounds: the wanted one, or that over the active rows."""
        if problem.margin is not None:
            return problem.margin
        return float((rows.slopes @ point + rows.levels).min())


@dataclass(frozen=True, eq=False)
class _Programme:
    """Unknowns: n whole numbers, the margin, n "is not zero", and one for each magnitude."""

    problem: Problem
    rows: Rows
    planes: Array

    @property
    def largest(self) -> int:
        return max(1, math.floor(self.problem.norm))

    @property
    def magnitudes(self) -> int:
        """How many magnitudes are told apart; 0 where there would be too many."""
        few = self.problem.margin is not None
        return self.largest if few and self.largest * self.problem.size <= MAGNITUDES else 0

    def solve(self) -> tuple[Array | None, bool]:
        """A point, and whether the search came to its end."""
        n, k, problem = self.problem.size, self.magnitudes, self.problem
        own = 2 * n * k  # is the leaf +m or -m
        width = 2 * n + 1 + own + k
        cost = np.zeros(width)
        if problem.margin is None:
            cost[n] = -1.0
        else:
            cost[n + 1 : 2 * n + 1] = 1.0
            cost[2 * n + 1 + own :] = 1.0 / (k + 1)
        limit = float(self.largest)
        integral = np.ones(width)
        integral[n] = 0
        low, high = np.zeros(width), np.ones(width)
        low[:n], high[:n], low[n], high[n] = -limit, limit, -np.inf, np.inf
        if problem.margin is not None:
            low[n] = high[n] = problem.margin
        found = milp(cost, integrality=integral, bounds=Bounds(low, high),
                     constraints=self.constraints(width, limit, k),
                     options={"time_limit": SECONDS, "mip_rel_gap": GAP})
        if found.x is None:
            return None, found.status == 2
        return np.rint(found.x[:n]), found.status == 0

    def constraints(self, width: int, limit: float, k: int) -> list[LinearConstraint]:
        n, rows, planes = self.problem.size, self.rows, self.planes
        lead = np.zeros((len(rows.slopes), width))
        lead[:, :n], lead[:, n] = rows.slopes, -1.0
        found = [LinearConstraint(lead, -rows.levels, np.inf)]
        if len(planes):
            wide = np.zeros((len(planes), width))
            wide[:, :n] = planes
            found.append(LinearConstraint(wide, -np.inf, self.problem.norm))
        for sign in (1.0, -1.0):  # |w_j| <= limit * (w_j is not zero)
            zero = np.zeros((n, width))
            zero[:, :n] = sign * np.eye(n)
            zero[:, n + 1 : 2 * n + 1] = -limit * np.eye(n)
            found.append(LinearConstraint(zero, -np.inf, 0.0))
        return found + (self.told_apart(width, k) if k else [])

    def told_apart(self, width: int, k: int) -> list[LinearConstraint]:
        """w_j = sum of m (plus_jm - minus_jm), one of them where w_j is not zero, each only
        if its magnitude is in use."""
        n = self.problem.size
        sizes = np.arange(1, k + 1, dtype=float)
        value, one, use = np.zeros((n, width)), np.zeros((n, width)), []
        first, used = 2 * n + 1, 2 * n + 1 + 2 * n * k
        for j in range(n):
            plus = slice(first + 2 * j * k, first + 2 * j * k + k)
            minus = slice(plus.stop, plus.stop + k)
            value[j, j], value[j, plus], value[j, minus] = -1.0, sizes, -sizes
            one[j, plus], one[j, minus], one[j, n + 1 + j] = 1.0, 1.0, -1.0
            for m in range(k):
                row = np.zeros(width)
                row[plus.start + m], row[minus.start + m], row[used + m] = 1.0, 1.0, -1.0
                use.append(row)
        return [LinearConstraint(value, 0.0, 0.0), LinearConstraint(one, 0.0, 0.0),
                LinearConstraint(np.array(use), -np.inf, 0.0)]
