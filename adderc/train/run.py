"""One training run: from starts to the best weights, step by step, resumable.

Takes: a `Structure`, a `TrainPlan`, a seed, sets to be judged on. Gives: `Run`, which
advances from one evaluation to the next, and `RunState`, all that is needed to go on.
May import: errors, format, train, weights.

A chunk of CHUNK steps draws its sums from the seed and its own number, and the state is
written at evaluations, which fall on chunk ends: a run that was cut off goes on from the
last one and comes to the same bits.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from adderc.errors import InputError
from adderc.train.data import draw_tokens
from adderc.train.ensemble import Leaves
from adderc.train.evaluate import Score, judge_sets
from adderc.train.forward import Forward
from adderc.train.plan import TrainPlan
from adderc.train.starts import start_values
from adderc.train.step import Stepper, stepper_of
from adderc.weights.structure import Structure

Array = np.ndarray
CHUNK = 100
KEPT_LOSSES = 500


@dataclass
class RunState:
    """Weights, the optimizer's moments, the best weights so far, and the history."""

    theta: Array
    first: Array
    second: Array
    best: Array
    step: int = 0
    best_score: float = -1.0
    best_step: int = 0
    perfect: int = 0
    exact: float = 0.0
    tokens: float = 0.0
    losses: list[float] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)

    ARRAYS = ("theta", "first", "second", "best")

    def save(self, path: Path, key: str) -> None:
        """Write the state whole or not at all; `key` says what it belongs to."""
        plain = {name: value for name, value in vars(self).items() if name not in self.ARRAYS}
        temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
        with open(temporary, "wb") as stream:
            np.savez(stream, about=np.array(json.dumps({"key": key, **plain})),
                     **{name: getattr(self, name) for name in self.ARRAYS})
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: Path, key: str) -> RunState:
        """InputError for a file that is missing, damaged, or of another run."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                plain = json.loads(str(stored["about"]))
                arrays = {name: stored[name] for name in cls.ARRAYS}
        except FileNotFoundError:
            raise InputError(f"{path}: there is no run to resume",
                             "start it without --resume") from None
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{path} is no state of a run: {error}") from None
        if plain.pop("key") != key:
            raise InputError(f"{path} belongs to a run with another spec, settings or seed",
                             "start anew without --resume")
        return cls(**arrays, **plain)


@dataclass
class Run:
    """One seed. `sets` are tokens [length, N] by name; all must be exact to be done."""

    structure: Structure
    plan: TrainPlan
    seed: int
    sets: Mapping[str, Array]
    state: RunState = field(init=False)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.forward = Forward(self.structure)
        self.stepper: Stepper = stepper_of(self.structure, self.plan.batch)
        self.state = self.fresh(self.seed)

    def fresh(self, seed: int) -> RunState:
        """The state before the first step."""
        theta = start_values(self.structure, seed)
        return RunState(theta, np.zeros_like(theta), np.zeros_like(theta), theta.copy())

    @property
    def done(self) -> bool:
        """At the end, or exact on every set for `stop` evaluations in a row."""
        return self.state.step >= self.plan.steps or self.state.perfect >= self.plan.stop > 0

    @property
    def succeeded(self) -> bool:
        """Whether the kept weights are exact on every set."""
        return self.state.best_score >= 1.0

    def advance(self) -> dict[str, Any]:
        """Train to the next evaluation, judge, keep the best; the new row of the history."""
        state, plan, started = self.state, self.plan, time.perf_counter()
        goal = min(plan.steps, (state.step // plan.every + 1) * plan.every)
        losses = np.zeros(0)
        while state.step < goal:
            chunk = self.chunk(min(CHUNK - state.step % CHUNK, goal - state.step))
            losses = np.concatenate([losses, chunk])
        scores = judge_sets(self.forward, state.theta, self.sets)
        state.tokens = float(np.mean([score.tokens for score in scores.values()]))
        state.exact = float(np.mean([score.exact for score in scores.values()]))
        self.keep(scores)
        self.seconds += time.perf_counter() - started
        row = {"step": state.step, "steps": plan.steps, "every": plan.every,
               "loss": float(losses.mean()),
               "rate": plan.rate_at(state.step - 1), "tokens": state.tokens,
               "exact": {name: score.exact for name, score in scores.items()},
               "margin": min(score.margin for score in scores.values())}
        state.history.append(row)
        return row

    def keep(self, scores: Mapping[str, Score]) -> None:
        """The best weights are those with the most exact sums; among equals, the widest
        margin, then the later."""
        state = self.state
        least = min(score.margin for score in scores.values())
        score = 1.0 + least if state.exact == 1.0 else state.exact
        state.perfect = state.perfect + 1 if state.exact == 1.0 else 0
        if score >= state.best_score:
            state.best, state.best_score, state.best_step = state.theta.copy(), score, state.step

    def chunk(self, count: int) -> Array:
        """`count` steps, which must not go beyond this chunk's end."""
        state, plan = self.state, self.plan
        number, within = divmod(state.step, CHUNK)
        steps = range(number * CHUNK, number * CHUNK + CHUNK)
        tokens = draw_tokens(self.structure.format, [plan.draw_at(step) for step in steps],
                             plan.batch, self.seed, number)
        chosen = slice(within, within + count)
        rates = np.array([plan.rate_at(step) for step in steps[chosen]])
        decays = np.full(count, plan.decay.now(state.exact, state.tokens))
        losses = self.stepper.train(
            state.theta, state.first, state.second, state.step, tokens[chosen], rates, decays,
            plan.clip, plan.betas, plan.epsilon)
        state.step += count
        room = KEPT_LOSSES - len(state.losses)
        state.losses += [float(loss) for loss in losses[: max(0, room)]]
        return losses

    def best_values(self) -> dict[str, Array]:
        """The best leaves so far."""
        return Leaves.of(self.structure).split(self.state.best)

    def key(self, text: str) -> str:
        """What a state file must belong to, apart from its seed: the spec's text, the plan."""
        return json.dumps([text, asdict(self.plan), self.structure.dtype])
