"""Several runs side by side: a race of seeds, then the best ones to the end.

Takes: a `Task` (structure, plan, sets to be judged on), seeds, an executor. Gives: `conduct`
→ `Outcome`; states go to a `Shelf` at every evaluation, so that a later call can go on.
May import: errors, train, weights.

Workers hold nothing: each leg takes a state and gives it back one evaluation further, and so
a leg may run in this process, in another, or on another machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from adderc.train.plan import TrainPlan
from adderc.train.run import Run, RunState
from adderc.weights.structure import Structure

Array = np.ndarray
Row = dict[str, Any]
Watch = Callable[[int, Row], None]  # seed, the new row of its history


@dataclass(frozen=True)
class Task:
    """What every run shares; `sets` are tokens by name, `text` the spec's, for the shelf."""

    structure: Structure
    plan: TrainPlan
    sets: Mapping[str, Array]
    text: str = ""

    def run(self, seed: int) -> Run:
        return Run(self.structure, self.plan, seed, self.sets)


@dataclass(frozen=True)
class Shelf:
    """Where states are kept: one file a seed, nothing without a folder."""

    folder: Path | None
    resume: bool = False

    def path(self, seed: int) -> Path | None:
        return None if self.folder is None else self.folder / f"seed-{seed}.npz"

    def put(self, seed: int, state: RunState, key: str) -> None:
        path = self.path(seed)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            state.save(path, key)

    def get(self, seed: int, key: str) -> RunState | None:
        path = self.path(seed)
        if path is None or not self.resume or not path.exists():
            return None
        return RunState.load(path, key)


@dataclass
class Outcome:
    """The states of all seeds that ran, and which one is the best; `raced` went no further
    than the race."""

    states: dict[int, RunState] = field(default_factory=dict)
    raced: tuple[int, ...] = ()
    stopped: bool = False

    @property
    def winner(self) -> int | None:
        """The seed with the best weights; the lowest among equals."""
        return max(sorted(self.states), key=lambda s: self.states[s].best_score, default=None)


def leg(task: Task, seed: int, state: RunState | None) -> RunState:
    """One evaluation further."""
    run = _run_of(task)
    run.seed = seed
    run.state = state if state is not None else run.fresh(seed)
    run.advance()
    return run.state


_RUNS: list[tuple[Structure, TrainPlan, Run]] = []


def _run_of(task: Task) -> Run:
    """This process's run for the task: its kernel is built once."""
    for structure, plan, run in _RUNS:
        if plan == task.plan and structure == task.structure:
            run.sets = task.sets
            return run
    run = task.run(0)
    _RUNS[:] = [*_RUNS[-3:], (task.structure, task.plan, run)]
    return run


def conduct(
    task: Task, seeds: list[int], executor: Executor | None, workers: int, shelf: Shelf,
    watch: Watch,
) -> Outcome:
    """Race the seeds, then train the best to the end; the first that succeeds ends it.

    An interrupt keeps what was reached and says so in `stopped`.
    """
    found, race = Outcome(), task.plan.race
    key = task.run(seeds[0]).key(task.text) if shelf.folder is not None else ""
    for seed in seeds:
        state = shelf.get(seed, f"{seed} {key}")
        if state is not None:
            found.states[seed] = state
    group = _Group(task, executor, workers, shelf, watch, key, found)
    try:
        if race.steps and len(seeds) > race.keep:
            group.train(seeds, race.steps)
            ranked = sorted(seeds, key=lambda seed: (early_loss(found.states[seed], race.steps),
                                                     seed))
            seeds, found.raced = ranked[: race.keep], tuple(ranked[race.keep :])
        group.train(seeds, task.plan.steps)
    except KeyboardInterrupt:
        found.stopped = True
    return found


def early_loss(state: RunState, step: int) -> float:
    """Mean loss of the last two evaluation intervals up to `step`: what the race goes by."""
    rows = [row["loss"] for row in state.history if row["step"] <= step]
    return float(np.mean(rows[-2:])) if rows else float("inf")


@dataclass
class _Group:
    """Runs that advance together."""

    task: Task
    executor: Executor | None
    workers: int
    shelf: Shelf
    watch: Watch
    key: str
    found: Outcome

    def finished(self, seed: int, goal: int) -> bool:
        state, plan = self.found.states.get(seed), self.task.plan
        if state is None:
            return False
        return state.step >= min(goal, plan.steps) or state.perfect >= plan.stop > 0

    def won(self) -> bool:
        """Whether a run was exact for long enough."""
        stop = self.task.plan.stop
        return any(state.perfect >= stop > 0 for state in self.found.states.values())

    def train(self, seeds: list[int], goal: int) -> None:
        """Every seed to `goal` steps, `workers` at a time, in the given order."""
        waiting = [seed for seed in seeds if not self.finished(seed, goal)]
        if self.executor is None:
            for seed in waiting:
                while not self.won() and not self.finished(seed, goal):
                    self.take(seed, leg(self.task, seed, self.found.states.get(seed)))
            return
        running: dict[Future[RunState], int] = {}
        try:
            while (waiting or running) and not self.won():
                while waiting and len(running) < self.workers:
                    self.start(self.executor, waiting.pop(0), running)
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    seed = running.pop(future)
                    self.take(seed, future.result())
                    if not self.finished(seed, goal) and not self.won():
                        self.start(self.executor, seed, running)
        finally:
            for future in running:
                future.cancel()

    def start(self, executor: Executor, seed: int, running: dict[Future[RunState], int]) -> None:
        running[executor.submit(leg, self.task, seed, self.found.states.get(seed))] = seed

    def take(self, seed: int, state: RunState) -> None:
        """A state one evaluation further."""
        self.found.states[seed] = state
        self.shelf.put(seed, state, f"{seed} {self.key}")
        self.watch(seed, state.history[-1])
