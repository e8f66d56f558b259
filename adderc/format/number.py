"""The number format: base, width, operand count and range.

Takes: plain integers. Gives: `NumberFormat`, digits of integers and back.
May import: errors.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from adderc.errors import InputError

OPERAND_NAMES = ("a", "b", "c", "d")
DIGIT_CHARACTERS = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class NumberFormat:
    """`operands` integers of `width` digits in `base`, each at most `maximum`."""

    base: int
    width: int
    operands: int = 2
    limit: int | None = None

    @property
    def maximum(self) -> int:
        """The largest operand."""
        top = self.base**self.width - 1
        return top if self.limit is None else min(top, self.limit)

    @property
    def answer_digits(self) -> int:
        """width + e, e least with operands * (base^width - 1) < base^(width + e)."""
        largest, digits = self.operands * (self.base**self.width - 1), self.width
        while largest >= self.base**digits:
            digits += 1
        return digits

    @property
    def names(self) -> tuple[str, ...]:
        """The operands' names in the language: a, b, c, d."""
        return OPERAND_NAMES[: self.operands]

    def check_operands(self, operands: Sequence[int]) -> None:
        """InputError unless there are `operands` integers from 0 to `maximum`."""
        if len(operands) != self.operands:
            raise InputError(f"the model adds {self.operands} operands, got {len(operands)}")
        for name, value in zip(self.names, operands, strict=True):
            if not 0 <= value <= self.maximum:
                raise InputError(
                    f"operand {name} = {value} is out of range: 0 to {self.maximum}",
                    f"the model was made for {self.width} digits in base {self.base}",
                )


def to_digits(value: int, base: int, count: int) -> list[int]:
    """The `count` least significant digits of `value`, least significant first."""
    if base == 10:
        text = str(value).zfill(count)
        return [int(character) for character in reversed(text)][:count]
    digits: list[int] = []
    for _ in range(count):
        value, digit = divmod(value, base)
        digits.append(digit)
    return digits


def from_digits(digits: Iterable[int], base: int) -> int:
    """The integer whose digits, least significant first, are `digits`."""
    value = 0
    for digit in reversed(list(digits)):
        value = value * base + digit
    return value


def show_digits(value: int, base: int, count: int = 1) -> str:
    """`value` written in `base` with at least `count` digits, most significant first."""
    digits: list[str] = []
    while value or len(digits) < count:
        value, digit = divmod(value, base)
        digits.append(DIGIT_CHARACTERS[digit])
    return "".join(reversed(digits))
