"""The `nlp` backend: batched multi-start, then SLSQP with exact gradients on an active set.

Takes: `Problem`. Gives: `Answer`. May import: numpy, scipy, solve.problem, solve.search.

SLSQP sees the margin t as one more unknown: t is as large as possible with every active
lead at least t and the norm within its bound. Constraints are taken in while some lead
falls behind. With a wanted margin the norm is changed until its largest margin is that one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize

from adderc.solve.conflict import conflicting
from adderc.solve.problem import ROOM, Answer, Field, Problem, Watch, no_watch
from adderc.solve.search import Found, batch, first_points, inside, search

Array = np.ndarray
STEPS, ROUGH, FINE = 60, 40, 120  # of the search; of a short and a long SLSQP run
STAGES = ((14, 16), (5, 24), (2, 60))  # how many starts are polished, and in how many steps
ACTIVE, ROUNDS, DOUBLINGS = 120, 8, 5
NORMS, POWER, CLOSE = 12, 4.0, 2e-3  # changes of the norm for a wanted margin
POLISHABLE = 200  # unknowns; SLSQP's own algebra grows with their cube


class Nlp:
    name = "nlp"

    def refuses(self, problem: Problem) -> str:
        """Why this backend does not take the problem; empty where it does."""
        return ""

    def solve(self, problem: Problem, seed: int, watch: Watch = no_watch) -> Answer:
        """The lowering's point polished, where there is one; else many starts, fewer and fewer."""
        if problem.margin is not None:
            return self.shortest(problem, problem.margin, seed, watch)
        began = time.perf_counter()
        run = _Polish(problem)
        answer = Answer(self.name, np.zeros(problem.size), -math.inf, 0)
        try:
            if problem.start is not None:
                answer = run.better(answer, (problem.start, run.margin(problem.start)), watch)
                answer = run.better(answer, run.polished(problem.start, FINE), watch)
                if answer.found:
                    return replace(answer, first_exact=time.perf_counter() - began)
            for longer in range(DOUBLINGS):  # until some start has no wrong token
                points = first_points(problem, batch(problem), seed + 7919 * longer)
                found = search(problem, points, steps_for(problem) << longer, watch, seed)
                if found.stopped or found.margins.max() > 0:
                    break
            exact = found.first_exact + time.perf_counter() - began - found.seconds
            answer = _starts(run, replace(answer, first_exact=exact), found, watch)
        except KeyboardInterrupt:
            answer = replace(answer, stopped=True)
        if not answer.found and not answer.stopped:
            answer = replace(answer, conflict=conflicting(problem, answer.point))
        return answer


    def shortest(self, problem: Problem, wanted: float, seed: int, watch: Watch) -> Answer:
        """The least norm found for a margin: the largest margin within a norm, and the norm
        changed until the two agree."""
        inner = replace(problem, margin=None, norm=problem.norm / ROOM)
        answer = self.solve(inner, seed, watch)
        best, power = answer, POWER
        for _ in range(NORMS):
            if not answer.found or answer.stopped:
                break
            if answer.margin >= wanted and (
                    best.margin < wanted
                    or np.linalg.norm(answer.point) < np.linalg.norm(best.point)):
                best = answer
            if wanted <= answer.margin <= wanted * (1 + CLOSE):
                break
            length = float(np.linalg.norm(answer.point))
            # a product of a few leaves grows with a power of the norm; aim a little high
            norm = length * (wanted * (1 + CLOSE / 2) / answer.margin) ** (1 / power)
            inner = replace(inner, norm=min(norm, problem.norm))
            point = inside(answer.point[None] * norm / length, inner.norm)[0]
            point, margin = _Polish(inner).polished(point, FINE)
            if margin > 0 and abs(norm / length - 1) > 1e-6:
                rise = math.log(margin / answer.margin) / math.log(norm / length)
                power = min(max(rise, 1.0), 3 * POWER)
            answer = replace(answer, point=point, margin=margin)
        return best


def steps_for(problem: Problem) -> int:
    """More steps where a table has more cases."""
    return int(STEPS * max(1.0, math.sqrt(len(problem.cases) / 16)))


