"""Weights of a prefix model: its anchor from the error budget, its judgement.

Takes: a checked spec, its place choices, given values. Gives: `derive_prefixed` → structure,
values and `Judgement`; `slack_of`, whether a width holds.
May import: errors, lang, realize, weights.

    anchor   whole numbers from -ln(1/u) down are tried; the one with the least error is taken
             (how far digits score below the key that takes what they leave)
    out      e^-anchor, and B^t for an operand whose digits stand t back: weights undone
    hinges   at a third and two thirds of the last place below each threshold
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from adderc.errors import Fault, SpecError, did_you_mean
from adderc.lang.checked import CheckedSpec
from adderc.realize.bounds import Inequality, Judgement
from adderc.realize.derive import GivenValue
from adderc.realize.place_budget import UNIT
from adderc.realize.place_choices import PlaceChoices
from adderc.realize.places_prefix import Prefixed
from adderc.realize.prefix_budget import PrefixBudget, budget_of, total
from adderc.realize.prefix_layout import PrefixLayout, prefix_layout
from adderc.realize.store import Store
from adderc.weights.structure import LeafInfo, Structure

Array = np.ndarray
ANCHORS = 4
BEND = 1 / 3  # of a last place, on either side of a step's middle


@dataclass(frozen=True)
class Low:
    """A prefix model with its budget."""

    structure: Structure
    values: dict[str, Array]
    budget: PrefixBudget

    @property
    def slack(self) -> float:
        budget = self.budget
        return min(BEND - total(budget.carry), BEND - total(budget.wrap), budget.margin)


def derive_prefixed(
    spec: CheckedSpec, choices: PlaceChoices, given: tuple[GivenValue, ...]
) -> Low:
    """The model whose anchor leaves the most room."""
    top = math.floor(math.log(UNIT[choices.plan.dtype]))
    layout = prefix_layout(spec, choices.anchored)
    made = [_make(choices, layout, given, float(top - more)) for more in range(ANCHORS)]
    return max(made, key=lambda low: low.slack)


def _make(
    choices: PlaceChoices, layout: PrefixLayout, given: tuple[GivenValue, ...], anchor: float
) -> Low:
    spec = choices.spec
    store = Store(choices.plan, spec.source)
    fixed = next((float(g.value.reshape(-1)[0]) for g in given if g.name == "prefix.anchor"),
                 None)
    if fixed is not None:
        anchor = -fixed if choices.anchored else fixed
    model = Prefixed(choices, layout, store, anchor)
    structure = model.structure()
    values, infos = _taken(store, given, spec)
    values = {name: value.astype(choices.plan.dtype).astype(np.float64)
              for name, value in values.items()}
    structure = replace(structure, leaves=infos)
    return Low(structure, values, budget_of(model, structure, values))


def _taken(
    store: Store, given: tuple[GivenValue, ...], spec: CheckedSpec
) -> tuple[dict[str, Array], tuple[LeafInfo, ...]]:
    """Given values in place of derived ones."""
    values, faults = dict(store.values), []
    for item in given:
        if item.name not in values:
            faults.append(Fault(f"there is no leaf {item.name!r}", item.span, did_you_mean(
                item.name, values) or f"leaves: {', '.join(values)}"))
        elif item.value.size != values[item.name].size:
            faults.append(Fault(f"{item.name} has {values[item.name].size} numbers, "
                                f"{item.value.size} are given", item.span))
        else:
            values[item.name] = item.value.reshape(values[item.name].shape)
    if faults:
        raise SpecError(faults=tuple(faults), source=spec.source)
    names = {item.name for item in given}
    return values, tuple(replace(i, how="given" if i.name in names else i.how)
                         for i in store.infos)


def judgement_of(low: Low, line: int, held: tuple[str, ...]) -> Judgement:
    """Its inequalities, and the terms of their left sides."""
    budget = low.budget
    rows = (
        Inequality("carry", "the sum of the digits below is off by less than a third of its last "
                   "place", total(budget.carry), BEND, line),
        Inequality("wrap", "so is the sum of this place and all below it", total(budget.wrap),
                   BEND, line),
        Inequality("decode", "the digit is off by less than half", budget.error, 0.5, line),
    )
    terms = tuple((term.name, term.above, f"{term.text} (last places)") for term in budget.wrap)
    terms += tuple((f"digit: {term.name}", term.above, term.text) for term in budget.digit)
    return Judgement(rows, budget.margin, terms, held)
