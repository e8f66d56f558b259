"""The commands that start from a spec: check, compile, specs.

Takes: command-line arguments. Gives: click commands that return their exit code.
May import: every room; heavy ones only inside functions.
"""

from __future__ import annotations

import click

from adderc.app_options import (
    Output,
    output_options,
    seed_option,
    settings_of,
    settings_options,
)


@click.command("check")
@click.argument("spec")
@settings_options
@output_options
def check_command(
    spec: str, width: int | None, base: int | None, dtype: str | None,
    assignments: tuple[str, ...], as_json: bool, quiet: bool,
) -> int:
    """Check a spec, and prove that its algorithm adds.

    SPEC is a file, or the name of a spec that comes with the package. Exit code 1 means
    that the algorithm is wrong; the smallest failing sum is then worked digit by digit.
    """
    from adderc import pipeline

    output = Output(as_json, quiet)
    settings = settings_of(width, base, dtype, assignments)
    report = pipeline.check_spec(pipeline.read_spec(spec), settings)
    output.result("" if quiet else report.text(), report.as_json())
    return 0


@click.command("compile")
@click.argument("spec")
@click.option("-o", "--output", "target", required=True, metavar="MODEL",
              help="The model file to write.")
@click.option("--unchecked", is_flag=True,
              help="Compile even an algorithm that does not add.")
@click.option("--prove", "proves", is_flag=True,
              help="Then prove the written model; the exit code is that of prove.")
@settings_options
@seed_option
@output_options
def compile_command(
    spec: str, target: str, unchecked: bool, proves: bool, width: int | None, base: int | None,
    dtype: str | None, assignments: tuple[str, ...], seed: int, as_json: bool, quiet: bool,
) -> int:
    """Compile a spec into a model file.

    SPEC is a file, or the name of a spec that comes with the package.
    """
    from adderc import pipeline
    from adderc.weights.file import check_writable

    output = Output(as_json, quiet)
    check_writable(target)  # asked before the work, not after
    settings = settings_of(width, base, dtype, assignments, seed)
    compiled = pipeline.compile_spec(pipeline.read_spec(spec), settings, unchecked=unchecked)
    compiled.save(target)
    for warning in compiled.warnings:
        output.note(f"warning: {warning}")
    values = {
        "parameters": compiled.parameters,
        "margin": compiled.margin,
        "norm": compiled.norm,
        "seconds": compiled.seconds,
        "method": compiled.method,
        "warnings": list(compiled.warnings),
        "path": target,
    }
    text, code = _compiled_text(target, values), 0
    if proves:
        values["proof"], verdict, code = _prove_written(target, output, seed)
        text += "\n" + verdict
    output.result("" if quiet else text, values)
    return code


def _prove_written(target: str, output: Output, seed: int) -> tuple[dict[str, object], str, int]:
    """The verdict on a model file, as JSON and as text, and the exit code."""
    from adderc.app_models import load_module
    from adderc.app_prove import exit_code, proof_parts, prove_module

    module = load_module(target)
    result = prove_module(module, output, seed=seed)
    return *proof_parts(result, module), exit_code(result)


def _compiled_text(target: str, values: dict[str, object]) -> str:
    from adderc.report.text import figures

    rows = []
    for name in ("parameters", "method", "margin", "norm", "seconds"):
        value = values[name]
        if value is not None:
            rows.append((name, f"{value:.4g}" if isinstance(value, float) else str(value)))
    return figures(f"wrote {target}", rows)


@click.command("specs")
@output_options
def specs_command(as_json: bool, quiet: bool) -> int:
    """List the specs that come with the package."""
    from adderc import pipeline
    from adderc.report.text import specs_text

    specs = [(name, sentence, str(path)) for name, sentence, path in pipeline.list_specs()]
    keys = ("name", "summary", "path")
    value = {"specs": [dict(zip(keys, spec, strict=True)) for spec in specs]}
    text = "\n".join(name for name, _, _ in specs) if quiet else specs_text(specs)
    Output(as_json, quiet).result(text, value)
    return 0
