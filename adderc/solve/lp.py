"""The `lp` backend: logits affine in the unknowns, the optimum and its proof by HiGHS.

Takes: `Problem`. Gives: `Answer` with a `Bound` from the dual.
May import: numpy, scipy, solve.linear, solve.problem.

With y >= 0, sum y = 1, from the dual, the margin of every w with |w| <= norm is at most

    sum_k y_k lead_k(w) = y . levels + (slopes^T y) . w <= y . levels + norm |slopes^T y|.

Where that is not positive the problem is infeasible, and the constraints with y_k > 0 are an
irreducible set that stands against each other (the dual's basis).
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from scipy.optimize import linprog

from adderc.solve.linear import CLOSE, FIRST, MORE, ROUNDS, Ceiling, Rows, least, too_high
from adderc.solve.problem import Answer, Bound, Constraint, Field, Problem, Watch, no_watch

Array = np.ndarray
HALVINGS = 40


class Lp:
    name = "lp"

    def refuses(self, problem: Problem) -> str:
        if problem.model().affine:
            return ""
        return ("the logits are not affine in the unknown leaves; lp takes the output of a "
                "block whose inputs are known")

    def solve(self, problem: Problem, seed: int, watch: Watch = no_watch) -> Answer:
        """The largest margin within the norm; with a wanted margin, the least norm for it."""
        answer = self.largest(problem, watch)
        if problem.margin is None or answer.margin < problem.margin:
            return answer
        low, high, best = 0.0, float(np.linalg.norm(answer.point)), answer
        for _ in range(HALVINGS):  # the largest margin grows with the norm
            middle = (low + high) / 2
            inner = self.largest(replace(problem, norm=middle), no_watch)
            if inner.margin >= problem.margin:
                best, high = inner, float(np.linalg.norm(inner.point))
            else:
                low = middle
            if high - low < 1e-6 * high:
                break
        return replace(best, bound=answer.bound)

    def largest(self, problem: Problem, watch: Watch) -> Answer:
        field, n = Field(problem), problem.size
        start = problem.start if problem.start is not None else np.zeros(n)
        rows = Rows.of(problem, *least(problem, field, start, FIRST)[:2])
        planes, ceiling = np.zeros((0, n)), Ceiling(np.zeros((0, n)), np.zeros(0))
        best, best_margin, y = start, -math.inf, np.zeros(0)
        stopped = False
        try:
            for tried in range(ROUNDS):
                point, top, y = self.programme(problem, rows, planes, ceiling)
                length = float(np.linalg.norm(point))
                held = point * min(1.0, problem.norm / max(length, 1e-300))
                cases, tokens, margin = least(problem, field, held, MORE)
                high = too_high(problem, field, held)
                if margin > best_margin and high is None:
                    best, best_margin = held, margin
                    watch(margin, tried + 1)
                if top <= 0 or top - best_margin <= CLOSE * max(1.0, abs(top)):
                    break  # none can be positive, or none can be better
                if length > problem.norm:
                    planes = np.vstack([planes, point / length])
                if high is not None:
                    ceiling = Ceiling(np.vstack([ceiling.slopes, high.slopes]),
                                      np.concatenate([ceiling.levels, high.levels]))
                rows = rows.joined(problem, cases, tokens)
        except KeyboardInterrupt:
            stopped = True
        y = np.append(y, np.zeros(len(rows.cases) - len(y)))
        return replace(self.told(problem, rows, y, best, best_margin), stopped=stopped)

    def programme(
        self, problem: Problem, rows: Rows, planes: Array, ceiling: Ceiling
    ) -> tuple[Array, float, Array]:
        """max t: slopes . w + levels >= t, planes . w <= norm, |w_j| <= norm, logits low."""
        n, norm = problem.size, problem.norm
        left = np.vstack([
            np.hstack([-rows.slopes, np.ones((len(rows.slopes), 1))]),
            np.hstack([planes, np.zeros((len(planes), 1))]),
            np.hstack([ceiling.slopes, np.zeros((len(ceiling.slopes), 1))])])
        right = np.concatenate([
            rows.levels, np.full(len(planes), norm),
            np.full(len(ceiling.levels), problem.ceiling or 0.0) - ceiling.levels])
        found = linprog(np.append(np.zeros(n), -1.0), left, right,
                        bounds=[(-norm, norm)] * n + [(None, None)], method="highs")
        if found.x is None:
            return np.zeros(n), -math.inf, np.zeros(len(rows.slopes))
        return found.x[:n], float(found.x[n]), -found.ineqlin.marginals[: len(rows.slopes)]

    def told(self, problem: Problem, rows: Rows, y: Array, point: Array, margin: float) -> Answer:
        """The answer with its bound, and the conflict where the margin is not enough."""
        y = np.where(y > 1e-12 * y.max(initial=0.0), y, 0.0)
        bound = None
        if y.sum() > 0 and problem.ceiling is None:
            y = y / y.sum()
            kept = y > 0
            value = float(y @ rows.levels + problem.norm * np.linalg.norm(rows.slopes.T @ y))
            bound = Bound(value, rows.cases[kept], rows.tokens[kept], y[kept])
        conflict: tuple[Constraint, ...] = ()
        if margin <= 0 and bound is not None:
            order = np.argsort(-bound.weights, kind="stable")
            conflict = tuple(problem.constraint(int(bound.cases[k]), int(bound.tokens[k]))
                             for k in order)
        return Answer(self.name, point, margin, 1, bound, conflict)
