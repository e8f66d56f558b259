"""Error bounds of a compiled model: every inequality its weights must satisfy.

Takes: a structure, its leaf values, the placed circuit and the layers. Gives: `judge` →
`Judgement`, one `Inequality` per head, step and decode, with its two sides.
May import: format, ir, passes, realize, weights.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from adderc.ir.graph import decoded
from adderc.passes.place import COPY, PlacedCircuit
from adderc.realize.activations import ACTIVATIONS, Activation, HiddenUnit
from adderc.realize.analysis import UNIT, Analysis, Mistakes, Reading, Scaling
from adderc.realize.decode import VShapes
from adderc.realize.feedforward import Layer, Rows
from adderc.weights.structure import FeedForward, Structure

Array = np.ndarray
LONG = 8


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
    """All inequalities, and the bound on the least logit margin they give.

    `budget` breaks an error down, where it was: (name, size, source) of each term; `held`
    says what the dtypes hold.
    """

    inequalities: tuple[Inequality, ...]
    margin: float
    budget: tuple[tuple[str, float, str], ...] = ()
    held: tuple[str, ...] = ()

    @property
    def broken(self) -> tuple[Inequality, ...]:
        return tuple(i for i in self.inequalities if not i.holds)


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
            sizes = analysis.sizes if block.feed_forward_norm is None else analysis.sizes_before(
                layer.number, readings, wrong)
            scaling = analysis.scaling(block.feed_forward_norm, sizes)
            inequalities, mistakes = _steps(
                analysis, readings, block.feed_forward, layer, wrong, scaling)
            found += inequalities
            wrong |= mistakes
    margin, decode = _decode(analysis, readings, wrong)
    return Judgement((*found, decode), margin)


def _head_inequalities(analysis: Analysis, readings: list[Reading]) -> list[Inequality]:
    found = []
    for head in readings:
        top = float(np.abs(head.worth).max())
        total = float(analysis.placed.alignment.head(head.fetch).total)
        reads = analysis.layout.values() > 0
        leak = float((np.abs(head.pattern * total - head.wanted) * reads).sum(axis=1).max())
        line = analysis.placed.circuit[head.fetch].line
        found.append(Inequality(f"{head.fetch} leak",
                                f"digits read by mistake, of at most {top:g} each", leak * top,
                                0.5 * total, line))
        found.append(Inequality(
            f"{head.fetch} rounding",
            f"scores moved by rounding in {analysis.structure.dtype} and by other tokens",
            (head.wobble + head.tilt.swing()) * total * top / 2, 0.5 * total, line))
    return found


@dataclass(frozen=True)
class Hidden:
    """A feed-forward layer's matrices, with biases the constant channel carries made plain."""

    rows: Array  # [F, D]
    bias: Array  # [F]
    down: Array  # [D, F]
    loose: Array  # [F]: how far a carried bias can be off
    rounding: Array  # [F]: what rounding of a unit's sum and of the layer's adds to its value
    common: float  # a norm's factor on sum and bias alike: it cannot move a threshold


def _hidden(
    analysis: Analysis, block: FeedForward, scaling: Scaling, sizes: Array
) -> Hidden:
    """The matrices for inputs whose slots are at most `sizes` in front of the norm."""
    rows, down = analysis.matrix(block.up), analysis.matrix(block.down)
    bias = np.zeros(len(rows)) if block.up_bias is None else analysis.matrix(block.up_bias)[0]
    rounding = _unit_rounding(block, rows, bias, down, sizes * scaling.gain, analysis.unit)
    if block.up_bias is not None:
        return Hidden(rows, bias, down, np.zeros(len(rows)), rounding, 0.0)
    carried = rows * scaling.gain
    bias = carried @ analysis.constant
    drift = np.abs(analysis.tokens - analysis.constant)[:, analysis.fixed].max(axis=0)
    loose = np.abs(carried[:, analysis.fixed]) @ drift + 8 * analysis.unit * np.abs(bias)
    rows = rows.copy()
    rows[:, analysis.fixed] = 0.0
    return Hidden(rows, bias, down, loose, rounding, scaling.eps)


