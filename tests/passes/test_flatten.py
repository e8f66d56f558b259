"""Flattening changes no value in any context, and keeps to the number of layers."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_algorithms import algorithms
from wrong_algorithms import COMPILES

from adderc.errors import Refusal, Source, SpecError
from adderc.ir.evaluate import run
from adderc.ir.graph import depths
from adderc.ir.ops import Circuit, Index, Step
from adderc.lang.check import check_spec
from adderc.lang.checked import CheckedSpec
from adderc.lang.parse import parse
from adderc.passes.fetches import Grouping
from adderc.passes.flatten import flatten
from adderc.passes.lower import lower
from adderc.pipeline import context_values
from adderc.reference import Reference
from specs import spec_text

PERIOD = Fraction(23)  # no two of the few steps share a phase


def checked(algorithm: str, base: int, width: int) -> CheckedSpec:
    return check_spec(parse(Source("t", spec_text(algorithm, f"base {base} width {width}"))))


def flat(spec: CheckedSpec, circuit: Circuit, layers: int) -> Circuit:
    return flatten(circuit, context_values(spec, circuit), spec.contexts.index, layers, PERIOD,
                   spec.source)


def assert_equal_everywhere(spec: CheckedSpec, circuit: Circuit) -> None:
    values = context_values(spec, circuit)[circuit.nodes[-1].name]
    np.testing.assert_array_equal(values, spec.contexts.emitted)


@settings(max_examples=30, deadline=None)
@given(algorithms(ahead=False), st.integers(2, 4), st.integers(1, 2))
def test_lowered_and_flat_circuits_are_the_algorithm(text: str, base: int, layers: int) -> None:
    try:
        spec = checked(text, base, 2)
        lowered = lower(spec, Grouping())
    except (SpecError, Refusal):
        return
    assert_equal_everywhere(spec, lowered)
    try:
        circuit = flat(spec, lowered, layers)
    except Refusal:
        return
    assert_equal_everywhere(spec, circuit)
    assert max(depths(circuit).values()) <= layers
    assert not circuit.of(Index)
    reference = Reference(spec)
    for row in [(0, 0), (1, 0), (base - 1, base), (base**2 - 1, 1), (base + 1, base**2 - 1)]:
        assert run(circuit, spec.number, row) == reference.digits(row)


NESTED = [
    "(prev > s[i-1]) == (x mod 2 == 0)", "abs((prev > s[i-1]) - (x mod 3 != 1))",
    "((a[i] - b[i]) * x) mod base", "((a[i] - b[i]) * (prev - 1)) mod base",
    "((x - 1) * (a[i] - 1)) mod base", "if x mod 2 == prev mod 2 then x mod base else 1",
    "(x mod 2 == 0) * (i != 1)", "max(a[i] - b[i], b[i] - a[i], 1)", "not ((x mod 2) and prev)",
    "(x mod 2 == 0) == (prev mod 2 == 0)", "((x - 2) * (prev - 2)) mod base",
    "if i == 1 then x mod 2 == 0 else prev mod 2 == 1", "((x + i) * (i - 1)) mod base",
]


@pytest.mark.parametrize("emit", NESTED)
def test_nested_rules_that_no_single_step_can_say(emit: str) -> None:
    text = f"x = a[i] + b[i]\nprev = a[i-1] + b[i-1]\nemit {emit}"
    spec = checked(text, 3, 2)
    lowered = lower(spec, Grouping())
    assert_equal_everywhere(spec, lowered)
    for layers in (1, 2):
        assert_equal_everywhere(spec, flat(spec, lowered, layers))


def test_flattening_rarely_gives_up() -> None:
    """The property above is not empty: of the named wrong algorithms, every one flattens."""
    found: Counter[str] = Counter()
    for text in COMPILES.values():
        spec = checked(text, 10, 2)
        circuit = lower(spec, Grouping())
        nested = max(depths(circuit).values()) > 1
        assert_equal_everywhere(spec, flat(spec, circuit, 1))
        found["nested" if nested else "flat already"] += 1
    assert found["nested"] > 20


@pytest.mark.parametrize("base", [2, 3, 10, 36])
def test_the_carry_inside_the_wrap_is_one_step(base: int) -> None:
    """[x + [d > 0] >= B] becomes [B x + d > B (B - 1)]: two steps in all."""
    spec = checked(COMPILES["threshold +9"].replace("+ 9", "+ 0"), base, 4)
    lowered = lower(spec, Grouping())
    assert max(depths(lowered).values()) == 2
    circuit = flat(spec, lowered, 1)
    assert len(circuit.of(Step)) == 2
    assert_equal_everywhere(spec, circuit)


def test_a_broken_circuit_would_be_seen() -> None:
    spec, other = (checked(COMPILES[name], 4, 2) for name in ("carry by >=", "x mod base"))
    with pytest.raises(AssertionError):
        assert_equal_everywhere(spec, flat(other, lower(other, Grouping()), 1))
