"""What the residual of a compiled model can hold: wanted sums, and how far off each can be.

Takes: a structure, its leaf values and the placed circuit. Gives: `Analysis`: patterns of
heads, what norms do, and `reach`, the range of any sum of slots in every context.
May import: format, ir, passes, realize.swing, weights.

The residual of the query is, slot by slot, what the placement says plus an error e:

    e = (embedding - wanted) + position signal + sum over heads (what is read - wanted)
        + what steps of earlier layers got wrong + rounding.

Scores depend on positions (tokens change them by a bounded wobble), so the pattern
W[step, position] of each head is known, and what a head adds for digit d at position p is
W[i, p] g(d), while c[i, p] d is wanted. The digits are free: the error of a reader r is the
sum over positions of the least and of the largest r . (W g(d) - c d). A norm multiplies what
it is given by a known gain and a factor between 1 - epsilon and 1. Rounding is bounded to
first order in u: a score of size L is off by at most k u L (see `realize.swing` for what
that does to an average); sums by u times their terms.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from adderc.ir.ops import Fetch
from adderc.passes.align import Layout
from adderc.passes.features import feature_values, kinds, largest_value
from adderc.passes.place import CONSTANT, COPY, PlacedCircuit
from adderc.realize.swing import Line, Tilt, line_of, tilt_of
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
    tilt: Tilt  # how tokens at the keys move scores
    wobble: float  # how far other errors of scores move the average, relative to its spread
    stretch: float  # relative error of what is averaged (a norm's factor)
    shift: float  # absolute error of what is averaged (a norm's mean)


@dataclass(frozen=True)
class Scores:
    """Scores [steps, T] of one head; the loudest; by how much a token at the key moves one
    (its share of `lift` [steps, T]) and how far it is off beyond that; how much a token at
    the query stretches all of a step's scores alike."""

    table: Array
    loudest: float
    line: Line
    lift: Array
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
class Seen:
    """Tokens [V, D] and positions [T, D] behind a norm that multiplies position p and any
    token by a factor of p, in `table`, within `uneven` of it; tokens have that factor up to
    `bent`. `scaling` bounds all of it at once."""

    tokens: Array
    table: Array
    scaling: Scaling
    uneven: float
    bent: float


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
        size = self.sizes_at(self.placed.layers + 1)
        for slot in self.placed.logit_slots:
            size[slot] += 2 * self.structure.format.vocabulary
        return size

    def sizes_at(self, layer: int) -> Array:
        """The largest magnitude each slot can have where an answer is made, in front of
        `layer` [D], errors aside."""
        signal = np.abs(self.table[self.layout.first_query :]).max(axis=0)
        size = np.abs(self.tokens).max(axis=0) + signal
        for fetch in self.placed.fetches:
            op = self.placed.circuit[fetch].op
            assert isinstance(op, Fetch)
            top = largest_value(self.structure.format, self.placed.source_of(fetch)[1])
            total = float(sum(t.coefficient for t in op.targets))
            size = size + np.abs(self.column(fetch)) * total * top
        for unit in self.placed.units:
            size = size + np.abs(self.column(unit.step)) * (unit.layer < layer)
        copied = np.abs(self.column(COPY)) * (self.structure.number.base - 1)
        return np.asarray(size + copied * (layer > self.placed.layers))

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

    def seen(self, norm: Norm | None) -> Seen:
        """What attention sees after its norm. Without a position signal a norm depends on the
        token alone, and is exact; with one its factor is known by position."""
        scaling = self.scaling(norm, self.first_sizes)
        if norm is None:
            return Seen(self.tokens, self.table, scaling, 0.0, 0.0)
        centred = [m - (m.mean(axis=1, keepdims=True) if norm.kind == "layer" else 0)
                   for m in (self.tokens, self.table)]
        rounding = (self.structure.d_model + 8) * self.unit
        if not self.table.any():
            weight = 1.0 if norm.weight is None else self.matrix(norm.weight).reshape(-1)
            mean = (centred[0]**2).mean(axis=1, keepdims=True) + norm.epsilon
            return Seen(centred[0] / np.sqrt(mean) * weight, self.table,
                        replace(scaling, eps=rounding), rounding, 0.0)
        tokens, table = centred
        square = ((tokens**2).sum(axis=1) + (table**2).sum(axis=1)[:, None]
                  + 2 * table @ tokens.T + self.structure.d_model * norm.epsilon)  # [T, V]
        factor = np.sqrt(float((self.constant**2).sum()) / square)
        middle = (factor.max(axis=1) + factor.min(axis=1)) / 2
        apart = float((np.ptp(factor, axis=1) / 2 / middle).max())
        return Seen(self.tokens * scaling.gain, self.table * scaling.gain * middle[:, None],
                    scaling, apart + rounding, float(np.abs(middle - 1).max()))

    def readings(self, attention: Attention, norm: Norm | None) -> list[Reading]:
        """Patterns and value paths of all heads, from the materialised matrices."""
        seen = self.seen(norm)
        tokens, table, scaling = seen.tokens, seen.table, seen.scaling
        q, k, v, out = (self.matrix(getattr(attention, n)) for n in ("q", "k", "v", "out"))
        size = attention.head_dim
        found = []
        for head, fetch in enumerate(self.order):
            rows = slice(head * size, (head + 1) * size)
            scores = self.scores(attention, q[rows], k[rows], head, seen)
            finite = np.where(np.isfinite(scores.table), scores.table, 0.0)
            top = np.maximum(scores.table.max(axis=1, keepdims=True), -1e300)
            pattern = np.exp(scores.table - top)  # a query that sees no key reads 0
            pattern /= np.maximum(pattern.sum(axis=1, keepdims=True), 1e-300)
            mean = (pattern * finite).sum(axis=1, keepdims=True)
            apart = float((pattern * np.abs(finite - mean)).sum(axis=1).max())
            terms = TERMS if not self.placed.alignment.head(fetch).spread else 2 * TERMS
            wobble = (terms * self.unit + seen.uneven) * scores.loudest + 16 * self.unit
            tilt = tilt_of(scores.line.share, scores.lift, pattern)
            op = self.placed.circuit[fetch].op
            assert isinstance(op, Fetch)
            found.append(Reading(
                fetch, pattern, out[:, rows] @ v[rows], tokens, table,
                self.layout.wanted(op.targets),
                feature_values(self.structure.format, self.placed.source_of(fetch)[1]),
                self.column(fetch), tilt,
                tilt.wobble(wobble + scores.loose)
                + 1.1 * (scores.stretch + scaling.eps) * apart,
                scaling.eps, scaling.shift * float(np.abs(v[rows]).sum(axis=1).max())))
        return found

    def scores(
        self, attention: Attention, q: Array, k: Array, head: int, what: Seen
    ) -> Scores:
        """Scores of one head for tokens half way between those that move it most either way,
        and how far tokens move them."""
        table, shift = what.table, what.scaling.shift
        asked, found = what.tokens @ q.T, what.tokens @ k.T
        asking, finding = ((m.max(axis=0) + m.min(axis=0)) / 2 for m in (asked, found))
        queries = table[self.layout.first_query :] @ q.T + asking
        keys = table @ k.T + finding
        lean, across = _along(queries, asked - asking)
        line = line_of(found - finding)
        moved = np.abs(found - finding).max(axis=0).sum()
        rest = line.rest + shift * np.abs(k.sum(axis=1)).sum()
        rest += what.bent * np.abs(found).max(axis=0).sum()
        across += shift * np.abs(q.sum(axis=1)).sum() + what.bent * np.abs(asked).max(axis=0).sum()
        lifts = np.broadcast_to(line.along, keys.shape)
        if attention.rope is not None:
            turns = rope_table(attention.rope, self.layout.length)
            queries = _turned(queries, turns[self.layout.first_query :])
            keys, lifts = _turned(keys, turns), _turned(lifts, turns)
        unit = 1 / math.sqrt(attention.head_dim)
        score = queries @ keys.T * unit
        steps = np.arange(self.layout.steps) + self.layout.first_query
        seen = self.layout.visible & seen_keys(attention, head, steps, self.layout.length)
        sizes = [float(np.linalg.norm(m, axis=1).max(initial=0.0)) for m in (queries, keys)]
        loose = (across * (sizes[1] + moved + rest)
                 + sizes[0] * (lean * moved + (1 + lean) * rest)) * unit
        return Scores(np.where(seen, score, -np.inf), float(np.abs(score).max()), line,
                      queries @ lifts.T * unit, float(loose), lean)

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
            used = np.concatenate([*(tokens for _, tokens in kinds(form)), ids[ids >= 0]])
            spread = float(np.ptp(read[used]))
            placed = float(np.abs(head.table @ path).max())
            largest = float(np.abs(read).max()) + placed
            sign, swing = head.tilt.sign(read, used), head.tilt.swing()
            low, high = (low - (sign <= 0) * swing * spread / 2,
                         high + (sign >= 0) * swing * spread / 2)
            wobble += (head.wobble * (spread / 2 + placed)) + swing * placed
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
