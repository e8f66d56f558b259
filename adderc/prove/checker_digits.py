"""The checker's own carry automaton.

Takes: a format, tables of numbers by token. Gives: `Places` (what each position shows),
`Case`, `Reach` (the largest sums of tables over all operands that fit a case).
May import: format, the standard library, numpy.

Sums are taken in float64. A sum adds one number for each position and two for each place;
every addition is off by at most 2^-53 of what has been added, so the caller widens a result
by `Reach.roundings` times 2^-53 times the sum of the largest magnitudes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from adderc.format.prompt import Format

Array = np.ndarray
NEVER = -np.inf


@dataclass(frozen=True)
class Case:
    """Carry into the step's place, digit sum there; total at the place of the current token
    and digit tuple where they are known; the tokens at further positions that are held."""

    carry: int
    digit_sum: int
    near: int | None = None
    digits: tuple[int, ...] | None = None
    pins: tuple[tuple[int, int], ...] = ()


class Places:
    """Digit tuples at a place and the token each position shows for them."""

    def __init__(self, format: Format) -> None:
        number = format.number
        self.format, self.base, self.k, self.width = format, number.base, number.operands, (
            number.width)
        self.count = max(number.answer_digits, format.steps, number.width)
        tuples = itertools.product(range(self.base), repeat=self.k)
        self.tuples = sorted(tuples, key=sum)
        sums = np.array([sum(t) for t in self.tuples])
        self.sums = int(sums[-1]) + 1  # digit sums there are
        self.totals = self.sums + self.k - 1  # digit sums with a carry
        self.starts = np.searchsorted(sums, np.arange(self.sums))
        self.place_of: dict[int, int] = {}
        self.read: dict[int, Array] = {}  # tokens of a prompt position, by digit tuple
        self.written: dict[int, Array] = {}  # tokens of an answer position, by total
        self.known: dict[int, int] = {}
        for position, cell in enumerate(format.cells):
            if cell.kind == "symbol":
                self.known[position] = format.ids[cell.text]
                continue
            self.place_of[position] = cell.place
            self.read[position] = np.array(
                [t[cell.operand] if cell.kind == "digit" else self._joined(t)
                 for t in self.tuples])
        for step in range(format.steps):
            position = len(format.cells) + step
            self.place_of[position] = format.answer_place(step)
            self.written[position] = np.array([self.token(t) for t in range(self.totals)])

    def _joined(self, digits: tuple[int, ...]) -> int:
        value = 0
        for digit in digits:
            value = value * self.base + digit
        return value

    def token(self, total: int) -> int:
        """The answer token of a total: a digit sum with the carry into its place."""
        if self.format.answer_kind == "states":
            return total + self.format.first_state
        return total % self.base

    def tokens(self, position: int) -> int:
        """Tokens 0 … n - 1 can stand at the position.

        Beyond the width the digits are 0: what is written there is a carry, less than k.
        """
        table = self.read.get(position, self.written.get(position))
        assert table is not None
        if position in self.written and self.place_of[position] >= self.width:
            table = table[: self.k]
        return int(table.max()) + 1

    def all_cases(self) -> Iterator[Case]:
        """Every carry and digit sum there is; some may be impossible at a place."""
        for carry, digit_sum in itertools.product(range(self.k), range(self.sums)):
            yield Case(carry, digit_sum)


class Reach:
    """Largest sums of tables {position: [F, n]} in cases of one answer step, which all hold
    the tokens `pins`."""

    def __init__(self, places: Places, place: int, near_place: int | None,
                 cases: Sequence[Case], pins: Mapping[int, int] | None = None) -> None:
        self.places, self.place, self.cases = places, place, list(cases)
        self.pins = pins or {}
        self.near_place = near_place
        self.carry = np.array([case.carry for case in cases], dtype=np.int64)
        self.digit_sum = np.array([case.digit_sum for case in cases], dtype=np.int64)
        self.near = np.array([-1 if case.near is None else case.near for case in cases],
                             dtype=np.int64)
        self.tuple = np.array([-1 if case.digits is None else places.tuples.index(case.digits)
                               for case in cases], dtype=np.int64)
        self.roundings = len(places.place_of) + 3 * places.count + 8

    # ------------------------------------------------------------ one place

    def _summed(self, tables: Mapping[int, Array], shown: Mapping[int, Array], size: int,
                count: int) -> list[Array]:
        """For each place the sum of the tables of its positions, by what is shown, [F, size]."""
        found = [np.zeros((1, size))] * self.places.count
        for position, table in tables.items():
            if position in shown:
                place = self.places.place_of[position]
                held = np.minimum(shown[position], table.shape[1] - 1)  # the rest cannot be
                found[place] = found[place] + table[:, held]
        for position, token in self.pins.items():
            if position in shown:
                place = self.places.place_of[position]
                found[place] = np.where(shown[position] == token, found[place], NEVER)
        return [np.broadcast_to(part, (count, size)) for part in found]

    def _by_sum(self, read: Array, place: int) -> Array:
        """The largest of each digit sum, [F, X]; only zeros stand beyond the width."""
        if place >= self.places.width:
            found = np.full((len(read), self.places.sums), NEVER)
            found[:, 0] = read[:, 0]
            return found
        return np.maximum.reduceat(read, self.places.starts, axis=1)

    # ------------------------------------------------------------ chains of places

    def _climb(self, low: Array, best: Array, written: Array) -> Array:
        """The largest by total of a place, [F, T], from the largest by carry into it [F, k]."""
        found = np.full(written.shape, NEVER)
        for carry in range(self.places.k):
            part = found[:, carry : carry + self.places.sums]
            np.maximum(part, low[:, carry, None] + best, out=part)
        return found + written

    def _carried(self, totals: Array) -> Array:
        """The largest by carry out, [F, k]."""
        base = self.places.base
        parts = [totals[:, c * base : (c + 1) * base] for c in range(self.places.k)]
        return np.stack([p.max(axis=1) if p.size else np.full(len(totals), NEVER)
                         for p in parts], axis=1)

    def _descend(self, high: Array, best: Array, written: Array) -> Array:
        """The largest by carry into a place, [F, k], from the largest by carry out of it."""
        places = self.places
        after = written + high[:, np.arange(places.totals) // places.base]
        return np.stack([(best + after[:, c : c + places.sums]).max(axis=1)
                         for c in range(places.k)], axis=1)

    def largest(self, tables: Mapping[int, Array], count: int, rows: Array) -> Array:
        """For case c the largest sum of the tables' row rows[c]; -inf where no operands fit.

        `rows` is [C] or [C, M], numbers below `count`; the result has its shape.
        """
        places, at = self.places, self.place
        read = self._summed(tables, places.read, len(places.tuples), count)
        best = [self._by_sum(part, p) for p, part in enumerate(read)]
        written = self._summed(tables, places.written, places.totals, count)
        low, before = np.full((count, places.k), NEVER), None
        low[:, 0] = 0.0
        for p in range(at):
            before = self._climb(low, best[p], written[p])
            low = self._carried(before)
        high = np.full((count, places.k), NEVER)
        high[:, 0] = 0.0
        above = high  # by carry out of the place above
        for p in range(places.count - 1, at, -1):
            above, high = high, self._descend(high, best[p], written[p])
        extra = (slice(None),) + (None,) * (rows.ndim - 1)
        carry, digit_sum, near = (a[extra] for a in (self.carry, self.digit_sum, self.near))
        out = (carry + digit_sum) // places.base
        lower, upper = low[rows, carry], high[rows, out]
        near_out = np.maximum(near, 0) // places.base
        if self.near_place == at - 1 and before is not None:
            value = np.where(near_out == carry, before[rows, np.maximum(near, 0)], NEVER)
            lower = np.where(near >= 0, value, lower)
        elif self.near_place == at + 1:
            part = near - out  # the digit sum above
            fits = (part >= 0) & (part < places.sums)
            value = (best[at + 1][rows, np.where(fits, part, 0)]
                     + written[at + 1][rows, np.maximum(near, 0)] + above[rows, near_out])
            upper = np.where(near >= 0, np.where(fits, value, NEVER), upper)
        chosen = self.tuple[extra]
        fits = read[at][rows, np.maximum(chosen, 0)]
        here = np.where(chosen >= 0, fits if at < places.width else NEVER,
                        best[at][rows, digit_sum])
        if at >= places.width:  # the tuple of zeros
            here = np.where(chosen == 0, best[at][rows, 0], here)
        return lower + here + written[at][rows, carry + digit_sum] + upper

    def possible(self) -> list[bool]:
        """Which cases some operands fit."""
        found = self.largest({}, 1, np.zeros(len(self.cases), dtype=np.int64))
        return [bool(value > NEVER) for value in found]
