"""The token format: how operands become a prompt and answer tokens become a sum.

Takes: `NumberFormat`. Gives: `Format` (segments, answer order, token ids) with `encode`,
`decode`, and `cells`, which says what stands at each prompt position.
May import: errors, format.number.

Digit d of any operand is token id d; a symbol has an id of its own or shares a digit's.
An answer token is a digit (kind "digits") or a state digit + base * carry (kind "states");
state 0 has the token id `first_state`, which is 0 unless pairs and states are kept apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from adderc.errors import InputError
from adderc.format.number import NumberFormat, from_digits, to_digits


@dataclass(frozen=True)
class Symbols:
    """`count` copies of one symbol."""

    text: str
    count: int = 1


@dataclass(frozen=True)
class OperandDigits:
    """All digits of operand number `operand`, "msd" or "lsd" first."""

    operand: int
    order: str


@dataclass(frozen=True)
class DigitTuples:
    """One token per place, the operands' digits as one number: a*base + b for two."""

    order: str


PromptSegment = Symbols | OperandDigits | DigitTuples


@dataclass(frozen=True)
class Cell:
    """What stands at one prompt position: a symbol, a digit of an operand, or a tuple.

    kind "symbol" (`text`), "digit" (`operand`, `place`) or "tuple" (`place`).
    """

    kind: str
    text: str = ""
    operand: int = -1
    place: int = -1


@dataclass(frozen=True)
class Format:
    """Tokens and where they stand. `tokens` maps every symbol to its id."""

    number: NumberFormat
    prompt: tuple[PromptSegment, ...]
    answer_order: str = "lsd"
    answer_kind: str = "digits"
    answer_end: str | None = None
    tokens: tuple[tuple[str, int], ...] = ()
    first_state: int = 0

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """The meaning of each prompt position, first to last."""
        width, cells = self.number.width, []
        for segment in self.prompt:
            if isinstance(segment, Symbols):
                cells += [Cell("symbol", text=segment.text)] * segment.count
                continue
            places = range(width) if segment.order == "lsd" else reversed(range(width))
            if isinstance(segment, OperandDigits):
                cells += [Cell("digit", operand=segment.operand, place=p) for p in places]
            else:
                cells += [Cell("tuple", place=p) for p in places]
        return tuple(cells)

    @property
    def prompt_length(self) -> int:
        return len(self.cells)

    @property
    def steps(self) -> int:
        """Answer tokens that carry the sum (the end symbol, if any, is not counted)."""
        return self.number.width if self.answer_kind == "states" else self.number.answer_digits

    @property
    def length(self) -> int:
        """Tokens of prompt and answer together, the end symbol included."""
        return self.prompt_length + self.steps + (self.answer_end is not None)

    @cached_property
    def ids(self) -> dict[str, int]:
        return dict(self.tokens)

    @cached_property
    def vocabulary(self) -> int:
        """Number of token ids: digits (or tuples, or states) and symbols."""
        base, k = self.number.base, self.number.operands
        has_tuples = any(isinstance(segment, DigitTuples) for segment in self.prompt)
        largest = max(
            base**k if has_tuples else base,
            self.first_state + base * k if self.answer_kind == "states" else base,
        )
        return max([largest, *(token + 1 for _, token in self.tokens)])

    def answer_place(self, step: int) -> int:
        """Which place (0 = least significant) answer step `step` writes."""
        return step if self.answer_order == "lsd" else self.steps - 1 - step

    def encode(self, operands: Sequence[Sequence[int]]) -> np.ndarray:
        """Prompts [N, prompt_length] int64 of N operand tuples; InputError out of range."""
        number = self.number
        for row in operands:
            number.check_operands(row)
        digits = np.array(
            [[to_digits(v, number.base, number.width) for v in row] for row in operands],
            dtype=np.int64,
        ).reshape(len(operands), number.operands, number.width)
        return self.encode_digits(digits)

    def encode_digits(self, digits: np.ndarray) -> np.ndarray:
        """Prompts [N, prompt_length] from digits [N, operands, width], least significant first."""
        weights = self.number.base ** np.arange(self.number.operands - 1, -1, -1)
        columns = []
        for cell in self.cells:
            if cell.kind == "symbol":
                columns.append(np.full(len(digits), self.ids[cell.text], dtype=np.int64))
            elif cell.kind == "digit":
                columns.append(digits[:, cell.operand, cell.place])
            else:
                columns.append(digits[:, :, cell.place] @ weights)
        return np.stack(columns, axis=1).astype(np.int64)

    def decode(self, tokens: Sequence[int]) -> int | None:
        """The sum written by `steps` answer tokens; None where one is no digit or state."""
        base = self.number.base
        if self.answer_kind == "states":
            states = [t - self.first_state for t in tokens]
            if any(not 0 <= state < base * self.number.operands for state in states):
                return None
            ordered = [states[self._step_of(place)] for place in range(self.steps)]
            return from_digits([*(t % base for t in ordered), ordered[-1] // base], base)
        if any(not 0 <= t < base for t in tokens):
            return None
        return from_digits([tokens[self._step_of(p)] for p in range(self.steps)], base)

    def expected(self, operands: Sequence[int]) -> list[int]:
        """The answer tokens that greedy decoding must emit for these operands."""
        number, total = self.number, sum(operands)
        if self.answer_kind == "digits":
            digits = to_digits(total, number.base, self.steps)
            return [digits[self.answer_place(step)] for step in range(self.steps)]
        states = []
        for place in range(self.steps):
            low = sum(value % number.base ** (place + 1) for value in operands)
            states.append(self.first_state + low // number.base**place)
        return [states[self.answer_place(step)] for step in range(self.steps)]

    def _step_of(self, place: int) -> int:
        return self.answer_place(place)  # the order is its own inverse

    def parse_operand(self, text: str, name: str = "operand") -> int:
        """A decimal integer as people write it; InputError for anything else."""
        cleaned = text.strip().replace("_", "")
        if not (cleaned.isascii() and cleaned.isdigit()):
            raise InputError(f"{name} {text!r} is not a non-negative decimal integer")
        return int(cleaned)
