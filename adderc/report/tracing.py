"""A trace as text for a terminal, and as JSON.

Takes: `Trace`. Gives: `trace_lines` (rich lines for a given width), `trace_json`.
May import: results, format.number, report.text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from rich.text import Text

from adderc.format.number import DIGIT_CHARACTERS
from adderc.report.text import short_number
from adderc.results import Trace, TraceHead, TraceHidden, TraceStep

ALL_DETAILS = 12  # answers of at most so many digits are shown whole
ALL_ROWS = 24
LOGITS_SHOWN = 12
LONGEST_SLOT, SHORTEST_SLOT = 30, 16
LARGE = 1e4  # logits from here on are shown less the winner's


def trace_lines(trace: Trace, width: int, places: Sequence[int] = ()) -> Iterable[Text]:
    """Lines of at most `width` columns: the sum, a row for each digit, the chosen digits.

    `places` chooses digits (0 = least significant); without it all of a short answer are
    shown, of a long one the ends and what surrounds the first wrong digit.
    """
    yield from _head(trace, width)
    yield Text("")
    yield from _table(trace, width, places)
    shown = _chosen(trace, places)
    for number, step in enumerate(shown):
        yield Text("")
        if number and step.step != shown[number - 1].step + 1 and not places:
            skipped = step.step - shown[number - 1].step - 1
            yield Text(f"… {skipped} digits are not shown; --digit I shows digit I", style="dim")
            yield Text("")
        yield from _details(trace, step, width)


# ---------------------------------------------------------------- which digits


def _chosen(trace: Trace, places: Sequence[int]) -> list[TraceStep]:
    if places:
        return [step for step in trace.steps if step.place in places]
    if len(trace.steps) <= ALL_DETAILS:
        return list(trace.steps)
    return [trace.steps[number] for number in _ends(trace, 1)]


def _ends(trace: Trace, beside: int) -> list[int]:
    """The steps at both ends and around the first wrong one."""
    count, wrong = len(trace.steps), trace.first_wrong
    kept = {*range(beside + 1), *range(count - beside - 1, count)}
    if wrong is not None:
        kept |= set(range(wrong - beside, wrong + beside + 1))
    return sorted(kept & set(range(count)))


# ---------------------------------------------------------------- the sum and its digits


def _head(trace: Trace, width: int) -> Iterable[Text]:
    longest = max(12, (width - 12) // (len(trace.operands) + 1) - 3)
    shown = " + ".join(short_number(value, longest) for value in trace.operands)
    got = "no number" if trace.got is None else short_number(trace.got, longest)
    right = trace.got == trace.expected
    yield Text.assemble((shown, "bold"), " = ", (got, "bold green" if right else "bold red"))
    if not right:
        yield Text(f"the right sum is {short_number(trace.expected, width - 20)}", style="red")
    if trace.base != 10:
        yield Text(f"digits are in base {trace.base}")
    tokens = "  ".join(f"{label} {token}" for label, token in trace.prompt)
    if len(tokens) + 8 > 3 * width:
        labels = [f"{label} {token}" for label, token in trace.prompt]
        tokens = "  ".join([*labels[:3], "…", *labels[-3:]]) + f"  ({len(labels)} tokens)"
    yield from _wrapped("prompt  ", tokens.split("  "), "  ", width)


def _wrapped(head: str, words: Sequence[str], between: str, width: int) -> Iterable[Text]:
    """Words in lines of at most `width`, with a hanging indent under the head."""
    line = ""
    start = head
    for word in words:
        if line and len(start) + len(line) + len(between) + len(word) > width:
            yield Text.assemble((start, "cyan"), line)
            start, line = " " * len(head), ""
        line += (between if line else "") + word
    yield Text.assemble((start, "cyan"), line)


def _table(trace: Trace, width: int, places: Sequence[int]) -> Iterable[Text]:
    """One row per digit: what the query reads, what was written, what is right."""
    steps = list(trace.steps)
    numbers = list(range(len(steps))) if len(steps) <= ALL_ROWS else _ends(trace, 4)
    if places:
        numbers = [n for n in range(len(steps)) if steps[n].place in places]
    names = [name for name, _ in steps[0].quantities]
    head = ["digit", "query", "wrote", "right", "margin", "next", *names, ""]
    rows = [_row(trace, steps[number], len(names)) for number in numbers]
    widths = [max(len(row[at]) for row in [head, *rows]) for at in range(len(head))]
    while sum(widths) + 2 * (len(widths) - 1) > width and len(widths) > 7:
        cut = len(widths) - 2  # quantities that do not fit stand with the digit's details
        head, widths = head[:cut] + head[cut + 1 :], widths[:cut] + widths[cut + 1 :]
        rows = [row[:cut] + row[cut + 1 :] for row in rows]
    yield Text(_cells(head, widths), style="bold")
    for at, (number, row) in enumerate(zip(numbers, rows, strict=True)):
        if at and number != numbers[at - 1] + 1:
            yield Text(f"… {number - numbers[at - 1] - 1} digits", style="dim")
        style = "red" if steps[number].wrong else ""
        yield Text(_cells(row, widths), style=style)


def _cells(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [cell.rjust(width) for cell, width in zip(row[:-1], widths[:-1], strict=True)]
    return "  ".join([*cells, row[-1]]).rstrip()


def _row(trace: Trace, step: TraceStep, quantities: int) -> list[str]:
    values = [str(value) for _, value in step.quantities]
    mark = ""
    if step.wrong:
        mark = "<- first wrong" if step.step == trace.first_wrong else "<- wrong"
    return [str(step.place), f"{step.label} {step.token}", _token(step.token_written),
            _token(step.right), number_text(step.margin),
            _token(step.runner_up), *(values or [""] * quantities), mark]


def _token(token: int | None) -> str:
    return "none" if token is None else str(token)


def number_text(value: float) -> str:
    """Four significant digits, without the minus of a zero."""
    if math.isnan(value):
        return "nan"
    text = f"{value:.4g}"
    return "0" if float(text) == 0 else text


# ---------------------------------------------------------------- one digit


def _details(trace: Trace, step: TraceStep, width: int) -> Iterable[Text]:
    digit = "" if trace.base > 36 or step.right >= len(DIGIT_CHARACTERS) else (
        f", right {DIGIT_CHARACTERS[step.right]}" if trace.base > 10 else "")
    yield Text.assemble(
        (f"digit {step.place}", "bold"),
        f"  after {step.label} = {step.token}, at position {step.position}{digit}")
    several = len({head.block for head in step.heads}) > 1
    for head in step.heads:
        yield from _reading(head, several, width)
    yield from _residual(trace, step, width)
    for hidden in step.hidden:
        yield from _hidden(hidden, len(step.hidden) > 1, width)
    yield from _logits(step, width)
    if step.quantities:
        yield from _wrapped("  spec      ", [f"{name} = {value}" for name, value in
                                             step.quantities], ", ", width)
    yield _verdict(step)


def _reading(head: TraceHead, several: bool, width: int) -> Iterable[Text]:
    name = f"{head.block}.{head.head}" if several else str(head.head)
    words = [f"{read.label} = {read.token} × {read.weight:.4f}" for read in head.reads]
    if head.rest >= 5e-5 or not words:
        words.append(f"elsewhere × {head.rest:.4f}")
    return _wrapped(f"  head {name}".ljust(12), words, "   ", width)


def _residual(trace: Trace, step: TraceStep, width: int) -> Iterable[Text]:
    """A row for each residual dimension, a column for each stage."""
    stages = list(step.residual)
    columns = [[number_text(v) for v in values] for _, values in stages]
    widths = [max(len(name), *(len(cell) for cell in column))
              for (name, _), column in zip(stages, columns, strict=True)]
    longest = min(max(len(slot) for slot in trace.slots), LONGEST_SLOT)
    wide = max(SHORTEST_SLOT, min(longest, width - 12 - sum(w + 2 for w in widths)))
    while len(stages) > 2 and 12 + wide + sum(w + 2 for w in widths) > width:
        middle = len(stages) // 2
        del stages[middle], columns[middle], widths[middle]
    head = "  ".join(name.rjust(w) for (name, _), w in zip(stages, widths, strict=True))
    yield Text.assemble(("  residual".ljust(12), "cyan"), " " * wide, "  ", (head, "dim"))
    for at, slot in enumerate(trace.slots):
        name = slot if len(slot) <= wide else slot[: wide - 1] + "…"
        cells = "  ".join(column[at].rjust(w)
                          for column, w in zip(columns, widths, strict=True))
        yield Text(f"{'':12}{name:<{wide}}  {cells}")


def _hidden(hidden: TraceHidden, several: bool, width: int) -> Iterable[Text]:
    head = f"  units {hidden.block}" if several else "  units"
    before, after = ([number_text(v) for v in values]
                     for values in (hidden.before, hidden.after))
    words = [f"{b} -> {a}" for b, a in zip(before, after, strict=True)]
    return _wrapped(head.ljust(12), words, "   ", width)


def _logits(step: TraceStep, width: int) -> Iterable[Text]:
    order = range(len(step.logits))
    if len(step.logits) > LOGITS_SHOWN:
        best = sorted(order, key=lambda t: -step.logits[t])[: LOGITS_SHOWN // 2]
        order = sorted({*best, step.right})  # type: ignore[assignment]
    top = max(step.logits)
    level = top if LARGE <= abs(top) < math.inf else 0.0
    words = [f"{token}: {number_text(step.logits[token] - level)}" for token in order]
    if level:
        words.insert(0, f"{number_text(level)} and")
    if len(words) < len(step.logits):
        words.append(f"… {len(step.logits) - len(words)} lower")
    return _wrapped("  logits    ", words, "   ", width)


def _verdict(step: TraceStep) -> Text:
    if step.token_written is None:
        return Text("  wrote     no token: a logit is NaN", style="red")
    text = f"{step.token_written}, ahead of {_token(step.runner_up)} by {number_text(step.margin)}"
    if step.wrong:
        return Text.assemble(("  wrote     ", "cyan"), (f"{text}; {step.right} is right", "red"))
    return Text.assemble(("  wrote     ", "cyan"), (f"{text}; right", "green"))


# ---------------------------------------------------------------- JSON


def trace_json(trace: Trace, places: Sequence[int] = ()) -> dict[str, Any]:
    """The whole record, or the chosen digits of it; operands and sums as strings."""
    steps = [step for step in trace.steps if not places or step.place in places]
    return {
        "operands": [str(value) for value in trace.operands],
        "expected": str(trace.expected),
        "got": None if trace.got is None else str(trace.got),
        "base": trace.base,
        "slots": list(trace.slots),
        "first_wrong": trace.first_wrong,
        "prompt": [{"label": label, "token": token} for label, token in trace.prompt],
        "steps": [_step_json(step) for step in steps],
    }


def _step_json(step: TraceStep) -> dict[str, Any]:
    return {
        "step": step.step, "place": step.place, "position": step.position,
        "label": step.label, "token": step.token,
        "written": step.token_written, "right": step.right, "runner_up": step.runner_up,
        "margin": step.margin,
        "heads": [
            {"block": head.block, "head": head.head, "rest": head.rest,
             "reads": [{"position": read.position, "label": read.label, "token": read.token,
                        "weight": read.weight} for read in head.reads]}
            for head in step.heads],
        "residual": {name: list(values) for name, values in step.residual},
        "hidden": [{"block": unit.block, "before": list(unit.before),
                    "after": list(unit.after)} for unit in step.hidden],
        "logits": list(step.logits),
        "quantities": {name: value if isinstance(value, int) else str(value)
                       for name, value in step.quantities},
    }
