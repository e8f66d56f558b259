"""Steps by ReLU hinge pairs.

Takes: the placed units of one layer. Gives: `HingePairs`: rows, biases and output weights,
and the structure's feed-forward block; `pair_range`, the error bound of a pair.
May import: passes, realize.store, weights.

A step that is 0 where z <= off and 1 where z >= on becomes

    (relu(z - lo) - relu(z - hi)) / (hi - lo),    off < lo < hi < on,

exactly 0 up to lo and exactly 1 from hi on: an error in z below the slack
min(lo - off, on - hi) changes nothing. lo and hi stand in the middle of (off, on); the ramp
hi - lo is a power of two, at most 1/8 of it and at most 1, so that biases and output
weights are exact binary numbers and rounding is amplified little.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from adderc.errors import Fault, Refusal
from adderc.ir.graph import decoded
from adderc.ir.ops import Wave
from adderc.passes.place import POSITION, PlacedCircuit, Unit
from adderc.realize.store import Store
from adderc.weights.structure import FeedForward

Array = np.ndarray


@dataclass(frozen=True)
class Hinge:
    """One pair: its row over the residual [D], off < lo < hi < on, and the step it makes."""

    step: str | None
    row: Array
    off: float
    low: float
    high: float
    on: float
    line: int


@dataclass(frozen=True)
class HingePairs:
    """All pairs of layer `layer`; hidden units 2k and 2k + 1 make pair k.

    `query_gain` is the gain with which the residual holds the position's sine and cosine.
    """

    placed: PlacedCircuit
    layer: int
    query_gain: float
    first_query: int

    def hinges(self) -> list[Hinge]:
        found = [self.hinge(unit) for unit in self.placed.units if unit.layer == self.layer]
        if self.layer == self.placed.layers and decoded(self.placed.circuit).constant:
            row = np.zeros(self.placed.d_model)  # one unit that is always 1
            found.append(Hinge(None, row, -math.inf, -1.0, 0.0, math.inf, 0))
        return found

    def hinge(self, unit: Unit) -> Hinge:
        """The pair of one step, its row in integers where it is rational."""
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
        ramp = min(1.0, 2.0 ** math.floor(math.log2((on - off) / 8)))
        low = (off + on - ramp) / 2
        if not unit.waves:
            low = math.floor(low / ramp) * ramp
        return Hinge(unit.step, row, off, low, low + ramp, on, unit.line)

    def build(self, store: Store, prefix: str = "ffn") -> FeedForward | None:
        """The feed-forward block in the forms the spec asks for; None without any step."""
        hinges = self.hinges()
        wanted = store.plan.feed_forward.number
        self.check_width(len(hinges), wanted, store)
        if not hinges:
            return None
        rows = np.repeat(np.stack([hinge.row for hinge in hinges]), 2, axis=0)
        bias = np.array([[-edge for hinge in hinges for edge in (hinge.low, hinge.high)]])
        spare = (wanted or len(rows)) - len(rows)
        rows = np.vstack([rows, np.zeros((spare, rows.shape[1]))])
        bias = np.hstack([bias, np.zeros((1, spare))])
        down = np.hstack([self.output(hinges), np.zeros((rows.shape[1], spare))])
        up = store.matrix("ffn.up", "dense", f"{prefix}.rows", rows, "what each unit reads")
        up_bias = store.matrix("ffn.bias", "dense", f"{prefix}.bias", bias, "where it bends")
        return FeedForward("relu", up, store.matrix(
            "ffn.down", "dense", f"{prefix}.out", down, "what each unit writes"), up_bias)

    def output(self, hinges: list[Hinge]) -> Array:
        """Wanted down matrix [D, F]: + and - the step's column over the ramp."""
        columns = []
        for hinge in hinges:
            if hinge.step is None:
                column = np.zeros(self.placed.d_model)
                column[self.placed.out] = float(decoded(self.placed.circuit).constant)
                columns += [column, 0 * column]
                continue
            column = np.array([float(c) for c in self.placed.column(hinge.step)])
            column = column / (hinge.high - hinge.low)
            columns += [column, -column]
        return np.stack(columns, axis=1)

    def check_width(self, pairs: int, wanted: int | None, store: Store) -> None:
        if wanted is not None and wanted < 2 * pairs:
            steps = ", ".join(str(h.step) for h in self.hinges() if h.step)
            raise Refusal(kind="algorithm impossible", source=store.source, faults=(Fault(
                f"{wanted} hidden units are too few: {pairs} steps need {2 * pairs} ({steps})",
                store.plan.feed_forward.span, f"write relu {2 * pairs}, or relu alone"),))


def pair_range(weights: Array, biases: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """Bounds of sum_j weights[j] relu(z + biases[j]) for z in [low, high], elementwise.

    Piecewise linear in z, so its extremes lie at the ends or at a bend inside.
    """
    def at(z: Array) -> Array:
        return np.maximum(z[..., None] + biases, 0.0) @ weights

    ends = [at(low), at(high)]
    for bend in -biases:
        ends.append(at(np.clip(bend, low, high)))
    stacked = np.stack(ends)
    return stacked.min(axis=0), stacked.max(axis=0)
