"""Weights of a place-value model with gated units: its numbers from the error budget.

Takes: a checked spec, its place choices, given values. Gives: `derive_gated` → `Made`, and
`gated_judgement`.
May import: lang, realize, weights.

    anchor   whole numbers from -ln(1/u) down are tried; the one with the least error is taken
             (plain softmax: ln(B/(B-1)), the score of the first token)
    value    1 / (e^anchor B^-t), t the distance of place 0 behind its symbol: places count
             in units of the last place (plain softmax: B/(B-1) B^t)
    equals   so that the answer's digits are taken off: -(1 + B^(n - w + 1 - t) + what older
             symbols write there) * value
    middle   1 / (2 B): half a step of the query's place value
    offset   the middle of the room that the errors leave between two whole numbers
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

import numpy as np

from adderc.lang.checked import CheckedSpec
from adderc.realize.bounds import Inequality, Judgement
from adderc.realize.derive import GivenValue
from adderc.realize.place_budget import UNIT, Budget, GatedNumbers, budget_of
from adderc.realize.place_choices import PlaceChoices
from adderc.realize.place_layout import PlaceLayout, place_layout
from adderc.realize.place_scalars import Scalars
from adderc.realize.places_gated import Derived, Gated
from adderc.weights.structure import Structure

Array = np.ndarray
ANCHORS = 4  # whole numbers that are tried


@dataclass(frozen=True)
class Made:
    """One candidate model with its budget."""

    structure: Structure
    values: dict[str, Array]
    budget: Budget

    @property
    def slack(self) -> float:
        return self.budget.slack


def derive_gated(
    spec: CheckedSpec, choices: PlaceChoices, given: tuple[GivenValue, ...]
) -> Made:
    """The model whose anchor leaves the most room."""
    layout, dtype = place_layout(spec, choices.anchored), choices.plan.dtype
    top = math.floor(math.log(UNIT[dtype]))
    if any(item.name == "place.anchor" for item in given):
        return make(choices, layout, given, float(top))
    if choices.anchored:
        base = layout.number.base
        return make(choices, layout, given, math.log(base / (base - 1)))
    anchors = [float(top - more) for more in range(ANCHORS)]
    rooms = {anchor: _with_offset(choices, layout, given, anchor, 0.0).budget.room
             for anchor in anchors}
    return make(choices, layout, given, max(anchors, key=lambda anchor: rooms[anchor]))


def make(
    choices: PlaceChoices, layout: PlaceLayout, given: tuple[GivenValue, ...], anchor: float
) -> Made:
    """The model with one anchor; its offset is derived from the budget without one."""
    first = _with_offset(choices, layout, given, anchor, 0.0)
    budget = first.budget
    if choices.option("gated.offset") is not None or any(
            item.name == "candidate.offset" for item in given):
        return first
    room = (1 - budget.high - budget.above, budget.low - budget.below)
    return _with_offset(choices, layout, given, anchor, (room[0] - room[1]) / 2 * budget.unit)


def _with_offset(
    choices: PlaceChoices, layout: PlaceLayout, given: tuple[GivenValue, ...], anchor: float,
    offset: float,
) -> Made:
    scalars = Scalars(choices.plan.dtype, choices.spec.source, given)
    derived = _derived(choices, layout, anchor, offset)
    structure = Gated(choices, layout, scalars, derived).structure()
    numbers = _numbers(choices, scalars)
    return Made(structure, scalars.values, budget_of(layout, numbers))


def _derived(
    choices: PlaceChoices, layout: PlaceLayout, anchor: float, offset: float
) -> Derived:
    number, base = layout.number, layout.number.base
    behind = layout.distance + number.width - 1
    value = 1.0
    if not choices.is_fixed("attention.v"):
        weight = (base - 1) / base if choices.anchored else math.exp(anchor)
        value = float(base) ** behind / weight
    older = sum((Fraction(base) ** (at - layout.last) for at in layout.before(layout.last)),
                Fraction(0))
    answer = Fraction(base) ** (number.answer_digits - behind)
    return Derived(anchor, value, -value * float(1 + answer + older), 1 / (2 * base), offset)


def _numbers(choices: PlaceChoices, scalars: Scalars) -> GatedNumbers:
    digit = scalars.value("embed.digit")
    flag = scalars.value("embed.flag")
    product = scalars.value("total.value")
    if (scale := choices.option("reglu.scale")) is not None:
        product *= Decimal(scale)
    if "candidate.bias" in scalars.values:
        slope = digit * scalars.value("candidate.scale")
        first = scalars.value("candidate.bias")
    else:
        first = scalars.value("candidate.middle")
        slope = 2 * first
    sharp = Decimal(choices.option("vshape.scale") or 1.0)
    if choices.is_tied("decode.weight"):
        sharp *= scalars.value("total.value")
    return GatedNumbers(
        choices.plan.dtype, scalars.value("place.anchor"),
        flag * scalars.value("place.key", 0.0), flag * scalars.value("place.value"),
        flag * scalars.value("place.equals"), product, slope, first,
        scalars.value("candidate.offset", 0.0), Decimal(choices.option("gated.offset") or 0.0),
        sharp, choices.wide, digit)


def gated_judgement(made: Made, line: int, held: tuple[str, ...]) -> Judgement:
    """Its two inequalities, and the terms of their left sides."""
    budget = made.budget
    rows = (
        Inequality("rest of a new digit", "errors stay below the offset, in last places: a rest "
                   "that just reaches digit d + 1 is not taken for d", budget.below, budget.low,
                   line),
        Inequality("rest of the old digit", "errors stay below 1 - offset: a rest one last place "
                   "less is not taken for d + 1", budget.above, 1 - budget.high, line),
    )
    terms = tuple((term.name, max(term.below, term.above), term.text) for term in budget.terms)
    return Judgement(rows, budget.margin, terms, held)
