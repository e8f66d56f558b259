"""At which distances a prefix head finds the digits of an operand, and nothing else.

Takes: the checked spec's format, whether an anchor token is needed. Gives: `prefix_layout` →
`PrefixLayout`, or a `Refusal` that says which positions collide. May import: errors, format,
lang.

The query that writes digit i stands i steps behind the last prompt token. Of an operand
written least significant first, digit j then stands at the distance `reach + i - j`: digit i
at a fixed one, the digits below it further off, where a head may look as far as the width.
What else stands there must be 0: a symbol, or nothing.

The weights of plain softmax sum to 1, so a key that is 0 must take what the digits leave, and
weigh alike in every row. Scores fall with the distance, so it has to stand at one distance from
every query: a run of one symbol, as long as the answer. No head may meet it anywhere else.
"""

from __future__ import annotations

from dataclasses import dataclass

from adderc.errors import Fault, Refusal
from adderc.format.number import NumberFormat
from adderc.format.prompt import Cell, Format, OperandDigits, Symbols
from adderc.lang.checked import CheckedSpec


@dataclass(frozen=True)
class PrefixLayout:
    """`reaches[k]` is the distance from a query to the digit of operand k that it adds,
    `anchor` (distance, token) is where the anchor stands, in plain softmax."""

    number: NumberFormat
    format: Format
    reaches: tuple[int, ...]
    anchor: tuple[int, int] | None = None

    def below(self, operand: int) -> tuple[int, ...]:
        """Distances of the digits below."""
        first = self.reaches[operand] + 1
        return tuple(range(first, first + self.number.width))

    @property
    def last(self) -> int:
        return self.format.prompt_length - 1


def prefix_layout(spec: CheckedSpec, anchored: bool = False) -> PrefixLayout:
    """The distances of a format in which every operand is written least significant first."""
    form, number = spec.format, spec.number
    for segment in form.prompt:
        if isinstance(segment, Symbols):
            continue
        if not isinstance(segment, OperandDigits):
            raise Refusal(kind="not implemented", source=spec.source, faults=(Fault(
                "prefix heads over tokens that hold several digits"),))
        if segment.order != "lsd":
            raise Refusal(kind="algorithm impossible", source=spec.source, faults=(Fault(
                f"operand {number.names[segment.operand]} is written most significant first, and "
                "the answer least: no fixed distance leads from a step to its digit",
                hint="write lsd(…)"),))
    reaches = tuple(
        len(form.cells) - 1 - next(at for at, cell in enumerate(form.cells)
                                   if (cell.operand, cell.place) == (operand, 0))
        for operand in range(number.operands))
    layout = PrefixLayout(number, form, reaches, _anchor(spec) if anchored else None)
    for operand in range(number.operands):
        for distance in (layout.reaches[operand], *layout.below(operand)):
            _check(spec, layout, operand, distance)
    return layout


def _anchor(spec: CheckedSpec) -> tuple[int, int]:
    """(distance, token) of a symbol that every query finds at the same distance."""
    form = spec.format
    ids = [form.ids[cell.text] if cell.kind == "symbol" else -1 for cell in form.cells]
    for distance in range(form.steps, len(ids)):
        seen = {ids[len(ids) - 1 + step - distance] for step in range(form.steps)}
        token = min(seen)
        if len(seen) == 1 and token >= spec.number.base and token != ids[-1]:
            return distance, token
    raise Refusal(kind="algorithm impossible", source=spec.source, faults=(Fault(
        "the weights of plain softmax sum to 1 in every row, and no symbol stands at one distance "
        "from every step to take what the digits leave",
        hint='end the prompt in "," ";" * (width + 1) "=", or write attention { softmax '
        "softmax1 }: its denominator plus one is the anchor"),))


def _check(spec: CheckedSpec, layout: PrefixLayout, operand: int, distance: int) -> None:
    """Refusal where a head of `operand` would meet another digit at this distance."""
    form, width, last = layout.format, layout.number.width, layout.last
    for step in range(max(0, distance - last), form.steps):
        at = last + step - distance
        if at > last:
            raise _collide(spec, operand, f"the answer's digits stand {distance} back")
        cell, place = form.cells[at], step - (distance - layout.reaches[operand])
        own = cell.kind == "digit" and (cell.operand, cell.place) == (operand, place)
        if (own and place < width) or _is_zero(cell, layout):
            continue
        what = f"{layout.number.names[cell.operand]}[{cell.place}]" if cell.kind == "digit" else (
            f'"{cell.text}", the digit {form.ids[cell.text]},')
        raise _collide(spec, operand, f"{what} stands there too at step {step}")


def _is_zero(cell: Cell, layout: PrefixLayout) -> bool:
    """Whether a symbol's token counts nothing: the digit 0, or an id of its own."""
    if cell.kind != "symbol":
        return False
    token = layout.format.ids[cell.text]
    if layout.anchor is not None and token == layout.anchor[1]:
        return False
    return token == 0 or token >= layout.number.base


def _collide(spec: CheckedSpec, operand: int, message: str) -> Refusal:
    name = spec.number.names[operand]
    return Refusal(kind="positions collide", source=spec.source, faults=(Fault(
        f"a head that sums the digits of {name} below each place cannot tell distances apart: "
        f"{message}", hint='put symbols that are 0 between the operands: "0" * width'),))
