"""Error bounds of a compiled model: every inequality its weights must satisfy.

Takes: a structure, its leaf values, the placed circuit and the layers. Gives: `judge` →
`Judgement`, one `Inequality` per head, step and decode, with its two sides.
May import: format, ir, passes, realize, weights.

The residual of the query is, slot by slot, what the placement says plus an error e:

    e = (embedding - wanted) + position signal + sum over heads (what is read - wanted)
        + what steps of earlier layers got wrong + rounding.

Scores depend on positions (tokens change them by a bounded wobble), so the pattern
W[step, position] of each head is known, and what a head adds for digit d at position p is
W[i, p] g(d), while c[i, p] d is wanted. The digits are free: the error of a reader r is the
sum over positions of the least and of the largest r . (W g(d) - c d). A norm multiplies what
it is given by a known gain and a factor between 1 - epsilon and 1. Rounding is bounded to
first order in u: a score of size L is off by at most k u L, which moves the average of
values that spread over R by at most R tanh(k u L)/2; sums by u times their terms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from adderc.ir.graph import decoded
from adderc.ir.ops import Fetch
from adderc.passes.align import Layout
from adderc.passes.place import CONSTANT, COPY, PlacedCircuit
from adderc.realize.activations import ACTIVATIONS, HiddenUnit
from adderc.realize.feedforward import Layer, Rows
from adderc.weights.expr import Expr
from adderc.weights.numeric import evaluate_numpy
from adderc.weights.signal import rope_table, sinusoid_table
from adderc.weights.structure import (
    Attention,
    FeedForward,
    Norm,
    PositionTable,
    Sinusoid,
    Structure,
)

Array = np.ndarray
UNIT = {"float32": 2.0**-24, "float64": 2.0**-53}
Mistakes = Mapping[str, tuple[float, float]]


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

    fetch: str
    pattern: Array
    path: Array  # [D, D]: residual at the key -> residual at the query
    wanted: Array  # [steps, T]
    column: Array  # [D]: wanted weight of the fetched sum in each slot
    wobble: float  # how far scores being off can move the average, relative to its spread
    stretch: float  # relative error of what is averaged (a norm's factor)
    shift: float  # absolute error of what is averaged (a norm's mean)


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
            top = float(sum(t.coefficient for t in op.targets)) * (self.structure.number.base - 1)
            size = size + np.abs(self.column(fetch)) * top
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

    def readings(self, attention: Attention, norm: Norm | None) -> list[Reading]:
        """Patterns and value paths of all heads, from the materialised matrices."""
        scaling = self.scaling(norm, self.first_sizes)
        q, k, v, out = (self.matrix(getattr(attention, n)) * (scaling.gain if n != "out" else 1)
                        for n in ("q", "k", "v", "out"))
        size = attention.head_dim
        found = []
        for head, fetch in enumerate(self.order):
            rows = slice(head * size, (head + 1) * size)
            score, loudest, loose = self.score(attention, q[rows], k[rows], head, scaling.shift)
            pattern = np.exp(score - score.max(axis=1, keepdims=True))
            pattern /= pattern.sum(axis=1, keepdims=True)
            terms = 4 if not self.placed.alignment.head(fetch).spread else 8
            op = self.placed.circuit[fetch].op
            assert isinstance(op, Fetch)
            wobble = terms * self.unit * loudest + 16 * self.unit
            wobble += 2 * scaling.eps * loudest + loose
            found.append(Reading(
                fetch, pattern, out[:, rows] @ v[rows], self.layout.wanted(op.targets),
                self.column(fetch), math.tanh(wobble), scaling.eps,
                scaling.shift * float(np.abs(v[rows]).sum(axis=1).max())))
        return found

    def score(
        self, attention: Attention, q: Array, k: Array, head: int, shift: float
    ) -> tuple[Array, float, float]:
        """Scores [steps, T] of one head, the largest, and how far tokens can move them."""
        static = self.table + self.tokens[0]
        queries, keys = static[self.layout.first_query :] @ q.T, static @ k.T
        if attention.rope is not None:
            turns = rope_table(attention.rope, self.layout.length)
            queries, keys = (_turned(queries, turns[self.layout.first_query :]),
                             _turned(keys, turns))
        score = queries @ keys.T / math.sqrt(attention.head_dim)
        seen = self.layout.visible
        if attention.routes is not None:
            distance = (np.arange(self.layout.steps)[:, None] + self.layout.first_query
                        - np.arange(self.layout.length)[None, :])
            seen = seen & np.isin(distance, attention.routes[head])
            seen[~seen.any(axis=1)] = True
        drift = self.tokens - self.tokens[0]
        moved = [np.abs(drift @ m.T).max(axis=0).sum() + shift * np.abs(m.sum(axis=1)).sum()
                 for m in (q, k)]
        sizes = [np.abs(m).max(initial=0.0) for m in (queries, keys)]
        loose = (moved[0] * (sizes[1] + moved[1]) + moved[1] * sizes[0]) / math.sqrt(
            attention.head_dim)
        loudest = float(np.abs(score).max())
        return np.where(seen, score, -np.inf), loudest, float(loose)

    # ------------------------------------------------------------ readers

    def noise(self, reader: Array, readings: list[Reading]) -> tuple[Array, Array]:
        """Least and largest error [steps] of `reader . residual` after attention.

        Position signals count as error, and so does rounding.
        """
        form, base = self.structure.format, self.structure.number.base
        ids = np.array([form.ids.get(cell.text, -1) for cell in form.cells]
                       + [-1] * (form.steps - 1))
        digits = np.arange(base)
        constant = float(self.constant @ reader)
        own = (self.tokens[:base] @ reader - constant
               - digits * float(self.column(self.placed.token) @ reader))
        first = float(self.tokens[ids[self.layout.first_query]] @ reader) - constant
        direct = self.table[self.layout.first_query :] @ reader
        low, high = direct + own.min(), direct + own.max()
        low[0] = high[0] = direct[0] + first
        free = ids < 0
        lows, highs = np.zeros(len(direct)), np.zeros(len(direct))
        at_digit = self.by_digit(reader, readings, free, digits)
        if at_digit is not None:
            lows, highs = at_digit.min(axis=2).sum(axis=1), at_digit.max(axis=2).sum(axis=1)
        wobble = self.sum_rounding(reader)
        for head in readings:
            path = head.path.T @ reader  # [D]
            read = self.tokens @ path  # [V]
            fixed = np.where(ids >= 0, read[ids], 0.0) + self.table @ path
            shift = (head.pattern * fixed).sum(axis=1)
            low, high = low + shift, high + shift
            spread = float(np.ptp(np.concatenate([read[:base], read[ids[ids >= 0]]])))
            largest = float(np.abs(read).max() + np.abs(self.table @ path).max())
            wobble += head.wobble * (spread / 2 + float(np.abs(self.table @ path).max()))
            wobble += head.stretch * largest + head.shift * float(np.abs(head.column @ reader))
        return low + lows - wobble, high + highs + wobble

    def by_digit(
        self, reader: Array, readings: list[Reading], free: Array, digits: Array
    ) -> Array | None:
        """What is read for each digit minus what is wanted [steps, T, base or 2 ends]."""
        base, total = len(digits), None
        ends = digits if not _linear(self.tokens[:base]) else np.array([0, base - 1])
        for head in readings:
            read = self.tokens[ends] @ (head.path.T @ reader)
            value = float(head.column @ reader)
            part = ((head.pattern * free)[:, :, None] * read
                    - value * head.wanted[:, :, None] * ends)
            total = part if total is None else total + part
        return total

    def sum_rounding(self, reader: Array) -> float:
        """Rounding of the sums that make up the residual and of reading it."""
        terms = 8 + 2 * self.structure.d_model
        return terms * self.unit * float(np.abs(reader) @ self.sizes)

    def ideal(self, reader: Array, layer: int) -> Array:
        """reader . residual per context, were everything exact, before layer `layer`."""
        placed = self.placed
        signals = [placed.token, *placed.fetches,
                   *(u.step for u in placed.units if u.layer < layer)]
        total: Array = np.full(1, float(self.constant @ reader))
        for signal in signals:
            weight = float(self.column(signal) @ reader)
            if weight and signal in placed.values:
                total = total + weight * placed.values[signal]
        if layer > placed.layers and placed.needs.tied and placed.token in placed.values:
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


def _turned(x: Array, turns: Array) -> Array:
    """Rotate the first two dimensions of x [T, E] by (sin, cos) of each position."""
    sine, cosine = turns[:, 0, 0], turns[:, 0, 1]
    turned = x.copy()
    turned[:, 0] = x[:, 0] * cosine - x[:, 1] * sine
    turned[:, 1] = x[:, 0] * sine + x[:, 1] * cosine
    return turned


def _linear(rows: Array) -> bool:
    """Whether row d is row 0 plus d times a direction, as in every linear embedding."""
    line = rows[0] + np.arange(len(rows))[:, None] * (rows[1] - rows[0])
    return bool(np.array_equal(line, rows))


def judge(
    structure: Structure, values: Mapping[str, Array], placed: PlacedCircuit,
    order: tuple[str, ...], layers: Sequence[Layer],
) -> Judgement:
    """Every inequality of the model, evaluated on its real weights."""
    analysis = Analysis(structure, values, placed, order)
    first = structure.blocks[0]
    readings = (analysis.readings(first.attention, first.attention_norm)
                if first.attention is not None else [])
    found = _head_inequalities(analysis, readings)
    wrong: dict[str, tuple[float, float]] = {}
    for layer, block in zip(layers, structure.blocks, strict=False):
        if block.feed_forward is not None:
            scaling = analysis.scaling(block.feed_forward_norm, analysis.sizes)
            inequalities, mistakes = _steps(
                analysis, readings, block.feed_forward, layer, wrong, scaling)
            found += inequalities
            wrong |= mistakes
    margin, decode = _decode(analysis, readings, wrong)
    return Judgement((*found, decode), margin)


def _head_inequalities(analysis: Analysis, readings: list[Reading]) -> list[Inequality]:
    found = []
    top = analysis.structure.number.base - 1
    for head in readings:
        total = float(analysis.placed.alignment.head(head.fetch).total)
        reads = analysis.layout.values() > 0
        leak = float((np.abs(head.pattern * total - head.wanted) * reads).sum(axis=1).max())
        line = analysis.placed.circuit[head.fetch].line
        found.append(Inequality(f"{head.fetch} leak",
                                f"digits read by mistake, of at most {top} each", leak * top,
                                0.5 * total, line))
        found.append(Inequality(
            f"{head.fetch} rounding", f"score rounding in {analysis.structure.dtype}",
            head.wobble * total * top / 2, 0.5 * total, line))
    return found


def _steps(
    analysis: Analysis, readings: list[Reading], block: FeedForward, layer: Layer,
    wrong: Mistakes, scaling: Scaling,
) -> tuple[list[Inequality], dict[str, tuple[float, float]]]:
    """The inequalities of one layer's steps, and how far each of its steps can be off."""
    rows, down = analysis.matrix(block.up), analysis.matrix(block.down)
    bias = analysis.matrix(block.up_bias)[0] if block.up_bias is not None else np.zeros(len(rows))
    loose = np.zeros(len(rows))
    if block.up_bias is None:  # the constant channel carries the biases
        carried = rows * scaling.gain
        bias = carried @ analysis.constant
        drift = np.abs(analysis.tokens - analysis.constant)[:, analysis.fixed].max(axis=0)
        loose = np.abs(bias) * scaling.eps + np.abs(carried[:, analysis.fixed]) @ drift
        rows = rows.copy()
        rows[:, analysis.fixed] = 0.0
    activation = ACTIVATIONS[block.activation]
    found: list[Inequality] = []
    mistakes: dict[str, tuple[float, float]] = {}
    at = 0
    for step in layer.steps():
        units = list(range(at, at + len(step.made.units)))
        at += len(units)
        if step.signal is None:
            continue
        column = layer.column(step.signal)
        written = down[:, units].T @ column / float(column @ column)
        gain = next((u.gain for u in step.made.units), 1.0) or 1.0
        low, high = analysis.reach(readings, rows[units[0]] / gain, layer.number, wrong, scaling)
        low, high = low - loose[units].max() / gain, high + loose[units].max() / gain
        made = [HiddenUnit(gain, bias[j], w) for j, w in zip(units, written, strict=True)]
        if all(np.array_equal(rows[j], rows[units[0]]) for j in units):
            least, most = activation.reach(made, low, high)
        else:
            least, most = np.zeros_like(low), np.zeros_like(high)
            for j, unit in zip(units, made, strict=True):
                ends = activation.reach([unit], *analysis.reach(
                    readings, rows[j] / gain, layer.number, wrong, scaling))
                least, most = least + ends[0], most + ends[1]
        size = gain * np.abs(np.stack([low, high])).max() + np.abs(bias[units]).max()
        rounding = 8 * analysis.unit * float(size * np.abs(written).sum())
        truth = (analysis.placed.values[analysis.placed.token] if step.signal == COPY
                 else analysis.placed.values[step.signal])
        least = least + step.made.constant - truth - rounding
        most = most + step.made.constant - truth + rounding
        mistakes[step.signal] = (float(least.min()), float(most.max()))
        if step.signal != COPY:
            found += _texts(step, low, high, made, truth)
    return found, mistakes


