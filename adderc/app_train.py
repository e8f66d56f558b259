"""The command that trains weights: train.

Takes: command-line arguments. Gives: a click command that returns its exit code.
May import: every room; heavy ones only inside functions.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adderc.app_options import (
    Output,
    output_options,
    seed_option,
    settings_of,
    settings_options,
)
from adderc.errors import InputError

if TYPE_CHECKING:
    from adderc.pipeline.train import Trained

INTERRUPTED, OUT_OF_BUDGET = 130, 3


@click.command("train")
@click.argument("spec")
@click.option("-o", "--output", "target", required=True, metavar="MODEL",
              help="The model file to write; its training log stands beside it.")
@click.option("--steps", type=click.IntRange(min=1), help="Steps of a run, instead of the spec's.")
@click.option("--restarts", type=click.IntRange(min=1), metavar="N",
              help="How many seeds to try, instead of the spec's.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N",
              help="Runs side by side.  [default: the cores of this machine, at most 8]")
@click.option("--resume", is_flag=True, help="Go on with runs that were cut off.")
@click.option("--finish/--no-finish", default=True,
              help="Mine what the best model still gets wrong, and train on it.  [default: finish]")
@click.option("--plot", metavar="PNG", help="Draw the learning curves.")
@settings_options
@seed_option
@output_options
def train_command(
    spec: str, target: str, steps: int | None, restarts: int | None, workers: int | None,
    resume: bool, finish: bool, plot: str | None, width: int | None, base: int | None,
    dtype: str | None, assignments: tuple[str, ...], seed: int, as_json: bool, quiet: bool,
) -> int:
    """Train the weights of a spec from scratch.

    SPEC is a file, or the name of a spec that comes with the package. Seeds race, the best go
    on, the first that is exact on all sums it is judged on wins. Ctrl-C writes the best so
    far, and --resume goes on from there. Exit code 3: no run became exact.
    """
    from adderc import pipeline
    from adderc.pipeline.train import TrainOptions, train_spec
    from adderc.weights.file import check_writable

    output = Output(as_json, quiet)
    check_writable(target)  # asked before the work, not after
    draw = plotter(plot) if plot is not None else None
    settings = settings_of(width, base, dtype, assignments, seed)
    folder = Path(f"{target}.training")
    with watching(output) as watch:
        options = TrainOptions(steps, resume, workers or min(8, os.cpu_count() or 1), restarts,
                               20 if finish else 0, watch=watch)
        trained = train_spec(pipeline.read_spec(spec), settings, options, folder)
    trained.save(target)
    log = Path(f"{target}.log.json")
    log.write_text(json.dumps(trained.record, indent=1) + "\n", encoding="utf-8")
    if draw is not None:
        draw(trained)
    values = trained_values(trained, target, str(log))
    output.result("" if quiet else _text(values), values)
    if trained.stopped:
        return INTERRUPTED
    return 0 if trained.succeeded else OUT_OF_BUDGET


def trained_values(trained: Trained, target: str, log: str) -> dict[str, Any]:
    """What there is to say of a trained model, for people and as JSON."""
    return {
        "parameters": trained.parameters, "method": "train", "seed": trained.seed,
        "exact": trained.exact, "best_step": trained.record["best_step"],
        "seeds_tried": len(trained.record["seeds"]),
        "finishing_rounds": len(trained.record["finishing"]),
        "seconds": trained.seconds, "interrupted": trained.stopped, "path": target, "log": log,
    }


def _text(values: dict[str, Any]) -> str:
    from adderc.report.text import figures

    rows = [(name.replace("_", " "), f"{value:.4g}" if isinstance(value, float) else str(value))
            for name, value in values.items()
            if name in ("parameters", "seed", "exact", "best_step", "seeds_tried",
                        "finishing_rounds", "seconds")]
    head = f"wrote {values['path']}"
    if values["interrupted"]:
        head += ", interrupted: --resume goes on"
    elif values["exact"] < 1:
        head += ", which is not exact"
    return figures(head, rows)


@contextmanager
def watching(output: Output) -> Iterator[Callable[[int, dict[str, Any]], None]]:
    """One line of progress on stderr, only where that is a terminal."""
    if output.quiet or not sys.stderr.isatty():
        yield lambda seed, row: None
        return
    from rich.console import Console

    pace = Pace()
    with Console(stderr=True).status("training: building the step") as line:
        yield lambda seed, row: line.update(pace.line(seed, row))


@dataclass
class Pace:
    """Steps of all runs together, for the rate and the time left."""

    started: float = field(default_factory=time.perf_counter)
    reached: dict[int, int] = field(default_factory=dict)
    began: dict[int, int] = field(default_factory=dict)

    def line(self, seed: int, row: dict[str, Any]) -> str:
        """Where a run stands."""
        if "program" in row:
            return (f"finishing, linear program {row['program']}: {row['failures']} sums wrong, "
                    f"margin {row['margin']:.3g}")
        if "round" in row:
            return (f"finishing, round {row['round']}: {row['kept']} of {row['met']:,} sums "
                    f"wrong, least margin {row['margin']:.3g}")
        self.reached[seed] = row["step"]
        self.began.setdefault(seed, row["step"] - row["every"])
        gone = sum(self.reached[s] - self.began[s] for s in self.reached)
        rate = gone / max(time.perf_counter() - self.started, 1e-9)
        exact = ", ".join(f"{name} {share:.1%}" for name, share in row["exact"].items())
        left = (row["steps"] - row["step"]) * len(self.reached) / max(rate, 1e-9)
        return (f"seed {seed} step {row['step']:,} of {row['steps']:,}: loss {row['loss']:.4f}, "
                f"tokens {row['tokens']:.1%}, exact {exact}, margin {row['margin']:.3g}, "
                f"{rate:.0f} steps/s, {left / 60:.0f} min left at most")


def plotter(path: str) -> Callable[[Trained], None]:
    """Draws the winner's curves; asked before the run whether that is possible."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("--plot needs matplotlib", "pip install 'adderc[plot]'") from None

    def draw(trained: Trained) -> None:
        history = trained.record["history"]
        steps = [row["step"] for row in history]
        figure = Figure(figsize=(8, 5), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True)
        upper.semilogy(steps, [row["loss"] for row in history], label="loss")
        upper.set_ylabel("loss")
        lower.plot(steps, [row["tokens"] for row in history], label="tokens")
        for name in history[0]["exact"]:
            lower.plot(steps, [row["exact"][name] for row in history], label=f"exact, {name}")
        lower.set_xlabel(f"step (seed {trained.seed})")
        lower.legend()
        figure.savefig(path)

    return draw
