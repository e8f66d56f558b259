"""The commands that start from a model file: add, verify.

Takes: command-line arguments. Gives: click commands that return their exit code.
May import: every room; heavy ones only inside functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import click

from adderc.app_options import Output, output_options, seed_option
from adderc.app_tuples import Part, one_tuple, read_tuples
from adderc.errors import InputError, did_you_mean

if TYPE_CHECKING:
    import numpy as np

    from adderc.format.number import NumberFormat
    from adderc.format.prompt import Format
    from adderc.results import VerifyReport
    from adderc.verify.suites import Suite

Command = TypeVar("Command", bound=Callable[..., Any])
EXHAUSTIVE_BY_DEFAULT = 10**6


def third_party_options(command: Command) -> Command:
    """--format and --trust-code, for models that are Python files."""
    command = click.option(
        "--trust-code", "trust", is_flag=True,
        help="Run a Python model; without it no third-party code is run.",
    )(command)
    return click.option(
        "--format", "format_spec", metavar="SPEC",
        help="Number and format parts for a Python model.",
    )(command)


def load_module(path: str) -> Any:
    """The module of a model file; InputError for a Python file."""
    if path.endswith(".py"):
        raise InputError(
            f"{path} is a Python file, not a model file",
            "add, verify, audit and prove take Python models, with --format SPEC and "
            "--trust-code",
        )
    from adderc.nn.module import AdderModule
    from adderc.weights.file import load_model

    stored = load_model(path)
    return AdderModule(stored.structure, stored.values)


def open_model(path: str, format_spec: str | None, trust: bool) -> Any:
    """The module of a model file, or of a Python file under the format of a spec.

    InputError where a Python file comes without a format or without the user's trust.
    """
    if not path.endswith(".py"):
        if format_spec is not None or trust:
            raise InputError(f"{path} is a model file, which holds its own format",
                             "--format and --trust-code go with Python files")
        return load_module(path)
    if format_spec is None:
        raise InputError(f"{path}: a Python model needs --format SPEC",
                         "the number and format parts of a spec say what its tokens are")
    from adderc.nn.thirdparty import ThirdPartyModule, load_python

    return ThirdPartyModule(load_python(path, trust), read_format(format_spec))


def read_format(spec: str) -> Format:
    """The number and format parts of a spec; it needs no others, and none is looked at."""
    from adderc import pipeline
    from adderc.errors import FaultList
    from adderc.lang.parse import parse
    from adderc.lang.settle import settle_format, settle_number
    from adderc.lang.states import writes_states

    parsed = parse(pipeline.read_spec(spec), needed=("number", "format"))
    faults = FaultList(parsed.source)
    number = settle_number(parsed, {}, faults)
    faults.raise_if_any()
    assert number is not None
    form = settle_format(parsed.format, number, writes_states(parsed.algorithm), faults)
    faults.raise_if_any()
    assert form is not None
    return form


# ---------------------------------------------------------------- add


@click.command("add", context_settings={"ignore_unknown_options": True})
@click.argument("model")
@click.argument("operands", nargs=-1, metavar="A B [C [D]]")
@click.option("--file", "tuples", metavar="TUPLES",
              help="Add every line of a file, - for stdin: operands separated by commas "
                   "or blanks, one sum a line.")
@third_party_options
@output_options
def add_command(
    model: str, operands: tuple[str, ...], tuples: str | None, format_spec: str | None,
    trust: bool, as_json: bool, quiet: bool,
) -> int:
    """Add numbers with a model.

    A file is taken in parts of some thousand lines, each part checked before any of it is
    added; blank lines are skipped. Exit code 1 means that an answer was no number, which
    is printed as "?". A Python model is decoded by our loop, not by its own add().
    """
    output = Output(as_json, quiet)
    _refuse_options(operands)
    if (tuples is None) == (not operands):
        raise InputError("give either the operands or --file")
    module = open_model(model, format_spec, trust)
    if tuples is None:
        parts: Iterator[Part] = iter([_typed(operands, module.format.number)])
    else:
        parts = read_tuples(tuples, module.format.number)
    found: list[int | None] = []
    unreadable = False
    with output.progress("adding") if tuples is not None else nullcontext() as progress:
        for part in parts:
            sums = add_rows(module, part.operands)
            unreadable = unreadable or None in sums
            if output.json:
                found.extend(sums)
            else:
                output.result("\n".join(["?" if s is None else str(s) for s in sums]), {})
            if progress is not None and part.size:
                progress(part.read, part.size)
    if output.json:
        from adderc.report.jsonout import sums_json

        output.result("", sums_json(found))
    return int(unreadable)


def add_rows(module: Any, operands: np.ndarray) -> list[int | None]:
    """The model's answers to operands [N, k] in range; None where one is no number."""
    from adderc.format.batches import prompts_of, sums_written
    from adderc.nn.greedy import decode_greedy

    form = module.format
    return sums_written(form, decode_greedy(module, form, prompts_of(form, operands)))


