"""Weights of a place-value model: its numbers from the error budget, its judgement.

Takes: a checked spec, its place choices, given values. Gives: `derive_places` → placed
circuit and `Weights`, or a `Refusal` that states the widest numbers each dtype holds.
May import: errors, ir, lang, passes, realize, weights.

    anchor   whole numbers from -ln(1/u) down are tried; the one with the least error is taken
    value    1 / (e^anchor B^-t), t the distance of place 0 behind its symbol: places count
             in units of the last place
    equals   so that the answer's digits are taken off: -(1 + B^(n - w + 1 - t) + what older
             symbols write there) * value
    middle   1 / (2 B): half a step of the query's place value
    offset   the middle of the room that the errors leave between two whole numbers
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction

from adderc.errors import Fault, FaultList, Refusal
from adderc.ir.form import Form
from adderc.ir.ops import Circuit
from adderc.lang.checked import CheckedSpec
from adderc.lang.parse import parse
from adderc.lang.settle import settle_format
from adderc.lang.syntax import FormatPart
from adderc.passes.align import Alignment
from adderc.passes.lower_places import lower_places, spread_prefixes
from adderc.passes.place import PlacedCircuit, Slot
from adderc.realize.bounds import Inequality, Judgement
from adderc.realize.derive import GivenValue, Weights
from adderc.realize.place_budget import UNIT, Budget, GatedNumbers, budget_of
from adderc.realize.place_choices import PlaceChoices
from adderc.realize.place_layout import PlaceLayout, place_layout
from adderc.realize.place_scalars import Scalars
from adderc.realize.places_gated import Derived, Gated
from adderc.realize.places_low import derive_prefixed, judgement_of
from adderc.weights.structure import Structure

ANCHORS = 10  # whole numbers that are tried


def derive_places(
    spec: CheckedSpec, choices: PlaceChoices, given: tuple[GivenValue, ...]
) -> tuple[PlacedCircuit, Weights]:
    """The model, its budget judged; Refusal where it breaks and nothing was given."""
    if choices.kind == "prefix":
        return _derive_low(spec, choices, given)
    circuit = spread_prefixes(lower_places(spec), spec)
    layout = place_layout(spec)
    made = best(choices, layout, given)
    widest = {} if given else widest_of(choices)
    judgement = _judgement(made.budget, circuit, widest, layout)
    placed = placed_circuit(circuit, made.structure)
    weights = Weights(made.structure, made.scalars.values, judgement,
                      tuple(item.name for item in given))
    if judgement.broken and not given:
        budget = made.budget
        error = max(budget.below / budget.low, budget.above / (1 - budget.high))
        largest = max(budget.terms, key=lambda term: max(term.below, term.above))
        raise _refusal(choices, error, largest.name, widest)
    return placed, weights


def _derive_low(
    spec: CheckedSpec, choices: PlaceChoices, given: tuple[GivenValue, ...]
) -> tuple[PlacedCircuit, Weights]:
    """A model whose prefix heads sum digits themselves."""
    circuit = lower_places(spec)
    made = derive_prefixed(spec, choices, given)
    widest = {} if given else widest_of(choices)
    judgement = judgement_of(made, circuit.nodes[-1].line, _held(widest, spec.number.base))
    if judgement.broken and not given:
        raise _refusal(choices, max(i.left / i.right for i in judgement.broken),
                       max(judgement.broken, key=lambda i: i.left / i.right).name, widest)
    return placed_circuit(circuit, made.structure), Weights(
        made.structure, made.values, judgement, tuple(item.name for item in given))


@dataclass(frozen=True)
class Made:
    """One candidate model with its budget."""

    structure: Structure
    scalars: Scalars
    budget: Budget


def best(choices: PlaceChoices, layout: PlaceLayout, given: tuple[GivenValue, ...]) -> Made:
    """The model whose anchor leaves the most room."""
    dtype = choices.plan.dtype
    top = math.floor(math.log(UNIT[dtype]))
    if any(item.name == "place.anchor" for item in given):
        return make(choices, layout, given, float(top))
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
    return Made(structure, scalars, budget_of(layout, numbers))


def _derived(
    choices: PlaceChoices, layout: PlaceLayout, anchor: float, offset: float
) -> Derived:
    number, base = layout.number, layout.number.base
    behind = layout.distance + number.width - 1
    value = 1.0
    if not choices.is_fixed("attention.v"):
        value = math.exp(-anchor) * float(base) ** behind
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


# ---------------------------------------------------------------- widths


def widest_of(choices: PlaceChoices) -> dict[str, int]:
    """The widest numbers that hold in each dtype, by the same budget; 0 for none."""
    part = parse(choices.spec.source).format
    return {dtype: _widest(choices, part, dtype) for dtype in UNIT}


def _widest(choices: PlaceChoices, part: FormatPart, dtype: str) -> int:
    """A first guess from 100 roundings of the largest sum, then one width at a time."""
    number = choices.spec.number
    sized = replace(choices, plan=replace(choices.plan, dtype=dtype))
    guess = math.log(0.3 / UNIT[dtype] / 100 / number.operands) / math.log(number.base)
    width = max(1, math.floor(guess))
    holds = _holds(sized, part, width)
    while holds and _holds(sized, part, width + 1):
        width += 1
    while not holds and width > 1:
        width -= 1
        holds = _holds(sized, part, width)
    return width if holds else 0


def _holds(choices: PlaceChoices, part: FormatPart, width: int) -> bool:
    number = replace(choices.spec.number, width=width, limit=None)
    form = settle_format(part, number, False, FaultList(choices.spec.source))
    assert form is not None
    sized = replace(choices, spec=replace(choices.spec, number=number, format=form))
    if number.operands * float(number.maximum) * UNIT[choices.plan.dtype] > 1:
        return False
    if choices.kind == "prefix":
        return derive_prefixed(sized.spec, sized, ()).slack > 0
    return best(sized, place_layout(sized.spec), ()).budget.slack > 0


# ---------------------------------------------------------------- judgement


def placed_circuit(circuit: Circuit, structure: Structure) -> PlacedCircuit:
    """The circuit with its residual slots; heads that weigh by distance need no alignment."""
    slots = tuple(Slot(name, Form()) for name in structure.slots)
    return PlacedCircuit(circuit, Alignment(Fraction(1), ()), slots, 0, 0, (),
                         len(structure.blocks))


def _judgement(
    budget: Budget, circuit: Circuit, widest: dict[str, int], layout: PlaceLayout
) -> Judgement:
    line = circuit.nodes[-1].line
    rows = (
        Inequality("rest of a new digit", "errors stay below the offset, in last places: a rest "
                   "that just reaches digit d + 1 is not taken for d", budget.below, budget.low,
                   line),
        Inequality("rest of the old digit", "errors stay below 1 - offset: a rest one last place "
                   "less is not taken for d + 1", budget.above, 1 - budget.high, line),
    )
    notes = tuple((term.name, max(term.below, term.above), term.text) for term in budget.terms)
    return Judgement(rows, budget.margin, notes, _held(widest, layout.number.base))


def _held(widest: dict[str, int], base: int) -> tuple[str, ...]:
    return tuple(f"{dtype} holds width 1 to {width} in base {base}" if width else
                 f"{dtype} holds no width in base {base}" for dtype, width in widest.items())


def _refusal(
    choices: PlaceChoices, error: float, largest: str, widest: dict[str, int]
) -> Refusal:
    number, dtype = choices.spec.number, choices.plan.dtype
    held = "; ".join(f"{name} holds width {width}" if width else f"{name} holds no width"
                     for name, width in widest.items())
    fits = [name for name, width in widest.items() if width >= number.width]
    hint = (f"try --dtype {fits[0]}" if fits else f"try --width {widest[dtype]}"
            if widest[dtype] else "give each symbol before an operand an id of its own")
    return Refusal(kind="dtype bound", source=choices.spec.source, faults=(Fault(
        f"{dtype} cannot hold place values of width {number.width} in base {number.base}: errors "
        f"are {error:.3g} times what is allowed, most of them in {largest}; in base "
        f"{number.base}, {held}", hint=hint),))
