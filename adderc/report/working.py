"""Works one sum digit by digit through an algorithm, beside the right digits.

Takes: `CheckedSpec` and operands. Gives: `work_sum`, a text table.
May import: format, lang, reference.
"""

from __future__ import annotations

from collections.abc import Sequence

from adderc.format.number import DIGIT_CHARACTERS, show_digits, to_digits
from adderc.lang.checked import CheckedSpec
from adderc.reference import Reference

LONGEST = 24


def work_sum(spec: CheckedSpec, operands: Sequence[int]) -> str:
    """The working of one sum up to a little past its first wrong digit."""
    number, algorithm = spec.number, spec.algorithm
    assert algorithm is not None
    steps = Reference(spec).work(operands)
    right = spec.format.expected(operands)
    right = [right[spec.format.answer_place(place)] for place in range(spec.format.steps)]
    wrong = [at for at, step in enumerate(steps) if step.emitted != right[step.place]]
    shown = steps[: min(len(steps), (wrong[0] if wrong else 0) + 2)][-LONGEST:]
    digits = [to_digits(value, number.base, number.answer_digits) for value in operands]
    head = ["digit", *number.names, *algorithm.order, "emit", "right", ""]
    rows = [
        [str(step.place), *(DIGIT_CHARACTERS[d[step.place]] for d in digits),
         *(str(value) for _, value in step.quantities),
         _shown(spec, step.emitted), _shown(spec, right[step.place]),
         "<- wrong" if step.emitted != right[step.place] else ""]
        for step in shown
    ]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    table = [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [head, *rows]
    ]
    got = Reference(spec).add(*operands)
    return "\n".join(["", *_sum_line(spec, operands, got), "", *("  " + row for row in table)])


def _shown(spec: CheckedSpec, token: int) -> str:
    """A digit, or a state as the digit and carry it is."""
    if spec.format.answer_kind == "digits":
        return DIGIT_CHARACTERS[token] if 0 <= token < spec.number.base else str(token)
    carry, digit = divmod(token, spec.number.base)
    return f"({DIGIT_CHARACTERS[digit]}, {carry})"


def _sum_line(spec: CheckedSpec, operands: Sequence[int], got: int) -> list[str]:
    written = " + ".join(map(str, operands))
    lines = [f"  {written} = {sum(operands)}, the algorithm answers {got}"]
    base = spec.number.base
    if base != 10:
        written = " + ".join(show_digits(value, base) for value in operands)
        lines.append(f"  in base {base}: {written} = {show_digits(sum(operands), base)}, "
                     f"answered {show_digits(got, base)}")
    return lines