def _texts(
    step: Rows, low: Array, high: Array, made: list[HiddenUnit], truth: Array
) -> list[Inequality]:
    """The two conditions of a step: below its bends when off, above them when on."""
    bends = [-u.bias / u.gain for u in made]
    on = truth > 0
    return [
        Inequality(f"{step.signal} off", "the largest sum that must not count stays below the "
                   "bend", float(high[~on].max(initial=-np.inf)), min(bends), step.line),
        Inequality(f"{step.signal} on", "the last bend lies below the least sum that must count",
                   max(bends), float(low[on].min(initial=np.inf)), step.line),
    ]


def _decode(
    analysis: Analysis, readings: list[Reading], wrong: Mistakes
) -> tuple[float, Inequality]:
    """The least margin of the right token's logit over any other's, over all contexts."""
    placed, structure = analysis.placed, analysis.structure
    factor = float(placed.digit_factor)
    reader = np.zeros(structure.d_model)
    reader[placed.out] = 1 / factor
    low, high = analysis.reach(readings, reader, placed.layers + 1, wrong,
                               Scaling(np.ones(structure.d_model)))
    constant = float(decoded(placed.circuit).constant)
    right = placed.values["emitted"]
    low, high = (np.broadcast_to(v + constant, right.shape) for v in (low, high))
    z = np.unique(np.stack([right, low, high], axis=1), axis=0)
    slopes, bias, spread = _logits(analysis)
    margin, row = math.inf, np.arange(len(z))
    for end in (1, 2):
        logits = z[:, [end]] * slopes + bias if slopes is not None else -np.abs(
            z[:, [end]] - np.arange(structure.format.vocabulary))
        digit = z[:, 0].astype(int)
        ahead = logits[row, digit][:, None] - logits - spread[digit]
        ahead[row, digit] = math.inf
        size = float(np.abs(logits).max())
        margin = min(margin, float(ahead.min()) - 4 * analysis.unit * size)
    return margin, Inequality("decode", "a wrong digit's logit stays below the right one's",
                              -margin, 0.0, placed.circuit.nodes[-1].line)


