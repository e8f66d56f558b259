"""Weights of a place-value model, by either kind of heads, and how wide its dtype goes.

Takes: a checked spec, its place choices, given values. Gives: `derive_places` → placed
circuit and `Weights`, or a `Refusal` that states the widest numbers each dtype holds;
`place_weights`, the same without the refusal.
May import: errors, ir, lang, passes, realize, weights.
"""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

from adderc.errors import Fault, FaultList, Refusal
from adderc.ir.form import Form
from adderc.ir.ops import Circuit, Power
from adderc.lang.checked import CheckedSpec
from adderc.lang.parse import parse
from adderc.lang.settle import settle_format
from adderc.lang.syntax import FormatPart
from adderc.passes.align import Alignment
from adderc.passes.lower_places import lower_places, spread_prefixes
from adderc.passes.place import PlacedCircuit, Slot
from adderc.realize.derive import GivenValue, Weights
from adderc.realize.place_budget import UNIT
from adderc.realize.place_choices import PlaceChoices
from adderc.realize.places_high import Made, derive_gated, gated_judgement
from adderc.realize.places_low import Low, derive_prefixed, judgement_of


def derive_places(
    spec: CheckedSpec, choices: PlaceChoices, given: tuple[GivenValue, ...]
) -> tuple[PlacedCircuit, Weights]:
    """The model, its budget judged; Refusal where it breaks and nothing was given."""
    placed, weights = place_weights(spec, choices, given)
    if weights.judgement.broken and not given:
        raise _refusal(choices, weights)
    return placed, weights


def place_weights(
    spec: CheckedSpec, choices: PlaceChoices, given: tuple[GivenValue, ...]
) -> tuple[PlacedCircuit, Weights]:
    """The model with the best numbers there are, whether or not they are good enough."""
    circuit = lower_places(spec)
    if choices.kind == "gated":
        circuit = spread_prefixes(circuit, spec)
        _check_signs(circuit, spec)
    made = _made(spec, choices, given)
    held = () if given else held_of(choices)
    line = circuit.nodes[-1].line
    judgement = (gated_judgement(made, line, held) if isinstance(made, Made)
                 else judgement_of(made, line, held))
    slots = tuple(Slot(name, Form()) for name in made.structure.slots)
    placed = PlacedCircuit(circuit, Alignment(Fraction(1), ()), slots, 0, (0,), (),
                           len(made.structure.blocks))
    return placed, Weights(made.structure, made.values, judgement,
                           tuple(item.name for item in given))


def _made(
    spec: CheckedSpec, choices: PlaceChoices, given: tuple[GivenValue, ...]
) -> Made | Low:
    make = derive_prefixed if choices.kind == "prefix" else derive_gated
    return make(spec, choices, given)


def _check_signs(circuit: Circuit, spec: CheckedSpec) -> None:
    """The heads give operands one sign and the answer the other; Refusal for other sums."""
    power = circuit["power"].op
    assert isinstance(power, Power)
    if power.plus != spec.number.names or power.minus != ("s",):
        raise Refusal(kind="not implemented", source=spec.source, faults=(Fault(
            "gated heads add every operand and take off the answer; this rule does not",
            spec.algorithm.emit.span),))  # type: ignore[union-attr]


# ---------------------------------------------------------------- widths



def held_of(choices: PlaceChoices) -> tuple[str, ...]:
    """What each dtype holds, in words."""
    base = choices.spec.number.base
    return tuple(
        f"{dtype} holds width 1 to {width} in base {base}" if width else
        f"{dtype} holds no width in base {base}" for dtype, width in widest_of(choices).items())


def widest_of(choices: PlaceChoices) -> dict[str, int]:
    """The widest numbers that hold in each dtype, by the same budget; 0 for none."""
    part = parse(choices.spec.source).format
    return {dtype: _widest(choices, part, dtype) for dtype in UNIT}


def _widest(choices: PlaceChoices, part: FormatPart, dtype: str) -> int:
    """By halving: errors grow with the width, up to where sums fill the mantissa."""
    number = choices.spec.number
    sized = replace(choices, plan=replace(choices.plan, dtype=dtype))
    holds, fails = 0, 1 + math.ceil(-math.log(UNIT[dtype]) / math.log(number.base))
    while fails - holds > 1:
        middle = (3 * holds + 5 * fails) // 8 if holds == 0 else (holds + fails) // 2
        if _holds(sized, part, max(middle, holds + 1)):
            holds = max(middle, holds + 1)
        else:
            fails = max(middle, holds + 1)
    return holds


def _holds(choices: PlaceChoices, part: FormatPart, width: int) -> bool:
    number = replace(choices.spec.number, width=width, limit=None)
    form = settle_format(part, number, False, FaultList(choices.spec.source))
    assert form is not None
    sized = replace(choices, spec=replace(choices.spec, number=number, format=form))
    if number.operands * float(number.maximum) * UNIT[choices.plan.dtype] > 1:
        return False
    return _made(sized.spec, sized, ()).slack > 0


def _refusal(choices: PlaceChoices, weights: Weights) -> Refusal:
    number, dtype, judgement = choices.spec.number, choices.plan.dtype, weights.judgement
    worst = max(judgement.broken, key=lambda i: i.left / i.right if i.right > 0 else math.inf)
    largest = max(judgement.budget, key=lambda term: term[1])
    widest = widest_of(choices)
    fits = [name for name, width in widest.items() if width >= number.width]
    hint = (f"try --dtype {fits[0]}" if fits else f"try --width {widest[dtype]}"
            if widest[dtype] else "give each symbol before an operand an id of its own")
    return Refusal(kind="dtype bound", source=choices.spec.source, faults=(Fault(
        f"{dtype} cannot hold place values of width {number.width} in base {number.base}: errors "
        f"of {worst.left:.3g} last places, {worst.right:.3g} are allowed; the largest: "
        f"{largest[0]}, {largest[1]:.3g}; {'; '.join(judgement.held)}", hint=hint),))
