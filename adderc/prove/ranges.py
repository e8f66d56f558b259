"""Exact ranges of sums of token tables over all operands that fit a case.

Takes: an automaton, cases. Gives: `Ranges`, by dynamic programming over the carries.
May import: prove.carry.

The largest sum goes place by place: over the digit tuples with each digit sum, then over the
digit sums with each total t = digit sum + carry in, then over the totals with each carry out.
All tables are worked through at once, their number N being the last axis of every array.

N tables, P positions, D tokens a position can hold, C cases, X digit sums, T totals.
"""

from __future__ import annotations

import numpy as np

from adderc.prove.carry import NEVER, Automaton, Cases

Array = np.ndarray
AT_ONCE = 512  # tables, so that what is worked on stays in the cache


class Ranges:
    """Largest sums of tables over all operands that fit each case of one step."""

    def __init__(self, automaton: Automaton, cases: Cases, positions: int) -> None:
        self.automaton, self.cases, self.positions = automaton, cases, positions
        self.totals = automaton.sums + automaton.k - 1
        self._digits: list[list[list[int]]] = [
            [[] for _ in range(automaton.width)] for _ in range(automaton.k)]
        self._tuples: dict[int, list[int]] = {}
        self._answers: dict[int, list[int]] = {}
        for position in range(positions):
            holder = automaton.holders[position]
            if holder.kind == "digit":
                self._digits[holder.operand][holder.place].append(position)
            elif holder.kind == "tuple":
                self._tuples.setdefault(holder.place, []).append(position)
            elif holder.place >= 0:
                self._answers.setdefault(holder.place, []).append(position)
        self._combinations = self._pinned()
        self._roundings = self._count_roundings()

    def _count_roundings(self) -> Array:
        """How many additions an entry at each position goes through at most, [P].

        At its own place: one for each position there, one for each operand, and those with
        the carry, the answer and what comes before. At each place from there to the cases'
        place: two. At the cases' place: four. One more for a difference of two tables.
        """
        holders = self.automaton.holders[: self.positions]
        places = np.array([holder.place for holder in holders])
        crowd = (places[:, None] == places[None, :]).sum(axis=1)
        found: Array = (crowd + self.automaton.k + 5
                        + 2 * np.abs(places - self.cases.place) + 4 + 1)
        return found

    def error(self, largest: Array) -> Array:
        """What `largest` may be off by for tables with these largest magnitudes [P, R]: the
        error of a float64 sum is at most 2^-53 Σ |entry| * the additions it goes through."""
        found: Array = self._roundings @ largest * (2.0**-53 * (1 + 2.0**-40))
        return found

    # ------------------------------------------------------------ one place

    def _by_sum(self, tables: Array) -> Array:
        """The largest sum of operand tables by digit sum and place, [X, W, N]."""
        auto = self.automaton
        best = self._operand(tables, 0)
        for operand in range(1, auto.k):
            other = self._operand(tables, operand)
            wide = np.full((len(best) + auto.base - 1, *best.shape[1:]), NEVER)
            for digit in range(auto.base):
                span = wide[digit : digit + len(best)]
                np.maximum(span, best + other[digit], out=span)
            best = wide
        for place, positions in self._tuples.items():
            part = self._tuple_part(tables, positions)
            best[:, place] += np.maximum.reduceat(part, auto.first_of_sum, axis=0)
        return best

    def _operand(self, tables: Array, operand: int) -> Array:
        """The tables of one operand's digits by digit and place, [base, W, N]."""
        base, where = self.automaton.base, self._digits[operand]
        if all(len(positions) == 1 for positions in where):
            return tables[:base, [positions[0] for positions in where]]
        found = np.zeros((base, len(where), tables.shape[2]))
        for place, positions in enumerate(where):
            for position in positions:
                found[:, place] += tables[:base, position]
        return found

    def _tuple_part(self, tables: Array, positions: list[int]) -> Array:
        """Σ of the tables of tuple tokens, by tuple in order of digit sum, [Q, N]."""
        token = self.automaton.tuple_token
        part = tables[token, positions[0]]
        for position in positions[1:]:
            part = part + tables[token, position]
        return part

    def _answer(self, tables: Array, place: int) -> Array | None:
        """Σ of the tables of a place's written answer tokens, by total, [T, N]; None: none."""
        found = None
        for position in self._answers.get(place, ()):
            token = self.automaton.token_of_total(position, np.arange(self.totals))
            token = np.minimum(token, len(tables) - 1)  # totals that no place beyond the width has
            part = tables[token, position]
            found = part if found is None else found + part
        return found

    def _here(self, best: Array, place: int) -> Array:
        """Operand tables of one place by digit sum, [X, N]; only sum 0 beyond the width."""
        if place < self.automaton.width:
            found: Array = best[:, place]
            return found
        beyond = np.full((self.automaton.sums, best.shape[2]), NEVER)
        beyond[0] = 0.0
        return beyond

    # ------------------------------------------------------------ chains of places

    def _totals_from_below(self, low: Array, here: Array, answer: Array | None) -> Array:
        """[T, N]: the largest sum up to a place by its total; `low` [k, N] by carry in."""
        sums = len(here)
        total = np.full((self.totals, here.shape[1]), NEVER)
        for carry in range(self.automaton.k):
            span = total[carry : carry + sums]
            np.maximum(span, low[carry] + here, out=span)
        return total if answer is None else total + answer

    def _carries(self, total: Array) -> Array:
        """[k, N]: the best of each carry out from the best of each total."""
        auto = self.automaton
        best = np.full((auto.k, total.shape[1]), NEVER)
        for carry in range(auto.k):
            part = total[carry * auto.base : (carry + 1) * auto.base]
            if len(part):
                best[carry] = part.max(axis=0)
        return best

    def _totals_from_above(self, high: Array, answer: Array | None) -> Array:
        """[T, N]: what total t of a place adds: its answer token and all above its carry."""
        out = np.minimum(np.arange(self.totals) // self.automaton.base, self.automaton.k - 1)
        return high[out] if answer is None else high[out] + answer

    def _from_above(self, here: Array, after: Array) -> Array:
        """[k, N]: the largest sum over a place and all above, by carry into it."""
        sums = len(here)
        return np.stack([(here + after[carry : carry + sums]).max(axis=0)
                         for carry in range(self.automaton.k)])

    def _chain(self, tables: Array) -> tuple[Array, Array, Array, Array]:
        """(low, here, high, answer) at the cases' place.

        `low` is by carry in [k, N], or by total below [T, N] where cases know that; `high`
        by carry out [k, N], or by carry out and total above [k, T, N].
        """
        auto, cases = self.automaton, self.cases
        best, count = self._by_sum(tables), tables.shape[2]
        near = -1 if cases.near is None else cases.near_place
        low = np.full((auto.k, count), NEVER)
        low[0] = 0.0
        for place in range(cases.place):
            total = self._totals_from_below(
                low, self._here(best, place), self._answer(tables, place))
            low = total if place == near else self._carries(total)
        high = np.full((auto.k, count), NEVER)
        high[0] = 0.0  # nothing may be carried out of the last place
        for place in range(auto.places - 1, cases.place, -1):
            after = self._totals_from_above(high, self._answer(tables, place))
            here = self._here(best, place)
            high = self._by_total(here, after) if place == near else self._from_above(here, after)
        answer = self._answer(tables, cases.place)
        if answer is None:
            answer = np.zeros((self.totals, count))
        return low, self._here(best, cases.place), high, answer

    def _by_total(self, here: Array, after: Array) -> Array:
        """[k, T, N]: over a place and all above, by carry into it and its total."""
        found = np.full((self.automaton.k, *after.shape), NEVER)
        for carry in range(self.automaton.k):
            span = slice(carry, carry + len(here))
            found[carry, span] = here + after[span]
        return found

    # ------------------------------------------------------------ cases

    def largest(self, tables: Array, rows: Array) -> Array:
        """[C, …]: for each case the largest sum of the tables rows [C] or [C, M] of [D, P, N].

        -inf where no operands fit the case. For the float64 error of these sums see `error`.
        """
        if self._combinations is not None:
            tables, rows = self._pin(tables, rows)
        parts = [self._chain(tables[:, :, at : at + AT_ONCE])
                 for at in range(0, tables.shape[2], AT_ONCE)]
        low, here, high, answer = (_joined(arrays) for arrays in zip(*parts, strict=True))
        return self._gather(tables, rows, low, here, high, answer)

    def _gather(self, tables: Array, rows: Array, low: Array, here: Array, high: Array,
                answer: Array) -> Array:
        """The sums of each case from the chains at its place."""
        cases, base = self.cases, self.automaton.base
        extra = (slice(None),) + (None,) * (rows.ndim - 1)
        carry, sums = cases.carry[extra], cases.sums[extra]
        near = None if cases.near is None else cases.near[extra]
        out = np.minimum((sums + carry) // base, self.automaton.k - 1)
        if near is not None and cases.near_place < cases.place:
            below = np.where(near // base == carry, low[near, rows], NEVER)
        else:
            below = low[carry, rows]
        if near is not None and cases.near_place > cases.place:
            above = high[out, near, rows]
        else:
            above = high[out, rows]
        found: Array = below + above
        found += here[sums, rows] if cases.tuples is None else self._tuple_at(tables, rows)
        found += answer[sums + carry, rows]
        return found

    def _tuple_at(self, tables: Array, rows: Array) -> Array:
        """Operand tables of the cases' place for the digit tuple of each case, as `rows`."""
        auto, cases = self.automaton, self.cases
        assert cases.tuples is not None
        extra = (slice(None),) + (None,) * (rows.ndim - 1)
        found = np.zeros(rows.shape)
        if cases.place >= auto.width:
            return found
        for operand in range(auto.k):
            digit = auto.digits[cases.tuples, operand][extra]
            for position in self._digits[operand][cases.place]:
                found += tables[digit, position, rows]
        token = auto.tuple_token[cases.tuples][extra]
        for position in self._tuples.get(cases.place, ()):
            found += tables[token, position, rows]
        return found

    # ------------------------------------------------------------ tokens that cases know

    def _pinned(self) -> tuple[Array, Array] | None:
        """The different combinations of pinned tokens [G, pins], and each case's [C]."""
        if not self.cases.pins:
            return None
        tokens = np.stack([held for _, held in self.cases.pins], axis=1)
        found, index = np.unique(tokens, axis=0, return_inverse=True)
        return found, index.reshape(-1)

    def _pin(self, tables: Array, rows: Array) -> tuple[Array, Array]:
        """Copies of the tables in which tokens that a case excludes are worth -inf."""
        assert self._combinations is not None
        combinations, of_case = self._combinations
        extra = (slice(None),) + (None,) * (rows.ndim - 1)
        keys = rows * len(combinations) + of_case[extra]
        distinct, index = np.unique(keys, return_inverse=True)
        copies = np.array(tables[:, :, distinct // len(combinations)])
        chosen = combinations[distinct % len(combinations)]
        tokens = np.arange(len(tables))[:, None]
        for pin, (position, _) in enumerate(self.cases.pins):
            copies[:, position][tokens != chosen[:, pin]] = NEVER
        return copies, index.reshape(rows.shape)

    def possible(self) -> Array:
        """Which cases some operands fit: bool [C]."""
        tokens = max(self.automaton.domain(p) for p in range(self.positions))
        empty = np.zeros((tokens, self.positions, 1))
        return self.largest(empty, np.zeros(len(self.cases), dtype=np.int64)) > NEVER


def _joined(arrays: list[Array]) -> Array:
    """Arrays [..., N] of chunks of tables behind one another."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=-1)
