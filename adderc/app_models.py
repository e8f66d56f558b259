"""The commands that start from a model file: add, verify.

Takes: command-line arguments. Gives: click commands that return their exit code.
May import: every room; heavy ones only inside functions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from adderc.app_options import Output, output_options, seed_option
from adderc.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from adderc.format.number import NumberFormat
    from adderc.results import VerifyReport
    from adderc.verify.suites import Suite

LINES_TOGETHER = 1024
EXHAUSTIVE_BY_DEFAULT = 10**6
LONGEST_SHOWN = 60


def load_module(path: str) -> Any:
    """The module of a model file; InputError for a Python file."""
    if path.endswith(".py"):
        raise InputError(
            f"{path}: Python models are not supported yet",
            "give a model file that adderc compile wrote",
        )
    from adderc.nn.module import AdderModule
    from adderc.weights.file import load_model

    stored = load_model(path)
    return AdderModule(stored.structure, stored.values)


# ---------------------------------------------------------------- add


@click.command("add", context_settings={"ignore_unknown_options": True})
@click.argument("model")
@click.argument("operands", nargs=-1, metavar="A B [C [D]]")
@click.option("--file", "tuples", metavar="TUPLES",
              help="Add every line of a file, - for stdin: operands separated by commas "
                   "or blanks, one sum a line.")
@output_options
def add_command(
    model: str, operands: tuple[str, ...], tuples: str | None, as_json: bool, quiet: bool
) -> int:
    """Add numbers with a model.

    The lines of a file are taken 1024 at a time, each such part checked before any of it
    is added; blank lines are skipped. Exit code 1 means that an answer was no number,
    which is printed as "?".
    """
    output = Output(as_json, quiet)
    _refuse_options(operands)
    if (tuples is None) == (not operands):
        raise InputError("give either the operands or --file")
    module = load_module(model)
    rows = iter([[_one_tuple(operands, module.format.number)]]) if tuples is None else (
        read_tuples(tuples, module.format.number)
    )
    found: list[int | None] = []
    unreadable = False
    for part in rows:
        sums = add_rows(module, part)
        unreadable = unreadable or None in sums
        if output.json:
            found.extend(sums)
        else:
            output.result("\n".join("?" if s is None else str(s) for s in sums), {})
    if output.json:
        from adderc.report.jsonout import sums_json

        output.result("", sums_json(found))
    return int(unreadable)


def add_rows(module: Any, rows: list[tuple[int, ...]]) -> list[int | None]:
    """The model's answers to operand tuples in range; None where one is no number."""
    import numpy as np

    from adderc.nn.greedy import decode_greedy
    from adderc.verify.batches import integer_type
    from adderc.verify.run import prompts_of

    form = module.format
    batch = np.array(rows, dtype=integer_type(form.number))
    answers = decode_greedy(module, form, prompts_of(form, batch))
    return [form.decode(tokens) for tokens in answers.tolist()]


def read_tuples(path: str, number: NumberFormat) -> Iterator[list[tuple[int, ...]]]:
    """Parts of a file of operands; InputError names the first bad line."""
    label = "standard input" if path == "-" else path
    part: list[tuple[int, ...]] = []
    try:
        with click.open_file(path, encoding="utf-8-sig") as lines:
            for count, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                cells = line.split(",") if "," in line else line.split()
                try:
                    part.append(_one_tuple(cells, number))
                except InputError as error:
                    where = f"{label}, line {count}"
                    raise InputError(f"{where}: {error.message}", error.hint) from None
                if len(part) == LINES_TOGETHER:
                    yield part
                    part = []
    except UnicodeDecodeError:
        raise InputError(f"{label} is not a text file") from None
    except OSError as error:
        raise InputError(f"cannot read {label}: {error.strerror or error}") from None
    if part:
        yield part


def _one_tuple(texts: tuple[str, ...] | list[str], number: NumberFormat) -> tuple[int, ...]:
    """Operands from text; InputError unless they are decimal, in range and enough."""
    values = []
    for position, text in enumerate(texts):
        name = f"operand {number.names[position]}" if position < number.operands else "operand"
        text = text.strip()
        digits = text.strip('"').replace("_", "")
        if not (digits.isascii() and digits.isdigit()):
            raise InputError(f"{name} {_shown(text)} is not a non-negative decimal integer")
        if len(digits.lstrip("0")) > max(LONGEST_SHOWN, number.maximum.bit_length() // 3 + 1):
            raise InputError(f"{name} = {_shown(text)} is out of range: {len(digits)} digits")
        values.append(int(digits))
    number.check_operands(values)
    return tuple(values)


def _shown(text: str) -> str:
    return repr(text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…")


def _refuse_options(operands: tuple[str, ...]) -> None:
    """A word that looks like an option is a usage error, a negative number is not."""
    for word in operands:
        if word.startswith("-") and not word[1:2].isdigit():
            known = ("--file", "--json", "--quiet", "--help")
            hint = did_you_mean(word, known)
            raise click.UsageError(f"no such option: {word}" + (f"; {hint}" if hint else ""))


# ---------------------------------------------------------------- verify


@click.command("verify")
@click.argument("model")
@click.option("--suite", "name", type=click.Choice(["adderboard", "adversarial", "exhaustive"]),
              help="Which sums. Without it: adversarial, and exhaustive where there are at "
                   "most a million.")
@click.option("--samples", type=click.IntRange(min=1), metavar="N",
              help="How many sums of the adversarial suite.  [default: 20000]")
@seed_option
@output_options
def verify_command(
    model: str, name: str | None, samples: int | None, seed: int, as_json: bool, quiet: bool
) -> int:
    """Test a model on suites of sums.

    Exit code 0 only with no failure. After Ctrl-C what was run so far is reported, and the
    exit code is 130.
    """
    output = Output(as_json, quiet)
    if samples is not None and name not in (None, "adversarial"):
        raise InputError(f"--samples goes with the adversarial suite, not with {name}")
    module = load_module(model)
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
