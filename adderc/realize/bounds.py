"""Error bounds of a compiled model: every inequality its weights must satisfy.

Takes: a structure, its leaf values, the placed circuit and the contexts. Gives: `judge` →
`Judgement`, one `Inequality` per head, hinge and decode, with its slack.
May import: format, ir, passes, realize, weights.

The residual of the query is, slot by slot, what the placement says plus an error e:

    e = (embedding - wanted) + position signal + sum over heads (what is read - wanted)
        + what steps of earlier layers got wrong + rounding.

Scores depend on positions alone, so the pattern W[step, position] of each head is known,
and what a head adds for digit d at position p is W[i, p] g(d), while c[i, p] d is wanted.
The digits are free: the error of a reader r is the sum over positions of the least and of
the largest r . (W g(d) - c d), exact up to rounding. Rounding is bounded to first order in
u: a score of size L is off by at most k u L, which moves the average of values that spread
over R by at most R tanh(k u L)/2; sums by u times their terms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from adderc.ir.graph import decoded
from adderc.passes.align import Layout
from adderc.passes.place import PlacedCircuit
from adderc.realize.feedforward import HingePairs, pair_range
from adderc.weights.numeric import evaluate_numpy
from adderc.weights.signal import sinusoid_table
from adderc.weights.structure import Attention, FeedForward, Sinusoid, Structure

Array = np.ndarray
UNIT = {"float32": 2.0**-24, "float64": 2.0**-53}


@dataclass(frozen=True)
class Inequality:
    """`left` <= `right` must hold; `text` says what the two sides are."""

    name: str
    text: str
    left: float
    right: float
    line: int = 0

    @property
    def holds(self) -> bool:
        return self.left <= self.right  # false for NaN


@dataclass(frozen=True)
class Judgement:
    """All inequalities, and the bound on the least logit margin they give."""

    inequalities: tuple[Inequality, ...]
    margin: float

    @property
    def broken(self) -> tuple[Inequality, ...]:
        return tuple(i for i in self.inequalities if not i.holds)


@dataclass(frozen=True)
class Reading:
    """One attention head: its pattern [steps, T], value path and what it should read."""

    pattern: Array
    path: Array  # [D, D]: residual at the key -> residual at the query
    wanted: Array  # [steps, T]
    column: Array  # [D]: wanted weight of the fetched sum in each slot
    wobble: float  # tanh(k u L): how far rounding can move the average, relative to its spread


@dataclass(frozen=True)
class Analysis:
    """Numbers of one model: tables by position and token, and the patterns of its heads."""

    structure: Structure
    values: Mapping[str, Array]
    placed: PlacedCircuit
    order: tuple[str, ...]

    def matrix(self, expr: object) -> Array:
        return evaluate_numpy(expr, self.values)  # type: ignore[arg-type]

    @property
    def unit(self) -> float:
        return UNIT[self.structure.dtype]

    @property
    def layout(self) -> Layout:
        return Layout(self.structure.format)

    @property
    def length(self) -> int:
        return self.structure.format.prompt_length + self.structure.format.steps - 1

    def positions(self) -> Array:
        """The position signal [T, D]."""
        signal = self.structure.position
        assert isinstance(signal, Sinusoid)
        return sinusoid_table(signal, self.length, self.structure.d_model)

    def readings(self, attention: Attention) -> list[Reading]:
        """Patterns and value paths of all heads, from the materialised matrices."""
        q, k, v, out = (self.matrix(getattr(attention, n)) for n in ("q", "k", "v", "out"))
        table, layout = self.positions(), self.layout
        queries = table[layout.first_query :]
        seen = np.arange(self.length)[None, :] <= (
            np.arange(len(queries))[:, None] + layout.first_query)
        found = []
        size = attention.head_dim
        for head, fetch in enumerate(self.order):
            rows = slice(head * size, (head + 1) * size)
            score = (queries @ q[rows].T) @ (table @ k[rows].T).T / math.sqrt(size)
            loudest = float(np.abs(score).max())
            score = np.where(seen, score, -np.inf)
            pattern = np.exp(score - score.max(axis=1, keepdims=True))
            pattern /= pattern.sum(axis=1, keepdims=True)
            phase = self.placed.alignment.head(fetch)
            terms = 4 if not phase.spread else 8
            op = self.placed.circuit[fetch].op
            found.append(Reading(
                pattern, out[:, rows] @ v[rows], layout.wanted(op.targets),  # type: ignore[union-attr]
                np.array([float(c) for c in self.placed.column(fetch)]),
                math.tanh(terms * self.unit * loudest + 16 * self.unit)))
        return found

    def noise(self, reader: Array, readings: list[Reading]) -> tuple[Array, Array]:
        """Least and largest error [steps] of `reader . residual` after attention.

        Position signals count as error, and so does rounding.
        """
        form, base = self.structure.format, self.structure.number.base
        table, layout = self.positions(), self.layout
        tokens = self.matrix(self.structure.embedding)
        ids = np.array([form.ids.get(cell.text, -1) for cell in form.cells]
                       + [-1] * (form.steps - 1))
        digits = np.arange(base)
        held = np.array([float(c) for c in self.placed.column(self.placed.token)])
        own = tokens[:base] @ reader - digits * float(held @ reader)
        first = float(tokens[ids[layout.first_query]] @ reader)
        direct = table[layout.first_query :] @ reader
        low, high = direct + own.min(), direct + own.max()
        low[0] = high[0] = direct[0] + first
        linear = _linear(tokens[:base])
        at_digit = None if linear else np.zeros((len(direct), self.length, base))
        ends = np.zeros((2, len(direct), self.length))
        wobble = 0.0
        for head in readings:
            path = head.path.T @ reader  # [D]
            read = tokens @ path  # [V]
            value = float(head.column @ reader)
            fixed = np.where(ids >= 0, read[ids], 0.0) + table @ path
            shift = (head.pattern * fixed).sum(axis=1)
            low, high = low + shift, high + shift
            free = head.pattern * (ids < 0)
            for end, digit in enumerate((0, base - 1)):
                ends[end] += free * read[digit] - value * head.wanted * digit
            if at_digit is not None:
                at_digit += (free[:, :, None] * read[None, None, :base]
                             - value * head.wanted[:, :, None] * digits)
            spread = float(np.ptp(np.concatenate([read[:base], read[ids[ids >= 0]]])))
            wobble += head.wobble * (spread / 2 + float(np.abs(table @ path).max()))
        if at_digit is None:
            low, high = low + ends.min(axis=0).sum(axis=1), high + ends.max(axis=0).sum(axis=1)
        else:
            low = low + at_digit.min(axis=2).sum(axis=1)
            high = high + at_digit.max(axis=2).sum(axis=1)
        wobble += self.sum_rounding(reader, tokens, table, readings)
        return low - wobble, high + wobble

    def sum_rounding(
        self, reader: Array, tokens: Array, table: Array, readings: list[Reading]
    ) -> float:
        """Rounding of the sums that make up the residual and of reading it."""
        size = np.abs(tokens).max(axis=0) + np.abs(table).max(axis=0)
        for head in readings:
            size = size + np.abs(head.path) @ (np.abs(tokens).max(axis=0)
                                               + np.abs(table).max(axis=0))
        terms = 6 + 2 * self.structure.d_model
        return terms * self.unit * float(np.abs(reader) @ size)


def _linear(rows: Array) -> bool:
    """Whether row d is d times row 1 plus row 0, as in every derived embedding."""
    line = rows[0] + np.arange(len(rows))[:, None] * (rows[1] - rows[0])
    return bool(np.array_equal(line, rows))


def judge(
    structure: Structure, values: Mapping[str, Array], placed: PlacedCircuit,
    order: tuple[str, ...],
) -> Judgement:
    """Every inequality of the model, evaluated on its real weights."""
    analysis = Analysis(structure, values, placed, order)
    attention = structure.blocks[0].attention
    readings = analysis.readings(attention) if attention is not None else []
    found = _head_inequalities(analysis, readings)
    wrong: dict[str, tuple[float, float]] = {}
    for layer, block in enumerate(structure.blocks, start=1):
        if block.feed_forward is not None:
            inequalities, mistakes = _hinges(analysis, readings, block.feed_forward, layer, wrong)
            found += inequalities
            wrong |= mistakes
    margin, decode = _decode(analysis, readings, wrong)
    return Judgement((*found, decode), margin)


def _head_inequalities(analysis: Analysis, readings: list[Reading]) -> list[Inequality]:
    found = []
    base = analysis.structure.number.base
    for fetch, head in zip(analysis.order, readings, strict=True):
        total = float(analysis.placed.alignment.head(fetch).total)
        reads = analysis.layout.values() > 0
        leak = float((np.abs(head.pattern * total - head.wanted) * reads).sum(axis=1).max())
        line = analysis.placed.circuit[fetch].line
        found.append(Inequality(
            f"{fetch} leak", f"digits read by mistake, of at most {base - 1} each",
            leak * (base - 1), 0.5, line))
        found.append(Inequality(
            f"{fetch} rounding", f"score rounding in {analysis.structure.dtype}",
            head.wobble * total * (base - 1) / 2, 0.5, line))
    return found


def _ideal(analysis: Analysis, reader: Array, layer: int) -> Array:
    """reader . residual per context, were everything exact, before layer `layer`."""
    placed = analysis.placed
    signals = [placed.token, *placed.fetches,
               *(u.step for u in placed.units if u.layer < layer)]
    total: Array = np.zeros(1)
    for signal in signals:
        weight = float(np.array([float(c) for c in placed.column(signal)]) @ reader)
        if weight and signal in placed.values:
            total = total + weight * placed.values[signal]
    return total


def _reach(
    analysis: Analysis, readings: list[Reading], reader: Array, layer: int,
    wrong: Mapping[str, tuple[float, float]],
) -> tuple[Array, Array]:
    """Least and largest reader . residual per context, before layer `layer`."""
    low, high = analysis.noise(reader, readings)
    for step, (below, above) in wrong.items():
        weight = float(np.array([float(c) for c in analysis.placed.column(step)]) @ reader)
        low = low + min(weight * below, weight * above)
        high = high + max(weight * below, weight * above)
    ideal = _ideal(analysis, reader, layer)
    index = analysis.placed.values["index of step"]
    if np.all(index < 0):
        return ideal + low.min(), ideal + high.max()
    return ideal + low[index], ideal + high[index]


def _hinges(
    analysis: Analysis, readings: list[Reading], block: FeedForward, layer: int,
    wrong: Mapping[str, tuple[float, float]],
) -> tuple[list[Inequality], dict[str, tuple[float, float]]]:
    """The inequalities of one layer's pairs, and how far each of its steps can be off."""
    rows, down = analysis.matrix(block.up), analysis.matrix(block.down)
    bias = analysis.matrix(block.up_bias)[0] if block.up_bias is not None else np.zeros(len(rows))
    pairs = HingePairs(analysis.placed, layer, _query_gain(analysis.structure),
                       analysis.layout.first_query).hinges()
    found: list[Inequality] = []
    mistakes: dict[str, tuple[float, float]] = {}
    for at, hinge in enumerate(pairs):
        if hinge.step is None:
            continue
        units = [2 * at, 2 * at + 1]
        column = np.array([float(c) for c in analysis.placed.column(hinge.step)])
        weights = down[:, units].T @ column / float(column @ column)
        lows, highs = zip(*(_reach(analysis, readings, rows[j], layer, wrong)
                            for j in dict.fromkeys(units)), strict=True)
        if np.array_equal(rows[units[0]], rows[units[1]]):
            low, high = pair_range(weights, bias[units], lows[0], highs[0])
        else:
            ends = [np.maximum(np.stack([lo, hi]) + b, 0.0) * w
                    for lo, hi, b, w in zip(lows, highs, bias[units], weights, strict=True)]
            low, high = sum(e.min(axis=0) for e in ends), sum(e.max(axis=0) for e in ends)
        size = np.abs(np.stack([*lows, *highs])).max() + np.abs(bias[units]).max()
        rounding = 8 * analysis.unit * float(size * np.abs(weights).max())
        truth = analysis.placed.values[hinge.step]
        low, high = low - truth - rounding, high - truth + rounding
        mistakes[hinge.step] = (float(low.min()), float(high.max()))
        found += _hinge_texts(analysis, hinge.step, lows[0], highs[0], bias[units], truth,
                              hinge.line)
    return found, mistakes


