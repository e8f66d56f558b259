"""The checker's own carry automaton, in exact integers.

Takes: a format. Gives: `Places` (what each position holds), `Profile` (largest sums of
integer tables by carry and digit sum).
May import: format, the standard library, numpy.

Tables are integers, so their sums and maxima are exact; the caller rounds them upward.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from adderc.format.prompt import Format

Array = np.ndarray
NEVER = -(2**60)
LARGEST = 2**56  # of the sum of the magnitudes of a table's entries


@dataclass(frozen=True)
class Case:
    """Carry into the step's place, digit sum there; total at the place of the current token
    and digit tuple where the certificate split them."""

    carry: int
    digit_sum: int
    near: int | None = None
    digits: tuple[int, ...] | None = None


class Places:
    """Digit tuples at a place and the token each position shows for them."""

    def __init__(self, format: Format) -> None:
        number = format.number
        self.format, self.base, self.k, self.width = format, number.base, number.operands, (
            number.width)
        self.count = max(number.answer_digits, format.steps, number.width)
        self.tuples = list(itertools.product(range(self.base), repeat=self.k))
        self.sums = np.array([sum(t) for t in self.tuples])
        self.totals = self.sums[None, :] + np.arange(self.k)[:, None]  # [k, Q]
        self.shows: dict[int, tuple[int, Array]] = {}
        self.known: dict[int, int] = {}
        for position, cell in enumerate(format.cells):
            if cell.kind == "symbol":
                self.known[position] = format.ids[cell.text]
                continue
            if cell.kind == "digit":
                row = np.array([t[cell.operand] for t in self.tuples])
            else:
                row = np.array([self._joined(t) for t in self.tuples])
            self.shows[position] = (cell.place, np.broadcast_to(row, self.totals.shape))
        for step in range(format.steps):
            written = (self.totals if format.answer_kind == "states"
                       else self.totals % self.base)
            self.shows[len(format.cells) + step] = (format.answer_place(step), written)

    def _joined(self, digits: tuple[int, ...]) -> int:
        value = 0
        for digit in digits:
            value = value * self.base + digit
        return value

    def tokens(self, position: int) -> int:
        """Tokens 0 … n - 1 can stand at the position."""
        return int(self.shows[position][1].max()) + 1

    def expected(self, case: Case) -> int:
        total = case.carry + case.digit_sum
        return total if self.format.answer_kind == "states" else total % self.base

    def all_cases(self) -> Iterator[Case]:
        """Every carry and digit sum there is; some may be impossible at a place."""
        for carry in range(self.k):
            for digit_sum in range(self.k * (self.base - 1) + 1):
                yield Case(carry, digit_sum)


class Profile:
    """Largest sums of tables {position: [F, n]} over all operands, F tables at once."""

    def __init__(self, places: Places, tables: dict[int, Array], count: int, place: int) -> None:
        self.places, self.place = places, place
        shape = (count, places.k, len(places.tuples))
        self.cost = []
        for at in range(places.count):
            cost = np.zeros(shape, dtype=np.int64)
            if at >= places.width:
                cost[:, :, places.sums != 0] = NEVER
            self.cost.append(cost)
        for position, table in tables.items():
            at, shown = places.shows[position]
            allowed = self.cost[at] > NEVER
            self.cost[at] = np.where(allowed, self.cost[at] + table[:, shown], NEVER)
        self.out = places.totals // places.base
        self.low = [np.full((count, places.k), NEVER)]
        self.low[0][:, 0] = 0
        for at in range(places.count):
            value = self._clamp(self.low[-1][:, :, None] + self.cost[at])
            self.low.append(np.stack([np.where(self.out == c, value, NEVER).max(axis=(1, 2))
                                      for c in range(places.k)], 1))
        self.high = [np.full((count, places.k), NEVER)]
        self.high[0][:, 0] = 0
        for at in range(places.count - 1, -1, -1):
            value = self._clamp(self.cost[at] + self.high[0][:, self.out])
            self.high.insert(0, value.max(axis=2))

    @staticmethod
    def _clamp(values: Array) -> Array:
        return np.maximum(values, NEVER)

    def largest(self, case: Case, near_place: int | None) -> Array:
        """The largest sum of each table in a case, [F]; NEVER or less where none fits."""
        places, at = self.places, self.place
        total = case.carry + case.digit_sum
        out = total // places.base
        chosen = places.sums == case.digit_sum
        if case.digits is not None:
            chosen &= np.array([t == case.digits for t in places.tuples])
        here = np.where(chosen, self.cost[at][:, case.carry], NEVER).max(axis=1)
        low, high = self.low[at][:, case.carry], self.high[at + 1][:, out]
        if case.near is not None and near_place == at - 1:
            if case.near // places.base != case.carry:
                return np.full(len(here), NEVER)
            value = self._clamp(self.low[at - 1][:, :, None] + self.cost[at - 1])
            low = np.where(places.totals == case.near, value, NEVER).max(axis=(1, 2))
        elif case.near is not None and near_place == at + 1:
            after = self.high[at + 2][:, case.near // places.base]
            value = np.where(places.totals[out] == case.near, self.cost[at + 1][:, out], NEVER)
            high = self._clamp(value.max(axis=1)) + after
        return self._clamp(self._clamp(low) + here) + self._clamp(high)
