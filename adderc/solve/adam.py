"""The `adam` backend: one start after another by small steps, as published code does it.

Takes: `Problem`. Gives: `Answer`. May import: numpy, solve.problem, solve.search.

It is the baseline the other backends are measured against: cross entropy on the contexts,
and it ends at the first point without a wrong token.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np

from adderc.solve.conflict import conflicting
from adderc.solve.problem import Answer, Field, Problem, Watch, no_watch
from adderc.solve.search import first_points, inside

RATE, STEPS, STARTS = 5e-3, 3000, 8


class Adam:
    name = "adam"

    def refuses(self, problem: Problem) -> str:
        return ""

    def solve(self, problem: Problem, seed: int, watch: Watch = no_watch) -> Answer:
        began, field = time.perf_counter(), Field(problem)
        answer = Answer(self.name, np.zeros(problem.size), -math.inf, 0)
        try:
            for start in range(STARTS):
                answer = self.descend(field, answer, seed * STARTS + start, watch)
                if answer.found:
                    return replace(answer, first_exact=time.perf_counter() - began)
        except KeyboardInterrupt:
            answer = replace(answer, stopped=True)
        return replace(answer, conflict=conflicting(problem, answer.point))

    def descend(self, field: Field, answer: Answer, seed: int, watch: Watch) -> Answer:
        """One start, until it has no wrong token or its steps are used up."""
        problem = field.problem
        point = first_points(problem, 1, seed)
        mean, square = np.zeros_like(point), np.zeros_like(point)
        right, at = problem.cases.right, np.arange(len(problem.cases))
        for step in range(1, STEPS + 1):
            values = field.model.tape.run(point)
            logits = values[field.model.logits]
            margin = float(field.leads(logits).min())
            if margin > answer.margin:
                answer = replace(answer, point=point[0].copy(), margin=margin,
                                 tried=answer.tried + 1)
                watch(margin, answer.tried)
            if margin > 0:
                break
            pull = np.exp(logits - logits.max(axis=2, keepdims=True))
            pull /= pull.sum(axis=2, keepdims=True)
            pull[:, at, right] -= 1
            grad = field.model.tape.gradient(values, field.model.logits, pull / len(right))
            mean, square = 0.9 * mean + 0.1 * grad, 0.999 * square + 0.001 * grad**2
            move = mean / (1 - 0.9**step) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
            point = inside(point - RATE * move, problem.norm)
        return answer