def _unit_rounding(
    block: FeedForward, rows: Array, bias: Array, down: Array, most: Array, unit: float
) -> Array:
    """Rounding of each unit's sum, of the activation and gate, and each unit's part of the
    rounding of what the layer writes [F], for inputs up to `most`. Of very many units no more
    than LONG roundings are taken to have one direction."""
    activation, size = ACTIVATIONS[block.activation], np.abs(rows) @ most
    value = np.maximum(*(np.abs(activation.limit(end)) for end in (bias - size, bias + size)))
    value = np.minimum(value + activation.tail(np.zeros(len(bias))), size + np.abs(bias))
    own = 4.0 * bool(activation.tail(np.array(0.0))) + 2.0 * (block.gate is not None)
    written = np.abs(down) @ value
    each = _sum_rounding(down, np.zeros(len(down)), value, unit) / np.where(written, written, 1.0)
    return np.asarray(1.2 * _sum_rounding(rows, bias, most, unit)
                      + (own * unit + min(float(each.max(initial=0.0)), LONG * unit)) * value)


def _steps(
    analysis: Analysis, readings: list[Reading], block: FeedForward, layer: Layer,
    wrong: Mistakes, scaling: Scaling,
) -> tuple[list[Inequality], dict[str, tuple[float, float]]]:
    """The inequalities of one layer's steps, and how far each of its steps can be off."""
    hidden = _hidden(analysis, block, scaling, analysis.sizes_at(layer.number))
    if hidden.common:
        scaling = replace(scaling, eps=0.0)
    found: list[Inequality] = []
    mistakes: dict[str, tuple[float, float]] = {}
    at = 0
    for step in layer.steps():
        units = list(range(at, at + len(step.made.units)))
        at += len(units)
        if step.signal is None:
            continue
        gain = next((u.gain for u in step.made.units), 1.0) or 1.0
        reached = [
            (low - hidden.loose[j] / gain, high + hidden.loose[j] / gain)
            for j in units
            for low, high in [analysis.reach(readings, hidden.rows[j] / gain, layer.number, wrong,
                                             scaling)]]
        column = layer.column(step.signal)
        written = hidden.down[:, units].T @ column / float(column @ column)
        made = [HiddenUnit(gain, hidden.bias[j], w) for j, w in zip(units, written, strict=True)]
        same = all(np.array_equal(hidden.rows[j], hidden.rows[units[0]]) for j in units)
        least, most = _written(block.activation, made, reached, same, hidden.common)
        rounding = float(np.abs(written) @ hidden.rounding[units])
        truth = analysis.placed.values[
            analysis.placed.token if step.signal == COPY else step.signal]
        off = step.made.constant - truth
        mistakes[step.signal] = (float((least + off).min()) - rounding,
                                 float((most + off).max()) + rounding)
        if step.signal != COPY:
            bending = [u for u, own in zip(made, step.made.units, strict=True) if own.gain]
            found += _texts(step, *reached[0], bending, truth)
    return found, mistakes


def _written(
    name: str, made: list[HiddenUnit], reached: list[tuple[Array, Array]], same: bool,
    common: float,
) -> tuple[Array, Array]:
    """Bounds of what a step's units write together: as one function of one sum where all
    read the same, else one by one."""
    activation = ACTIVATIONS[name]
    if same:
        low = np.minimum.reduce([low for low, _ in reached])
        high = np.maximum.reduce([high for _, high in reached])
        return activation.reach(made, low, high, common)
    ends = [activation.reach([unit], *span, common)
            for unit, span in zip(made, reached, strict=True)]
    zero = np.zeros(1)
    return (sum((low for low, _ in ends), zero), sum((high for _, high in ends), zero))


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
    first = structure.format.first_state
    tokens = np.unique(right) + first
    written = np.abs(z).max() * factor
    made = _logits(analysis, tokens, written, readings, wrong)
    margin, row = math.inf, np.arange(len(z))
    ends = (z[:, [1]] - made.blur, z[:, [2]] + made.blur)
    for end, share in itertools.product(ends, {1.0, 1 - made.eps}):  # linear in both, or V-shapes
        logits = made.at(end, share)
        digit = z[:, 0].astype(int) + first
        ahead = logits[row, digit][:, None] - logits - made.spread[np.searchsorted(tokens, digit)]
        ahead[row, digit] = math.inf
        size = float(np.abs(logits).max())
        margin = min(margin, float(ahead.min()) - 8 * UNIT["float64"] * size)
    return margin, Inequality("decode", "a wrong digit's logit stays below the right one's",
                              -margin, 0.0, placed.circuit.nodes[-1].line)


