"""The commands that prove: prove, falsify, check-proof.

Takes: command-line arguments. Gives: click commands that return their exit code, and
`prove_module`, `exit_code` for `compile --prove`.
May import: every room; heavy ones only inside functions.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from adderc.app_models import open_model
from adderc.app_options import Output, output_options, seed_option
from adderc.errors import InputError

if TYPE_CHECKING:
    from adderc.results import ProofResult

Command = TypeVar("Command", bound=Callable[..., Any])
EXIT_CODES = {"PROVEN": 0, "REFUTED": 1, "UNDECIDED": 3}
KIND = "adderc certificate"


def _finite(context: click.Context, option: click.Parameter, value: float) -> float:
    if not math.isfinite(value):
        raise click.BadParameter("is not a number of seconds", context, option)
    return value


def budget_option(seconds: float) -> Callable[[Command], Command]:
    """--budget, with its default."""
    return click.option("--budget", type=click.FloatRange(min=0, min_open=True), default=seconds,
                        show_default=True, metavar="SECONDS", callback=_finite,
                        help="Give up after this long.")


def python_options(command: Command) -> Command:
    """--format and --trust-code, for a model of others."""
    command = click.option(
        "--trust-code", "trust", is_flag=True,
        help="Run a Python model; without it no third-party code is run.")(command)
    return click.option(
        "--format", "format_spec", metavar="SPEC",
        help="Number and format parts for a Python model.")(command)


@contextlib.contextmanager
def running(output: Output, title: str) -> Iterator[Callable[[str], None]]:
    """Room for a model's code: one line of progress on a terminal, its prints on stderr.

    Code that leaves the process by sys.exit has shown nothing: InputError.
    """
    with contextlib.ExitStack() as stack:
        tell: Callable[[str], None] = lambda line: None  # noqa: E731
        if not output.quiet and sys.stderr.isatty():
            from rich.console import Console

            status = stack.enter_context(Console(stderr=True).status(title))
            tell = lambda line: status.update(f"{title}: {line}")  # noqa: E731
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        try:
            yield tell
        except SystemExit as leave:
            raise InputError(f"the model's code called sys.exit({leave.code!r})") from leave


def exit_code(result: ProofResult) -> int:
    """0 proven, 1 refuted, 3 undecided."""
    return EXIT_CODES[result.verdict]


# ---------------------------------------------------------------- prove


@click.command("prove", short_help="Prove a model right for every operand, or refute it.")
@click.argument("model")
@click.option("-o", "--output", "target", metavar="CERT",
              help="Write the certificate of a proof here.")
@budget_option(600)
@python_options
@seed_option
@output_options
def prove_command(
    model: str, target: str | None, budget: float, format_spec: str | None, trust: bool,
    seed: int, as_json: bool, quiet: bool,
) -> int:
    """Prove that a model adds every operand rightly, or find one it adds wrongly.

    MODEL is a model file, or a Python file with --format and --trust-code. Every rounding
    is bounded: grade portable. Where that is not enough, numbers that depend on no token are
    taken as torch computes them here: grade kernel, for this build, number of threads and
    one sum at a time. Exit code 0: PROVEN. 1: REFUTED, with operands that were run.
    3: UNDECIDED, with the case that stayed open.
    """
    output = Output(as_json, quiet)
    if target is not None:
        check_target(target, model)
    with running(output, "proving"):
        module = open_model(model, format_spec, trust)
    result = prove_module(module, output, budget, seed)
    value, text = proof_parts(result, module)
    if target is not None:
        proven = result.verdict == "PROVEN"
        if proven:
            save_certificate(target, result)
        value["certificate"] = target if proven else None
        text += f"\nwrote {target}" if proven else (
            f"\n{target} was not written: only a proof has a certificate")
    output.result("" if quiet else text, value)
    return exit_code(result)


def prove_module(module: Any, output: Output, budget: float = 600, seed: int = 0) -> ProofResult:
    """The prover's verdict on a module that is loaded."""
    from adderc.prove.run import prove

    with running(output, "proving") as tell:
        return prove(module, module.format, budget=budget, progress=tell, seed=seed)


