"""The command that counts: audit.

Takes: command-line arguments. Gives: a click command that returns its exit code.
May import: every room; heavy ones only inside functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from adderc.app_options import Output, output_options, settings_of, settings_options
from adderc.errors import InputError
from adderc.results import CONVENTIONS

if TYPE_CHECKING:
    from adderc.format.prompt import Format
    from adderc.pipeline import Settings
    from adderc.results import AuditReport

Asked = tuple[int | None, int | None, str | None, tuple[str, ...]]  # --width, --base, …
SAMPLED_SUMS = 2000
SAMPLE_SEED = 0


@click.command("audit")
@click.argument("models", nargs=-1, required=True, metavar="MODEL|SPEC...")
@click.option("--rules", type=click.Choice(["adderboard"]),
              help="Also judge the rules of the public challenge, each with its evidence.")
@click.option("--sort", type=click.Choice(CONVENTIONS), metavar="KEY",
              help="Order of several models: " + ", ".join(CONVENTIONS) + ".")
@click.option("--format", "format_spec", metavar="SPEC",
              help="Number and format parts for a Python model.")
@click.option("--trust-code", "trust", is_flag=True,
              help="Run Python models; without it no third-party code is run.")
@click.option("--sample/--no-sample", default=True,
              help="Look for parameters that no sampled answer depends on.  [default: look]")
@settings_options
@output_options
def audit_command(
    models: tuple[str, ...], rules: str | None, sort: str | None, format_spec: str | None,
    trust: bool, sample: bool, width: int | None, base: int | None, dtype: str | None,
    assignments: tuple[str, ...], as_json: bool, quiet: bool,
) -> int:
    """Count every number a model computes with, by fixed definitions.

    Takes model files, specs (counted before anything is compiled to a file) and Python
    files with build_model(). Several at once give a table. Exit code 1 if the two
    independent counts of a compiled model differ, 3 if a model could not be audited.
    """
    output = Output(as_json, quiet)
    asked = (width, base, dtype, assignments)
    reports = []
    for path in models:
        report = audit_one(path, asked, format_spec, trust, sample, rules is not None)
        reports.append(report)
    from adderc.report.audit import audit_json, audit_text, comparison_text

    if len(reports) == 1:
        text = audit_text(reports[0], columns())
    else:
        text = comparison_text(reports, sort or CONVENTIONS[0], columns())
        failed = [r for r in reports if not r.agrees]
        text = "\n\n".join([text, *(audit_text(r, columns()) for r in failed)])
    output.result(text, audit_json(reports, sort) if as_json else {})
    return int(not all(report.agrees for report in reports))


def audit_one(
    path: str, asked: Asked, format_spec: str | None, trust: bool, sample: bool, rules: bool
) -> AuditReport:
    """The audit of one argument, by what it is."""
    if path.endswith(".py"):
        return audit_python_file(path, format_spec, trust, sample, rules)
    if is_model_file(path):
        if any(asked):
            raise InputError(f"{path} is a model file: its width, base and dtype are fixed",
                             "settings go with specs")
        from adderc.app_models import load_module

        return audit_module(load_module(path), path, "compiled", sample, rules)
    from adderc import pipeline

    source = pipeline.read_spec(path)
    return audit_spec(pipeline, source, settings_of(*asked), path, sample, rules)


def audit_spec(
    pipeline: Any, source: Any, settings: Settings, path: str, sample: bool, rules: bool
) -> AuditReport:
    """A spec's structure; where its weights are derived, with their values."""
    from adderc.audit.run import audit_structure
    from adderc.nn.module import AdderModule

    structure = pipeline.planned_spec(source, settings)
    if structure is not None:
        return audit_structure(structure, path)
    compiled = pipeline.compile_spec(source, settings)
    module = AdderModule(compiled.structure, compiled.values)
    return audit_module(module, path, "spec", sample, rules)


def audit_module(
    module: Any, name: str, kind: str, sample: bool, rules: bool
) -> AuditReport:
    """Both counts of a module of ours."""
    from adderc.audit.run import audit_compiled

    sums = sampled_sums(module.format) if sample else []
    return audit_compiled(module, name, sums, kind, rules)


def audit_python_file(
    path: str, format_spec: str | None, trust: bool, sample: bool, rules: bool
) -> AuditReport:
    """A third-party model; its code runs only with --trust-code."""
    from adderc.app_models import read_format
    from adderc.audit.foreign import audit_python, own_settings
    from adderc.audit.recording import Recording
    from adderc.nn.thirdparty import load_python

    form = read_format(format_spec) if format_spec is not None else None
    sums: list[tuple[int, ...]] = []
    if sample:
        sums = sampled_sums(form if form is not None else common_format())
    with own_settings():
        recording = Recording()
        python = load_python(path, trust, recording)
        return audit_python(python, recording, form, sums, rules)


def is_model_file(path: str) -> bool:
    """Whether a path is to be read as a model file rather than as a spec."""
    if path.endswith(".safetensors"):
        return True
    if path.endswith(".adder"):
        return False
    try:
        with open(path, "rb") as file:
            head = file.read(9)
    except OSError:
        return False
    return len(head) == 9 and head[8:9] == b"{" and b"\n" not in head[:4]


def common_format() -> Format:
    """Two operands of ten decimal digits, the usual challenge."""
    from adderc.format.number import NumberFormat
    from adderc.format.prompt import Format, OperandDigits

    number = NumberFormat(10, 10)
    return Format(number, (OperandDigits(0, "msd"), OperandDigits(1, "msd")))


def sampled_sums(form: Format) -> list[tuple[int, ...]]:
    """Adversarial sums to sample a model with."""
    from adderc.verify.suites import adversarial

    suite = adversarial(form.number, SAMPLED_SUMS, SAMPLE_SEED)
    return [tuple(int(v) for v in row) for batch in suite.batches() for row in batch]


def columns() -> int:
    """The terminal's width, or what COLUMNS says, between 80 and 120; 80 without either."""
    import os
    import shutil
    import sys

    if not sys.stdout.isatty() and "COLUMNS" not in os.environ:
        return 80
    return min(120, max(80, shutil.get_terminal_size().columns))
