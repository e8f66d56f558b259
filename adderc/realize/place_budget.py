"""The error budget of place values: what moves the rest, in units of the last place.

Takes: the layout, the numbers of a gated model. Gives: `GatedNumbers`, `budget_of` →
`Budget`: terms with their sources, and the room that is left below and above the middle.
May import: format, realize, weights.

Step by step the model decides between candidates d and d + 1 by the sign of

    rest + offset - (d + 1) B^p,          rest a whole number of last places,

so the offset lies between 0 and 1, and everything that moves either side is an error. What
the weights themselves are off is computed exactly, from the rounded leaves and the scores as
the dtype rounds them (with and without FMA); every later operation counts its roundings, in
any order of summation, against the largest sum it can meet. u is half a unit in the last
place of 1, S the largest sum. An exponential may be wrong by 4 units in the last place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import lru_cache

import numpy as np

from adderc.realize.place_layout import PlaceLayout

DIGITS = 40  # decimal digits of the exact side
UNIT = {"float32": 2.0**-24, "float64": 2.0**-53}
EXP = 8  # 4 units in the last place, in u


@dataclass(frozen=True)
class GatedNumbers:
    """The numbers a gated model computes with, as the dtype holds them.

    A candidate for digit d is d * slope + base (at place value 1), `lift` is added to it;
    `spread` is added by each token to the sum; `sharp` multiplies |candidate|.
    """

    dtype: str
    anchor: Decimal
    key: Decimal
    value: Decimal
    equals: Decimal
    product: Decimal
    slope: Decimal
    base: Decimal
    lift: Decimal
    spread: Decimal
    sharp: Decimal
    wide: bool
    digit: Decimal


@dataclass(frozen=True)
class Term:
    """One source of error: at most `below` and `above` last places, and where it comes from."""

    name: str
    below: float
    above: float
    text: str


@dataclass(frozen=True)
class Budget:
    """`low` and `high`: where the offset lies over all decisions, before errors."""

    terms: tuple[Term, ...]
    low: float
    high: float
    unit: float
    share: float
    sharp: float

    @property
    def below(self) -> float:
        return sum(term.below for term in self.terms)

    @property
    def above(self) -> float:
        return sum(term.above for term in self.terms)

    @property
    def slack(self) -> float:
        """Room that is left on the tighter side, in last places; negative where none is."""
        return min(self.low - self.below, 1 - self.high - self.above)

    @property
    def room(self) -> float:
        """The slack that the best offset leaves: half of what errors leave of the interval."""
        return (1 - (self.high - self.low) - self.below - self.above) / 2

    @property
    def margin(self) -> float:
        """The least lead of the right logit."""
        return 2 * self.slack * self.unit * self.share * self.sharp


@lru_cache(maxsize=100_000)
def exponential(score: float) -> Decimal:
    """e^score to DIGITS digits."""
    with localcontext() as context:
        context.prec = DIGITS
        return Decimal(score).exp()


@lru_cache(maxsize=4096)
def falling(slope: float, distance: int) -> Decimal:
    """e^(-slope * distance)."""
    with localcontext() as context:
        context.prec = DIGITS
        return exponential(-slope) ** distance


def rounded_power(anchor: float, slope: float, distance: int, score: float) -> Decimal:
    """e^score for a score that is anchor - slope * distance but for rounding: the exponential
    of the exact one, times that of what rounding changed, whose sixth term is below 1e-30."""
    change = Decimal(score) - (Decimal(anchor) - Decimal(slope) * distance)
    series = Decimal(1)
    for term in (5, 4, 3, 2, 1):
        series = 1 + change * series / term
    return exponential(anchor) * falling(slope, distance) * series


def largest_sum(layout: PlaceLayout) -> int:
    return layout.number.operands * layout.number.maximum


def budget_of(layout: PlaceLayout, numbers: GatedNumbers) -> Budget:
    """Every error of a gated model; see the module's docstring."""
    with localcontext() as context:
        context.prec = DIGITS
        low, high = (_Exact(layout, numbers, fused) for fused in (False, True))
        weights = [_deviation(exact) for exact in (low, high)]
        middles = [list(_middles(exact)) for exact in (low, high)]
        below = max(float(-w[0]) for w in weights)
        above = max(float(w[1]) for w in weights)
        offsets = [float(offset) for found in middles for offset, _ in found]
        kept = max((float(shift) for found in middles for _, shift in found), default=0.0)
        unit = float(low.unit)
    older = _older(layout)
    terms = [Term("older symbols", 0.0, older, "a symbol still counts a little behind the next "
                  "ones, all with one value, so that later operands weigh more"),
             Term("weights", below, above - older, "place values as the leaves and the rounded "
                  "scores give them, against powers of the base")]
    if numbers.wide:
        terms.append(Term("kept residual", kept, kept, "the residual adds its first slots to the "
                          "logits beside the V-shape: half their difference"))
    terms += _roundings(layout, numbers)
    return Budget(tuple(terms), min(offsets), max(offsets), unit,
                  1 / (layout.length + layout.spare), float(numbers.sharp))


