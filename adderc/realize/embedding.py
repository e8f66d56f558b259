"""Token values: what the embedding writes for each token.

Takes: the placed circuit, the format, the choice. Gives: EMBEDDINGS by name, `token_values`.
May import: errors, format, passes, realize.store, weights.

table, rank r  E[t] = value(t) m + c e_one: the value along the column m of the current token
               in the residual, and the constant channel where there is one
quadratic      the same with c - d^2 / c in the constant channel and -d in the token's slot:
               the points lie on a parabola, so the embedding can serve as the head too
arc            A cos(d s) and -A sin(d s) with s = 1 / A: nearly the same, on a circle
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from adderc.format.prompt import Format
from adderc.passes.features import feature_values
from adderc.passes.place import CURVE, NEGATIVE, ONE, PlacedCircuit
from adderc.realize.forms import Realized
from adderc.realize.store import Store
from adderc.weights.expr import (
    Add,
    Arange,
    Cos,
    Expr,
    Leaf,
    MatMul,
    Mul,
    Neg,
    Reciprocal,
    Scatter,
    Sin,
    Structural,
    Take,
)

Array = np.ndarray


def token_values(form: Format) -> Array:
    """The value of each token id [V]: its digit, or 0."""
    ids = np.arange(form.vocabulary)
    return np.where(ids < form.number.base, ids, 0).astype(np.float64)


@dataclass(frozen=True)
class Embedding:
    """The linear embedding: `table`, `rank r`, or any matrix form."""

    placed: PlacedCircuit
    form: Format

    SIGN = 1  # of the token's value in its slot
    TIED = 0  # as a head: with the digit times this in the token's slot, logits are a parabola

    def values(self) -> Array:
        """The part of E [V, D] that depends on the token."""
        total = np.zeros((self.form.vocabulary, self.placed.d_model))
        for signal, feature in self.placed.sources:
            column = np.array([float(c) for c in self.placed.column(signal)])
            total += np.outer(feature_values(self.form, feature), column)
        return total

    def constant(self) -> Array:
        """The part of E that every token writes [D]."""
        return np.array([float(c) for c in self.placed.constant])

    def digits(self) -> Expr:
        """The value of each token id as a column [V, 1]: 0 for a symbol with its own id."""
        values = tuple(int(v) for v in token_values(self.form))
        count = Arange(self.form.vocabulary)
        return count if values == tuple(range(len(values))) else Take(count, values, 0)

    def bends(self) -> Expr:
        """How far along the curve each token lies [V, 1]: its digit, and `base` for a symbol
        with its own id. Such a symbol keeps the value 0 in the token's slot, so it is read
        as 0, and as a head its logit is base^2 below that of 0 (half of it on the arc)."""
        ids, base = range(self.form.vocabulary), self.form.number.base
        count = Arange(len(ids))
        return count if len(ids) <= base else Take(count, tuple(min(t, base) for t in ids), 0)

    def on_curve(self, bend: Expr, line: Expr, store: Store) -> Expr:
        """`bend` [V, 1] in the curve's channel and `line` in the token's slots, with their
        negatives where a mean must be 0, and the constant channel beside them."""
        placed, shape = self.placed, (self.form.vocabulary, self.placed.d_model)
        rows = tuple(range(shape[0]))
        total: Expr = MatMul(line, _row([int(c) for c in placed.column(placed.token)]))
        signs = [0] * placed.d_model
        for at, slot in enumerate(placed.slots):
            if slot.name == CURVE:
                total = Add(total, Scatter(bend, rows, (at,), shape))
            elif slot.name == NEGATIVE + CURVE:
                total = Add(total, Scatter(Neg(bend), rows, (at,), shape))
            elif slot.name in (ONE, NEGATIVE + ONE):
                signs[at] = 1 if slot.name == ONE else -1
        return Add(total, self.height(signs, store)) if any(signs) else total

    def height(self, signs: list[int], store: Store) -> Expr:
        """The constant channel from one leaf: its height with a sign in each slot [1, D]."""
        leaf = Leaf("embed.one", (1, 1))
        height = max(abs(float(c)) for c in self.placed.column(ONE))
        return store.keep(Realized(
            Mul(leaf, _row(signs)), {leaf.name: np.array([[height]])},
            {leaf.name: "height of the constant channel"}), store.plan.embed.span.line)

    def build(self, store: Store) -> Expr:
        """E in the form asked for; a low rank is that of the values, the constant channel
        then takes one leaf more."""
        form, constant = store.plan.embed, self.constant()
        if form.name != "rank" or not constant.any():
            return store.shaped(form, "embed", self.values() + constant, "token values")
        values = store.shaped(form, "embed", self.values(), "token values")
        return Add(values, self.height([int(v) for v in np.sign(constant)], store))


@dataclass(frozen=True)
class Quadratic(Embedding):
    """[c - d^2 / c, -d]: one leaf, c. With [c, -2 z]: c^2 - d^2 + 2 d z."""

    SIGN = -1
    TIED = -2

    def build(self, store: Store) -> Expr:
        leaf, along = Leaf("embed.c", (1, 1)), self.bends()
        bend = Add(leaf, Neg(Mul(Mul(along, along), Reciprocal(leaf))))
        curve = self.on_curve(bend, self.digits(), store)
        return store.keep(Realized(
            curve, {leaf.name: np.array([[curve_height(self.placed)]])},
            {leaf.name: "height of the parabola the tokens lie on"}), store.plan.embed.span.line)


@dataclass(frozen=True)
class Arc(Embedding):
    """[A cos(d s), -A sin(d s)]: two leaves, radius A and stride s = 1 / A.

    With [A, -z]: nearly A^2 - d^2 / 2 + d z.
    """

    SIGN = -1
    TIED = -1

    def build(self, store: Store) -> Expr:
        radius, stride = Leaf("embed.radius", (1, 1)), Leaf("embed.stride", (1, 1))
        bend = Mul(radius, Cos(Mul(self.bends(), stride)))
        curve = self.on_curve(bend, Mul(radius, Sin(Mul(self.digits(), stride))), store)
        height = curve_height(self.placed)
        return store.keep(Realized(
            curve, {radius.name: np.array([[height]]), stride.name: np.array([[1 / height]])},
            {radius.name: "radius of the arc", stride.name: "angle from digit to digit"}),
            store.plan.embed.span.line)


def curve_height(placed: PlacedCircuit) -> float:
    """The height of the curve's channel."""
    return max(float(c) for c in placed.column(CURVE))


def _row(signs: list[int]) -> Structural:
    """A row [1, D] of 0 and ±1."""
    entries = tuple((0, at, sign) for at, sign in enumerate(signs) if sign)
    return Structural(entries, (1, len(signs)))


EMBEDDINGS: dict[str, type[Embedding]] = {"quadratic": Quadratic, "arc": Arc}


def embedding_of(placed: PlacedCircuit, form: Format, name: str) -> Embedding:
    """The realization of that name; every other name is a matrix form of the linear one."""
    return EMBEDDINGS.get(name, Embedding)(placed, form)

