"""Place values by prefix heads: the structure of a one-layer model with steps.

Takes: the choices, the layout, scores and thresholds. Gives: `Prefixed` → `Structure`.
May import: errors, passes, realize, weights.

A head scores a key K - log(B) * distance; with softmax1 it reads the digits it may see with
the weights e^K B^-distance, and its output undoes e^K and the distance of this place:

    x      the digits of this place, at fixed distances
    low    for each operand the digits below, Σ q_j B^(j-i): the whole part is the carry
    cancel where the token shares the slot of x, minus the token itself

A step [z >= m] is (ReLU(z - m + 2r/3) - ReLU(z - m + r/3)) 3/r with r = B^-width, the least
difference of two sums. The digit x + carries - B wraps is decoded by a parabola.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from adderc.realize.place_choices import PlaceChoices
from adderc.realize.place_scalars import constant, ones, wires
from adderc.realize.prefix_layout import PrefixLayout
from adderc.realize.store import Store
from adderc.weights.expr import Arange, Expr, MatMul, Mul, Scatter, Transpose
from adderc.weights.structure import Attention, Block, FeedForward, Head, Structure

Array = np.ndarray


@dataclass(frozen=True)
class Prefixed:
    """Builds the parts; slots are token, x and low, or x (with the token) and low."""

    choices: PlaceChoices
    layout: PrefixLayout
    store: Store
    anchor: float

    @property
    def base(self) -> int:
        return self.layout.number.base

    @property
    def cancels(self) -> bool:
        """Whether the token shares the slot of x, so that a head must take it out again."""
        return self.choices.cancels

    @property
    def slots(self) -> tuple[str, ...]:
        return ("x", "low") if self.cancels else ("token", "x", "low")

    @property
    def x(self) -> int:
        return self.slots.index("x")

    @property
    def heads(self) -> tuple[str, ...]:
        lows = tuple(f"low {name}" for name in self.layout.number.names)
        return ("x", *lows, *(("cancel",) if self.cancels else ()))

    def structure(self) -> Structure:
        """The whole model."""
        spec, plan = self.choices.spec, self.choices.plan
        embedding = self.embedding()
        block = Block(self.attention(), self.steps())
        head = self.head()
        return Structure(spec.number, spec.format, plan.dtype, len(self.slots), self.slots,
                         embedding, None, (block,), None, head, tuple(self.store.infos))

    def embedding(self) -> Expr:
        wanted = np.zeros((self.layout.format.vocabulary, len(self.slots)))
        wanted[: self.base, 0] = np.arange(self.base)
        return self.store.shaped(self.choices.plan.embed, "embed.table", wanted,
                                 "what each token counts")

    def attention(self) -> Attention:
        """One head of dimension 1 for each sum."""
        layout, count, size = self.layout, len(self.heads), len(self.slots)
        routes = [tuple(sorted(layout.reaches))]
        routes += [layout.below(operand) for operand in range(layout.number.operands)]
        undone = [1.0, *(float(self.base) ** reach for reach in layout.reaches)]
        if self.cancels:
            routes.append((0,))
            undone.append(1.0)
        read, out = np.zeros((count, size)), np.zeros((size, count))
        for head, name in enumerate(self.heads):
            read[head, 0] = -1.0 if name == "cancel" else 1.0
            out[self.x + name.startswith("low"), head] = math.exp(-self.anchor) * undone[head]
        lows = range(1, 1 + layout.number.operands)
        slope = Mul(constant(math.log(self.base)), wires((count, 1), {
            (head, 0): 1 for head in lows}))
        nothing = wires((count, size), {})
        span = self.choices.plan.span("heads").line
        anchor = self.store.scalar("prefix.anchor", self.anchor, span,
                                   "score of a key at distance 0, far below the null key's")
        return Attention(
            count, 1, nothing, nothing,
            self.store.matrix("attention.v", "sparse", "attention.v", read, "what heads move"),
            self.store.matrix("attention.out", "sparse", "attention.out", out,
                              "what heads write: the anchor and the distance undone"),
            q_bias=ones(1, count), k_bias=Mul(anchor, ones(1, count)), slopes=slope,
            routes=tuple(routes), kind="softmax1")

    def thresholds(self) -> list[tuple[bool, int]]:
        """(of x + low, threshold): a carry and a wrap for each whole multiple."""
        return [(is_wrap, count * (self.base if is_wrap else 1))
                for count in range(1, self.layout.number.operands) for is_wrap in (False, True)]

    def steps(self) -> FeedForward:
        """Two hinges for each step."""
        finest = float(self.base) ** -self.layout.number.width
        rows, bias, down = [], [], []
        for is_wrap, threshold in self.thresholds():
            row, column = np.zeros(len(self.slots)), np.zeros(len(self.slots))
            row[self.x + 1] = 1.0
            row[self.x] = float(is_wrap)
            column[self.x] = 3 / finest * (-self.base if is_wrap else 1)
            for third, sign in ((2, 1.0), (1, -1.0)):
                rows.append(row)
                bias.append(third * finest / 3 - threshold)
                down.append(sign * column)
        return FeedForward(
            "relu", self.store.matrix("ffn.up", "shared", "ffn.rows", np.array(rows),
                                      "what each unit reads"),
            self.store.matrix("ffn.down", "sparse", "ffn.out", np.array(down).T,
                              "what each unit writes"),
            self.store.matrix("ffn.bias", "dense", "ffn.bias", np.array([bias]),
                              "where it bends"))

    def head(self) -> Head:
        """Logit of d: 2 d z - d^2, z the digit."""
        form = self.choices.plan.form("decode.weight", "scalars")
        digits = Arange(self.layout.format.vocabulary)
        linear, quadratic, gain = (
            self.store.scalar(f"decode.{name}", value, form.span.line, meaning)
            for name, value, meaning in (
                ("linear", 2.0, "slope of each logit"),
                ("quadratic", -1.0, "curvature of the parabola"),
                ("gain", 1.0, "weight of the decoded digit")))
        row = Scatter(gain, (0,), (self.x,), (1, len(self.slots)))
        return Head(MatMul(Mul(linear, digits), row),
                    Transpose(Mul(quadratic, Mul(digits, digits))))
