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
FLOATS = 4_000_000  # of one array; more points at once would leave the caches
RATE, SHARP = 0.1, (1.0, 8.0)


@dataclass(frozen=True, eq=False)
class Found:
    """Points [R, n] with margins [R]; `first_exact` seconds to the first without a wrong
    token, NaN for none; `stopped` by the user."""

    points: Array
    margins: Array
    first_exact: float
    stopped: bool = False


def first_points(problem: Problem, count: int, seed: int) -> Array:
    """Random points of three quarters of the norm."""
    points = np.random.default_rng(seed).normal(size=(count, problem.size))
    return points * (0.75 * problem.norm / math.sqrt(problem.size))


def batch(problem: Problem) -> int:
    """How many points fit at once."""
    cases = problem.cases
    per_point = len(cases) * (problem.vocabulary + cases.tokens.shape[1]
                              * problem.structure.d_model)
    return max(2, min(problem.restarts, FLOATS // max(per_point, 1)))


def search(
    problem: Problem, points: Array, steps: int, watch: Watch = no_watch, rate: float = RATE
) -> Found:
    """Adam with a falling rate; the best point each start passed, not the last.

    An interrupt ends it early with what there is.
    """
    began, field = time.perf_counter(), Field(problem)
    best, margins = points.copy(), np.full(len(points), -np.inf)
    mean, square = np.zeros_like(points), np.zeros_like(points)
    exact, stopped = math.nan, False
    try:
        for step in range(steps + 1):
            values = field.model.tape.run(points)
            leads = field.leads(values[field.model.logits])
            least = leads.min(axis=(1, 2))
            better = least > margins
            best[better], margins[better] = points[better], least[better]
            if math.isnan(exact) and least.max() > 0:
                exact = time.perf_counter() - began
                watch(float(least.max()), len(points))
            if step == steps:
                break
            share = step / steps
            seed = _pull(field, leads, least, SHARP[0] * (SHARP[1] / SHARP[0]) ** share)
            grad = field.model.tape.gradient(values, field.model.logits, seed)
            mean, square = 0.9 * mean + 0.1 * grad, 0.99 * square + 0.01 * grad**2
            move = mean / (1 - 0.9 ** (step + 1))
            move /= np.sqrt(square / (1 - 0.99 ** (step + 1))) + 1e-9
            points = inside(points - rate * max(0.02, 1 - share) * move, problem.norm)
    except KeyboardInterrupt:
        stopped = True
    return Found(best, margins, exact, stopped)


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
