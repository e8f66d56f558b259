"""The commands that look inside: explain, trace, export.

Takes: command-line arguments. Gives: click commands that return their exit code.
May import: every room; heavy ones only inside functions.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from adderc.app_models import load_module
from adderc.app_options import Output, output_options, settings_of, settings_options
from adderc.app_tuples import one_tuple
from adderc.errors import AddercError, InputError

if TYPE_CHECKING:
    from fractions import Fraction

    from rich.text import Text

    from adderc.report.explaining import Explained


def show_lines(lines: Iterable[Text]) -> None:
    """Lines on stdout: in colour on a terminal, plain in a pipe."""
    from rich.console import Console

    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    for line in lines:
        console.print(line)


def columns() -> int:
    """The terminal's width; 80 in a pipe, unless COLUMNS says otherwise."""
    from rich.console import Console

    return max(60, Console(file=sys.stdout).width)


# ---------------------------------------------------------------- trace


@click.command("trace", context_settings={"ignore_unknown_options": True})
@click.argument("model")
@click.argument("operands", nargs=-1, required=True, metavar="A B [C [D]]")
@click.option("--digit", "places", type=click.IntRange(min=0), multiple=True, metavar="I",
              help="Show digit I only, 0 being the least significant; may be repeated.")
@output_options
def trace_command(
    model: str, operands: tuple[str, ...], places: tuple[int, ...], as_json: bool, quiet: bool
) -> int:
    """Follow one sum through a model, digit by digit.

    For each digit: what every head read, the residual stream by name, the hidden units,
    the logits, the winner with its margin, and the right digit beside it. Exit code 1
    means that the sum is wrong; the first wrong digit is marked.
    """
    from adderc.report.tracing import trace_json, trace_lines
    from adderc.trace import trace

    output = Output(as_json, quiet)
    module, stored = load_with_provenance(model)
    values = one_tuple(operands, module.format.number)
    for place in places:
        if place >= module.format.steps:
            raise InputError(f"--digit {place}: the answer has digits 0 to "
                             f"{module.format.steps - 1}")
    found = trace(module, values, spec_quantities(stored, values))
    if as_json:
        output.result("", trace_json(found, places))
    elif not quiet:
        show_lines(trace_lines(found, columns(), places))
    return int(found.got != found.expected)


def load_with_provenance(path: str) -> tuple[Any, dict[str, Any]]:
    """The module of a model file, and what the file tells of how it was made."""
    from adderc.weights.file import load_model

    module = load_module(path)
    return module, load_model(path).provenance


def spec_quantities(
    provenance: dict[str, Any], operands: tuple[int, ...]
) -> dict[int, tuple[tuple[str, int | Fraction], ...]]:
    """What the stored spec says at each place; empty where the file has no spec to read."""
    from adderc import pipeline
    from adderc.reference import Reference

    try:
        source, settings = stored_spec(provenance)
        spec = pipeline.settle(pipeline.parse(source), settings, unchecked=True)
        return {step.place: step.quantities for step in Reference(spec).work(operands)}
    except (AddercError, KeyError, TypeError, ValueError):
        return {}


def stored_spec(provenance: dict[str, Any]) -> tuple[Any, Any]:
    """The spec text and settings a model was compiled from; KeyError where there are none."""
    from adderc import pipeline
    from adderc.errors import Source

    said = provenance["settings"]
    settings = pipeline.Settings(
        width=said["width"], base=said["base"], dtype=said["dtype"],
        set=tuple((name, value) for name, value in said["set"]),
        seed=provenance.get("seed", 0))
    return Source(provenance["spec"]["name"], provenance["spec"]["text"]), settings


# ---------------------------------------------------------------- export


@click.command("export")
@click.argument("model")
@click.option("--to", "target", required=True, metavar="KIND",
              help="py: one readable file. adderboard: the same with the public challenge's "
                   "interface. (onnx, hf, lens: not implemented yet.)")