def _starts(run: _Polish, answer: Answer, found: Found, watch: Watch) -> Answer:
    """The best starts, polished a little, the best of these more."""
    answer = replace(answer, stopped=found.stopped)
    order = np.argsort(-found.margins, kind="stable")
    top = found.points[order[0]]
    answer = run.better(answer, (top, float(found.margins[order[0]])), watch)
    if found.stopped or not answer.found or run.problem.size > POLISHABLE:
        return answer
    try:
        for better in _polishing(run, found.points[order]):
            answer = run.better(answer, better, watch)
    except KeyboardInterrupt:
        answer = replace(answer, stopped=True)
    return answer


def _polishing(run: _Polish, points: Array) -> Iterator[tuple[Array, float]]:
    """Polished points as they come: with a goal, one start to its end after another until it
    is reached; else a little for many, and more for the best of these."""
    if (enough := run.problem.enough) is not None:
        for point in points:
            polished = run.polished(point, ROUGH)
            yield polished
            if polished[1] >= enough:
                return
    small = run.problem.constraints <= 2000
    left = list(points[: STAGES[0][0] if small else 4])
    for count, steps in STAGES:
        made = []
        for point in left[:count]:
            made.append(run.polished(point, steps))
            yield made[-1]
        made.sort(key=lambda pair: run.rank(*pair), reverse=True)
        left = [point for point, _ in made]


@dataclass
class _Polish:
    problem: Problem

    def __post_init__(self) -> None:
        self.field = Field(self.problem)

    def margin(self, point: Array) -> float:
        return float(self.field.margins(point[None])[0])

    def better(self, answer: Answer, point: tuple[Array, float], watch: Watch) -> Answer:
        """The answer, or the point where it is better."""
        answer = replace(answer, tried=answer.tried + 1)
        if self.rank(*point) > self.rank(answer.point, answer.margin):
            answer = replace(answer, point=point[0], margin=point[1])
            watch(answer.margin, answer.tried)
        return answer

    def rank(self, point: Array, margin: float) -> float:
        """The margin; in units of the largest |logit| where there is a ceiling."""
        if self.problem.ceiling is None or not margin > 0:
            return margin
        return margin / float(np.abs(self.field.logits(point[None])).max())

    def polished(self, point: Array, steps: int) -> tuple[Array, float]:
        """The point after SLSQP on its active set, and its margin over all constraints."""
        problem = self.problem
        best = (point, self.margin(point))
        active = np.zeros((0, 2), dtype=np.int64)
        current = point
        for _ in range(ROUNDS):
            leads = self.field.leads(self.field.logits(current[None]))[0]
            active = _joined(active, leads, max(ACTIVE, 3 * problem.size))
            current = _Program(problem, active, self.scale(point)).run(current, steps)
            current = inside(current[None], problem.norm)[0]
            margin = self.margin(current)
            if self.rank(current, margin) > self.rank(*best):
                best = (current, margin)
            flat = self.field.leads(self.field.logits(current[None]))[0]
            held = flat[active[:, 0], active[:, 1]].min()
            if flat.min() >= held - 1e-9 * max(1.0, abs(held)):
                break
        return best

    def scale(self, point: Array) -> Array:
        """A typical size of each unknown, so that SLSQP sees numbers near 1."""
        if self.problem.start is None:
            return np.ones(self.problem.size)
        sizes, at = np.abs(self.problem.start), 0
        for leaf in self.problem.unknown:
            part = slice(at, at + math.prod(leaf.shape))
            at = part.stop
            sizes[part] = np.maximum(sizes[part], 0.1 * sizes[part].max() + 1e-6)
        return np.asarray(sizes)


def _joined(active: Array, leads: Array, most: int) -> Array:
    """The active constraints with the `most` that lead least."""
    count = min(most, leads.size)
    flat = np.argpartition(leads, count - 1, axis=None)[:count]
    fresh = np.stack(np.unravel_index(np.sort(flat), leads.shape), axis=1)
    fresh = fresh[np.isfinite(leads[fresh[:, 0], fresh[:, 1]])]
    return np.unique(np.concatenate([active, fresh]), axis=0)


