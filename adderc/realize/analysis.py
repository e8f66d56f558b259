"""What the residual of a compiled model can hold: wanted sums, and how far off each can be.

Takes: a structure, its leaf values and the placed circuit. Gives: `Analysis`: patterns of
heads, what norms do, and `reach`, the range of any sum of slots in every context.
May import: format, ir, passes, weights.

The residual of the query is, slot by slot, what the placement says plus an error e:

    e = (embedding - wanted) + position signal + sum over heads (what is read - wanted)
        + what steps of earlier layers got wrong + rounding.

Scores depend on positions (tokens change them by a bounded wobble), so the pattern
W[step, position] of each head is known, and what a head adds for digit d at position p is
W[i, p] g(d), while c[i, p] d is wanted. The digits are free: the error of a reader r is the
sum over positions of the least and of the largest r . (W g(d) - c d). A norm multiplies what
it is given by a known gain and a factor between 1 - epsilon and 1. Rounding is bounded to
first order in u: a score of size L is off by at most k u L (see `shaken` for what that
does to an average); sums by u times their terms.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from adderc.ir.ops import Fetch
from adderc.passes.align import Layout
from adderc.passes.features import feature_values, kinds, largest_value
from adderc.passes.place import CONSTANT, COPY, PlacedCircuit
from adderc.weights.expr import Cos, Expr, Sin, children
from adderc.weights.numeric import evaluate_numpy
from adderc.weights.reading import Arithmetic
from adderc.weights.reading import read as read_expression
from adderc.weights.signal import rope_table, seen_keys, sinusoid_table
from adderc.weights.structure import Attention, Norm, PositionTable, Sinusoid, Structure

Array = np.ndarray
UNIT = {"float32": 2.0**-24, "float64": 2.0**-53}
TERMS = 3  # roundings of a score that two keys on one phase do not share: 2 in q . k, 1 in
#            the scale; keys on two phases differ in their own roundings too
Mistakes = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Reading:
    """One attention head: its pattern [steps, T], value path and what it should read."""

    fetch: str
    pattern: Array
    path: Array  # [D, D]: what is seen at the key -> residual at the query
    tokens: Array  # [V, D]: what is seen of each token
    table: Array  # [T, D]: what is seen of each position
    wanted: Array  # [steps, T]
    worth: Array  # [V]: what each token is worth to the head
    column: Array  # [D]: wanted weight of the fetched sum in each slot
    wobble: float  # how far scores being off can move the average, relative to its spread
    stretch: float  # relative error of what is averaged (a norm's factor)
    shift: float  # absolute error of what is averaged (a norm's mean)


@dataclass(frozen=True)
class Scores:
    """Scores [steps, T] of one head; the loudest; how far a token at the key can move one;
    how much a token at the query stretches all of a step's scores alike."""

    table: Array
    loudest: float
    loose: float
    stretch: float


@dataclass(frozen=True)
class Scaling:
    """A norm as what it does to the residual: times `gain` [D] and a factor in [1 - eps, 1],
    with a common `shift` of all slots (a mean that is 0 only up to rounding)."""

    gain: Array
    eps: float = 0.0
    shift: float = 0.0


