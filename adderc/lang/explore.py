"""The reachable contexts of a local algorithm: its truth table, by fixpoint.

Takes: `Algorithm` and `NumberFormat`. Gives: `explore` → `Contexts`.
May import: errors, format, lang.

A state is what digit i inherits: operand digits at the offsets the algorithm looks at,
the answer digits it wrote (by its own rule, right or not), and the true carry. A step
chooses the operand digits that come into view. The states of step i + 1 are the images of
those of step i; where the algorithm does not look at `i`, a repeated set of states closes
the induction for every width. Operand digits matter only through the linear forms of
`digit_forms` and their sum, so one representative per value of those forms is enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from adderc.errors import Fault, Refusal, Source
from adderc.format.number import NumberFormat
from adderc.lang.arrays import Array, evaluate
from adderc.lang.checked import Algorithm, Contexts
from adderc.lang.limits import Limit
from adderc.lang.linear import digit_forms
from adderc.lang.states import read_part
from adderc.lang.syntax import Digit, Name

ROW_LIMIT = 6_000_000


class OutOfDigits(Exception):
    """The algorithm emits something that is no digit (or, `carry`, no carry); `value` says
    what."""

    def __init__(self, value: int, carry: bool = False) -> None:
        super().__init__(str(value))
        self.value, self.carry = value, carry


@dataclass(frozen=True)
class Window:
    """Which offsets a state spans: operands from `low` to `high`, answers back to `back`."""

    low: int
    high: int
    back: int

    @classmethod
    def of(cls, algorithm: Algorithm) -> Window:
        offsets = algorithm.operand_offsets
        back = -min(algorithm.answer_offsets, default=0)
        return cls(min((0, *offsets)), max((0, *offsets)), back)

    @property
    def kept(self) -> int:
        """Operand places a state remembers (the newest, at `high`, is chosen in the step)."""
        return self.high - self.low


def letters(algorithm: Algorithm, number: NumberFormat, mark: int | None = None) -> Array:
    """Representative operand digits [L, operands], one per value of the forms; row 0 is zero.

    Of the tuples with equal forms the lexicographically smallest is taken. Where there is a
    `mark`, each digit's order to it is a form too.
    """
    forms = {(1,) * number.operands}
    for root in (algorithm.emit, *algorithm.quantities.values()):
        for rows in digit_forms(algorithm.definitions, root, number.names).values():
            forms |= {_integral(row) for row in rows}
    matrix = np.array(sorted(forms), dtype=np.int64)
    digits = np.zeros((1, 0), dtype=np.int64)
    for operand in range(number.operands):
        fresh = np.tile(np.arange(number.base), len(digits))[:, None]
        digits = np.hstack([np.repeat(digits, number.base, axis=0), fresh])
        values = digits @ matrix[:, : operand + 1].T
        if mark is not None:
            values = np.hstack([values, np.sign(digits - mark)])
        first = np.unique(values, axis=0, return_index=True)[1]
        digits = digits[np.sort(first)]
    return digits


def every_digit(number: NumberFormat) -> Array:
    """All operand digits [base^operands, operands], in lexicographic order; row 0 is zero."""
    grids = np.meshgrid(*[np.arange(number.base)] * number.operands, indexing="ij")
    return np.stack([grid.ravel() for grid in grids], axis=1).astype(np.int64)


def _integral(row: tuple[Fraction, ...]) -> tuple[int, ...]:
    scale = math.lcm(*(c.denominator for c in row))
    return tuple(int(c * scale) for c in row)


def lookup(
    number: NumberFormat, algorithm: Algorithm, digits: Array, answers: Array, index: Array,
    low: int,
) -> Callable[[Name | Digit], Array]:
    """A function from names and digits of the language to their arrays of values.

    `digits` [R, operands, places from offset `low`], `answers` [R, back] at -back … -1.
    """
    constants, quantities = dict(algorithm.definitions.constants), algorithm.quantities
    known: dict[str, Array] = {}

    def look_up(node: Name | Digit) -> Array:
        if isinstance(node, Digit):
            if node.name in number.names:
                return digits[:, number.names.index(node.name), node.offset - low]
            part: Array = read_part(node.name, number.base,
                                    answers[:, answers.shape[1] + node.offset])
            return part
        if node.name == "i":
            return index
        if node.name in constants:
            return np.asarray(int(constants[node.name]), dtype=np.int64)
        if node.name not in known:
            known[node.name] = evaluate(quantities[node.name], look_up)
        return known[node.name]

    return look_up


@dataclass(frozen=True)
class Explorer:
    """One algorithm in one number format; `step` is the transition relation.

    With `every` all operand digits are looked at, not one representative of each sum; with
    a `limit` only those of operands up to it, and a state also says which operands stand
    above the limit in the places seen so far (the last columns).
    """

    algorithm: Algorithm
    number: NumberFormat
    source: Source
    every: bool = False
    limit: Limit | None = None

    @property
    def steps(self) -> int:
        """Answer tokens: one a place, and where they are digits, more for the last carry."""
        return (self.number.width if self.algorithm.parts is not None
                else self.number.answer_digits)

    def start(self) -> Array:
        """States before step 0, as rows: operand places low+1 … high, answers, carry, and
        with a limit what stands above it."""
        window, k = Window.of(self.algorithm), self.number.operands
        rows = np.zeros((1, 0), dtype=np.int64)
        above = np.zeros((1, k), dtype=np.int64)
        for offset in range(window.low, window.high):
            choices = self.letters_at(offset)
            rows = np.hstack([np.repeat(rows, len(choices), axis=0),
                              np.tile(choices, (len(rows), 1))])
            above = np.repeat(above, len(choices), axis=0)
            if self.limit is not None and offset >= 0:
                above, fits = self.limit.follow(above, rows[:, -k:], offset)
                rows, above = rows[fits], above[fits]
        assert rows.shape[1] == k * window.kept
        tail = np.zeros((len(rows), window.back + 1), dtype=np.int64)
        return np.hstack([rows, tail] if self.limit is None else [rows, tail, above])

    def letters_at(self, place: int) -> Array:
        """The operand digits that may stand at a place; only zeros outside the width."""
        limit = self.limit
        alphabet = every_digit(self.number) if self.every else letters(
            self.algorithm, self.number, None if limit is None else limit.digit(max(place, 0)))
        return alphabet if 0 <= place < self.number.width else alphabet[:1]

    def choices(self, step: int) -> Array:
        """The operand digits that may come into view at `step`."""
        return self.letters_at(step + Window.of(self.algorithm).high)

    def expand(self, states: Array, choices: Array, step: int) -> tuple[Contexts, Array, Array]:
        """All contexts of `states` x `choices` that the limit allows, the state each leads to
        (same rows), and the numbers of those rows among all."""
        window, k = Window.of(self.algorithm), self.number.operands
        if len(states) * len(choices) > ROW_LIMIT:
            raise Refusal(kind="not implemented", source=self.source, faults=(Fault(
                f"the algorithm has more than {ROW_LIMIT:,} contexts in base {self.number.base}",
                hint="look at fewer digits, or at sums of digits instead of single ones",
            ),))
        rows = np.repeat(states, len(choices), axis=0)
        fresh = np.tile(choices, (len(states), 1))
        kept = np.arange(len(rows))
        if self.limit is not None:
            above, fits = self.limit.follow(rows[:, -k:], fresh, step + window.high)
            kept, above = np.flatnonzero(fits), above[fits]
            rows, fresh = rows[kept, :-k], fresh[kept]
        places = np.hstack([rows[:, : k * window.kept], fresh])
        digits = places.reshape(len(rows), window.kept + 1, k).transpose(0, 2, 1)
        answers = rows[:, k * window.kept : -1]
        carry = rows[:, -1]
        index = np.full(len(rows), step, dtype=np.int64)
        find = lookup(self.number, self.algorithm, digits, answers, index, window.low)
        emitted = self.emitted(find, len(rows))
        total = digits[:, :, -window.low].sum(axis=1) + carry
        right = total if self.algorithm.parts is not None else total % self.number.base
        contexts = Contexts(digits, answers, index, carry, right, emitted)
        after = [places[:, k:], answers[:, 1:]]
        if window.back:
            after.append(emitted[:, None])
        after.append((total // self.number.base)[:, None])
        if self.limit is not None:
            after.append(above)
        return contexts, np.hstack(after), kept


    def emitted(self, find: Callable[[Name | Digit], Array], rows: int) -> Array:
        """The answer token of every context [R]; OutOfDigits for what is none."""
        parts = self.algorithm.parts or (self.algorithm.emit,)
        for part, limit in zip(parts, (self.number.base, self.number.operands), strict=False):
            values = np.broadcast_to(evaluate(part, find), (rows,))
            outside = (values < 0) | (values >= limit)
            if np.any(outside):
                raise OutOfDigits(int(values[outside][0]), part is not parts[0])
        return np.array(np.broadcast_to(evaluate(self.algorithm.emit, find), (rows,)))


def explore(explorer: Explorer) -> Contexts:
    """All reachable contexts, without repeats of what the algorithm and its judge can see."""
    number, uses_index = explorer.number, explorer.algorithm.uses_index
    varies = uses_index or explorer.limit is not None
    states, found = explorer.start(), []
    steps, step = explorer.steps, 0
    tail = max(0, number.width - Window.of(explorer.algorithm).high)
    while step < steps:
        contexts, images, _ = explorer.expand(states, explorer.choices(step), step)
        found.append(contexts)
        following = np.unique(images, axis=0)
        settled = following.shape == states.shape and bool(np.all(following == states))
        states = following
        step = max(step + 1, tail) if settled and not varies and step + 1 < tail else step + 1
    return _merge(found, uses_index)


def _merge(found: list[Contexts], uses_index: bool) -> Contexts:
    digits = np.concatenate([c.digits for c in found])
    rows = len(digits)
    index = np.concatenate([c.index for c in found])
    if not uses_index:
        index = np.full(rows, -1, dtype=np.int64)
    columns = [
        digits.reshape(rows, -1),
        np.concatenate([c.answers for c in found]),
        index[:, None],
        *(np.concatenate([getattr(c, name) for c in found])[:, None]
          for name in ("carry", "right", "emitted")),
    ]
    table = np.unique(np.hstack(columns), axis=0)
    wide = digits.shape[1] * digits.shape[2]
    return Contexts(
        table[:, :wide].reshape(len(table), *digits.shape[1:]),
        table[:, wide:-4], table[:, -4], table[:, -3], table[:, -2], table[:, -1],
    )
