"""Which digits can stand together: the carry automaton, and classes of operands.

Takes: a format. Gives: `Automaton` (what each token position can hold) and `Cases`.
May import: errors, format, prove.doubt.

Place j holds the digits d_1 … d_k of the operands (all 0 beyond the width) and the carry c_j
into it. With x the digit sum, t = x + c_j: the answer digit is t mod base and the carry out
t div base. Written answer tokens are therefore functions of the operands. A limit on the
operands is ignored, which only adds operand tuples.

C cases, Q digit tuples, X digit sums.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

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
        """How many tokens the position can hold: they are 0 … domain - 1.

        Beyond the width the digits are 0, so that the total of a place is its carry.
        """
        holder = self.holders[position]
        totals = self.k if holder.place >= self.width else self.sums + self.k - 1
        return {"symbol": 1, "digit": self.base, "answer": min(self.base, totals),
                "tuple": self.base**self.k,
                "state": self.format.first_state + totals}[holder.kind]

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
    any with that sum), `near` the total t at the place of the current token (None: any),
    `pins` the tokens that stand at further positions.
    """

    place: int
    carry: Array
    sums: Array
    tuples: Array | None = None
    near: Array | None = None
    near_place: int = -1
    pins: tuple[tuple[int, Array], ...] = ()

    def __len__(self) -> int:
        return len(self.carry)

    def choose(self, chosen: Array) -> Cases:
        """The cases with these numbers."""
        return replace(
            self, carry=self.carry[chosen], sums=self.sums[chosen],
            tuples=None if self.tuples is None else self.tuples[chosen],
            near=None if self.near is None else self.near[chosen],
            pins=tuple((position, held[chosen]) for position, held in self.pins))

    def pinned(self, position: int, held: Array) -> Cases:
        """The same cases, each with one more token held."""
        return replace(self, pins=(*self.pins, (position, held)))
