"""Finishing: what a nearly right model still gets wrong is mined and trained on.

Takes: a `Run`'s task, its best vector, a hunter of wrong sums. Gives: `finish` → `Finished`,
with a report of every round. May import: train, weights.

Each round decodes greedily what the hunter brings (random and adversarial sums), keeps the
sums that came out wrong or with a small margin, and goes on training at a small rate with
half of each batch drawn from them and from their neighbours. A round's weights are taken
only if they fail on fewer of all sums met so far; so finishing never makes a model worse.
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

Array = np.ndarray
Hunter = Callable[[int], Array]  # round → operand tuples [N, operands]
NARROW = 0.02  # of the sums met, those with the least margins are trained on too
SHARE = 2  # one in so many sums of a batch comes from the pool
FINISH = 2  # the stream of chance that finishing draws from


@dataclass(frozen=True)
class Finished:
    """The weights, how many of the sums met they fail on, and a row for every round."""

    vector: Array
    failures: int
    met: int
    rounds: tuple[dict[str, Any], ...]


def finish(
    task: Task, seed: int, vector: Array, hunter: Hunter, rounds: int, steps: int,
    rate: float, watch: Watch,
) -> Finished:
    """At most `rounds` rounds of `steps` steps at `rate`; done when a hunt finds nothing."""
    forward, plan = Forward(task.structure), task.plan
    stepper = stepper_of(task.structure, plan.batch)
    tokens = tokens_for(forward.form, hunter(0))
    rows: list[dict[str, Any]] = []
    margins = margins_of(forward, vector, tokens).min(axis=1)
    first, second = np.zeros_like(vector), np.zeros_like(vector)
    current = vector.copy()
    best, fewest = vector, int((margins <= 0).sum())
    for number in range(1, rounds + 1):
        if fewest == 0:
            break
        worst = np.argsort(margins)[: max(int((margins <= 0).sum()), int(NARROW * len(margins)))]
        pool = tokens[:, worst]
        rates = rate * (0.5 + 0.5 * np.cos(np.pi * np.arange(steps) / steps))
        batches = _batches(task, seed, number, steps, pool)
        losses = stepper.train(current, first, second, (number - 1) * steps, batches, rates,
                               np.zeros(steps), plan.clip, plan.betas, plan.epsilon)
        tokens = np.concatenate([tokens, tokens_for(forward.form, hunter(number))], axis=1)
        kept = int((margins_of(forward, best, tokens).min(axis=1) <= 0).sum())
        margins = margins_of(forward, current, tokens).min(axis=1)
        failures = int((margins <= 0).sum())
        if failures <= kept:
            best, fewest = current.copy(), failures
        else:
            fewest = kept
        row = {"round": number, "met": tokens.shape[1], "failures": failures, "kept": fewest,
               "loss": float(losses.mean()), "margin": float(margins.min())}
        rows.append(row)
        watch(seed, row)
    return Finished(best, fewest, tokens.shape[1], tuple(rows))


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