class _Program:
    """One SLSQP run: unknowns divided by their scale, and the margin."""

    def __init__(self, problem: Problem, active: Array, scale: Array) -> None:
        self.problem, self.scale = problem, scale
        self.part = problem.take(active[:, 0])
        self.token, self.right = active[:, 1], self.part.cases.right
        self.apart = self.part.model(apart=True)
        self.at, self.seen = np.arange(len(active)), np.zeros(0)
        self.began = 1.0

    def look(self, x: Array) -> None:
        """Leads and their slopes at x, kept for the next question about the same x."""
        if np.array_equal(self.seen, x):
            return
        self.seen, n = x.copy(), self.problem.size
        point = x[:n] * self.scale
        values = self.apart.tape.run(point[None])
        logits = values[self.apart.logits][:, 0]
        self.leads = logits[self.at, self.right] - logits[self.at, self.token] - self.part.leak
        seed = np.zeros((len(self.at), 1, self.problem.vocabulary))
        seed[self.at, 0, self.right] += 1
        seed[self.at, 0, self.token] -= 1
        self.slopes = self.apart.tape.gradient(values, self.apart.logits, seed) * self.scale
        self.rest, self.rest_slopes = self.limits(point, logits, values)

    def limits(self, point: Array, logits: Array, values: list[Array]) -> tuple[Array, Array]:
        """What must not be negative beside the leads, in the unknowns: the norm's room, and
        how far below the largest |logit| the others are (that one is added in `short`)."""
        norm = self.problem.norm
        room = [np.array([(1 - point @ point / norm**2) / 2])]
        slopes = [(-point * self.scale / norm**2)[None]]
        if (ceiling := self.problem.ceiling) is not None:
            for token in (self.right, self.token):
                own = logits[self.at, token]
                seed = np.zeros((len(self.at), 1, self.problem.vocabulary))
                seed[self.at, 0, token] = -np.sign(own)
                room.append(-np.abs(own) / ceiling)
                slopes.append(self.apart.tape.gradient(
                    values, self.apart.logits, seed) * self.scale / ceiling)
        return np.concatenate(room), np.concatenate(slopes)

    def run(self, point: Array, steps: int) -> Array:
        """SLSQP over (unknowns, margin, largest |logit| in units of the ceiling)."""
        n = self.problem.size
        x = np.append(point / self.scale, (0.0, 1.0))
        self.look(x)
        x[n] = self.began = float(self.leads.min())
        objective = self.largest if self.problem.ceiling is None else self.share
        with np.errstate(all="ignore"):
            found = minimize(objective, x, jac=True, method="SLSQP",
                             constraints=[{"type": "ineq", "fun": self.short,
                                           "jac": self.short_slopes}],
                             options={"maxiter": steps, "ftol": 1e-9})
        result = found.x[:n] * self.scale
        return result if np.all(np.isfinite(result)) else point

    def short(self, x: Array) -> Array:
        """Everything that must not be negative."""
        self.look(x)
        rest = self.rest.copy()
        rest[1:] += x[-1]
        return np.concatenate([self.leads - x[-2], rest])

    def short_slopes(self, x: Array) -> Array:
        self.look(x)
        extra = np.zeros((len(self.leads) + len(self.rest), 2))
        extra[: len(self.leads), 0] = -1.0
        extra[len(self.leads) + 1 :, 1] = 1.0
        return np.hstack([np.vstack([self.slopes, self.rest_slopes]), extra])

    def largest(self, x: Array) -> tuple[float, Array]:
        """The margin, to be as large as possible."""
        return -x[-2], np.append(np.zeros(len(x) - 2), (-1.0, 0.0))

    def share(self, x: Array) -> tuple[float, Array]:
        """The margin in units of the largest |logit|, as large as possible."""
        top = max(x[-1], 1e-6)
        unit = max(abs(self.began), 1e-300)
        return -x[-2] / top / unit, np.append(
            np.zeros(len(x) - 2), (-1 / top / unit, x[-2] / top**2 / unit))
