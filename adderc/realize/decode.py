"""Decoding: from the computed digit z to logits whose largest belongs to the nearest digit.

Takes: the placed circuit, the format, the activation. Gives: DECODES by name: the
structure's head, and for the V-shape a feed-forward block in front of it.
May import: errors, format, passes, realize, weights.

parabola  logit d = 2 d z - d^2 = z^2 - (d - z)^2: ahead of its neighbours by 1 - 2 |error|.
          The form "scalars" stores 2, -1 and z's weight (3 leaves) and computes d from the
          token id; other forms store the matrix. -d^2 comes from a bias or, without, from
          the constant channel.
tied      the embedding again: with rows (c - d^2 / c, -d) and a residual (c, -2 z) it is the
          same parabola, c^2 - d^2 + 2 d z
vshape    logit d = -|d - z| from two units a token, each logit in a slot of its own; where
          units only step, from one step between any two tokens: for whole z,
          -|d - z| = sum over j <= d of (S_j - 1) - sum over j > d of S_j, S_j = [z >= j]
A symbol with an id of its own counts as the number it is, beyond every digit. Where states
have ids apart from those of pairs, d is the id less that of state 0, and pairs lie below 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from adderc.errors import Fault, Refusal
from adderc.format.prompt import Format
from adderc.passes.place import PlacedCircuit
from adderc.realize.activations import Activation
from adderc.realize.forms import Realized
from adderc.realize.store import Store
from adderc.weights.expr import Add, Arange, Expr, Leaf, MatMul, Mul, Scatter, Structural, Transpose
from adderc.weights.structure import FeedForward, Head

Array = np.ndarray


@dataclass(frozen=True)
class Decode:
    """What all decodes share."""

    placed: PlacedCircuit
    form: Format
    activation: Activation
    biased: bool

    def numbers(self) -> Array:
        """The number that each token id stands for [V]."""
        return np.arange(self.form.vocabulary, dtype=np.float64) - self.form.first_state

    def front(self, store: Store) -> FeedForward | None:
        """A feed-forward block of the decode's own, after all layers."""
        return None

    def build(self, embedding: Expr, store: Store) -> Head:
        raise NotImplementedError


@dataclass(frozen=True)
class Parabola(Decode):
    def wanted(self) -> tuple[Array, Array]:
        """Head [V, D] and bias [1, V]."""
        digits = self.numbers()
        weight = np.zeros((len(digits), self.placed.d_model))
        weight[:, self.placed.out] = 2 * digits
        return weight, -(digits**2)[None, :]

    def build(self, embedding: Expr, store: Store) -> Head:
        form = store.plan.form("decode.weight", "scalars")
        weight, bias = self.wanted()
        if not self.biased:
            weight[:, self.placed.one] = bias[0] / self.placed.one_height
            dense = store.plan.form("decode.weight", "dense")
            return Head(store.shaped(dense, "decode.weight", weight, "decode"))
        if form.name == "scalars" and "decode.bias" in store.plan.forms:
            form = store.plan.form("decode.weight", "dense")
        if form.name != "scalars":
            return Head(store.shaped(form, "decode.weight", weight, "decode"),
                        store.matrix("decode.bias", "dense", "decode.bias", bias, "decode bias"))
        return self.scalars(store, form.span.line)

    def scalars(self, store: Store, line: int) -> Head:
        """The head from three leaves: W[d] = linear * d * gain e_out, bias = quadratic * d^2."""
        linear, quadratic, gain = (
            Leaf(f"decode.{name}", (1, 1)) for name in ("linear", "quadratic", "gain"))
        digits: Expr = Arange(self.form.vocabulary)
        values, meanings = {}, {}
        if self.form.first_state:
            shift = Leaf("decode.shift", (1, 1))
            digits = Add(digits, shift)
            values[shift.name] = np.array([[-float(self.form.first_state)]])
            meanings[shift.name] = "the id of state 0, taken off"
        row = Scatter(gain, (0,), (self.placed.out,), (1, self.placed.d_model))
        weight = store.keep(Realized(
            MatMul(Mul(linear, digits), row),
            values | {linear.name: np.array([[2.0]]), gain.name: np.array([[1.0]])},
            meanings | {linear.name: "slope of each logit",
                        gain.name: "weight of the decoded digit"},
        ), line)
        bias = store.keep(Realized(
            Transpose(Mul(quadratic, Mul(digits, digits))),
            {quadratic.name: np.array([[-1.0]])}, {quadratic.name: "curvature of the parabola"},
        ), line)
        return Head(weight, bias)


