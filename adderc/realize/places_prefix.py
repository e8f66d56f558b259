"""Place values by prefix heads: the structure of a one-layer model with steps.

Takes: the choices, the layout, scores and thresholds. Gives: `Prefixed` → `Structure`.
May import: errors, passes, realize, weights.

A head scores a key K - log(B) * distance; with softmax1 it reads the digits it may see with
the weights e^K B^-distance, and its output undoes e^K and the distance of this place. In plain
softmax an anchor, a symbol at one distance from every query, scores A - log(B) * distance and
the digits -log(B) * distance: beside e^A they weigh as little, and K is -A.

    x      the digits of this place, at fixed distances
    low    for each operand the digits below, Σ q_j B^(j-i): the whole part is the carry

Where the token t shares the slot of x, that head reads t as well and takes off all it reads:
t - (x + t) = -x, so the slot holds minus x and no head is needed to cancel t.

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
    """Builds the parts; slots are token, x and low, or minus x (with the token) and low.

    `anchor` is K: how far the digits score below the key that takes what they leave.
    """

    choices: PlaceChoices
    layout: PrefixLayout
    store: Store
    anchor: float

    @property
    def base(self) -> int:
        return self.layout.number.base

    @property
    def cancels(self) -> bool:
        """Whether the token shares the slot of x, so that the head of x cancels it."""
        return self.choices.cancels

    @property
    def sign(self) -> int:
        """What x counts in its slot."""
        return -1 if self.cancels else 1

    @property
    def slots(self) -> tuple[str, ...]:
        return ("minus x", "low") if self.cancels else ("token", "x", "low")

    @property
    def x(self) -> int:
        return len(self.slots) - 2

    @property
    def low(self) -> int:
        return len(self.slots) - 1

    @property
    def heads(self) -> tuple[str, ...]:
        return ("x", *(f"low {name}" for name in self.layout.number.names))

    def seen(self, head: int) -> tuple[int, ...]:
        """Distances of what a head sums; an anchor stands at another one."""
        if head:
            return self.layout.below(head - 1)
        return tuple(sorted((*self.layout.reaches, *([0] if self.cancels else []))))

    def structure(self) -> Structure:
        """The whole model."""
        spec, plan = self.choices.spec, self.choices.plan
        embedding = self.embedding()
        block = Block(self.attention(), self.steps())
        head = self.head()
        return Structure(spec.number, spec.format, plan.dtype, len(self.slots), self.slots,
                         embedding, None, (block,), None, head, tuple(self.store.infos))

    def embedding(self) -> Expr:
        """What a digit counts; the anchor has a flag in the slot of low, which is free there."""
        wanted = np.zeros((self.layout.format.vocabulary, len(self.slots)))
        wanted[: self.base, 0] = np.arange(self.base)
        if self.layout.anchor is not None:
            wanted[self.layout.anchor[1], self.low] = 1.0
        return self.store.shaped(self.choices.plan.embed, "embed.table", wanted,
                                 "what each token counts")

    def attention(self) -> Attention:
        """One head of dimension 1 for each sum."""
        layout, count, size = self.layout, len(self.heads), len(self.slots)
        far = () if layout.anchor is None else (layout.anchor[0],)
        # (base^distance undone) beside the anchor's own distance; x is read at no slope
        undone = [float(self.sign), *(
            float(self.base) ** (reach - (far[0] if far else 0)) for reach in layout.reaches)]
        read, out = np.zeros((count, size)), np.zeros((size, count))
        read[:, 0] = 1.0
        for head in range(count):
            out[self.low if head else self.x, head] = math.exp(-self.anchor) * undone[head]
        slope = Mul(constant(math.log(self.base)), wires((count, 1), {
            (head, 0): 1 for head in range(1, count)}))
        nothing = wires((count, size), {})
        key, key_bias = self.keys(nothing)
        return Attention(
            count, 1, nothing, key,
            self.store.matrix("attention.v", "sparse", "attention.v", read, "what heads move"),
            self.store.matrix("attention.out", "sparse", "attention.out", out,
                              "what heads write: the anchor and the distance undone"),
            q_bias=ones(1, count), k_bias=key_bias, slopes=slope,
            routes=tuple((*self.seen(head), *far) for head in range(count)),
            kind="softmax" if far else "softmax1")

    def keys(self, nothing: Expr) -> tuple[Expr, Expr | None]:
        """(k, its bias): K for every key, or -K for the anchor's flag alone."""
        span, count = self.choices.plan.span("heads").line, len(self.heads)
        if self.layout.anchor is None:
            score = self.store.scalar("prefix.anchor", self.anchor, span,
                                      "score of a key at distance 0, far below the null key's")
            return nothing, Mul(score, ones(1, count))
        score = self.store.scalar("prefix.anchor", -self.anchor, span,
                                  "score of the anchor, far above every digit's")
        flag = wires((count, len(self.slots)), {(head, self.low): 1 for head in range(count)})
        return Mul(score, flag), None

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
            row[self.low] = 1.0
            row[self.x] = float(self.sign * is_wrap)
            column[self.x] = self.sign * 3 / finest * (-self.base if is_wrap else 1)
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
                ("gain", float(self.sign), "weight of the decoded digit")))
        row = Scatter(gain, (0,), (self.x,), (1, len(self.slots)))
        return Head(MatMul(Mul(linear, digits), row),
                    Transpose(Mul(quadratic, Mul(digits, digits))))
