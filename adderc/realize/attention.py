"""Fetches as attention heads, one head for each sum of digits.

Takes: the placed circuit with its alignment, the gains of the positions. Gives: one class
for each way to score: wanted Q, K, V, out matrices, the scores they give, and the
structure's attention. May import: passes, realize.store, weights.

With theta = 2 pi / P, a head of direction d and centre c must score the key at p from the
query at q by S g(q) g(p) cos(theta (p - d q - c)).

Positions in the residual: the key is the position itself, k = g(p) (sin, cos)(theta p), and
the query is it turned, S g(q) (sin, cos)(d theta q + gamma) with gamma = theta c, which is a
rotation (d = +1) or a reflection (d = -1) of the position the query sees:

    d = +1   [[ cos, sin], [-sin, cos]] (gamma)        on (sin, cos)(theta q)
    d = -1   [[-cos, sin], [ sin, cos]] (gamma)

Rotary positions: queries and keys are the constants S (cos, sin)(gamma) and (1, 0), read
off a constant channel; the rotation by theta q and theta p leaves their difference, d = +1.

Routes: no scores at all. In each case the value is the token's value in the head's first
dimension; the softmax averages over the targets, so `out` multiplies by the sum of their
coefficients.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from adderc.passes.align import HeadPhase, Layout, distances, route_pattern
from adderc.passes.place import POSITION, PlacedCircuit
from adderc.passes.plan import Choice
from adderc.realize.forms import Realized
from adderc.realize.position import Gains
from adderc.realize.store import Store
from adderc.weights.expr import Add, Concat, Cos, Expr, Leaf, Mul, Sin, Structural, Take
from adderc.weights.structure import Attention, Rope

Array = np.ndarray


@dataclass(frozen=True)
class Heads:
    """All heads of the model, in the order `heads` names them."""

    placed: PlacedCircuit
    gains: Gains
    order: tuple[str, ...]
    rope: Rope | None

    HEAD_DIM = 2
    SCORED = True

    @property
    def count(self) -> int:
        return len(self.order)

    def phase(self, fetch: str) -> HeadPhase:
        return self.placed.alignment.head(fetch)

    def amplitude(self, scale: float) -> float:
        """The score at the peak, between an answer query and a prompt key."""
        return scale * float(self.gains[0][1] * self.gains[-1][1]) / math.sqrt(self.HEAD_DIM)

    def angles(self, scale: float) -> Array:
        """gamma of each head [H], in radians from 0 to 2 pi."""
        period = self.placed.alignment.period
        found = []
        for fetch in self.order:
            head = self.phase(fetch)
            centre = float(head.centre) + head.shift(period, self.amplitude(scale))
            found.append(2 * math.pi * (centre / float(period) % 1.0))
        return np.array(found)

    def patterns(self, layout: Layout, scale: float) -> list[tuple[Array, float]]:
        """Per head its pattern [steps, T] in exact arithmetic, and its loudest score."""
        period, peak = self.placed.alignment.period, self.amplitude(scale)
        heights = np.zeros(layout.length)
        for first, gain in self.gains:
            heights[first:] = float(gain)
        keys = heights / float(self.gains[0][1])
        queries = heights[layout.first_query :] / float(self.gains[-1][1])
        found = []
        for fetch in self.order:
            head = self.phase(fetch)
            score = peak * queries[:, None] * keys * np.cos(
                distances(head, layout, period, head.shift(period, peak)))
            score = np.where(layout.visible, score, -np.inf)
            pattern = np.exp(score - score.max(axis=1, keepdims=True))
            found.append((pattern / pattern.sum(axis=1, keepdims=True),
                          peak * float(np.abs(queries).max())))
        return found

    def turns(self) -> list[tuple[Array, Array]]:
        """Per head (A, B) with query rows = S (cos gamma A + sin gamma B); both [2, D]."""
        raise NotImplementedError

    def query(self, scale: float) -> Array:
        """Wanted Q [H*E, D]."""
        angles = self.angles(scale)
        return np.vstack([
            scale * (math.cos(angle) * a + math.sin(angle) * b)
            for angle, (a, b) in zip(angles, self.turns(), strict=True)])

    def key(self) -> Array:
        """Wanted K [H*E, D]."""
        raise NotImplementedError

    def value(self) -> Array:
        """Wanted V [H*E, D]: the token's value into the first dimension of each head."""
        rows = np.zeros((self.HEAD_DIM * self.count, self.placed.d_model))
        for head, fetch in enumerate(self.order):
            rows[self.HEAD_DIM * head, self.placed.source_of(fetch)[2]] = 1
        return rows

    def out(self) -> Array:
        """Wanted out [D, H*E]: each fetched sum into the slots that hold it."""
        columns = np.zeros((self.placed.d_model, self.HEAD_DIM * self.count))
        for head, fetch in enumerate(self.order):
            signal, _, slot = self.placed.source_of(fetch)
            total = self.phase(fetch).total / self.placed.column(signal)[slot]
            columns[:, self.HEAD_DIM * head] = [
                float(c * total) for c in self.placed.column(fetch)]
        return columns

    def build(self, scale: float, store: Store, prefix: str = "attention") -> Attention:
        """The attention of the structure, its matrices in the forms the spec asks for."""
        joint = store.plan.forms.get("attention.qkv")
        value, out = self.value(), self.out()
        if joint is not None:
            stacked = np.vstack([self.query(scale), self.key(), value])
            expr = store.shaped(joint, f"{prefix}.qkv", stacked, "queries, keys and values")
            rows = len(value)
            q, k, v = (_rows(expr, at * rows, rows) for at in range(3))
        else:
            q = self.realized_query(scale, store, prefix)
            k = store.matrix("attention.k", "dense", f"{prefix}.k", self.key(), "keys")
            v = store.matrix("attention.v", "dense", f"{prefix}.v", value, "values")
        return Attention(
            self.count, self.HEAD_DIM, q, k, v,
            store.matrix("attention.out", "dense", f"{prefix}.out", out, "what the heads write"),
            rope=self.rope)

    def realized_query(self, scale: float, store: Store, prefix: str) -> Expr:
        form = store.plan.form("attention.q", "dense")
        if form.name != "rotation":
            return store.shaped(form, f"{prefix}.q", self.query(scale), "queries")
        return self.rotation(scale, store, prefix, form)

    def rotation(self, scale: float, store: Store, prefix: str, form: Choice) -> Expr:
        """Q from one angle a head and one scale: H + 1 leaves."""
        angles = Leaf(f"{prefix}.q.angle", (self.count, 1))
        size = Leaf(f"{prefix}.q.scale", (1, 1))
        blocks = []
        for head, (with_cos, with_sin) in enumerate(self.turns()):
            angle = Take(angles, (head,), 0)
            blocks.append(Add(Mul(Cos(angle), _structural(with_cos)),
                              Mul(Sin(angle), _structural(with_sin))))
        stacked = blocks[0] if len(blocks) == 1 else Concat(tuple(blocks), 0)
        values = {angles.name: self.angles(scale)[:, None], size.name: np.array([[scale]])}
        meanings = {angles.name: "how far each head's query turns, in radians",
                    size.name: "query scale: the scores' height"}
        return store.keep(Realized(Mul(size, stacked), values, meanings), form.span.line)


