"""Names of what a circuit reads: digits, parts of a state, sums of the digits of a pair.

Takes: names. Gives: `pair_name`, `pair_terms`, `is_answer`, `spoken`; `resolve`: a reader that
knows every name, from one that knows plain digits.
May import: the standard library.

a, b, c, d       an operand's digit                 s          the answer's digit or state
(a+b), (a-2b)    a sum of the digits of one pair    s.digit    the digit of a state
                 token, in coprime integers         s.carry    its carry
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

STATE_PARTS = ("s.digit", "s.carry")
_TERM = re.compile(r"([+-]?)(\d*)([a-z])")
Value = TypeVar("Value")


def pair_name(terms: Sequence[tuple[str, int]]) -> str:
    """The name of a sum of a pair's digits, such as (a+b) or (2a-b)."""
    text = "".join(f"{'-' if c < 0 else '+'}{'' if abs(c) == 1 else abs(c)}{name}"
                   for name, c in terms)
    return f"({text.removeprefix('+')})"


def pair_terms(name: str) -> tuple[tuple[str, int], ...] | None:
    """The operands and coefficients of such a name; None for any other."""
    if not name.startswith("("):
        return None
    return tuple((letter, int(sign + (count or "1"))) for sign, count, letter in
                 _TERM.findall(name))


def spoken(name: str) -> str:
    """The name as the language has it: carry(s) for s.carry."""
    return f"{name.removeprefix('s.')}(s)" if name in STATE_PARTS else name


def is_answer(name: str) -> bool:
    """Whether the name is read off answer tokens."""
    return name.partition(".")[0] == "s"


def resolve(read: Callable[[str, int], Value], base: int) -> Callable[[str, int], Value]:
    """`read(name, offset)` for every name, given one for operands and `s`."""

    def resolved(name: str, offset: int) -> Value:
        terms = pair_terms(name)
        if terms is not None:
            return sum((c * read(letter, offset) for letter, c in terms), 0)  # type: ignore
        if name not in STATE_PARTS:
            return read(name, offset)
        state = read("s", offset)
        return state % base if name == "s.digit" else state // base  # type: ignore

    return resolved
