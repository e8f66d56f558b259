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
from adderc.passes.place import ONE, PlacedCircuit
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
    CURVED = False  # whether it can serve as the head

    def wanted(self) -> Array:
        """E [V, D]."""
        column = np.array([float(c) for c in self.placed.column(self.placed.token)])
        constant = np.array([float(c) for c in self.placed.column(ONE)])
        return np.outer(token_values(self.form), column) + constant

    def digits(self) -> Expr:
        """The value of each token id as a column [V, 1]: 0 for a symbol with its own id."""
        values = tuple(int(v) for v in token_values(self.form))
        count = Arange(self.form.vocabulary)
        return count if values == tuple(range(len(values))) else Take(count, values, 0)

    def build(self, store: Store) -> Expr:
        return store.shaped(store.plan.embed, "embed", self.wanted(), "token values")


@dataclass(frozen=True)
class Quadratic(Embedding):
    """[c - d^2 / c, -d]: one leaf, c."""

    SIGN = -1
    CURVED = True

    def build(self, store: Store) -> Expr:
        one, size = self.placed.one, self.placed.d_model
        assert one is not None
        height = float(self.placed.column(ONE)[one])
        leaf = Leaf("embed.c", (1, 1))
        count, digits = self.form.vocabulary, self.digits()
        curve = Add(leaf, Neg(Mul(Mul(digits, digits), Reciprocal(leaf))))
        rows = tuple(range(count))
        total: Expr = Scatter(curve, rows, (one,), (count, size))
        total = Add(total, MatMul(digits, _unit_row(self.placed)))
        return store.keep(Realized(total, {leaf.name: np.array([[height]])},
                                   {leaf.name: "height of the parabola the tokens lie on"}),
                          store.plan.embed.span.line)


@dataclass(frozen=True)
class Arc(Embedding):
    """[A cos(d s), -A sin(d s)]: two leaves, radius A and stride s = 1 / A."""

    SIGN = -1
    CURVED = True

    def build(self, store: Store) -> Expr:
        one, size = self.placed.one, self.placed.d_model
        assert one is not None
        count, rows = self.form.vocabulary, tuple(range(self.form.vocabulary))
        radius, stride = Leaf("embed.radius", (1, 1)), Leaf("embed.stride", (1, 1))
        angle = Mul(self.digits(), stride)
        slot = self.placed.value_slot
        total: Expr = Scatter(Mul(radius, Cos(angle)), rows, (one,), (count, size))
        total = Add(total, Scatter(Neg(Mul(radius, Sin(angle))), rows, (slot,), (count, size)))
        height = float(self.placed.column(ONE)[one])
        return store.keep(Realized(
            total, {radius.name: np.array([[height]]), stride.name: np.array([[1 / height]])},
            {radius.name: "radius of the arc", stride.name: "angle from digit to digit"}),
            store.plan.embed.span.line)


def _unit_row(placed: PlacedCircuit) -> Expr:
    """The current token's column as a row of 0 and ±1."""
    column = placed.column(placed.token)
    entries = tuple((0, at, int(c)) for at, c in enumerate(column) if c)
    return Structural(entries, (1, placed.d_model))


EMBEDDINGS: dict[str, type[Embedding]] = {"quadratic": Quadratic, "arc": Arc}


def embedding_of(placed: PlacedCircuit, form: Format, name: str) -> Embedding:
    """The realization of that name; every other name is a matrix form of the linear one."""
    return EMBEDDINGS.get(name, Embedding)(placed, form)

