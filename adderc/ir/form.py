"""Affine forms over named nodes, the currency of the passes.

Takes: nothing. Gives: `Form`. May import: the standard library.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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

    @classmethod
    def total(cls, parts: Iterable[tuple[Form, Fraction | int]], constant: Fraction) -> Form:
        """constant + sum of factor * form."""
        terms: dict[str, Fraction] = {}
        for form, factor in parts:
            constant += form.constant * factor
            for name, coefficient in form.terms:
                terms[name] = terms.get(name, Fraction(0)) + coefficient * factor
        return cls(tuple((n, c) for n, c in terms.items() if c), constant)

    def minus(self, other: Form) -> Form:
        return self.plus(other.scaled(-1))

    def substitute(self, names: Mapping[str, Form]) -> Form:
        """The form with some nodes written out."""
        return Form.total(((names[name] if name in names else Form.of(name), coefficient)
                           for name, coefficient in self.terms), self.constant)

    @property
    def node(self) -> str | None:
        """The node this form is, if it is just that."""
        if self.constant == 0 and len(self.terms) == 1 and self.terms[0][1] == 1:
            return self.terms[0][0]
        return None
