"""Finishing: what a nearly right model still gets wrong is mined and trained on.

Takes: a `Run`'s task, its best vector, a hunter of wrong sums. Gives: `finish` → `Finished`,
with a report of every round. May import: train, weights.

Each round decodes greedily what the hunter brings (random and adversarial sums), keeps the
sums that came out wrong or with a small margin, and goes on training at a small rate with
half of each batch drawn from them and from their neighbours. A round's weights are taken
only if they fail on fewer of all sums met so far. Last come the linear programs (train.widen)
over the sums met, whether any is wrong or not. So finishing never makes a model worse.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from adderc.train.conduct import Task, Watch
from adderc.train.data import SMALL, draw_tokens, stream
from adderc.train.evaluate import margins_of, tokens_for
from adderc.train.forward import Forward
from adderc.train.step import stepper_of
from adderc.train.widen import widen

Array = np.ndarray
Hunter = Callable[[int], Array]  # round → operand tuples [N, operands]
NARROW = 0.02  # of the sums met, those with the least margins are trained on too
SHARE = 2  # one in so many sums of a batch comes from the pool
FINISH = 2  # the stream of chance that finishing draws from


@dataclass(frozen=True)
class Finished:
    """The weights, how many of the sums met they fail on, and a row for every step taken."""

    vector: Array
    failures: int
    met: int
    rounds: tuple[dict[str, Any], ...]
    stopped: bool = False


def finish(
    task: Task, seed: int, vector: Array, hunter: Hunter, rounds: int, steps: int,
    rate: float, watch: Watch,
) -> Finished:
    """At most `rounds` rounds of `steps` steps at `rate`, done when a hunt finds nothing; then
    the linear programs. An interrupt keeps the best so far."""
    run = _Finish(task, seed, vector, hunter, steps, rate)
    stopped = False

    def told(row: dict[str, Any]) -> None:
        watch(seed, row)

    try:
        for number in range(1, rounds + 1):
            if run.fewest == 0:
                break
            told(run.round(number))
        if rounds:
            run.best, row = widen(run.forward, run.best, run.tokens, told=told)
            run.rows.append(row)
            run.fewest, stopped = row["failures"], row["stopped"]
    except KeyboardInterrupt:
        stopped = True
    return Finished(run.best, run.fewest, run.tokens.shape[1], tuple(run.rows), stopped)


class _Finish:
    """The best weights, those that are trained on, and the sums met so far."""

    def __init__(self, task: Task, seed: int, vector: Array, hunter: Hunter, steps: int,
                 rate: float):
        self.task, self.seed, self.hunter, self.steps = task, seed, hunter, steps
        self.forward = Forward(task.structure)
        self.stepper = stepper_of(task.structure, task.plan.batch)
        self.rates = rate * (0.5 + 0.5 * np.cos(np.pi * np.arange(steps) / steps))
        self.tokens = tokens_for(self.forward.form, hunter(0))
        self.margins = self.narrowest(vector)
        self.best, self.fewest = vector, int((self.margins <= 0).sum())
        self.current = vector.copy()
        self.first, self.second = np.zeros_like(vector), np.zeros_like(vector)
        self.rows: list[dict[str, Any]] = []

    def narrowest(self, vector: Array) -> Array:
        """The least margin of each sum met [N]."""
        return np.asarray(margins_of(self.forward, vector, self.tokens).min(axis=1))

    def round(self, number: int) -> dict[str, Any]:
        """Train on what is wrong or narrow, hunt again, keep what is better."""
        plan, margins = self.task.plan, self.margins
        count = max(int((margins <= 0).sum()), int(NARROW * len(margins)))
        pool = self.tokens[:, np.argsort(margins)[:count]]
        losses = self.stepper.train(
            self.current, self.first, self.second, (number - 1) * self.steps,
            _batches(self.task, self.seed, number, self.steps, pool), self.rates,
            np.zeros(self.steps), plan.clip, plan.betas, plan.epsilon)
        met = tokens_for(self.forward.form, self.hunter(number))
        self.tokens = np.concatenate([self.tokens, met], axis=1)
        kept = int((self.narrowest(self.best) <= 0).sum())
        self.margins = self.narrowest(self.current)
        failures = int((self.margins <= 0).sum())
        if failures <= kept:
            self.best, self.fewest = self.current.copy(), failures
        else:
            self.fewest = kept
        self.rows.append({
            "round": number, "met": self.tokens.shape[1], "failures": failures,
            "kept": self.fewest, "loss": float(losses.mean()),
            "margin": float(self.margins.min())})
        return self.rows[-1]


def _batches(task: Task, seed: int, number: int, steps: int, pool: Array) -> Array:
    """Batches [steps, length, B]: fresh sums, and one in SHARE from the pool."""
    plan, form = task.plan, task.structure.format
    draw = replace(plan.draw_at(plan.steps), carry=0.25)
    batches = draw_tokens(form, [draw] * steps, plan.batch, seed, 2**40 + number)
    rng = stream(seed, FINISH, number)
    count = plan.batch // SHARE
    chosen = rng.integers(0, pool.shape[1], (steps, count))
    batches[:, :, :count] = pool[:, chosen].transpose(1, 0, 2).astype(SMALL)
    return batches
