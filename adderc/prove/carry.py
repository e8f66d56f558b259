"""Which digits can stand together: the carry automaton, and exact ranges over it.

Takes: a format. Gives: `Automaton` (what each token position can hold) and `Ranges`, the
largest value of sums of token tables over all operands that fit a case.
May import: errors, format, prove.doubt.

Place j holds the digits d_1 … d_k of the operands (all 0 beyond the width) and the carry c_j
into it. With x the digit sum, t = x + c_j: the answer digit is t mod base and the carry out
t div base. Written answer tokens are therefore functions of the operands. A limit on the
operands is ignored, which only adds operand tuples.

N tables, P positions, D tokens a position can hold, C cases, X digit sums.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from adderc.format.prompt import Format
from adderc.prove.doubt import Unsupported

Array = np.ndarray
MOST_TUPLES = 50_000
NEVER = -np.inf


@dataclass(frozen=True)
class Holder:
    """What a position holds: kind "symbol", "digit", "tuple", "answer" or "state"."""

    kind: str
    place: int = -1
    operand: int = -1
    token: int = -1


class Automaton:
    """The digits of k operands place by place; positions of prompt and answer."""

    def __init__(self, format: Format) -> None:
        number = format.number
        self.format, self.base, self.k = format, number.base, number.operands
        self.places = max(number.width, format.steps, number.answer_digits)
        self.width, self.sums = number.width, number.operands * (number.base - 1) + 1
        if self.base**self.k > MOST_TUPLES:
            raise Unsupported(f"{self.base}^{self.k} digit tuples at one place are too many")
        tuples = itertools.product(range(self.base), repeat=self.k)
        digits = np.array(list(tuples), dtype=np.int64)
        order = np.argsort(digits.sum(1), kind="stable")
        self.digits = digits[order]  # [Q, k], by digit sum
        self.tuple_sum = self.digits.sum(1)
        self.first_of_sum = np.searchsorted(self.tuple_sum, np.arange(self.sums))
        powers = self.base ** np.arange(self.k - 1, -1, -1)
        self.tuple_token = self.digits @ powers
        self.holders = self._holders()

    def _holders(self) -> list[Holder]:
        format, found = self.format, []
        for cell in format.cells:
            if cell.kind == "symbol":
                found.append(Holder("symbol", token=format.ids[cell.text]))
            elif cell.kind == "digit":
                found.append(Holder("digit", cell.place, cell.operand))
            else:
                found.append(Holder("tuple", cell.place))
        kind = "state" if format.answer_kind == "states" else "answer"
        found += [Holder(kind, format.answer_place(step)) for step in range(format.steps)]
        return found

    def domain(self, position: int) -> int:
        """How many tokens the position can hold: they are 0 … domain - 1."""
        kind = self.holders[position].kind
        return {"symbol": 1, "digit": self.base, "answer": self.base,
                "tuple": self.base**self.k,
                "state": self.format.first_state + self.sums + self.k - 1}[kind]

    def token_of_total(self, position: int, totals: Array) -> Array:
        """Answer tokens for totals t (digit sum plus carry in)."""
        if self.holders[position].kind == "answer":
            return totals % self.base
        return totals + self.format.first_state

    def expected(self, step: int, carry: Array, sums: Array) -> Array:
        """The token that step `step` must emit where its place has these sums and carries."""
        total = sums + carry
        if self.format.answer_kind == "states":
            return total + self.format.first_state
        return total % self.base


@dataclass(frozen=True)
class Cases:
    """Classes of operand tuples at one answer step; arrays [C].

    `carry` into the step's place, `sums` its digit sum, `tuples` its digit tuple (None:
    any with that sum), `near` the total t at the place of the current token (None: any).
    """

    place: int
    carry: Array
    sums: Array
    tuples: Array | None = None
    near: Array | None = None
    near_place: int = -1

    def __len__(self) -> int:
        return len(self.carry)

    def choose(self, chosen: Array) -> Cases:
        return Cases(
            self.place, self.carry[chosen], self.sums[chosen],
            None if self.tuples is None else self.tuples[chosen],
            None if self.near is None else self.near[chosen], self.near_place)


class Ranges:
    """Largest sums of tables over all operands that fit each case of one step."""

    def __init__(self, automaton: Automaton, cases: Cases, positions: int) -> None:
        self.automaton, self.cases, self.positions = automaton, cases, positions
        # a path adds up one table for each position and a few sums for each place, each
        # rounded by at most 2^-53 of the tables' total magnitude
        self.own = (positions + 3 * automaton.places + 16) * 2.0**-53 * (1 + 2.0**-40)
        self._at: dict[int, list[int]] = {}
        for position in range(positions):
            holder = automaton.holders[position]
            if holder.place >= 0:
                self._at.setdefault(holder.place, []).append(position)

    # ------------------------------------------------------------ one place

    def prompt_part(self, tables: Array, place: int) -> Array:
        """Σ of the tables of the operands' digits at a place, by tuple: [N, Q] (or [N, 1])."""
        auto, total = self.automaton, np.zeros((len(tables), 1))
        for position in self._at.get(place, ()):
            holder = auto.holders[position]
            if holder.kind == "digit":
                total = total + tables[:, position, auto.digits[:, holder.operand]]
            elif holder.kind == "tuple":
                total = total + tables[:, position, auto.tuple_token]
        return total

    def answer_part(self, tables: Array, place: int) -> Array:
        """Σ of the tables of the written answer tokens of a place, by total t: [N, X+k-1]."""
        auto = self.automaton
        totals = np.arange(auto.sums + auto.k - 1)
        total = np.zeros((len(tables), len(totals)))
        for position in self._at.get(place, ()):
            if auto.holders[position].kind in ("answer", "state"):
                total = total + tables[:, position, auto.token_of_total(position, totals)]
        return total

    def by_sum(self, part: Array, place: int) -> Array:
        """The largest prompt part for each digit sum, [N, X]; only sum 0 beyond the width."""
        auto = self.automaton
        if place >= auto.width:
            best = np.full((len(part), auto.sums), NEVER)
            best[:, 0] = part[:, 0]  # symbols only: the tuple of zeros is the first
            return best
        if part.shape[1] == 1:
            return np.repeat(part, auto.sums, axis=1)
        return np.maximum.reduceat(part, auto.first_of_sum, axis=1)

    def by_carry_and_sum(self, tables: Array, place: int) -> Array:
        """[N, k, X]: the largest sum of all tables of a place by carry in and digit sum."""
        auto = self.automaton
        best = self.by_sum(self.prompt_part(tables, place), place)
        answer = self.answer_part(tables, place)
        columns = np.arange(auto.k)[:, None] + np.arange(auto.sums)
        return best[:, None, :] + answer[:, columns]

    # ------------------------------------------------------------ chains of places

    def from_below(self, tables: Array, place: int) -> Array:
        """[N, k]: the largest sum over places below, by carry into `place`."""
        auto = self.automaton
        best = np.full((len(tables), auto.k), NEVER)
        best[:, 0] = 0.0
        for lower in range(place):
            total = self._totals_from_below(tables, lower, best)
            best = self._carries(total)
        return best

    def _totals_from_below(self, tables: Array, place: int, best: Array) -> Array:
        """[N, X+k-1]: by the total t of `place`, that place included."""
        auto = self.automaton
        values = best[:, :, None] + self.by_carry_and_sum(tables, place)
        total = np.full((len(tables), auto.sums + auto.k - 1), NEVER)
        for carry in range(auto.k):
            span = slice(carry, carry + auto.sums)
            total[:, span] = np.maximum(total[:, span], values[:, carry])
        return total

    def _carries(self, total: Array) -> Array:
        """The best of each carry out from the best of each total."""
        auto = self.automaton
        starts = np.arange(0, total.shape[1], auto.base)
        best = np.maximum.reduceat(total, starts, axis=1)
        return best[:, : auto.k] if best.shape[1] >= auto.k else np.pad(
            best, ((0, 0), (0, auto.k - best.shape[1])), constant_values=NEVER)

    def from_above(self, tables: Array, place: int) -> Array:
        """[N, k]: the largest sum over `place` and all above, by carry into `place`."""
        auto = self.automaton
        best = np.full((len(tables), auto.k), NEVER)
        best[:, 0] = 0.0  # nothing may be carried out of the last place
        for upper in range(auto.places - 1, place - 1, -1):
            best = (self.by_carry_and_sum(tables, upper) + self._after(best)).max(axis=2)
        return best

    def _after(self, best: Array) -> Array:
        """[N, k, X]: `best` of the carry that leaves a place with carry c and digit sum x."""
        auto = self.automaton
        out = (np.arange(auto.k)[:, None] + np.arange(auto.sums)) // auto.base
        return best[:, np.minimum(out, auto.k - 1)]

    # ------------------------------------------------------------ cases

    def largest(self, tables: Array, rows: Array) -> Array:
        """[C, …]: for each case the largest sum of the tables rows [C] or [C, M] of [N, P, D].

        -inf where no operands fit the case. The float64 error of these sums is below
        `own` times the sum of the tables' largest magnitudes.
        """
        cases, auto = self.cases, self.automaton
        place, out = cases.place, (cases.sums + cases.carry) // auto.base
        extra = (slice(None),) + (None,) * (rows.ndim - 1)
        carry, sums, out = cases.carry[extra], cases.sums[extra], out[extra]
        near = None if cases.near is None else cases.near[extra]
        if near is not None and cases.near_place == place - 1:
            lower = self._totals_from_below(tables, place - 1, self.from_below(tables, place - 1))
            low = np.where(near // auto.base == carry, lower[rows, near], NEVER)
        else:
            low = self.from_below(tables, place)[rows, carry]
        if near is not None and cases.near_place == place + 1:
            high = self._above_by_total(tables, place + 1)[rows, out, near]
        else:
            high = self.from_above(tables, place + 1)[rows, np.minimum(out, auto.k - 1)]
        part = self.prompt_part(tables, place)
        if cases.tuples is None:
            here = self.by_sum(part, place)[rows, sums]
        else:
            index = cases.tuples[extra] if part.shape[1] > 1 else np.zeros_like(sums)
            here = part[rows, index]
        here = here + self.answer_part(tables, place)[rows, sums + carry]
        return low + here + high

    def _above_by_total(self, tables: Array, place: int) -> Array:
        """[N, k, X+k-1]: over `place` and above, by carry into it and its total."""
        auto = self.automaton
        after = self.by_carry_and_sum(tables, place) + self._after(
            self.from_above(tables, place + 1))
        found = np.full((len(tables), auto.k, auto.sums + auto.k - 1), NEVER)
        for carry in range(auto.k):
            found[:, carry, carry : carry + auto.sums] = after[:, carry]
        return found

    def possible(self) -> Array:
        """Which cases some operands fit: bool [C]."""
        tokens = max(self.automaton.domain(p) for p in range(self.positions))
        empty = np.zeros((1, self.positions, tokens))
        return self.largest(empty, np.zeros(len(self.cases), dtype=np.int64)) > NEVER