class _Exact:
    """The model on real numbers, but for scores, which are as the dtype rounds them."""

    def __init__(self, layout: PlaceLayout, numbers: GatedNumbers, fused: bool) -> None:
        self.layout, self.numbers, self.fused = layout, numbers, fused
        self.kind = np.dtype(numbers.dtype).type
        slope = self.kind(math.log(layout.number.base))
        self.slope = slope
        scores = [numbers.anchor + numbers.key, numbers.anchor]
        if layout.start is not None:
            scores = [Decimal(0), Decimal(0), numbers.anchor]
        powers = {s: [self._power(s, t) for t in range(layout.length)] for s in set(scores)}
        self.symbol, self.other = powers[scores[0]], powers[scores[1]]
        # the weights of all keys summed up, and 1 or what the first token weighs more
        self.others = [Decimal(layout.spare), *self.other]
        for at in range(layout.length):
            self.others[at + 1] += self.others[at]
        self.more = [Decimal(0)] * layout.length
        if layout.start is not None:
            self.more = [powers[scores[2]][at] - self.other[at] for at in range(layout.length)]
        self.known: dict[int, Decimal] = {}
        own, base = layout.number, Decimal(layout.number.base)
        top = layout.tops[0]
        self.unit = self.place(top) * numbers.product * numbers.digit / base ** (own.width - 1)

    def _power(self, score: Decimal, distance: int) -> Decimal:
        """e^(score - slope * distance), the exponent rounded."""
        if self.fused:
            exact = score - Decimal(float(self.slope)) * distance
            rounded = float(self.kind(float(exact)))
            return rounded_power(float(score), float(self.slope), distance, rounded)
        with np.errstate(all="ignore"):
            rounded = float(self.kind(float(score)) - self.slope * self.kind(distance))
        return rounded_power(float(score), float(self.slope), distance, rounded)

    def place(self, position: int) -> Decimal:
        """The place value at a position: what its anchors write, over the denominator."""
        if position not in self.known:
            layout, numbers = self.layout, self.numbers
            held, denominator = Decimal(0), self.others[position + 1] + self.more[position]
            for at in layout.anchors:
                if at <= position:
                    weight = self.symbol[position - at]
                    denominator += weight - self.other[position - at]
                    written = numbers.value + (numbers.equals if at == layout.last else 0)
                    held += weight * written
            self.known[position] = held / denominator
        return self.known[position]


def _deviation(exact: _Exact) -> tuple[Decimal, Decimal]:
    """The least and the most that all digits together can move the rest."""
    layout, numbers = exact.layout, exact.numbers
    base, most = Decimal(layout.number.base), layout.number.base - 1
    low = high = Decimal(0)
    for position, place, sign in _digits(layout):
        weight = exact.place(position) * numbers.product * numbers.digit / exact.unit
        off = (weight - sign * base**place) * most
        low, high = low + min(off, Decimal(0)), high + max(off, Decimal(0))
    return low, high


def _older(layout: PlaceLayout) -> float:
    """What the symbols before the nearest one add to the operands' digits, at most."""
    number, more = layout.number, Fraction(0)
    for top in layout.tops:
        *before, nearest = [at for at in layout.anchors if at < top]
        more += sum((Fraction(number.base) ** (at - nearest) for at in before), Fraction(0))
    return float(more * (number.base**number.width - 1))