def _logits(analysis: Analysis) -> tuple[Array | None, Array, Array]:
    """Logits as slope * z + bias per token, and for each pair of tokens [V, V] how much
    what else the residual holds, and rounding, can move one against the other."""
    structure, placed = analysis.structure, analysis.placed
    scaling = analysis.scaling(structure.final_norm, analysis.sizes)
    count = structure.format.vocabulary
    if placed.logit_slots:
        ffn = structure.blocks[-1].feed_forward
        assert ffn is not None
        unit = ACTIVATIONS[ffn.activation]
        loose = 4 * float(unit.tail(np.array(0.0))) / float(unit.pass_positive or 1.0)
        loose += count * (scaling.eps * 4 + 32 * analysis.unit) + 2 * scaling.shift
        return None, np.zeros(0), np.full((count, count), loose)
    head = analysis.matrix(structure.head.weight) * scaling.gain
    bias = (analysis.matrix(structure.head.bias)[0] if structure.head.bias is not None
            else np.zeros(count))
    one, fixed = analysis.constant, analysis.fixed
    slopes = head[:, placed.out] * float(placed.digit_factor)
    others = head.copy()
    others[:, placed.out] = 0.0
    middle, half = one.copy(), analysis.sizes.copy()
    low, high = analysis.tokens.min(axis=0), analysis.tokens.max(axis=0)
    middle[fixed], half[fixed] = ((low + high) / 2)[fixed], ((high - low) / 2)[fixed]
    bias = bias + others @ middle
    apart = np.abs(others[:, None, :] - others[None, :, :]) @ half  # [V, V]
    terms = int(np.count_nonzero(head, axis=1).max()) + 2
    rounding = 2 * terms * analysis.unit * float(
        (np.abs(head) @ np.maximum(analysis.sizes, np.abs(one))).max())
    # a norm's factor scales every logit difference alike
    return slopes, bias, apart + rounding + scaling.shift * float(np.ptp(head.sum(axis=1)))
