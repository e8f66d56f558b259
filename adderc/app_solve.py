"""The command that solves weights: solve.

Takes: command-line arguments. Gives: a click command that returns its exit code.
May import: every room; heavy ones only inside functions.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from adderc.app_options import (
    Output,
    output_options,
    seed_option,
    settings_of,
    settings_options,
)

if TYPE_CHECKING:
    from adderc.pipeline import Compiled

METHODS = ("auto", "lp", "milp", "nlp", "adam")
INTERRUPTED = 130


@click.command("solve")
@click.argument("spec")
@click.option("-o", "--output", "target", required=True, metavar="MODEL",
              help="The model file to write.")
@click.option("--method", type=click.Choice(METHODS), help="Backend; auto looks at the problem.")
@click.option("--margin", type=float, metavar="M",
              help="Margin to reach: with the spec's norm a goal that ends the search; without "
              "one, the least norm that has this margin.")
@click.option("--executor", metavar="URL",
              help="Where many starts run: dask://HOST:PORT, else processes on this machine.")
@settings_options
@seed_option
@output_options
def solve_command(
    spec: str, target: str, method: str | None, margin: float | None, executor: str | None,
    width: int | None, base: int | None, dtype: str | None, assignments: tuple[str, ...],
    seed: int, as_json: bool, quiet: bool,
) -> int:
    """Solve the weights that a spec leaves to the solver.

    SPEC is a file, or the name of a spec that comes with the package. The written model has
    passed an independent recheck. Exit code 1: proved that there are no such weights; 3: none
    were found. Ctrl-C writes the best so far.
    """
    from adderc import pipeline
    from adderc.weights.file import check_writable

    output = Output(as_json, quiet)
    check_writable(target)  # asked before the work, not after
    settings = settings_of(width, base, dtype, assignments, seed)
    options = pipeline.SolverOptions(method, margin, executor, _watch(output))
    compiled = pipeline.compile_spec(pipeline.read_spec(spec), settings, solver=options)
    compiled.save(target)
    values = solved_values(compiled, target)
    output.result("" if quiet else _text(target, values), values)
    return INTERRUPTED if values["interrupted"] else 0


def solved_values(compiled: Compiled, target: str) -> dict[str, Any]:
    """What there is to say of a solved model, for people and as JSON."""
    found = compiled.solved
    assert found is not None
    lowering = found.lowering
    return {
        "parameters": compiled.parameters,
        "margin": found.margin,
        "norm": compiled.norm,
        "largest_logit": found.checked.largest,
        "bound": found.bound,
        "seconds": compiled.seconds,
        "method": compiled.method,
        "starts": found.tried,
        "constraints": found.constraints,
        "lowering": None if lowering is None else {
            "margin": lowering.margin, "largest_logit": lowering.largest,
            "kept": found.kept_lowering},
        "interrupted": found.stopped,
        "path": target,
    }


def _text(target: str, values: dict[str, Any]) -> str:
    from adderc.report.text import figures

    rows = []
    for name in ("parameters", "method", "margin", "bound", "norm", "largest_logit", "starts",
                 "constraints", "seconds"):
        value = values[name]
        if value is not None:
            rows.append((name.replace("_", " "),
                         f"{value:.4g}" if isinstance(value, float) else f"{value:,}"
                         if isinstance(value, int) else str(value)))
    if (lowering := values["lowering"]) is not None:
        kept = ", kept" if lowering["kept"] else ""
        rows.append(("lowering", f"margin {lowering['margin']:.4g} at largest logit "
                                 f"{lowering['largest_logit']:.4g}{kept}"))
    return figures(f"wrote {target}", rows)


def _watch(output: Output) -> Callable[[float, int], None]:
    """Shows the best margin so far on a terminal, in one line that is written over."""
    began, shown = time.perf_counter(), [-1.0]

    def look(margin: float, tried: int) -> None:
        now = time.perf_counter() - began
        if output.quiet or not sys.stderr.isatty() or now - shown[0] < 0.1:
            return
        shown[0] = now
        text = f"solving: best margin {margin:.4g}, {tried} starts, {now:.1f} s"
        click.echo(f"\r{text:<60}\r", err=True, nl=False)

    return look