@dataclass(frozen=True)
class Analysis:
    """Numbers of one model: tables by position and token, sizes, and its heads' patterns."""

    structure: Structure
    values: Mapping[str, Array]
    placed: PlacedCircuit
    order: tuple[str, ...]

    def matrix(self, expr: Expr) -> Array:
        return evaluate_numpy(expr, self.values)

    def rounded(self, expr: Expr) -> tuple[Array, float]:
        """The matrix as this dtype computes it, and up to how many units of rounding of an
        entry that may differ elsewhere: none but with a sine or cosine in it."""
        kind = np.dtype(self.structure.dtype).type
        found = read_expression(expr, Arithmetic(
            kind, leaf=lambda node: np.asarray(self.values[node.name], dtype=kind), integer=kind,
            constant=lambda node: kind(node.value()), cos=np.cos, sin=np.sin,
            reciprocal=np.reciprocal))
        waves = any(isinstance(part, Sin | Cos) for part in _parts(expr))
        return np.asarray(found, dtype=np.float64), 3.0 if waves else 0.0

    @property
    def unit(self) -> float:
        return UNIT[self.structure.dtype]

    @cached_property
    def layout(self) -> Layout:
        return Layout(self.structure.format, self.placed.alignment.ring.codes)

    @cached_property
    def tokens(self) -> Array:
        """The embedding [V, D]."""
        return self.matrix(self.structure.embedding)

    @cached_property
    def table(self) -> Array:
        """The position signal [T, D]."""
        signal, length = self.structure.position, self.layout.length
        if isinstance(signal, Sinusoid):
            return sinusoid_table(signal, length, self.structure.d_model)
        if isinstance(signal, PositionTable):
            return self.matrix(signal.table)[:length]
        return np.zeros((length, self.structure.d_model))

    def column(self, signal: str) -> Array:
        return np.array([float(c) for c in self.placed.column(signal)])

    @cached_property
    def constant(self) -> Array:
        """What every token writes into each slot [D]."""
        return np.array([float(c) for c in self.placed.constant])

    @cached_property
    def fixed(self) -> list[int]:
        """The slots of the constant channels."""
        return [at for at, slot in enumerate(self.placed.slots) if slot.name in CONSTANT]

    @cached_property
    def first_sizes(self) -> Array:
        """The largest magnitude each slot can have before attention [D]."""
        size: Array = np.abs(self.tokens).max(axis=0) + np.abs(self.table).max(axis=0)
        return size

    @cached_property
    def sizes(self) -> Array:
        """The largest magnitude each slot can have at any point [D]."""
        size = self.first_sizes
        for fetch in self.placed.fetches:
            op = self.placed.circuit[fetch].op
            assert isinstance(op, Fetch)
            top = largest_value(self.structure.format, self.placed.source_of(fetch)[1])
            total = float(sum(t.coefficient for t in op.targets))
            size = size + np.abs(self.column(fetch)) * total * top
        for unit in self.placed.units:
            size = size + np.abs(self.column(unit.step))
        size = size + np.abs(self.column(COPY)) * (self.structure.number.base - 1)
        for slot in self.placed.logit_slots:
            size[slot] += 2 * self.structure.format.vocabulary
        return size

    def scaling(self, norm: Norm | None, sizes: Array) -> Scaling:
        """What a norm does, given its weight and the sizes of what it normalises."""
        if norm is None:
            return Scaling(np.ones(self.structure.d_model))
        fixed, height = self.fixed, self.constant
        square = float((height**2).sum())
        rest = np.where(np.isin(np.arange(len(height)), fixed), 0.0, sizes)
        bend = float((np.abs(self.tokens - height)[:, fixed] @ np.abs(height[fixed])).max())
        count = self.structure.d_model
        weight = np.ones(count) if norm.weight is None else self.matrix(norm.weight).reshape(-1)
        ratio = (float((rest**2).sum()) + 2 * bend + count * norm.epsilon) / square
        eps = 1 - 1 / math.sqrt(1 + ratio)
        shift = 2 * self.unit * math.sqrt(square) if norm.kind == "layer" else 0.0
        return Scaling(weight * math.sqrt(count / square), eps + (count + 8) * self.unit, shift)

    # ------------------------------------------------------------ heads

    def seen(self, norm: Norm | None) -> tuple[Array, Array, Scaling]:
        """What attention sees: tokens [V, D] and positions [T, D] after its norm, and what is
        left open. Without a position signal a norm depends on the token alone, and is exact."""
        scaling = self.scaling(norm, self.first_sizes)
        if norm is None or self.table.any():
            return self.tokens * scaling.gain, self.table * scaling.gain, scaling
        x = self.tokens - (self.tokens.mean(axis=1, keepdims=True) if norm.kind == "layer" else 0)
        weight = 1.0 if norm.weight is None else self.matrix(norm.weight).reshape(-1)
        seen = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + norm.epsilon) * weight
        rounding = (self.structure.d_model + 8) * self.unit
        return seen, self.table, Scaling(scaling.gain, rounding, scaling.shift)

    def readings(self, attention: Attention, norm: Norm | None) -> list[Reading]:
        """Patterns and value paths of all heads, from the materialised matrices."""
        tokens, table, scaling = self.seen(norm)
        q, k, v, out = (self.matrix(getattr(attention, n)) for n in ("q", "k", "v", "out"))
        size = attention.head_dim
        found = []
        for head, fetch in enumerate(self.order):
            rows = slice(head * size, (head + 1) * size)
            scores = self.scores(attention, q[rows], k[rows], head, tokens, table, scaling.shift)
            finite = np.where(np.isfinite(scores.table), scores.table, 0.0)
            top = np.maximum(scores.table.max(axis=1, keepdims=True), -1e300)
            pattern = np.exp(scores.table - top)  # a query that sees no key reads 0
            pattern /= np.maximum(pattern.sum(axis=1, keepdims=True), 1e-300)
            mean = (pattern * finite).sum(axis=1, keepdims=True)
            apart = float((pattern * np.abs(finite - mean)).sum(axis=1).max())
            terms = TERMS if not self.placed.alignment.head(fetch).spread else 2 * TERMS
            wobble = (terms * self.unit + scaling.eps) * scores.loudest + 16 * self.unit
            op = self.placed.circuit[fetch].op
            assert isinstance(op, Fetch)
            found.append(Reading(
                fetch, pattern, out[:, rows] @ v[rows], tokens, table,
                self.layout.wanted(op.targets),
                feature_values(self.structure.format, self.placed.source_of(fetch)[1]),
                self.column(fetch),
                shaken(pattern, wobble + scores.loose)
                + 1.1 * (scores.stretch + scaling.eps) * apart,
                scaling.eps, scaling.shift * float(np.abs(v[rows]).sum(axis=1).max())))
        return found

    def scores(
        self, attention: Attention, q: Array, k: Array, head: int, tokens: Array, table: Array,
        shift: float,
    ) -> Scores:
        """Scores of one head for tokens of value 0, and how far other tokens move them."""
        queries = (table + tokens[0])[self.layout.first_query :] @ q.T
        keys = (table + tokens[0]) @ k.T
        lean, across = _along(queries, (tokens - tokens[0]) @ q.T)
        moved = np.abs((tokens - tokens[0]) @ k.T).max(axis=0).sum()
        moved += shift * np.abs(k.sum(axis=1)).sum()
        across += shift * np.abs(q.sum(axis=1)).sum()
        if attention.rope is not None:
            turns = rope_table(attention.rope, self.layout.length)
            queries, keys = (_turned(queries, turns[self.layout.first_query :]),
                             _turned(keys, turns))
        unit = 1 / math.sqrt(attention.head_dim)
        score = queries @ keys.T * unit
        steps = np.arange(self.layout.steps) + self.layout.first_query
        seen = self.layout.visible & seen_keys(attention, head, steps, self.layout.length)
        sizes = [float(np.linalg.norm(m, axis=1).max(initial=0.0)) for m in (queries, keys)]
        loose = (across * (sizes[1] + moved) + moved * sizes[0] * (1 + lean)) * unit
        return Scores(np.where(seen, score, -np.inf), float(np.abs(score).max()), float(loose),
                      lean)

    # ------------------------------------------------------------ readers

    def noise(self, reader: Array, readings: list[Reading]) -> tuple[Array, Array]:
        """Least and largest error [steps] of `reader . residual` after attention.

        Position signals count as error, and so does rounding.
        """
        form = self.structure.format
        ids = np.array([form.ids.get(cell.text, -1) for cell in form.cells]
                       + [-1] * (form.steps - 1))
        constant = float(self.constant @ reader)
        own = (self.tokens @ reader - constant - self.written @ reader)[self.answers]
        first = float(self.tokens[ids[self.layout.first_query]] @ reader) - constant
        direct = self.table[self.layout.first_query :] @ reader
        low, high = direct + own.min(), direct + own.max()
        low[0] = high[0] = direct[0] + first
        lows, highs = np.zeros(len(direct)), np.zeros(len(direct))
        for free, tokens in kinds(form):
            at_token = self.by_token(reader, readings, free, tokens)
            if at_token is not None:
                lows = lows + at_token.min(axis=2).sum(axis=1)
                highs = highs + at_token.max(axis=2).sum(axis=1)
        wobble = self.sum_rounding(reader)
        for head in readings:
            path = head.path.T @ reader  # [D]
            read = head.tokens @ path  # [V]
            fixed = np.where(ids >= 0, read[ids], 0.0) + head.table @ path
            shift = (head.pattern * fixed).sum(axis=1)
            low, high = low + shift, high + shift
            used = [*(tokens for _, tokens in kinds(form)), ids[ids >= 0]]
            spread = float(np.ptp(read[np.concatenate(used)]))
            largest = float(np.abs(read).max() + np.abs(head.table @ path).max())
            wobble += head.wobble * (spread / 2 + float(np.abs(head.table @ path).max()))
            wobble += head.stretch * largest + head.shift * float(np.abs(head.column @ reader))
        return low + lows - wobble, high + highs + wobble

    @cached_property
    def answers(self) -> Array:
        """The token ids of answer tokens."""
        form = self.structure.format
        if form.answer_kind == "digits":
            return np.arange(form.number.base)
        return form.first_state + np.arange(form.number.base * form.number.operands)

    @cached_property
    def written(self) -> Array:
        """What the embedding is to write of each token [V, D], as far as readers count on it."""
        form = self.structure.format
        total = np.zeros((form.vocabulary, self.structure.d_model))
        for signal, feature in self.placed.sources:
            if signal in self.placed.values or signal == self.placed.token:
                total += np.outer(feature_values(form, feature), self.column(signal))
        return total

    def by_token(
        self, reader: Array, readings: list[Reading], free: Array, tokens: Array
    ) -> Array | None:
        """What is read of each token minus what is wanted [steps, free positions, tokens]: of
        tokens that differ, and of two ends where tokens lie on a line."""
        reads = [head.tokens[tokens] @ (head.path.T @ reader) for head in readings]
        if not readings:
            return None
        worth = [head.worth[tokens] for head in readings]
        if all(_linear(head.tokens[tokens]) for head in readings) and all(
                _linear(w[:, None]) for w in worth):
            kept = np.array([0, len(tokens) - 1])
        else:
            kept = np.unique(np.stack([*reads, *worth]), axis=1, return_index=True)[1]
        total = np.zeros((len(readings[0].wanted), int(free.sum()), len(kept)))
        for head, read, value in zip(readings, reads, worth, strict=True):
            total += (head.pattern[:, free, None] * read[kept]
                      - float(head.column @ reader) * head.wanted[:, free, None] * value[kept])
        return total

    def sum_rounding(self, reader: Array) -> float:
        """Rounding of the sums that make up the residual and of reading it."""
        terms = 8 + 2 * self.structure.d_model
        return terms * self.unit * float(np.abs(reader) @ self.sizes)

    def ideal(self, reader: Array, layer: int) -> Array:
        """reader . residual per context, were everything exact, before layer `layer`."""
        placed = self.placed
        signals = [*dict(placed.sources), *placed.fetches,
                   *(u.step for u in placed.units if u.layer < layer)]
        total: Array = np.full(1, float(self.constant @ reader))
        for signal in signals:
            weight = float(self.column(signal) @ reader)
            if weight and signal in placed.values:
                total = total + weight * placed.values[signal]
        if (layer > placed.layers and placed.copy_row is not None
                and placed.token in placed.values):
            total = total + float(self.column(COPY) @ reader) * placed.values[placed.token]
        return total

    def reach(
        self, readings: list[Reading], reader: Array, layer: int, wrong: Mistakes,
        scaling: Scaling,
    ) -> tuple[Array, Array]:
        """Least and largest value per context of a reader behind a norm, before `layer`."""
        reader = reader * scaling.gain
        low, high = self.noise(reader, readings)
        for step, (below, above) in wrong.items():
            weight = float(self.column(step) @ reader)
            low = low + min(weight * below, weight * above)
            high = high + max(weight * below, weight * above)
        ideal = self.ideal(reader, layer)
        index = self.placed.values["index of step"]
        if np.all(index < 0):
            low, high = ideal + low.min(), ideal + high.max()
        else:
            low, high = ideal + low[index], ideal + high[index]
        moved = scaling.shift * abs(float(reader.sum()))
        return (low - scaling.eps * np.abs(low) - moved,
                high + scaling.eps * np.abs(high) + moved)

    def sizes_before(self, layer: int, readings: list[Reading], wrong: Mistakes) -> Array:
        """The largest magnitude each slot can have in front of `layer` [D], errors and all."""
        plain = Scaling(np.ones(self.structure.d_model))
        ends = [self.reach(readings, slot, layer, wrong, plain)
                for slot in np.eye(self.structure.d_model)]
        return np.array([max(float(np.abs(end).max()) for end in pair) for pair in ends])