@click.option("-o", "--output", "path", required=True, metavar="PATH", help="The file to write.")
@output_options
def export_command(model: str, target: str, path: str, as_json: bool, quiet: bool) -> int:
    """Write a model as a Python file that needs torch alone.

    The file holds architecture and numbers, the encoding and the greedy loop. It is
    compared with the model on 1,000 prefixes before it appears.
    """
    from adderc.export.write import export

    output = Output(as_json, quiet)
    module, provenance = load_with_provenance(model)
    found = export(module, target, path, provenance)
    difference = "bit-equal" if found.largest_difference == 0 else (
        f"at most {found.largest_difference:.3g} apart, allowed {found.allowed:.3g}")
    from adderc.report.text import figures

    text = figures(f"wrote {path}", [
        ("lines", str(found.lines)), ("parameters", str(found.parameters)),
        ("compared", f"logits on {found.prefixes:,} prefixes: {difference}")])
    output.result("" if quiet else text, dict(vars(found)))
    return 0


# ---------------------------------------------------------------- explain


@click.command("explain")
@click.argument("target", metavar="SPEC|MODEL")
@settings_options
@output_options
def explain_command(
    target: str, width: int | None, base: int | None, dtype: str | None,
    assignments: tuple[str, ...], as_json: bool, quiet: bool,
) -> int:
    """Tell how a model works and why its numbers are what they are.

    The circuit, where each head looks and how sharply, every inequality with its slack, and
    each matrix with its leaves and the spec line it comes from. Of a model file the stored
    spec is compiled again for the derivation, and leaves that differ from it are named.
    """
    from adderc.report.explaining import explain_json, explain_lines

    output = Output(as_json, quiet)
    settings = settings_of(width, base, dtype, assignments)
    if is_model_file(target):
        if settings != settings_of(None, None, None, ()):
            raise InputError("--width, --base, --dtype and --set go with a spec, not with a model")
        model = explain_model(target)
    else:
        model = explain_spec(target, settings)
    if as_json:
        output.result("", explain_json(model))
    elif not quiet:
        show_lines(explain_lines(model, columns()))
    return 0


def is_model_file(path: str) -> bool:
    """Whether a path names a model file: by its ending, or by a safetensors header."""
    if path.endswith(".safetensors"):
        return True
    try:
        with open(path, "rb") as stream:
            return stream.read(9)[8:] == b"{"
    except OSError:
        return False


def explain_spec(path: str, settings: Any) -> Explained:
    """A spec, compiled."""
    from adderc import pipeline
    from adderc.report.explaining import Explained

    source = pipeline.read_spec(path)
    compiled = pipeline.compile_spec(source, settings, unchecked=True)
    return Explained(
        compiled.spec.name, compiled.structure, compiled.values, compiled.provenance,
        compiled.placed, compiled.weights.judgement, tuple(f"warning: {w}" for w in
                                                           compiled.warnings),
        tuple(source.text.splitlines()))


def explain_model(path: str) -> Explained:
    """A model file; its derivation is that of its stored spec, compiled again."""
    from adderc import pipeline
    from adderc.report.explaining import Explained
    from adderc.weights.file import load_model

    stored = load_model(path)
    told = stored.provenance.get("spec") or {}
    name = str(told.get("name", path)).removesuffix(".adder")
    lines = tuple(str(told.get("text", "")).splitlines())
    plain = Explained(name, stored.structure, stored.values, stored.provenance,
                      spec_lines=lines)
    try:
        source, settings = stored_spec(stored.provenance)
        compiled = pipeline.compile_spec(source, settings, unchecked=True)
    except (KeyError, TypeError):
        return replace(plain, notes=("The file tells of no spec, so there is no derivation.",))
    except AddercError as error:
        reason = str(error).partition("\n")[0]
        return replace(plain, notes=(
            f"The stored spec could not be compiled again, so there is no derivation: {reason}",))
    note = ("The derivation below is that of the stored spec, compiled again; matrices and "
            "leaves are the file's own.")
    return replace(plain, placed=compiled.placed, judgement=compiled.weights.judgement,
                   notes=(note, *_differences(stored, compiled)))


def _differences(stored: Any, compiled: Any) -> tuple[str, ...]:
    """What the file holds otherwise than its spec compiles to."""
    import numpy as np

    if stored.structure != compiled.structure:
        return ("warning: the file's structure is not the one that its spec compiles to now",)
    odd = [name for name, value in stored.values.items()
           if not np.array_equal(value, np.asarray(compiled.values[name]).astype(value.dtype))]
    if not odd:
        return ()
    return (f"warning: the file's values of {', '.join(odd)} are not those derived from the spec; "
            "gaps, bounds and inequalities below are the spec's, not this file's",)