@dataclass(frozen=True)
class Tied(Decode):
    def build(self, embedding: Expr, store: Store) -> Head:
        return Head(embedding)


@dataclass(frozen=True)
class VShapes:
    """-|d - z| for each of the numbers d, from one activation."""

    activation: Activation
    numbers: Array

    def units(self) -> tuple[Array, Array, Array]:
        """Gains [F], biases [F] and weights [V, F], logits being the same up to a constant:
        act(k (z - d)) and act(k (d - z)) with -1/k, or steps that count 1 from d on, -1 below."""
        gain, count = self.activation.pass_positive, len(self.numbers)
        if gain is not None:
            both = np.concatenate([np.eye(count), np.eye(count)], axis=1)
            signs = np.repeat([gain, -gain], count)
            return signs, -signs * np.tile(self.numbers, 2), -both / gain
        found = [(u.gain, u.bias, u.out * np.where(self.numbers >= d, 1.0, -1.0))
                 for d in self.numbers[1:]
                 for u in self.activation.step(d - 0.75, d - 0.25).units]
        gains, biases, columns = zip(*found, strict=True)
        return np.array(gains), np.array(biases), np.stack(columns, axis=1)

    def logits(self, z: Array) -> Array:
        """Logits [N, V] of z [N, 1], up to tails where units pass positive values."""
        if self.activation.pass_positive is not None:
            return np.asarray(-np.abs(z - self.numbers))
        gains, biases, weights = self.units()
        return np.asarray(self.activation.value(z * gains + biases) @ weights.T)


@dataclass(frozen=True)
class VShape(Decode):
    def front(self, store: Store) -> FeedForward | None:
        """The units of `VShapes`; a balance takes off what all logits together are."""
        activation = self.activation
        if activation.pass_positive is None and activation.step(0.25, 0.75).constant != 0.5:
            raise Refusal(kind="not implemented", source=store.source, faults=(Fault(
                f"vshape needs an activation that passes positive values, or one that is odd; "
                f"{activation.name} is neither", store.plan.decode.span),))
        gains, bias, weights = VShapes(activation, self.numbers()).units()
        rows = np.zeros((len(gains), self.placed.d_model))
        rows[:, self.placed.out] = gains
        down = np.zeros((self.placed.d_model, len(gains)))
        down[list(self.placed.logit_slots)] = weights
        if self.placed.balance is not None:
            down[self.placed.balance] = -weights.sum(axis=0)
        if not self.biased:
            rows[:, self.placed.one] = bias / self.placed.one_height
        keep = store.plan.form("decode.weight", "dense")
        return FeedForward(
            activation.name, store.shaped(keep, "decode.rows", rows, "distance to each digit"),
            store.shaped(keep, "decode.out", down, "what each distance takes off its logit"),
            store.shaped(keep, "decode.bias", bias[None, :], "the digits") if self.biased else None)

    def build(self, embedding: Expr, store: Store) -> Head:
        entries = tuple((t, slot, 1) for t, slot in enumerate(self.placed.logit_slots))
        return Head(Structural(entries, (self.form.vocabulary, self.placed.d_model)))


DECODES: dict[str, type[Decode]] = {"parabola": Parabola, "tied": Tied, "vshape": VShape}