def _typed(operands: tuple[str, ...], number: NumberFormat) -> Part:
    """Operands from the command line as a part of one row."""
    import numpy as np

    from adderc.format.batches import integer_type

    row = np.array([one_tuple(operands, number)], dtype=integer_type(number))
    return Part(row, 0, 0)


def _refuse_options(operands: tuple[str, ...]) -> None:
    """A word that looks like an option is a usage error, a negative number is not."""
    for word in operands:
        if word.startswith("-") and not word[1:2].isdigit():
            known = ("--file", "--format", "--trust-code", "--json", "--quiet", "--help")
            hint = did_you_mean(word, known)
            raise click.UsageError(f"no such option: {word}" + (f"; {hint}" if hint else ""))


# ---------------------------------------------------------------- verify


@click.command("verify")
@click.argument("model")
@click.option("--suite", "name",
              type=click.Choice(["adderboard", "adversarial", "random", "exhaustive"]),
              help="Which sums. Without it: adversarial, and exhaustive where there are at "
                   "most a million.")
@click.option("--samples", type=click.IntRange(min=1), metavar="N",
              help="How many sums of the adversarial or random suite.  [default: 20000]")
@third_party_options
@seed_option
@output_options
def verify_command(
    model: str, name: str | None, samples: int | None, format_spec: str | None, trust: bool,
    seed: int, as_json: bool, quiet: bool,
) -> int:
    """Test a model on suites of sums.

    Exit code 0 only with no failure. After Ctrl-C what was run so far is reported, and the
    exit code is 130.
    """
    output = Output(as_json, quiet)
    if samples is not None and name not in (None, "adversarial", "random"):
        raise InputError(f"--samples goes with the adversarial and random suites, not with {name}")
    module = open_model(model, format_spec, trust)
    suites = choose_suites(module.format.number, name, samples, seed)
    report = run_suites(module, suites, seed, output)
    from adderc.report.jsonout import verify_json
    from adderc.report.text import verify_text

    output.result("" if quiet else verify_text(report), verify_json(report) if as_json else {})
    return 130 if report.interrupted else int(not report.clean)


def choose_suites(
    number: NumberFormat, name: str | None, samples: int | None, seed: int
) -> list[Suite]:
    """The named suite, or adversarial and, where it is small, exhaustive."""
    from adderc.verify import suites

    if name == "adderboard":
        return [suites.adderboard(number)]
    if name == "exhaustive":
        return [suites.exhaustive(number)]
    if name == "random":
        return [suites.evenly(number, samples or suites.DEFAULT_SAMPLES, seed)]
    chosen = [suites.adversarial(number, samples or suites.DEFAULT_SAMPLES, seed)]
    if name is None and number.base ** (number.width * number.operands) <= EXHAUSTIVE_BY_DEFAULT:
        chosen.append(suites.exhaustive(number))
    return chosen


def run_suites(module: Any, suites: list[Suite], seed: int, output: Output) -> VerifyReport:
    """Run the suites in turn; an interrupt ends the rest as well."""
    from adderc.results import VerifyReport
    from adderc.verify.run import verify

    results = []
    for suite in suites:
        with output.progress(suite.name) as progress:
            results.append(verify(module, module.format, suite, seed=seed, progress=progress))
        if results[-1].interrupted:
            break
    return VerifyReport(tuple(results))