def _hinge_texts(
    analysis: Analysis, step: str, low: Array, high: Array, bias: Array, truth: Array, line: int
) -> list[Inequality]:
    """The two conditions of a pair: below its ramp when off, above it when on."""
    bends = np.sort(-bias)
    steps = truth > 0
    return [
        Inequality(f"{step} off", "the largest sum that must not count stays below the ramp",
                   float(high[~steps].max(initial=-np.inf)), float(bends[0]), line),
        Inequality(f"{step} on", "the end of the ramp lies below the least sum that must count",
                   float(bends[-1]), float(low[steps].min(initial=np.inf)), line),
    ]


def _query_gain(structure: Structure) -> float:
    signal = structure.position
    assert isinstance(signal, Sinusoid)
    return float(signal.gains[-1][1])


def _decode(
    analysis: Analysis, readings: list[Reading], wrong: Mapping[str, tuple[float, float]]
) -> tuple[float, Inequality]:
    """The least margin of the right token's logit over any other's, over all contexts."""
    head = analysis.structure.head
    weight = analysis.matrix(head.weight)
    bias = analysis.matrix(head.bias)[0] if head.bias is not None else np.zeros(len(weight))
    row = weight[int(np.argmax(np.abs(weight).max(axis=1)))]
    reader = row / np.abs(row).max()
    slopes = weight @ reader / float(reader @ reader)
    if not np.allclose(np.outer(slopes, reader), weight, rtol=1e-6, atol=0):
        return math.nan, Inequality("decode", "the head reads more than one sum", math.nan, 0.0)
    placed = analysis.placed
    layers = placed.layers + 1
    low, high = _reach(analysis, readings, reader, layers, wrong)
    constant = float(_constant(analysis)) * float(reader[placed.out])
    right = placed.values["emitted"]
    low, high = np.broadcast_to(low, right.shape), np.broadcast_to(high, right.shape)
    table = np.unique(np.stack([right, low + constant, high + constant], axis=1), axis=0)
    margin = math.inf
    for end in (1, 2):
        z = table[:, end]
        logits = z[:, None] * slopes + bias
        chosen = logits[np.arange(len(table)), table[:, 0].astype(int)]
        logits[np.arange(len(table)), table[:, 0].astype(int)] = -np.inf
        best = logits.max(axis=1)
        rounding = 6 * analysis.unit * (np.abs(z[:, None] * slopes) + np.abs(bias)).max()
        margin = min(margin, float((chosen - best).min()) - 2 * float(rounding))
    return margin, Inequality("decode", "a wrong digit's logit stays below the right one's",
                              -margin, 0.0, placed.circuit.nodes[-1].line)


def _constant(analysis: Analysis) -> float:
    return float(decoded(analysis.placed.circuit).constant)


