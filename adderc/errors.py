"""Spans in a spec's text and the error classes that carry an exit code.

Takes: nothing. Gives: `Span`, `Source`, `Fault`, the error classes, did-you-mean.
May import: the standard library only; every other room may import this one.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True)
class Span:
    """A stretch of a spec's text: character offsets, and line and column counted from 1."""

    start: int
    end: int
    line: int
    column: int


NOWHERE = Span(0, 0, 0, 0)


@dataclass(frozen=True)
class Source:
    """A text and the name under which a person knows it."""

    name: str
    text: str

    def line(self, number: int) -> str:
        """Line `number` (from 1) without its line end; empty beyond the last."""
        lines = self.text.split("\n")
        return lines[number - 1].rstrip("\r") if 1 <= number <= len(lines) else ""


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a text: what, where, and what to do about it."""

    message: str
    span: Span = NOWHERE
    hint: str = ""

    def render(self, source: Source | None) -> str:
        """`file:line:column: message`, the line with a caret under the span, the hint."""
        if source is None or self.span.line == 0:
            place = f"{source.name}: " if source else ""
            return place + self.message + (f"\n  {self.hint}" if self.hint else "")
        line = source.line(self.span.line)
        width = max(1, min(self.span.end - self.span.start, len(line) - self.span.column + 1))
        column, shown = _clip(line.replace("\t", " "), self.span.column)
        width = min(width, len(shown) - column + 1) if column <= len(shown) else width
        head = f"{source.name}:{self.span.line}:{self.span.column}: {self.message}"
        gutter = f"{self.span.line:>5} | "
        caret = " " * (len(gutter) + column - 1) + "^" * width
        tail = f"\n      {self.hint}" if self.hint else ""
        return f"{head}\n{gutter}{shown}\n{caret}{tail}"


def _clip(line: str, column: int, longest: int = 160) -> tuple[int, str]:
    """A stretch of a long line around `column`, and the column within that stretch."""
    if len(line) <= longest:
        return column, line
    start = min(max(0, column - longest // 2), len(line) - longest)
    return column - start, line[start : start + longest]


@dataclass
class AddercError(Exception):
    """What went wrong, told to the user; `exit_code` is the process's exit code."""

    message: str
    hint: str = ""
    exit_code: ClassVar[int] = 2

    def __str__(self) -> str:
        return self.message + (f"\n  {self.hint}" if self.hint else "")


@dataclass
class InputError(AddercError):
    """Bad input or usage: operands, files, options."""


@dataclass
class SpecError(AddercError):
    """Everything wrong with one spec text, collected."""

    message: str = ""
    hint: str = ""
    faults: tuple[Fault, ...] = ()
    source: Source | None = None

    def __str__(self) -> str:
        return "\n".join(fault.render(self.source) for fault in self.faults)


@dataclass
class Refusal(SpecError):
    """A sound spec that cannot become a right model.

    `kind` is one of KINDS; the faults say which inequality, position or operation and
    what would help.
    """

    KINDS: ClassVar[tuple[str, ...]] = (
        "positions collide",
        "dtype bound",
        "algorithm impossible",
        "not implemented",
    )
    kind: str = "not implemented"

    def __str__(self) -> str:
        return f"cannot compile ({self.kind})\n{super().__str__()}"


@dataclass
class WrongAlgorithm(SpecError):
    """The algorithm does not add; `report` works the smallest failing sum digit by digit."""

    exit_code: ClassVar[int] = 1
    operands: tuple[int, ...] = ()
    report: str = ""

    def __str__(self) -> str:
        return super().__str__() + (f"\n{self.report}" if self.report else "")


@dataclass
class Undecided(AddercError):
    """The question stayed open: undecided, or out of budget."""

    exit_code: ClassVar[int] = 3


@dataclass
class Unsolved(AddercError):
    """The solver found no weights, which proves nothing."""

    exit_code: ClassVar[int] = 3


@dataclass
class Infeasible(AddercError):
    """There are no such weights, and that is proved."""

    exit_code: ClassVar[int] = 1


@dataclass
class FaultList:
    """Collects faults while a stage goes on, to raise them together."""

    source: Source
    faults: list[Fault] = field(default_factory=list)

    def add(self, message: str, span: Span = NOWHERE, hint: str = "") -> None:
        self.faults.append(Fault(message, span, hint))

    def raise_if_any(self) -> None:
        if self.faults:
            ordered = tuple(sorted(set(self.faults), key=lambda f: (f.span.start, f.message)))
            raise SpecError(faults=ordered, source=self.source)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean "…"?` for the nearest known word, or the empty string."""
    near = difflib.get_close_matches(word, sorted(set(known)), n=1, cutoff=0.6)
    return f'did you mean "{near[0]}"?' if near else ""
