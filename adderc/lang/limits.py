"""Operands up to a limit: which digits can still come into view, place by place.

Takes: a `NumberFormat`. Gives: `Limit`, or None where every operand of the width is allowed.
May import: format.

An operand is compared with the limit N from the lowest place up: it stands above N there if
its digit is larger than N's, or equal and what lies below stands above. Below N's highest
place any digits may stand, since those above can still be 0; from that place on, what has
been seen must not stand above N.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from adderc.format.number import NumberFormat, to_digits

Array = np.ndarray


@dataclass(frozen=True)
class Limit:
    """The digits of N, least significant first, and its highest place."""

    digits: tuple[int, ...]
    top: int

    @classmethod
    def of(cls, number: NumberFormat) -> Limit | None:
        if number.maximum == number.base**number.width - 1:
            return None
        digits = to_digits(number.maximum, number.base, number.width)
        return cls(tuple(digits), max(place for place, digit in enumerate(digits) if digit))

    def digit(self, place: int) -> int:
        return self.digits[place] if place < len(self.digits) else 0

    def follow(self, above: Array, fresh: Array, place: int) -> tuple[Array, Array]:
        """After operand digits `fresh` [R, k] came into view at `place`: which operands now
        stand above the limit [R, k], and which rows are still possible [R]."""
        own = self.digit(place)
        now = (fresh > own) | ((fresh == own) & (above > 0))
        fits = ~now.any(axis=1) if place >= self.top else np.ones(len(now), dtype=bool)
        return now.astype(np.int64), fits