def shaken(pattern: Array, error: float) -> float:
    """Twice how much weight can move between positions when every score is off by at most
    `error`: the average of values that spread over R moves by at most R/2 times this.

    If a set of positions of weight p gains most and the rest loses most, p becomes
    p e^error / (p e^error + (1 - p) e^-error). The gain is largest near p = 1/2; where one
    position holds all but d < 1/2, every set weighs at most d or at least 1 - d.
    """
    error = min(error, 300.0)
    spare = np.minimum(1 - pattern.max(axis=1), 0.5)
    up, down = spare * math.exp(error), (1 - spare) * math.exp(-error)
    worst = float((up / (up + down) - spare).max())
    return 2 * max(worst, float((spare == 0.5).any()) * math.tanh(error) / 2)


def _turned(x: Array, turns: Array) -> Array:
    """Rotate the first two dimensions of x [T, E] by (sin, cos) of each position."""
    sine, cosine = turns[:, 0, 0], turns[:, 0, 1]
    turned = x.copy()
    turned[:, 0] = x[:, 0] * cosine - x[:, 1] * sine
    turned[:, 1] = x[:, 0] * sine + x[:, 1] * cosine
    return turned


def _along(base: Array, moved: Array) -> tuple[float, float]:
    """How far vectors `moved` [V, E] stretch those of `base` [steps, E], as the largest
    relative part along them, and the largest part across."""
    square = (base**2).sum(axis=1)[:, None]
    if not moved.any() or not square.all():
        return 0.0, float(np.abs(moved).sum(axis=1).max(initial=0.0))
    share = base @ moved.T / square  # [steps, V]
    left = (moved**2).sum(axis=1)[None, :] - share**2 * square
    return float(np.abs(share).max()), float(np.sqrt(np.maximum(left, 0.0)).max())


def _parts(expr: Expr) -> Iterator[Expr]:
    """An expression and all below it."""
    yield expr
    for child in children(expr):
        yield from _parts(child)


def _linear(rows: Array) -> bool:
    """Whether row d is row 0 plus d times a direction, as in every linear embedding."""
    line = rows[0] + np.arange(len(rows))[:, None] * (rows[1] - rows[0])
    return bool(np.array_equal(line, rows))
