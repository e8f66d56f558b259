"""Trained weights: from a checked spec to the best weights that its runs find.

    CheckedSpec -free structure-> Structure -race, train, finish-> Trained

Takes: a `Source`, settings, what the command line asks of the training. Gives: `train_spec`
→ `Trained` (which can be saved). May import: every room but app.

Runs are judged on sums drawn for that purpose; finishing mines others; `verify` draws its
own. No sum of `verify`'s default suites decides anything here.
"""

from __future__ import annotations

import os
import platform
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adderc import __version__
from adderc.errors import NOWHERE, Fault, InputError, Refusal, Source
from adderc.format.batches import integer_type
from adderc.format.number import NumberFormat
from adderc.lang.checked import CheckedSpec
from adderc.lang.parse import parse
from adderc.passes.plan import read_plan
from adderc.pipeline.settings import Settings, set_rules
from adderc.realize.free import free_structure
from adderc.train.conduct import Outcome, Shelf, Task, Watch, conduct
from adderc.train.ensemble import Leaves
from adderc.train.evaluate import greedy_right, tokens_for
from adderc.train.finish import Finished, finish
from adderc.train.plan import TrainPlan, read_train
from adderc.train.run import RunState
from adderc.verify.suites import adversarial
from adderc.weights.file import save_model
from adderc.weights.structure import Structure

Array = np.ndarray
JUDGED, JUDGE_SEED = 2000, 7001
HUNTED, HUNT_SEED = 20_000, 90_000
WORTH_FINISHING = 0.5
FINISH_RATE = 0.05


@dataclass(frozen=True)
class TrainOptions:
    """What the command line says; None leaves it to the spec."""

    steps: int | None = None
    resume: bool = False
    workers: int = 1
    restarts: int | None = None
    finish_rounds: int = 20
    finish_steps: int = 1000
    watch: Watch = lambda seed, row: None


@dataclass
class Trained:
    """The best weights, and the record of how they came about."""

    spec: CheckedSpec
    structure: Structure
    values: dict[str, Array]
    seed: int
    exact: float
    stopped: bool
    seconds: float
    record: dict[str, Any]
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        return Leaves.of(self.structure).size

    @property
    def succeeded(self) -> bool:
        """Whether greedy decoding was right on every sum that the run was judged on."""
        return self.exact == 1.0

    def save(self, path: str) -> None:
        """Write the model file."""
        save_model(path, self.structure, self.values, self.provenance)


def train_spec(
    source: Source, settings: Settings, options: TrainOptions, folder: Path | None = None
) -> Trained:
    """Train what the spec says; `folder` keeps the states of unfinished runs."""
    from adderc.pipeline.driver import settle

    started = time.perf_counter()
    checked = settle(parse(source), settings, unchecked=False)
    task = task_of(checked, settings, options, source.text)
    seeds = seeds_of(task.plan, settings.seed, options)
    pool = ProcessPoolExecutor(options.workers) if options.workers > 1 else nullcontext()
    with pool as executor:
        outcome = conduct(task, seeds, executor, options.workers,
                          Shelf(folder, options.resume), options.watch)
    if outcome.winner is None:
        raise KeyboardInterrupt
    winner = outcome.winner
    state, finished = outcome.states[winner], None
    if state.best_score >= WORTH_FINISHING and not outcome.stopped and options.finish_rounds:
        finished = finished_by(task, winner, state, options)
    vector = finished.vector if finished is not None else state.best
    outcome.stopped |= finished is not None and finished.stopped
    trained = Trained(checked, task.structure, Leaves.of(task.structure).split(vector), winner,
                      0.0, outcome.stopped, time.perf_counter() - started, {})
    trained.exact = greedy_share(trained, judged_on(checked.number))
    trained.record = record_of(task, settings, outcome, trained, finished)
    trained.provenance = provenance_of(source, settings, trained)
    if folder is not None and folder.exists() and trained.succeeded:
        shutil.rmtree(folder)
    return trained


def task_of(
    checked: CheckedSpec, settings: Settings, options: TrainOptions, text: str
) -> Task:
    """The structure to be trained, the plan and the sums to be judged on."""
    rules = [rule for rule in checked.weights if rule.action == "train"]
    if not rules:
        raise InputError(f"{checked.source.name}: nothing is to be trained",
                         "write weights { train { … } }, or use adderc compile")
    others = [rule for rule in checked.weights if rule.action != "train" or rule.targets]
    if others or set_rules(settings):
        raise Refusal(kind="not implemented", source=checked.source, faults=(Fault(
            "training finds all weights of a model at once",
            others[0].span if others else NOWHERE, "write weights { train { … } } alone"),))
    plan = read_train(checked, options.steps)
    structure = free_structure(read_plan(checked, settings.dtype), checked)
    sets = {name: tokens_for(checked.format, batch)
            for name, batch in judged_on(checked.number).items()}
    return Task(structure, plan, sets, text)