@dataclass(frozen=True)
class RotationHeads(Heads):
    """Positions in the residual: the query turns what it sees of its own."""

    def turns(self) -> list[tuple[Array, Array]]:
        sine, cosine = (self.placed.slot_of(name) for name in POSITION)
        found = []
        for fetch in self.order:
            with_cos, with_sin = (np.zeros((2, self.placed.d_model)) for _ in range(2))
            direction = self.phase(fetch).direction
            with_cos[0, sine], with_cos[1, cosine] = direction, 1
            with_sin[0, cosine], with_sin[1, sine] = 1, -direction
            found.append((with_cos, with_sin))
        return found

    def key(self) -> Array:
        sine, cosine = (self.placed.slot_of(name) for name in POSITION)
        rows = np.zeros((2, self.placed.d_model))
        rows[0, sine], rows[1, cosine] = 1, 1
        return np.vstack([rows] * self.count)


@dataclass(frozen=True)
class RopeHeads(Heads):
    """Rotary positions: queries and keys are constant, the distance turns them apart."""

    def turns(self) -> list[tuple[Array, Array]]:
        with_cos, with_sin = (np.zeros((2, self.placed.d_model)) for _ in range(2))
        with_cos[0, self.placed.one] = with_sin[1, self.placed.one] = 1
        return [(with_cos, with_sin)] * self.count

    def amplitude(self, scale: float) -> float:
        height = self.placed.one_height
        return scale * height**2 / math.sqrt(self.HEAD_DIM)

    def key(self) -> Array:
        rows = np.zeros((2, self.placed.d_model))
        rows[0, self.placed.one] = 1
        return np.vstack([rows] * self.count)


@dataclass(frozen=True)
class RoutedHeads(Heads):
    """Routes: queries and keys are 0, a mask says what is seen."""

    HEAD_DIM = 1
    SCORED = False

    def patterns(self, layout: Layout, scale: float) -> list[tuple[Array, float]]:
        return [(route_pattern(self.placed.alignment, fetch, layout), 0.0)
                for fetch in self.order]

    def build(self, scale: float, store: Store, prefix: str = "attention") -> Attention:
        silent = Structural((), (self.count, self.placed.d_model))
        alignment = self.placed.alignment
        names = [head.fetch for head in alignment.heads]
        numbers = [names.index(fetch) for fetch in self.order]
        return Attention(
            self.count, 1, silent, silent,
            store.matrix("attention.v", "dense", f"{prefix}.v", self.value(), "values"),
            store.matrix("attention.out", "dense", f"{prefix}.out", self.out(),
                         "what the heads write"),
            routes=tuple(alignment.routes[n] for n in numbers) if alignment.routes else None,
            visible=tuple(alignment.tables[n] for n in numbers) if alignment.tables else None)


def heads_of(
    placed: PlacedCircuit, gains: Gains, order: tuple[str, ...], rope: Rope | None
) -> Heads:
    """The realization that the ring of the alignment asks for."""
    ring = placed.alignment.ring
    kind = RoutedHeads if ring.routes else RopeHeads if ring.forward else RotationHeads
    return kind(placed, gains, order, rope)


def _rows(expr: Expr, first: int, count: int) -> Expr:
    return Take(expr, tuple(range(first, first + count)), 0)


def _structural(matrix: Array) -> Structural:
    return Structural(
        tuple((int(r), int(c), int(matrix[r, c])) for r, c in zip(*np.nonzero(matrix),
                                                                  strict=True)), matrix.shape)
