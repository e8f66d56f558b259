"""Batched multi-start: many points at once by gradient, on the contexts.

Takes: a problem, first points. Gives: `search` → points with their margins.
May import: numpy, solve.problem.

The loss is a soft minimum of all leads, sharper with time; while a point still has wrong
tokens, every case counts alike. Points stay in the ball of the norm.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from adderc.solve.problem import Field, Problem, Watch, no_watch

Array = np.ndarray
FLOATS = 120_000  # numbers of one array; more points at once would leave the caches
DRAWN, LOOK = 30_000, 25  # constraints a step looks at; steps until all are looked at
RATE, SHARP, SPREAD = 0.1, (1.0, 8.0), 0.6


@dataclass(frozen=True, eq=False)
class Found:
    """Points [R, n] with margins [R]; `first_exact` seconds to the first without a wrong
    token, NaN for none; `stopped` by the user."""

    points: Array
    margins: Array
    first_exact: float
    seconds: float
    stopped: bool = False


def first_points(problem: Problem, count: int, seed: int) -> Array:
    """Random points well inside the norm, of usual size."""
    points = np.random.default_rng(seed).normal(size=(count, problem.size))
    return points * min(SPREAD, 0.75 * problem.norm / math.sqrt(problem.size))


def batch(problem: Problem) -> int:
    """How many points fit at once."""
    return max(2, min(problem.restarts, FLOATS // _drawn(problem) // problem.vocabulary))


def _drawn(problem: Problem) -> int:
    """How many cases a step looks at."""
    return min(len(problem.cases), max(16, DRAWN // problem.vocabulary))


def search(
    problem: Problem, points: Array, steps: int, watch: Watch = no_watch, seed: int = 0
) -> Found:
    """Adam with a falling rate; the best point each start passed, not the last.

    An interrupt ends it early with what there is.
    """
    run = _Run(problem, points, watch, np.random.default_rng(seed))
    stopped = False
    try:
        for step in range(steps):
            run.step(step, step / steps)
        run.look()
    except KeyboardInterrupt:
        stopped = True
    return Found(run.best, run.margins, run.exact, time.perf_counter() - run.began, stopped)


class _Run:
    """Points on their way, with the moments of Adam and the best of each so far."""

    def __init__(self, problem: Problem, points: Array, watch: Watch,
                 chance: np.random.Generator) -> None:
        self.problem, self.points, self.watch, self.chance = problem, points, watch, chance
        self.began, self.exact = time.perf_counter(), math.nan
        self.best, self.margins = points.copy(), np.full(len(points), -np.inf)
        self.mean, self.square = np.zeros_like(points), np.zeros_like(points)
        self.whole = Field(problem)
        self.sampled = _drawn(problem) < len(problem.cases)

    def step(self, step: int, share: float) -> None:
        field = self.whole
        if self.sampled:
            if step % LOOK == 0:
                self.look()
            count = len(self.problem.cases)
            field = Field(self.problem.take(
                self.chance.choice(count, _drawn(self.problem), replace=False)))
        values = field.model.tape.run(self.points)
        leads = field.leads(values[field.model.logits])
        least = leads.min(axis=(1, 2))
        if not self.sampled:
            self.note(least)
        pull = _pull(field, leads, least, SHARP[0] * (SHARP[1] / SHARP[0]) ** share)
        grad = field.model.tape.gradient(values, field.model.logits, pull)
        self.mean, self.square = 0.9 * self.mean + 0.1 * grad, 0.99 * self.square + 0.01 * grad**2
        move = self.mean / (1 - 0.9 ** (step + 1))
        move /= np.sqrt(self.square / (1 - 0.99 ** (step + 1))) + 1e-9
        self.points = inside(self.points - RATE * max(0.02, 1 - share) * move, self.problem.norm)

    def look(self) -> None:
        """The least lead over all cases, a part of them at a time."""
        cases, least = len(self.problem.cases), np.full(len(self.points), np.inf)
        if not self.sampled:
            least = self.whole.margins(self.points)
        for at in range(0, cases if self.sampled else 0, _drawn(self.problem)):
            part = self.problem.take(np.arange(at, min(at + _drawn(self.problem), cases)))
            least = np.minimum(least, Field(part).margins(self.points))
        self.note(least)

    def note(self, least: Array) -> None:
        """Keeps what is better than before."""
        better = least > self.margins
        self.best[better], self.margins[better] = self.points[better], least[better]
        if math.isnan(self.exact) and least.max() > 0:
            self.exact = time.perf_counter() - self.began
            self.watch(float(least.max()), len(self.points))


def inside(points: Array, norm: float) -> Array:
    """Points scaled back to the ball."""
    length = np.linalg.norm(points, axis=1, keepdims=True)
    return points * np.minimum(1.0, norm / np.maximum(length, 1e-300))


def _pull(field: Field, leads: Array, least: Array, sharp: float) -> Array:
    """Minus the loss's slope in the logits [R, N, V], which Adam's step subtracts."""
    z = -sharp * leads
    apart = np.exp(np.minimum(z, 0.0) - np.maximum(z, 0.0).max(axis=2, keepdims=True)
                   + np.maximum(z, 0.0))
    apart /= apart.sum(axis=2, keepdims=True) + np.exp(
        -np.maximum(z, 0.0).max(axis=2, keepdims=True))
    apart /= leads.shape[1]
    z = z - z.max(axis=(1, 2), keepdims=True)
    worst = np.exp(z)
    worst /= worst.sum(axis=(1, 2), keepdims=True)
    pull = np.where((least > 0)[:, None, None], worst, apart)
    right = field.problem.cases.right
    pull[:, np.arange(len(right)), right] = -pull.sum(axis=2)
    return pull
