"""Verdicts of prove, falsify and check-proof as text and as JSON.

Takes: `ProofResult`, `CheckResult`, the format that was proven. Gives: text of at most 80
columns, and dicts of plain values.
May import: results, format, report.text, report.jsonout.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable
from typing import Any

from adderc.format.prompt import Format
from adderc.report.jsonout import failure_json
from adderc.report.text import COLUMNS, short_number
from adderc.results import CheckResult, Failure, ProofResult

LONGEST_SUM = 48
Row = tuple[str, str]


def proof_text(result: ProofResult, form: Format) -> str:
    """The verdict, and under it what it rests on: margin and place, or the wrong sum."""
    title = result.verdict + (f", {result.grade}" if result.grade else "")
    rows: list[Row] = [("holds for", result.holds_for)] if result.holds_for else []
    if result.reason and result.counterexample is None:
        rows.append(("reason", result.reason))
    if result.counterexample is not None:
        rows += _wrong_sum(result.counterexample)
    if result.margin is not None:
        rows.append(("margin", margin_text(result.margin, result.margin_ulp)))
    if result.rounding_share is not None:
        rows.append(("rounding", share_text(result.rounding_share)))
    if result.counterexample is not None or result.case is not None:
        rows.append(("where", _where(result, form)))
    elif result.step is not None and result.verdict == "UNDECIDED":
        rows.append(("reached", f"step {min(result.step + 1, form.steps)} of {form.steps}"))
    rows += _effort(result.cases, result.seconds)
    said = result.assumptions if result.verdict == "PROVEN" else ()
    return "\n".join([title, *_rows(rows), *_assumptions(said)])


def proof_json(result: ProofResult) -> dict[str, Any]:
    """The verdict with the keys of the command line's contract; no certificate in it."""
    found = result.counterexample
    return {
        "verdict": result.verdict,
        "grade": result.grade,
        "counterexample": None if found is None else failure_json(found),
        "margin": result.margin,
        "margin_ulp": result.margin_ulp,
        "rounding_share": result.rounding_share,
        "step": result.step,
        "case": result.case,
        "competing_token": result.competing_token,
        "reason": result.reason,
        **({"holds_for": result.holds_for} if result.holds_for else {}),
        "cases": result.cases,
        "seconds": result.seconds,
        "assumptions": list(result.assumptions),
    }


def check_text(result: CheckResult) -> str:
    """Whether the certificate was accepted, and what the checker found or missed."""
    if not result.accepted:
        rows = [("reason", result.reason), ("seconds", f"{result.seconds:.3g}")]
        return "\n".join(["refused: this shows nothing about the model", *_rows(rows)])
    title = "accepted" + (f", {result.grade}" if result.grade else "")
    rows = [("holds for", result.holds_for)] if result.holds_for else []
    rows += [] if result.margin is None else [("margin", margin_text(result.margin, None))]
    rows += _effort(result.cases, result.seconds)
    return "\n".join([title, *_rows(rows), *_assumptions(result.assumptions)])


def check_json(result: CheckResult) -> dict[str, Any]:
    """What the checker says, by the names of the record."""
    return {
        "accepted": result.accepted,
        "reason": result.reason,
        "grade": result.grade,
        **({"holds_for": result.holds_for} if result.holds_for else {}),
        "margin": result.margin,
        "cases": result.cases,
        "seconds": result.seconds,
        "assumptions": list(result.assumptions),
    }


def margin_text(margin: float, ulps: float | None) -> str:
    """`0.9938 logits, 16,300 ulp`."""
    text = f"{margin:.4g} logits"
    if ulps is not None and math.isfinite(ulps):
        text += f", {ulps:,.0f} ulp" if abs(ulps) >= 100 else f", {ulps:.3g} ulp"
    return text


def share_text(share: float) -> str:
    """What rounding may use up of the margin that exact arithmetic would leave."""
    if share > 1:
        return f"may use up {share:,.3g} times the margin of exact arithmetic"
    return f"may use up {share:.2%} of the margin of exact arithmetic"


# ---------------------------------------------------------------- parts


def _wrong_sum(failure: Failure) -> list[Row]:
    operands = [short_number(value, LONGEST_SUM) for value in failure.operands]
    got = "no number" if failure.got is None else short_number(failure.got, LONGEST_SUM)
    names = ("operands", *[""] * (len(operands) - 1))
    return [*zip(names, operands, strict=True),
            ("expected", short_number(failure.expected, LONGEST_SUM)), ("got", got)]


def _where(result: ProofResult, form: Format) -> str:
    if result.step is None:
        return "not at one digit"
    place = form.answer_place(result.step)
    words = f"answer digit {place}, step {result.step + 1} of {form.steps}"
    if result.counterexample is not None:
        return f"first wrong at {words}"
    if result.case:
        words += f"; {result.case.removeprefix(f'place {place}, ')}"
    if result.competing_token is not None:
        words += f"; against token {result.competing_token}"
    return words


def _effort(cases: int, seconds: float) -> list[Row]:
    counted = [("cases", f"{cases:,}")] if cases else []
    return [*counted, ("seconds", f"{seconds:.3g}")]


def _rows(rows: Iterable[Row]) -> list[str]:
    """Named values, long ones wrapped beside their names."""
    rows = list(rows)
    wide = max((len(name) for name, _ in rows), default=0)
    lines = []
    for name, value in rows:
        parts = textwrap.wrap(value, COLUMNS - wide - 4) or [""]
        for head, part in zip((name, *[""] * (len(parts) - 1)), parts, strict=True):
            lines.append(f"  {head:<{wide}}  {part}".rstrip())
    return lines


def _assumptions(said: Iterable[str]) -> list[str]:
    """A list under its own head; nothing where nothing is assumed."""
    lines = [line for text in said for line in textwrap.wrap(
        text, COLUMNS, initial_indent="    - ", subsequent_indent="      ")]
    return ["  assuming", *lines] if lines else []
