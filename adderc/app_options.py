"""What the commands share: options, and where results, notes and progress go.

Takes: click. Gives: `settings_options`, `output_options`, `Output`, `settings_of`.
May import: every room; heavy ones only inside functions.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from adderc.errors import InputError

if TYPE_CHECKING:
    from adderc.pipeline import Settings

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class Output:
    """One JSON object on stdout with `json`; no notes, warnings or progress with `quiet`."""

    json: bool
    quiet: bool

    def result(self, text: str, value: Mapping[str, Any]) -> None:
        """What the command was asked for: text, or the same as a JSON object."""
        if self.json:
            from adderc.report.jsonout import dumps

            click.echo(dumps(value))
        elif text:
            click.echo(text)

    def note(self, text: str) -> None:
        """Something to know beside the result, on stderr."""
        if text and not self.quiet and not self.json:
            click.echo(text, err=True)

    @contextmanager
    def progress(self, title: str) -> Iterator[Callable[[int, int], None] | None]:
        """A bar on stderr, only where that is a terminal; takes (done, planned)."""
        if self.quiet or not sys.stderr.isatty():
            yield None
            return
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=None)
            yield lambda done, planned: bar.update(task, completed=done, total=planned)


def output_options(command: Command) -> Command:
    """--json and --quiet."""
    command = click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON object and nothing else."
    )(command)
    return click.option(
        "-q", "--quiet", is_flag=True, help="No notes, warnings or progress."
    )(command)


def settings_options(command: Command) -> Command:
    """--width, --base, --dtype and --set, which override what the spec says."""
    for option in (
        click.option(
            "--set", "assignments", metavar="NAME=VALUE", multiple=True,
            help="Set a parameter of the spec; may be repeated.",
        ),
        click.option("--dtype", type=click.Choice(["float32", "float64"]), help="Number type."),
        click.option("--base", type=click.IntRange(2, 36), help="Base, 2 to 36."),
        click.option("--width", type=click.IntRange(min=1), help="Digits of an operand."),
    ):
        command = option(command)
    return command


def seed_option(command: Command) -> Command:
    """--seed, for whatever is left to chance."""
    return click.option(
        "--seed", type=click.IntRange(min=0), default=0, show_default=True,
        help="Seed of whatever is left to chance.",
    )(command)


def settings_of(
    width: int | None, base: int | None, dtype: str | None, assignments: tuple[str, ...],
    seed: int = 0,
) -> Settings:
    """The pipeline's settings; InputError for an assignment without a name or a value."""
    from adderc.pipeline import Settings

    pairs = []
    for text in assignments:
        name, equals, value = text.partition("=")
        if not (equals and name.strip() and value.strip()):
            raise InputError(f"--set {text!r} is not NAME=VALUE")
        pairs.append((name.strip(), value.strip()))
    return Settings(width=width, base=base, dtype=dtype, set=tuple(pairs), seed=seed)
