"""Steps in feed-forward layers, plain or gated, with biases or a constant channel.

Takes: the placed units of one layer and an activation. Gives: `Layer`: rows, biases and
output weights as wanted matrices, and the structure's block.
May import: errors, ir, passes, realize.activations, realize.store, weights.

Each step's units read one row: the slots whose combination is the step's argument. A gated
layer (ReGLU, SwiGLU) multiplies each unit by a second row that is constant 1, from its bias
or from the constant channel. Without biases the constant channel carries them too:
act(row . x + b) = act((row + b / c e_one) . x), where slot e_one holds c.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

import numpy as np

from adderc.errors import Fault, Refusal
from adderc.ir.graph import decoded
from adderc.ir.ops import Wave
from adderc.passes.place import COPY, POSITION, PlacedCircuit, Unit
from adderc.realize.activations import Activation, HiddenUnit, StepUnits
from adderc.realize.store import Store
from adderc.weights.expr import Expr, Structural
from adderc.weights.structure import FeedForward

Array = np.ndarray


@dataclass(frozen=True)
class Rows:
    """One step (or constant, or copy) with its row over the residual [D] and its units.

    row . residual is at most `off` where the step is 0 and at least `on` where it is 1.
    """

    signal: str | None
    row: Array
    off: float
    on: float
    made: StepUnits
    line: int

    @property
    def slack(self) -> float:
        """How far z may be off before the step changes (for hinges; else half of that)."""
        edges = [-u.bias / u.gain for u in self.made.units if u.gain]
        if len(edges) < 2:
            return (self.on - self.off) / 4
        return min(min(edges) - self.off, self.on - max(edges))


@dataclass(frozen=True)
class Layer:
    """All steps of layer `number`.

    `query_gain` is the gain with which the residual holds the position's sine and cosine;
    `biased` whether there are biases; `copies` whether this layer writes the token's value.
    """

    placed: PlacedCircuit
    number: int
    activation: Activation
    gated: bool
    biased: bool
    query_gain: float
    first_query: int
    copies: bool = False

    def steps(self) -> list[Rows]:
        found = [self.step(unit) for unit in self.placed.units if unit.layer == self.number]
        last = self.number == self.placed.layers
        if not last:
            return [self.held(rows) if rows.made.constant else rows for rows in found]
        if self.copies:
            found.append(self.copy())
        constant = float(decoded(self.placed.circuit).constant)
        constant += sum(rows.made.constant * self.digit(rows.signal) for rows in found)
        if constant:
            unit = self.activation.one()
            units = StepUnits((HiddenUnit(0.0, unit.bias, unit.out * constant),))
            found.append(Rows(None, np.zeros(self.placed.d_model), -math.inf, math.inf, units, 0))
        return found

    def held(self, rows: Rows) -> Rows:
        """A step that later layers read, with its constant from one more unit."""
        unit = self.activation.one()
        constant = HiddenUnit(0.0, unit.bias, unit.out * rows.made.constant)
        return replace(rows, made=StepUnits((*rows.made.units, constant)))

    def digit(self, signal: str | None) -> float:
        """How often a signal counts in the decoded digit."""
        if signal is None:
            return 0.0
        return float(self.counted.get(signal, Fraction(0)))

    @cached_property
    def counted(self) -> dict[str, Fraction]:
        """The decoded digit, by signal."""
        return dict(decoded(self.placed.circuit).terms)

    def step(self, unit: Unit) -> Rows:
        """The units of one step, its row in integers where it is rational."""
        scale = math.lcm(*(c.denominator for c in unit.row)) if any(unit.row) else 1
        row = np.array([float(c * scale) for c in unit.row])
        sine, cosine = (self.placed.slot_of(name) for name in POSITION)
        for name, coefficient in unit.waves:
            wave = self.placed.circuit[name].op
            assert isinstance(wave, Wave)
            phase = 2 * math.pi * float(Fraction(wave.place + self.first_query) / wave.period % 1)
            row[cosine] += scale * float(coefficient) * math.cos(phase) / self.query_gain
            row[sine] += scale * float(coefficient) * math.sin(phase) / self.query_gain
        off, on = unit.off * scale, unit.on * scale
        return Rows(unit.step, row, off, on, self.activation.step(off, on), unit.line)

    def copy(self) -> Rows:
        """One unit that is the token's value again: act(k z) / k for z = 0, 1, 2, …"""
        gain = self.activation.copies
        assert gain is not None
        assert self.placed.copy_row is not None
        row = np.array([float(c) for c in self.placed.copy_row])
        unit = HiddenUnit(gain, 0.0, 1 / gain)
        return Rows(COPY, row, -math.inf, math.inf, StepUnits((unit,)), 0)

    def column(self, signal: str | None) -> Array:
        """What one unit of a signal adds to the residual [D]."""
        if signal is None:
            return np.array([float(c) for c in self.placed.digit_column])
        return np.array([float(c) for c in self.placed.column(signal)])

    def build(self, store: Store, prefix: str = "ffn") -> FeedForward | None:
        """The feed-forward block in the forms the spec asks for; None without any step."""
        steps = self.steps()
        if not steps:
            return None
        rows, bias, down = self.matrices(steps)
        self.check_width(len(rows), store)
        if store.plan.cut_units and (count := store.plan.feed_forward.number) is not None:
            rows, bias, down = rows[:count], bias[:, :count], down[:, :count]
        spare = (store.plan.feed_forward.number or len(rows)) - len(rows)
        rows = np.vstack([rows, np.zeros((spare, rows.shape[1]))])
        bias = np.hstack([bias, np.zeros((1, spare))])
        down = np.hstack([down, np.zeros((down.shape[0], spare))])
        if not self.biased:
            rows = self.unbiased(rows, bias)
        up = store.matrix("ffn.up", "dense", f"{prefix}.rows", rows, "what each unit reads")
        up_bias = None if not self.biased else store.matrix(
            "ffn.bias", "dense", f"{prefix}.bias", bias, "where it bends")
        out = store.matrix("ffn.down", "dense", f"{prefix}.out", down, "what each unit writes")
        gate, gate_bias = self.gate(rows, store, prefix) if self.gated else (None, None)
        return FeedForward(self.activation.name, up, out, up_bias, None, gate, gate_bias)

    def matrices(self, steps: list[Rows]) -> tuple[Array, Array, Array]:
        """Wanted rows [F, D], biases [1, F] and output [D, F]."""
        rows, bias, columns = [], [], []
        for step in steps:
            for unit in step.made.units:
                rows.append(unit.gain * step.row)
                bias.append(unit.bias)
                columns.append(unit.out * self.column(step.signal))
        return np.stack(rows), np.array([bias]), np.stack(columns, axis=1)

    def unbiased(self, rows: Array, bias: Array) -> Array:
        """Rows that take their biases from the constant channel."""
        height = self.placed.one_height
        carried = rows.copy()
        carried[:, self.placed.one] += bias[0] / height
        return carried

    def gate(self, rows: Array, store: Store, prefix: str) -> tuple[Expr, Expr | None]:
        """The second rows of a gated layer: constant 1."""
        count = len(rows)
        if self.biased:
            ones = Structural(tuple((0, at, 1) for at in range(count)), (1, count))
            return Structural((), rows.shape), ones
        wanted = np.zeros_like(rows)
        wanted[:, self.placed.one] = 1 / self.placed.one_height
        return store.matrix("ffn.gate", "dense", f"{prefix}.gate", wanted, "gates, all 1"), None

    def check_width(self, units: int, store: Store) -> None:
        wanted = store.plan.feed_forward.number
        if wanted is not None and wanted < units and not store.plan.cut_units:
            steps = ", ".join(str(r.signal) for r in self.steps() if r.signal)
            raise Refusal(kind="algorithm impossible", source=store.source, faults=(Fault(
                f"{wanted} hidden units are too few: {units} are needed ({steps})",
                store.plan.feed_forward.span,
                f"write {store.plan.feed_forward.name} {units}, or no number"),))