def _digits(layout: PlaceLayout) -> Iterator[tuple[int, int, int]]:
    """(position, place, sign) of every digit that counts."""
    for top in layout.tops:
        for place in range(layout.number.width):
            yield top + layout.number.width - 1 - place, place, 1
    for step in range(layout.format.steps - 1):
        yield layout.last + 1 + step, layout.format.answer_place(step), -1


def _middles(exact: _Exact) -> Iterator[tuple[Decimal, Decimal]]:
    """Per decision (p, d | d + 1): its offset, and how far what the residual keeps moves it."""
    layout, numbers = exact.layout, exact.numbers
    base, largest = layout.number.base, largest_sum(layout)
    for step in range(layout.format.steps):
        place, position = layout.format.answer_place(step), layout.last + step
        count = exact.place(position)
        tokens = position + 1
        met = min(base - 1, (largest + 1) // base**place)
        ends = range(met) if numbers.wide else sorted({0, met - 1})[:met]  # linear between
        for digit in ends:
            bound = Decimal((digit + 1) * base**place)
            both = count * ((2 * digit + 1) * numbers.slope + 2 * numbers.base)
            at = -(both / 2 + numbers.lift + numbers.spread * tokens) / exact.unit
            kept = Decimal(0)
            if numbers.wide:
                differ = _kept(exact, count, tokens, digit)
                kept = differ * (tokens + 1) / (2 * numbers.sharp * abs(exact.unit))
            yield bound - at, kept


def _kept(exact: _Exact, count: Decimal, tokens: int, digit: int) -> Decimal:
    """The most that the residual's own values differ between the logits of d and d + 1."""
    numbers, share = exact.numbers, Decimal(1) / (tokens + 1)
    most = numbers.digit * (exact.layout.number.base - 1)
    first = [(Decimal(0), Decimal(1)), (Decimal(0), Decimal(1)), (Decimal(0), most),
             (count, count), (share, share)]

    def span(slot: int) -> tuple[Decimal, Decimal]:
        if slot < len(first):
            return first[slot]
        held = share * (count * ((slot - len(first)) * numbers.slope + numbers.base)
                        + numbers.lift)
        return held, held

    (low, high), (left, right) = span(digit), span(digit + 1)
    return max(abs(high - left), abs(right - low))


def _roundings(layout: PlaceLayout, numbers: GatedNumbers) -> list[Term]:
    """What every operation after the scores can round away."""
    u, largest = UNIT[numbers.dtype], float(largest_sum(layout) + 1)
    read = 2 * largest  # operands and written digits
    anchors = len(layout.anchors)
    tail, rounds = _tail(layout, numbers)
    digits = layout.number.operands * layout.number.width + layout.format.steps - 1
    if numbers.spread:
        digits = layout.length
    rows = [
        ("exponentials", rounds * (read + largest), "exp of the scores, 4 ulp each, in digits and "
         "candidates"),
        ("softmax", (tail + 2 + anchors) * (read + largest),
         f"denominator, division, and the sum over {anchors} symbols"),
        ("products", 5 * read, "digit, place value and their factors: 5 roundings of each term"),
        ("sum", (digits + 2) * largest, f"{digits} terms in any order: partial sums stay below S"),
        ("candidates", 6 * largest, "their middles: 6 roundings"),
        ("race", 5 * largest, "candidate + sum, and its V-shape"),
    ]
    return [Term(name, size * u, size * u, text) for name, size, text in rows]


def _tail(layout: PlaceLayout, numbers: GatedNumbers) -> tuple[float, int]:
    """What the denominator's sum and its exponentials round, in u.

    In plain softmax its terms fall by the base. Where two partial sums meet, the rounding is
    less than u of the whole and no more than the smaller one, so terms below u round by no
    more than they are themselves, u of the whole in all; the others by u each.
    """
    u = UNIT[numbers.dtype]
    if layout.start is not None:
        large = 1 + math.floor(-math.log(u) / math.log(layout.number.base))
        return float(min(layout.length, large) + 1), 2 * EXP
    tail = 2 * math.exp(float(numbers.anchor + numbers.key)) / u
    if numbers.key:
        tail += layout.length * math.exp(float(numbers.anchor)) / u
    return tail, EXP
