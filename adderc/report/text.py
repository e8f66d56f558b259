"""Results as text for a terminal, readable at 80 columns.

Takes: result records and plain figures. Gives: text without colour or a trailing line end.
May import: results.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from itertools import zip_longest

from adderc.results import Failure, VerifyReport, VerifyResult

COLUMNS = 80
LONGEST_NUMBER = 24


def verify_text(report: VerifyReport) -> str:
    """A line for each suite, and the first failures of each as a table."""
    parts = []
    for result in report.results:
        parts.append(suite_line(result))
        if result.failures:
            parts.append(failure_table(result))
    return "\n".join(parts)


def suite_line(result: VerifyResult) -> str:
    """`adderboard: 10,010 of 10,010 right (100%), 8,120 additions/s, greedy`."""
    line = (
        f"{result.suite}: {result.passed:,} of {result.total:,} right "
        f"({percent(result.passed, result.total)}), "
        f"{result.additions_per_second:,.0f} additions/s, {result.method}"
    )
    if result.qualifies is not None and not result.interrupted:
        line += "\n  qualifies (at least 99%)" if result.qualifies else (
            "\n  does not qualify (below 99%)"
        )
    if result.interrupted:
        line += f"\n  interrupted: {result.planned - result.total:,} sums were not run"
    return line


def failure_table(result: VerifyResult) -> str:
    """The kept failures: operands, expected, got; of long numbers the ends."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    count = len(result.failures[0].operands)
    for name in "abcd"[:count]:
        table.add_column(name, justify="right", overflow="fold")
    table.add_column("expected", justify="right", overflow="fold")
    table.add_column("got", justify="right", overflow="fold")
    longest = LONGEST_NUMBER if count == 2 else (COLUMNS - 10) // (count + 2) - 2
    for failure in result.failures:
        table.add_row(*_failure_cells(failure, longest))
    shown, failed = len(result.failures), result.failed
    head = "wrong:" if shown == failed else f"the first {shown} of {failed:,} wrong:"
    return f"{head}\n{render(table)}"


def _failure_cells(failure: Failure, longest: int) -> list[str]:
    cells = [short_number(value, longest) for value in (*failure.operands, failure.expected)]
    return [*cells, "no number" if failure.got is None else short_number(failure.got, longest)]


def short_number(value: int, longest: int = LONGEST_NUMBER) -> str:
    """`value` in decimal, or its two ends and the number of digits where it is long."""
    text = str(value)
    if len(text) <= longest:
        return text
    note = f" ({len(text)})"
    room = max(4, longest - len(note) - 1)
    return f"{text[: room // 2]}…{text[-(room - room // 2):]}{note}"


def percent(part: int, whole: int) -> str:
    """`100%` only where nothing is missing, `99.99%` at most otherwise."""
    if whole == 0:
        return "nothing run"
    if part == whole:
        return "100%"
    return f"{min(10_000 * part // whole, 9_999) / 100:.2f}%"


def figures(title: str, rows: Iterable[tuple[str, str]]) -> str:
    """A title and a column of named values under it."""
    rows = list(rows)
    wide = max((len(name) for name, _ in rows), default=0)
    return "\n".join([title, *(f"  {name:<{wide}}  {value}" for name, value in rows)])


def specs_text(specs: Sequence[tuple[str, str, str]]) -> str:
    """Names and first sentences of the specs, the sentences wrapped beside the names."""
    import textwrap

    wide = max((len(name) for name, _, _ in specs), default=0)
    lines = []
    for name, sentence, _ in specs:
        wrapped = textwrap.wrap(sentence, max(20, COLUMNS - wide - 2)) or [""]
        for left, right in zip_longest([name], wrapped, fillvalue=""):
            lines.append(f"{left:<{wide}}  {right}".rstrip())
    return "\n".join(lines)


def render(table: object) -> str:
    """A rich renderable as plain text of at most COLUMNS columns."""
    from rich.console import Console

    buffer = io.StringIO()
    Console(file=buffer, width=COLUMNS, color_system=None, highlight=False).print(table)
    return "\n".join(line.rstrip() for line in buffer.getvalue().rstrip("\n").split("\n"))
