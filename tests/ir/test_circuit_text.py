"""A circuit's text reads back to an equal circuit."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_algorithms import algorithms

from adderc.errors import Refusal, Source, SpecError
from adderc.ir.ops import (
    Affine,
    Circuit,
    Decode,
    Fetch,
    Index,
    Node,
    Op,
    Step,
    Target,
    Token,
    Wave,
)
from adderc.ir.show import read_circuit, show_circuit
from adderc.lang.check import check_spec
from adderc.lang.parse import parse
from adderc.passes.fetches import Grouping
from adderc.passes.lower import lower
from specs import spec_text

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
fractions = st.fractions(min_value=-500, max_value=500, max_denominator=64)
nonzero = fractions.filter(bool)
targets = st.builds(Target, st.sampled_from("abcds"), st.integers(-64, 64),
                    nonzero.map(abs))


def operation(known: list[str]) -> st.SearchStrategy[Op]:
    simple = [
        st.just(Token()), st.just(Index()),
        st.builds(Wave, st.integers(0, 99), nonzero.map(abs)),
        st.lists(targets, min_size=1, max_size=4, unique_by=lambda t: (t.name, t.offset)).map(
            lambda found: Fetch(tuple(found))),
    ]
    if known:
        term = st.tuples(st.sampled_from(known), nonzero)
        terms = st.lists(term, max_size=4, unique_by=lambda t: t[0]).map(tuple)
        simple += [st.builds(Affine, terms, fractions),
                   st.builds(Step, st.sampled_from(known), fractions)]
    return st.one_of(simple)


@st.composite
def circuits(draw: st.DrawFn) -> Circuit:
    nodes: list[Node] = []
    for name in draw(st.lists(names, min_size=2, max_size=8, unique=True)):
        op = draw(operation([node.name for node in nodes]))
        nodes.append(Node(name, op, draw(st.integers(0, 5000))))
    last = draw(names.filter(lambda name: name not in {node.name for node in nodes}))
    return Circuit((*nodes, Node(last, Decode(draw(st.sampled_from(nodes)).name))))


@settings(max_examples=40, deadline=None)
@given(circuits())
def test_any_circuit(circuit: Circuit) -> None:
    text = show_circuit(circuit)
    assert read_circuit(text) == circuit
    assert [node.line for node in read_circuit(text).nodes] == [n.line for n in circuit.nodes]
    assert len(text.splitlines()) == len(circuit.nodes)


@settings(max_examples=20, deadline=None)
@given(algorithms(ahead=False), st.integers(2, 4))
def test_circuits_of_algorithms(text: str, base: int) -> None:
    try:
        spec = check_spec(parse(Source("t", spec_text(text, f"base {base} width 2"))))
        circuit = lower(spec, Grouping())
    except (Refusal, SpecError):
        return
    assert read_circuit(show_circuit(circuit)) == circuit


def test_what_it_looks_like() -> None:
    circuit = Circuit((
        Node("x", Fetch((Target("a", 0), Target("b", -1, Fraction(3, 2)))), 12),
        Node("prev", Affine((("x", Fraction(-1)),), Fraction(1, 2))),
        Node("wave2", Wave(2, Fraction(7, 2))),
        Node("out", Decode("prev"), 14),
    ))
    assert show_circuit(circuit) == (
        "x     = fetch a[i] + 3/2 b[i-1]  # line 12\n"
        "prev  = affine - x + 1/2\n"
        "wave2 = wave 2 period 7/2\n"
        "out   = decode prev              # line 14")


@pytest.mark.parametrize("text", [
    "x = fetsch a[i]", "x = fetch a[j]", "x", "x = affine 3 x ++ 2", "x = step y > 2",
    "x = wave 2", "",
])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a|not enough values|Invalid literal"):
        read_circuit(text + "\nz = ")