def seeds_of(plan: TrainPlan, seed: int, options: TrainOptions) -> list[int]:
    """Consecutive seeds, from that of the command line or the spec's."""
    first = seed or plan.seed or 0
    count = options.restarts if options.restarts is not None else plan.race.seeds
    return list(range(first, first + count))


def judged_on(number: NumberFormat) -> dict[str, Array]:
    """The sums that decide which weights are kept: random ones and adversarial ones."""
    return {"random": random_sums(number, JUDGED, JUDGE_SEED),
            "adversarial": adversarial_sums(number, JUDGED, JUDGE_SEED)}


def adversarial_sums(number: NumberFormat, count: int, seed: int) -> Array:
    return np.concatenate(list(adversarial(number, count, seed).batches()))


def random_sums(number: NumberFormat, count: int, seed: int) -> Array:
    """Operands drawn evenly from the whole range."""
    if integer_type(number) == np.dtype(np.int64):
        rng = np.random.default_rng(seed)
        return rng.integers(0, number.maximum, (count, number.operands), endpoint=True)
    import random

    draw = random.Random(seed)
    return np.array([[draw.randint(0, number.maximum) for _ in range(number.operands)]
                     for _ in range(count)], dtype=object)


def finished_by(
    task: Task, seed: int, state: RunState, options: TrainOptions
) -> Finished:
    """The finishing rounds (adderc.train.finish), on sums of their own."""
    number = task.structure.number

    def hunt(round_: int) -> Array:
        return np.concatenate([
            adversarial_sums(number, HUNTED, HUNT_SEED + round_),
            random_sums(number, HUNTED // 2, HUNT_SEED + round_)])

    return finish(task, seed, state.best, hunt, options.finish_rounds, options.finish_steps,
                  task.plan.rate * FINISH_RATE, options.watch)


def greedy_share(trained: Trained, sets: dict[str, Array]) -> float:
    """The share of sums that greedy decoding of the finished model writes rightly."""
    right = [greedy_right(trained.structure, trained.values, batch) for batch in sets.values()]
    return float(np.concatenate(right).mean())


def record_of(
    task: Task, settings: Settings, outcome: Outcome, trained: Trained,
    finished: Finished | None,
) -> dict[str, Any]:
    """The training log: enough to run it again, and to compare."""
    state = outcome.states[trained.seed]
    return {
        "seed": trained.seed,
        "seeds": {str(seed): {"step": s.step, "best_step": s.best_step,
                              "best_score": s.best_score}
                  for seed, s in sorted(outcome.states.items())},
        "raced_out": list(outcome.raced),
        "plan": asdict(task.plan),
        "settings": {"width": settings.width, "base": settings.base, "dtype": settings.dtype},
        "machine": machine(task),
        "losses": state.losses,
        "history": state.history,
        "best_step": state.best_step,
        "finishing": list(finished.rounds) if finished is not None else [],
        "exact": trained.exact,
        "seconds": trained.seconds,
        "interrupted": outcome.stopped,
    }


def machine(task: Task) -> dict[str, str]:
    """What the bits of a run depend on."""
    from adderc.train.step import stepper_of

    compiler = stepper_of(task.structure, task.plan.batch).compiler
    return {"torch": torch.__version__, "cpu": cpu_name(), "step": compiler or "torch",
            "numpy": np.__version__, "python": platform.python_version()}


def cpu_name() -> str:
    """The processor's own name, where the system tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or os.uname().machine)


def provenance_of(source: Source, settings: Settings, trained: Trained) -> dict[str, Any]:
    """What the model file tells of how it was made; the whole log stands beside it."""
    record = trained.record
    kept = ("seed", "raced_out", "plan", "machine", "best_step", "exact", "interrupted")
    return {
        "spec": {"name": Path(source.name).name, "text": source.text},
        "settings": {"width": settings.width, "base": settings.base, "dtype": settings.dtype,
                     "set": []},
        "seed": trained.seed,
        "versions": {"adderc": __version__, "numpy": np.__version__,
                     "python": platform.python_version()},
        "leaves": {info.name: info.how for info in trained.structure.leaves},
        "training": {name: record[name] for name in kept} | {
            "first_losses": record["losses"][:20], "finishing_rounds": len(record["finishing"])},
    }