@dataclass(frozen=True)
class Logits:
    """f (slope z + carried) + bias per token, a norm's factor f being within `eps` below 1,
    and for each right token and any other [R, V] by how much what else the residual holds,
    and rounding, can move one against the other. Or V-shapes of z that is off by `blur`."""

    spread: Array
    slopes: Array | float = 0.0
    carried: Array | float = 0.0
    bias: Array | float = 0.0
    eps: float = 0.0
    vshapes: Callable[[Array], Array] | None = None
    blur: float = 0.0

    def at(self, z: Array, share: float) -> Array:
        """Logits [N, V] of digits z [N, 1], f being `share`."""
        if self.vshapes is not None:
            return self.vshapes(z)
        return np.asarray(share * (z * self.slopes + self.carried) + self.bias)


def _logits(
    analysis: Analysis, tokens: Array, written: float, readings: list[Reading], wrong: Mistakes
) -> Logits:
    """The logits of a digit whose slot is at most `written`, by the right `tokens`."""
    structure, placed = analysis.structure, analysis.placed
    norm = structure.final_norm
    sizes = analysis.sizes if norm is None or placed.logit_slots else analysis.sizes_before(
        placed.layers + 1, readings, wrong)
    scaling = analysis.scaling(norm, sizes)
    count = structure.format.vocabulary
    if placed.logit_slots:
        ffn = structure.blocks[-1].feed_forward
        assert ffn is not None
        return _vshapes(ACTIVATIONS[ffn.activation], analysis, len(tokens), written, scaling)
    weight, inexact = analysis.rounded(structure.head.weight)
    head = weight * scaling.gain
    bias = (analysis.matrix(structure.head.bias)[0] if structure.head.bias is not None
            else np.zeros(count))
    slopes = head[:, placed.out] * float(placed.digit_factor)
    others = head.copy()
    others[:, placed.out] = 0.0
    middle, half = analysis.constant.copy(), analysis.sizes.copy()
    low, high = analysis.tokens.min(axis=0), analysis.tokens.max(axis=0)
    middle[analysis.fixed], half[analysis.fixed] = (
        v[analysis.fixed] for v in ((low + high) / 2, (high - low) / 2))
    most = np.maximum(analysis.sizes, np.abs(analysis.constant))
    most[placed.out] = written
    across = np.abs(head[tokens, None, :] - head[None, :, :])  # [R, V, D]
    own = (_sum_rounding(head, bias, most, analysis.unit)
           + inexact * analysis.unit * (np.abs(head) @ most))
    apart = (np.abs(others[tokens, None, :] - others[None, :, :]) @ half
             + 8 * analysis.unit * (across @ most) + own[tokens, None] + own[None]
             + scaling.shift * float(np.ptp(head.sum(axis=1))))
    return Logits(apart, slopes, others @ middle, bias, 0.0 if norm is None else scaling.eps)


def _vshapes(
    activation: Activation, analysis: Analysis, rows: int, written: float, scaling: Scaling
) -> Logits:
    """V-shapes of a digit whose slot is at most `written`: from units that pass positive
    values, what is off moves logits; from steps, it moves the digit that they compare."""
    form, unit, factor = analysis.structure.format, analysis.unit, analysis.placed.digit_factor
    count = form.vocabulary
    vshapes = VShapes(activation, np.arange(count) - form.first_state)
    loose = count * (scaling.eps * 4 + 32 * unit) + 2 * scaling.shift
    loose += 4 * unit * (written / float(factor) + count)
    if activation.pass_positive is None:
        return Logits(np.full((rows, count), 16 * unit * count), vshapes=vshapes.logits, blur=loose)
    loose += 4 * float(activation.tail(np.array(0.0))) / activation.pass_positive
    return Logits(np.full((rows, count), loose), vshapes=vshapes.logits)


def _sum_rounding(weight: Array, bias: Array, most: Array, unit: float) -> Array:
    """How far weight @ x + bias is off [V], |x| <= most, in any order of summation: half a unit
    in the last place of each product (a power of two makes it exact) and each partial sum."""
    def half_ulp(size: Array) -> Array:
        return np.asarray(unit * np.exp2(np.floor(np.log2(np.maximum(size, 1e-300)))))

    products = np.abs(weight) * most * (1 + 16 * unit)
    exact = np.frexp(np.abs(weight))[0] == 0.5
    single = np.where(exact | (products == 0), 0.0, half_ulp(products)).sum(axis=1)
    terms = np.count_nonzero(products, axis=1) + (bias != 0)
    sums = (products.sum(axis=1) + np.abs(bias)) * (1 + 2 * terms * unit)
    return np.asarray(single + np.maximum(terms - 1, 0) * half_ulp(sums))
