"""Every stage rule passes a sound circuit and catches a broken one."""

from __future__ import annotations

from fractions import Fraction

import pytest

from adderc.ir.graph import depths, form_of, live
from adderc.ir.ops import (
    Affine,
    Circuit,
    Decode,
    Fetch,
    Index,
    Node,
    Step,
    Target,
    Token,
    Wave,
)
from adderc.ir.rules import STAGES, IllFormed, check_circuit

ONE = Fraction(1)
A, B = Target("a", 0), Target("b", 0)


def sound(*extra: Node, last: str = "digit") -> Circuit:
    return Circuit((
        Node("x", Fetch((A, B))), Node("token", Token()),
        Node("sum", Affine((("x", ONE), ("token", -ONE)))),
        Node("carry", Step("sum", ONE), values=(Fraction(0), ONE)),
        *extra, Node("digit", Affine((("x", ONE), ("carry", ONE)))), Node("decode", Decode(last)),
    ))


BROKEN = {
    "reads later before it is known": sound(Node("y", Affine((("later", ONE),)))),
    "x occurs twice": sound(Node("x", Token())),
    "decode at [4, 6]": sound(Node("early", Decode("x"))),
    "decode at []": Circuit((Node("x", Fetch((A,))),)),
    "positive coefficients": sound(Node("y", Fetch((Target("a", 0, -ONE),)))),
    "y: a fetch needs": sound(Node("y", Fetch(()))),
    "zero or repeated": sound(Node("y", Affine((("x", ONE), ("x", ONE))))),
    "y: an affine form": sound(Node("y", Affine((("x", Fraction(0)),)))),
    "a step has the values": sound(Node("y", Step("x", ONE), values=(ONE,))),
}


@pytest.mark.parametrize("reason", BROKEN)
@pytest.mark.parametrize("stage", STAGES)
def test_common_rules(stage: str, reason: str) -> None:
    assert check_circuit(sound(), stage) == sound()
    with pytest.raises(IllFormed) as caught:
        check_circuit(BROKEN[reason], stage)
    assert reason in str(caught.value)
    assert stage in str(caught.value)


def test_rules_of_one_stage() -> None:
    wave, index = Node("w", Wave(1, Fraction(5))), Node("i", Index())
    deep = Node("deep", Step("carry", ONE), values=(Fraction(0), ONE))
    check_circuit(sound(wave), "flat")
    check_circuit(sound(index), "lowered")
    check_circuit(sound(deep), "lowered")
    check_circuit(sound(deep), "flat", layers=2)
    for circuit, stage, words in (
        (sound(wave), "lowered", "a wave before alignment"),
        (sound(index), "flat", "the index is no signal"),
        (sound(deep), "flat", "deep needs layer 2"),
    ):
        with pytest.raises(IllFormed, match=words):
            check_circuit(circuit, stage, layers=1)


def test_every_broken_rule_is_named_at_once() -> None:
    circuit = sound(Node("x", Token()), Node("y", Fetch(())))
    with pytest.raises(IllFormed) as caught:
        check_circuit(circuit, "flat")
    assert "x occurs twice" in str(caught.value)
    assert "y: a fetch" in str(caught.value)


def test_every_rule_says_what_it_asks() -> None:
    assert all(rule.__doc__ for rules in STAGES.values() for rule in rules)


def test_questions_about_a_circuit() -> None:
    deep = Node("deep", Step("carry", ONE))
    circuit = sound(deep)
    assert depths(circuit) == {"x": 0, "token": 0, "sum": 0, "carry": 1, "deep": 2, "digit": 1,
                               "decode": 1}
    assert live(circuit) == sound()
    assert form_of(circuit, "digit").terms == (("x", ONE), ("carry", ONE))
    assert circuit["carry"].op == Step("sum", ONE)
    with pytest.raises(KeyError):
        circuit["nothing"]
