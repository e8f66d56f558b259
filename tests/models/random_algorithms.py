"""Random small algorithms as text, and what running every sum says of them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from hypothesis import strategies as st

from adderc.format.number import to_digits
from adderc.lang.checked import CheckedSpec
from adderc.reference import Reference

COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")


@dataclass(frozen=True)
class Truth:
    """Every sum of a format, run: the least wrong operands, and each quantity's values."""

    smallest: tuple[int, ...] | None
    values: dict[str, tuple[int, ...]]
    digits: bool  # whether every emitted value is a digit


def run_every_sum(checked: CheckedSpec) -> Truth:
    number, reference = checked.number, Reference(checked)
    wrong, values = [], {}
    digits = True
    for row in itertools.product(range(number.base**number.width), repeat=number.operands):
        steps = reference.work(row)
        for step in steps:
            for name, value in (*step.quantities, ("emit", step.emitted)):
                values.setdefault(name, set()).add(value)
        emitted = [step.emitted for step in steps]
        digits = digits and all(0 <= d < number.base for d in emitted)
        if emitted != to_digits(sum(row), number.base, number.answer_digits):
            wrong.append((sum(row), row))
    smallest = min(wrong)[1] if wrong else None
    return Truth(smallest, {n: tuple(sorted(v)) for n, v in values.items()}, digits)


def expressions(atoms: tuple[str, ...]) -> st.SearchStrategy[str]:
    """Integer expressions over the given atoms."""
    leaf = st.sampled_from((*atoms, "0", "1", "2", "base"))

    def grow(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        return st.one_of(
            st.builds("({} {} {})".format, inner, st.sampled_from("+-"), inner),
            st.builds("({} {} {})".format, inner, st.sampled_from(COMPARISONS), inner),
            st.builds("({} {} {})".format, inner, st.sampled_from(("and", "or")), inner),
            st.builds("({} * {})".format, inner, inner),
            st.builds("{}({}, {})".format, st.sampled_from(("min", "max")), inner, inner),
            st.builds("({} {} {})".format, inner, st.sampled_from(("mod", "div")),
                      st.sampled_from(("base", "2", "3"))),
            st.builds("(if {} then {} else {})".format, inner, inner, inner),
            st.builds("abs({})".format, inner),
            st.builds("(not {})".format, inner),
        )

    return st.recursive(leaf, grow, max_leaves=5)


@st.composite
def algorithms(draw: st.DrawFn, index: bool = True, ahead: bool = True) -> str:
    """Two quantities and a digit; `ahead`: it may look at a[i+1], at a digit two back."""
    atoms = ("a[i]", "b[i]", "a[i-1]", "b[i-1]", "s[i-1]", "a[i] + b[i]", "a[i-1] + b[i-1]")
    atoms += ("a[i+1]", "s[i-2]") if ahead else ()
    atoms += ("i",) if index else ()
    first = draw(expressions(atoms))
    second = draw(expressions((*atoms, "q")))
    emit = draw(expressions(("q", "r", "a[i]", "s[i-1]")))
    if draw(st.integers(0, 3)):
        emit = f"({emit}) mod base"
    return f"q = {first}\nr = {second}\nemit {emit}"


