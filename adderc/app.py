"""The command line: the group of commands, and what becomes of every error.

Takes: the process's arguments. Gives: `main` and `run`, and the exit code.
May import: every room; heavy ones only inside functions, so that --help stays quick.

Exit codes: 0 it holds or is done; 1 the answer is no; 2 bad input, bad usage or a fault of
adderc itself; 3 undecided or out of budget; 130 interrupted; 141 the reader of our output
went away. With --json an error, too, is one object on stdout: {"error": message}.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from adderc import __version__
from adderc.app_audit import audit_command
from adderc.app_inspect import explain_command, export_command, trace_command
from adderc.app_models import add_command, verify_command
from adderc.app_prove import check_proof_command, falsify_command, prove_command
from adderc.app_solve import solve_command
from adderc.app_specs import check_command, compile_command, specs_command
from adderc.app_train import train_command
from adderc.errors import AddercError, did_you_mean

COMMANDS = (check_command, compile_command, solve_command, train_command, add_command,
            verify_command, prove_command, falsify_command, check_proof_command, audit_command,
            explain_command, trace_command, export_command, specs_command)
INTERRUPTED, READER_GONE, OUT_OF_BUDGET, BAD_INPUT = 130, 141, 3, 2


class Commands(click.Group):
    """Lists the commands in the order of use and knows near misses of their names."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            hint = did_you_mean(name, self.commands)
            raise click.UsageError(f"no such command: {name}" + (f"; {hint}" if hint else ""), ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)
@click.version_option(__version__, prog_name="adderc", message="%(prog)s %(version)s")
def commands() -> None:
    """Compile a specification of integer addition into a transformer.

    A spec says in a small language how to add and which model is to do it. `compile` turns
    it into a model file, `add` adds with that file, `verify` tests it, `prove` proves it right for
    every operand.
    """


for _command in COMMANDS:
    commands.add_command(_command)


def main() -> NoReturn:
    """Run the command line and leave the process with its exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command; every error ends as a message and an exit code, never as a traceback."""
    sys.set_int_max_str_digits(0)  # operands may have any number of digits
    words = list(arguments) or ["--help"]
    try:
        code = _invoke(words)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # what is still buffered has no reader: do not let the interpreter try again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    except KeyboardInterrupt:
        message, code = "interrupted", INTERRUPTED
    except Exception as error:
        message, code = explain(error)
    return _fail(message, code, "--json" in words)


def _invoke(words: list[str]) -> int:
    try:
        with commands.make_context("adderc", words) as context:
            code = commands.invoke(context)
    except click.exceptions.Exit as leave:
        return leave.exit_code
    return code if isinstance(code, int) else 0


def explain(error: Exception) -> tuple[str, int]:
    """The message for people and the exit code of anything that was raised."""
    if os.environ.get("ADDERC_DEBUG"):
        import traceback

        traceback.print_exception(error)
    if isinstance(error, AddercError):
        return str(error), error.exit_code
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx else "adderc"
        return f"{error.format_message()}\n  see {command} --help", BAD_INPUT
    if isinstance(error, click.ClickException):
        return error.format_message(), BAD_INPUT
    if isinstance(error, MemoryError):
        return "out of memory", OUT_OF_BUDGET
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror or error}", BAD_INPUT
    first = str(error).strip().partition("\n")[0]
    return (
        f"internal error: {type(error).__name__}: {first}\n"
        "  this is a fault of adderc; please report it with what was run\n"
        "  (ADDERC_DEBUG=1 shows where it happened)"
    ), BAD_INPUT


def _fail(message: str, code: int, as_json: bool) -> int:
    try:
        click.echo(f"error: {message}", err=True)
        if as_json:
            from adderc.report.jsonout import dumps, error_json

            click.echo(dumps(error_json(message)))
        sys.stdout.flush()
    except OSError:
        pass  # nobody is there to read it; the exit code stands
    return code
