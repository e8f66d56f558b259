"""Place values by products: the structure of a two-layer model with gated units.

Takes: the choices, the layout, the scalars. Gives: `build_gated` → `Structure`.
May import: passes, realize, weights.

Layer 0. Head 0 scores every key K - log(B) * distance. With softmax1, whose denominator is
1 + (sum of e^score) and so all but 1, an anchor at distance t has the weight e^K B^-t: the
position behind it holds its place value. The last prompt token counts against the sum. In
plain softmax all keys score alike, and the first token ln(B/(B-1)) more: its weight makes every
denominator B/(B-1), and the same place value (B-1)/B B^-t.
Head 1 holds 1 / (number of tokens + 1), or 1 / (number of tokens), the share of uniform
attention. Gated units then
multiply place value and digit, and write at the query, where the place value is -B^(p+1),
one candidate for each digit d: minus the middle between d B^p and (d + 1) B^p.

Layer 1. Uniform attention adds the sum of all products to every candidate: what is left is
how far the rest lies from that candidate's middle. -|c| is a V-shape of two ReLU units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from adderc.realize.place_choices import PlaceChoices
from adderc.realize.place_layout import PlaceLayout
from adderc.realize.place_scalars import Scalars, at, constant, ones, times, total, wires
from adderc.weights.expr import Add, Arange, Expr, Mul, Neg, Scatter
from adderc.weights.structure import Attention, Block, FeedForward, Head, Structure

EQUALS, SYMBOL, DIGIT, PLACE, SHARE, FIRST = 0, 1, 2, 3, 4, 5


@dataclass(frozen=True)
class Derived:
    """Values of the leaves that are not given."""

    anchor: float
    value: float
    equals: float
    middle: float
    offset: float


@dataclass(frozen=True)
class Gated:
    """Builds the parts; slots are flags, digit, place value, share, candidates, product."""

    choices: PlaceChoices
    layout: PlaceLayout
    scalars: Scalars
    derived: Derived

    @property
    def base(self) -> int:
        return self.layout.number.base

    @property
    def term(self) -> int:
        return FIRST + self.base

    @property
    def d_model(self) -> int:
        return FIRST + self.base + 1 + (self.layout.start is not None)

    @property
    def kind(self) -> str:
        return "softmax1" if self.layout.start is None else "softmax"

    def slots(self) -> tuple[str, ...]:
        candidates = tuple(f"candidate {digit}" for digit in range(self.base))
        start = () if self.layout.start is None else ("start",)
        return ("equals", "symbol", "digit", "place value", "share", *candidates, "product",
                *start)

    def structure(self) -> Structure:
        """The whole model."""
        spec, plan = self.choices.spec, self.choices.plan
        embedding = self.embedding()
        blocks = (Block(self.places(), self.products()), Block(self.sum(), self.vshape()))
        head = self.head()
        self.scalars.check_all_taken()
        return Structure(spec.number, spec.format, plan.dtype, self.d_model, self.slots(),
                         embedding, None, blocks, None, Head(head), tuple(self.scalars.infos))

    def embedding(self) -> Expr:
        """Digits by their value, symbols by flags; the last prompt token has a second one."""
        form, base = self.layout.format, self.base
        shape = (form.vocabulary, self.d_model)
        digit = self.scalars.maybe("embed.digit", "what a digit counts")
        flag = self.scalars.maybe("embed.flag", "height of the symbols' flags")
        own = {token for _, token in form.tokens if token >= base}
        flags = {(token, SYMBOL): 1 for token in sorted(own) if token != self.layout.start}
        if self.layout.start is not None:
            flags[self.layout.start, self.term + 1] = 1
        flags[form.ids[form.cells[-1].text], EQUALS] = 1
        digits = Scatter(times(digit, Arange(base)), tuple(range(base)), (DIGIT,), shape)
        return Add(digits, times(flag, wires(shape, flags)))

    def places(self) -> Attention:
        """Head 0: place values; head 1: the share."""
        scalars, shape = self.scalars, (2, self.d_model)
        line = self.choices.plan.span("heads").line
        key, key_bias = self.keys(shape, line)
        value = None
        if not self.choices.is_fixed("attention.v"):
            value = scalars.leaf("place.value", self.derived.value,
                                 "what a symbol writes: 1 / weight of its top digit's place", line)
        equals = scalars.leaf("place.equals", self.derived.equals,
                              "what the last prompt token adds to that", line)
        held = [at(equals, 0, EQUALS, shape), wires(shape, {(1, EQUALS): 1})]
        held.append(at(value, 0, SYMBOL, shape) if value is not None
                    else wires(shape, {(0, SYMBOL): 1}))
        slope = Mul(constant(math.log(self.base)), wires((2, 1), {(0, 0): 1}))
        return Attention(
            2, 1, wires(shape, {}), key,
            total(*held), wires((self.d_model, 2), {(PLACE, 0): 1, (SHARE, 1): 1}),
            q_bias=ones(1, 2), k_bias=key_bias, slopes=slope, kind=self.kind)

    def keys(self, shape: tuple[int, int], line: int) -> tuple[Expr, Expr | None]:
        """(k, its bias) of layer 0: the score of every key, or of the first token alone."""
        if self.layout.start is not None:
            anchor = self.scalars.leaf(
                "place.anchor", self.derived.anchor, "score of the first token: it weighs as all "
                "tokens that could stand before it", line)
            return at(anchor, 0, self.term + 1, shape), None
        key = self.scalars.maybe("place.key", "what a symbol adds to its key's score")
        anchor = self.scalars.leaf(
            "place.anchor", self.derived.anchor, "score of a key at distance 0, far below that of "
            "the null key", line)
        return (at(key, 0, SYMBOL, shape) if key is not None else wires(shape, {}),
                at(anchor, 0, 0, (1, 2)))

    def products(self) -> FeedForward:
        """One gated unit for each candidate, and one for digit times place value."""
        base, scalars, units = self.base, self.scalars, self.base + 1
        line = self.choices.plan.span("ffn").line
        reads = {(d, SHARE): 1 for d in range(base)} | {(base, DIGIT): 1}
        digit = scalars.maybe("embed.digit", "what a digit counts")
        if scalars.is_given("candidate.bias"):
            scale = scalars.leaf("candidate.scale", self.derived.middle, "candidate for one digit")
            bias = scalars.leaf("candidate.bias", self.derived.middle, "candidate of digit 0")
            middles: Expr = Add(Mul(scale, times(digit, Arange(base))), Mul(bias, ones(base, 1)))
        else:
            half = scalars.leaf("candidate.middle", self.derived.middle,
                                "candidate d lies at this times d + (d + 1)", line)
            middles = total(Mul(half, Arange(base)), Mul(half, Arange(base)),
                            Mul(half, ones(base, 1)))
        factor = self.choices.option("reglu.scale")
        product = times(None if factor is None else constant(factor), ones(1, 1))
        gate = total(Scatter(middles, tuple(range(base)), (PLACE,), (units, self.d_model)),
                     at(product, base, PLACE, (units, self.d_model)))
        offset = None
        if self.has_offset:
            lift = scalars.leaf("candidate.offset", self.derived.offset,
                                "lifts the rest between two whole numbers", line)
            offset = Scatter(Mul(lift, ones(1, base)), (0,), tuple(range(base)), (1, units))
        down = {(FIRST + unit, unit): 1 for unit in range(units)}
        return FeedForward("relu", wires((units, self.d_model), reads),
                           wires((self.d_model, units), down), gate=gate, gate_bias=offset)

    @property
    def has_offset(self) -> bool:
        """Whether the candidates hold the offset; else the values of layer 1 do."""
        return self.choices.option("gated.offset") is None

    def sum(self) -> Attention:
        """Uniform attention over the products, to every candidate (wide: to every slot)."""
        shape = (1, self.d_model)
        value = self.scalars.maybe("total.value", "what a product counts in the sum")
        target = (ones(self.d_model, 1) if self.choices.wide else
                  wires((self.d_model, 1), {(FIRST + d, 0): 1 for d in range(self.base)}))
        offset = self.choices.option("gated.offset")
        return Attention(
            1, 1, wires(shape, {}), wires(shape, {}),
            times(value, wires(shape, {(0, self.term): 1})), target,
            v_bias=None if offset is None else Mul(constant(offset), ones(1, 1)),
            kind=self.kind)

    def vshape(self) -> FeedForward:
        """-|c| for every candidate c: c - relu(c) - relu(c) in its own slot, or, in a wide
        residual, -relu(c) - relu(-c) in the first slots."""
        base, wide = self.base, self.choices.wide
        rows = {(2 * d + k, FIRST + d): -1 if wide and k else 1
                for d in range(base) for k in (0, 1)}
        down = {((0 if wide else FIRST) + d, 2 * d + k): -1 for d in range(base) for k in (0, 1)}
        scale = self.choices.option("vshape.scale")
        up = times(None if scale is None else constant(scale), wires((2 * base, self.d_model),
                                                                     rows))
        out: Expr = wires((self.d_model, 2 * base), down)
        if self.choices.is_tied("decode.weight"):
            value = self.scalars.leaf("total.value", 1.0, "what a product counts in the sum")
            flipped = {place: -sign for place, sign in down.items()}
            out = Mul(Neg(value), wires((self.d_model, 2 * base), flipped))
        return FeedForward("relu", up, out)

    def head(self) -> Expr:
        """A digit's logit is its V-shape; a symbol's is the sum of all, below each of them."""
        first = 0 if self.choices.wide else FIRST
        form = self.layout.format
        entries = {(d, first + d): 1 for d in range(self.base)}
        entries |= {(token, first + d): 1 for token in range(self.base, form.vocabulary)
                    for d in range(self.base)}
        return wires((form.vocabulary, self.d_model), entries)