def proof_parts(result: ProofResult, module: Any) -> tuple[dict[str, Any], str]:
    """A verdict as JSON and as text; the text traces the first wrong digit of a wrong sum."""
    from adderc.report.proving import proof_json, proof_text

    text = proof_text(result, module.format)
    if result.counterexample is not None and result.step is not None:
        text += _first_wrong(result, module)
    return proof_json(result), text


def _first_wrong(result: ProofResult, module: Any) -> str:
    """How the model came to its first wrong digit; only modules of ours can be traced."""
    from adderc.nn.module import AdderModule

    if not isinstance(module, AdderModule):
        return ""
    from adderc.report.tracing import trace_lines
    from adderc.trace import trace

    assert result.counterexample is not None
    assert result.step is not None
    operands, place = result.counterexample.operands, module.format.answer_place(result.step)
    found = trace(module, operands)
    if not found.steps[result.step].wrong:  # a near tie that another order of sums decides
        return ""
    lines = [line.plain.rstrip() for line in trace_lines(found, 80, [place])]
    start = next((at for at, line in enumerate(lines) if line.startswith(f"digit {place}  ")), 0)
    return "\n" + "\n".join(["", *lines[start:]])


def check_target(target: str, model: str) -> None:
    """InputError where a certificate could not be written, or would replace the model."""
    from adderc.weights.file import check_writable

    check_writable(target)
    path = Path(target)
    if path.exists() and Path(model).exists() and path.samefile(model):
        raise InputError(f"-o {target} would replace the model", "name another file")


def save_certificate(target: str, result: ProofResult) -> None:
    """Write the certificate of a proof: whole, or not at all."""
    from adderc.prove.certificate import write_certificate

    path = Path(target)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write_certificate(temporary, result)
        os.replace(temporary, path)
    except (InputError, OSError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        raise InputError(f"cannot write {target}: {getattr(cause, 'strerror', error)}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


# ---------------------------------------------------------------- falsify


@click.command("falsify")
@click.argument("model")
@budget_option(60)
@python_options
@seed_option
@output_options
def falsify_command(
    model: str, budget: float, format_spec: str | None, trust: bool, seed: int,
    as_json: bool, quiet: bool,
) -> int:
    """Search for operands that a model adds wrongly.

    MODEL is a model file, or a Python file with --format and --trust-code. Exit code 1:
    some were found, run, and came out wrong. 3: none within the budget.
    """
    output = Output(as_json, quiet)
    with running(output, "searching") as tell:
        from adderc.prove.run import falsify

        module = open_model(model, format_spec, trust)
        result = falsify(module, module.format, seconds=budget, seed=seed, progress=tell)
    value, text = proof_parts(result, module)
    output.result("" if quiet else text, value)
    return exit_code(result)


# ---------------------------------------------------------------- check-proof


@click.command("check-proof", short_help="Check a certificate, independently of the prover.")
@click.argument("certificate", metavar="CERT")
@click.argument("model")
@python_options
@output_options
def check_proof_command(
    certificate: str, model: str, format_spec: str | None, trust: bool, as_json: bool,
    quiet: bool,
) -> int:
    """Check a certificate against a model, independently of the prover.

    Every case is computed again in ball arithmetic. A certificate of grade kernel holds only
    with the build of torch and the number of threads that it names. Exit code 0: accepted.
    1: refused, which says nothing against the model. 2: CERT is no certificate.
    """
    output = Output(as_json, quiet)
    check_readable(certificate)
    with running(output, "checking") as tell:
        from adderc.prove.checker import check_certificate

        module = open_model(model, format_spec, trust)
        result = check_certificate(certificate, module, module.format, progress=tell)
    from adderc.report.proving import check_json, check_text

    output.result("" if quiet else check_text(result), check_json(result))
    return int(not result.accepted)


def check_readable(path: str) -> None:
    """InputError for a file that is missing or is no certificate of adderc at all."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict) or data.get("kind") != KIND:
        raise InputError(f"{path} is no certificate", "adderc prove MODEL -o CERT writes one")
