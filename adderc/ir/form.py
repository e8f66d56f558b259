"""Affine forms over named nodes, the currency of the passes.

Takes: nothing. Gives: `Form`. May import: the standard library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Form:
    """constant + sum of coefficient * node; no zero coefficients, every node once."""

    terms: tuple[tuple[str, Fraction], ...] = ()
    constant: Fraction = Fraction(0)

    @classmethod
    def of(cls, name: str) -> Form:
        return cls(((name, Fraction(1)),))

    def scaled(self, factor: Fraction | int) -> Form:
        if factor == 0:
            return Form()
        return Form(tuple((n, c * factor) for n, c in self.terms), self.constant * factor)

    def plus(self, other: Form) -> Form:
        total = dict(self.terms)
        for name, coefficient in other.terms:
            total[name] = total.get(name, Fraction(0)) + coefficient
        return Form(tuple((n, c) for n, c in total.items() if c), self.constant + other.constant)

    def minus(self, other: Form) -> Form:
        return self.plus(other.scaled(-1))

    def substitute(self, names: Mapping[str, Form]) -> Form:
        """The form with some nodes written out."""
        total = Form(constant=self.constant)
        for name, coefficient in self.terms:
            total = total.plus(names.get(name, Form.of(name)).scaled(coefficient))
        return total

    @property
    def node(self) -> str | None:
        """The node this form is, if it is just that."""
        if self.constant == 0 and len(self.terms) == 1 and self.terms[0][1] == 1:
            return self.terms[0][0]
        return None
