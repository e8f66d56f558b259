"""The error budget of prefix heads, in units of the last place: base^(-width).

Takes: the structure of a prefix model with its values. Gives: `budget_of` → `PrefixBudget`.
May import: realize, weights.

A step changes within a third of a last place on either side of its middle; so much may x and
low be off. What the steps then write is off by their roundings, times 3/r, and a digit may
be off by less than 1/2. Weights are taken as the rounded leaves and scores give them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, localcontext

import numpy as np

from adderc.realize.place_budget import DIGITS, EXP, UNIT, Term, rounded_power
from adderc.realize.places_prefix import Prefixed
from adderc.weights.numeric import evaluate_numpy
from adderc.weights.structure import Attention, Structure

Array = np.ndarray


@dataclass(frozen=True)
class PrefixBudget:
    """`carry`, `wrap`: terms of the errors of low and of x + low, in last places; `bends`:
    how far the hinges leave for each; `digit`: terms of the decoded digit's error."""

    carry: tuple[Term, ...]
    wrap: tuple[Term, ...]
    digit: tuple[Term, ...]

    @property
    def error(self) -> float:
        return sum(term.above for term in self.digit)

    @property
    def margin(self) -> float:
        """The least lead of the right logit: the next digit is behind by 1 - 2 |error|."""
        return 1 - 2 * self.error


def total(terms: tuple[Term, ...]) -> float:
    return sum(term.above for term in terms)


def budget_of(
    model: Prefixed, structure: Structure, values: Mapping[str, Array]
) -> PrefixBudget:
    """Every error of a prefix model; see the module's docstring."""
    number, u = model.layout.number, UNIT[structure.dtype]
    base, count, width = number.base, number.operands, number.width
    places = float(base) ** width  # last places in one unit
    off_x, off_low = _weights(model, structure, values)
    heads = len(model.heads)
    roundings = EXP + 8 + heads + _beside(model, structure, values)
    low = (
        Term("weights below", 0, off_low * places, "place values of the digits below, as the "
             "leaves and the rounded scores give them"),
        Term("roundings below", 0, (roundings + width + 4) * u * count * places,
             f"exponentials, softmax, sums of {width} terms and of {heads} heads"),
    )
    token = base if model.cancels else 0
    size = count * (base - 1) + token
    x = (
        Term("weights here", 0, off_x * places, "digits of this place and a cancelled token"),
        Term("roundings here", 0, (roundings + count + 4) * u * size * places,
             "exponentials, softmax, sums"),
    )
    bent = Term("hinges", 0, 6 * u * count * base * places, "sums of the hinges and their biases")
    steps = 2 * (count - 1)
    written = 8 * u * count * base * 3 * places * (base + 1) * steps
    digit = (
        Term("x", 0, total(x) / places, "error of the digits of this place"),
        Term("steps", 0, written, f"{steps} steps, 3 base^width times two hinges that differ by "
             "a third of a last place"),
        Term("logits", 0, 8 * u * (base + 2.0) ** 2, "2 d z - d^2"),
    )
    return PrefixBudget((*low, bent), (*low, *x, bent), digit)


def _weights(
    model: Prefixed, structure: Structure, values: Mapping[str, Array]
) -> tuple[float, float]:
    """How far x, and low, are off at most: exact but for scores as the dtype rounds them."""
    attention = structure.blocks[0].attention
    assert attention is not None
    matrices = {name: evaluate_numpy(expr, values).astype(structure.dtype)
                for name in ("k", "k_bias", "slopes", "v", "out")
                if (expr := getattr(attention, name)) is not None}
    with localcontext() as context:
        context.prec = DIGITS
        read = [_read(model, attention, matrices, fused) for fused in (False, True)]
        x = max(float(off_x) for off_x, _ in read)
        low = max(float(off_low) for _, off_low in read)
    return x, low


def _beside(model: Prefixed, structure: Structure, values: Mapping[str, Array]) -> float:
    """Plain softmax takes the anchor's score off each first: a rounding of the difference."""
    if model.layout.anchor is None:
        return 0.0
    attention = structure.blocks[0].attention
    assert attention is not None
    assert attention.slopes is not None
    slope = float(evaluate_numpy(attention.slopes, values).max())
    return -model.anchor + slope * model.layout.format.length


def _read(
    model: Prefixed, attention: Attention, matrices: Mapping[str, Array], fused: bool
) -> tuple[Decimal, Decimal]:
    number, layout = model.layout.number, model.layout
    base, most = Decimal(number.base), Decimal(number.base - 1)
    off = [Decimal(0), Decimal(0)]
    for head in range(len(model.heads)):
        slot = model.low if head else model.x
        factor = Decimal(float(matrices["out"][slot, head])) * Decimal(
            float(matrices["v"][head].sum()))
        weights = [_weight(matrices, head, 0, distance, fused) for distance in model.seen(head)]
        if layout.anchor is not None:
            far = _weight(matrices, head, model.low, layout.anchor[0], fused)
            weights = [weight / far for weight in weights]
        mass = sum(weights, Decimal(0))
        for distance, weight in zip(model.seen(head), weights, strict=True):
            wanted = (base ** (layout.reaches[head - 1] - distance) if head
                      else Decimal(model.sign))
            # a query may see fewer keys than all: the denominator lies between these
            ends = (weight * factor, weight * factor / (1 + mass))
            off[head > 0] += most * max(abs(end - wanted) for end in ends)
    return off[0], off[1]


def _weight(
    matrices: Mapping[str, Array], head: int, flag: int, distance: int, fused: bool
) -> Decimal:
    """e^score of a key, whose score K - slope * distance is as the dtype rounds it.

    `flag` is the slot whose flag of 1 adds to K; no key reads slot 0.
    """
    slope = matrices["slopes"][head, 0]
    level = matrices["k"][head, flag]
    if "k_bias" in matrices:
        level = level + matrices["k_bias"][0, head]
    if fused:
        score = float(level.dtype.type(float(
            Decimal(float(level)) - Decimal(float(slope)) * distance)))
    else:
        score = float(level - slope * level.dtype.type(distance))
    return rounded_power(float(level), float(slope), distance, score)
