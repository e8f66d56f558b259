"""Decoding by a parabola: the logit of digit d is 2 d z - d^2 = z^2 - (d - z)^2.

Takes: the placed circuit and the format. Gives: `Parabola`: the structure's head.
May import: format, passes, realize.store, weights.

z is the residual slot `out`. The largest logit belongs to the digit nearest to z, ahead of
its neighbours by 1 - 2 |error of z|; a symbol with an id of its own counts as the number
it is, and lies beyond every digit. The form "scalars" stores 2, -1 and z's weight (3
leaves) and computes d from the token id; other forms store the matrix, and its bias.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from adderc.format.prompt import Format
from adderc.passes.place import PlacedCircuit
from adderc.realize.forms import Realized
from adderc.realize.store import Store
from adderc.weights.expr import Arange, Leaf, MatMul, Mul, Scatter, Transpose
from adderc.weights.structure import Head

Array = np.ndarray


@dataclass(frozen=True)
class Parabola:
    placed: PlacedCircuit
    form: Format

    def weight(self) -> Array:
        """Wanted head [V, D]."""
        wanted = np.zeros((self.form.vocabulary, self.placed.d_model))
        wanted[:, self.placed.out] = 2.0 * np.arange(self.form.vocabulary)
        return wanted

    def bias(self) -> Array:
        """Wanted head bias [1, V]."""
        return -(np.arange(self.form.vocabulary, dtype=np.float64) ** 2)[None, :]

    def build(self, store: Store) -> Head:
        """The head in the form the spec asks for."""
        form = store.plan.form("decode.weight", "scalars")
        if form.name != "scalars":
            return Head(store.shaped(form, "decode.weight", self.weight(), "decode"),
                        store.matrix("decode.bias", "dense", "decode.bias", self.bias(),
                                     "decode bias"))
        linear, quadratic, gain = (
            Leaf(f"decode.{name}", (1, 1)) for name in ("linear", "quadratic", "gain"))
        digits = Arange(self.form.vocabulary)
        row = Scatter(gain, (0,), (self.placed.out,), (1, self.placed.d_model))
        weight = store.keep(Realized(
            MatMul(Mul(linear, digits), row),
            {linear.name: np.array([[2.0]]), gain.name: np.array([[1.0]])},
            {linear.name: "slope of each logit", gain.name: "weight of the decoded digit"},
        ), form.span.line)
        bias = store.keep(Realized(
            Transpose(Mul(quadratic, Mul(digits, digits))),
            {quadratic.name: np.array([[-1.0]])}, {quadratic.name: "curvature of the parabola"},
        ), form.span.line)
        return Head(weight, bias)
