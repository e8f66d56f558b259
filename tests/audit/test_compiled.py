"""Compiled models: two counts that share nothing must agree, whatever the structure."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from adderc.audit import run as audit_run
from adderc.audit.run import audit_compiled, audit_structure
from adderc.format.number import NumberFormat
from adderc.format.prompt import Format, OperandDigits, Symbols
from adderc.nn.module import AdderModule
from adderc.results import CONVENTIONS
from adderc.weights.expr import (
    Add,
    Arange,
    Constant,
    Cos,
    Leaf,
    MatMul,
    Mul,
    Reshape,
    Scatter,
    Sin,
    Structural,
    Take,
    Transpose,
)
from adderc.weights.structure import (
    Attention,
    Block,
    FeedForward,
    Head,
    LeafInfo,
    Norm,
    PositionTable,
    Rope,
    Sinusoid,
    Structure,
)

NUMBER = NumberFormat(10, 3)
FORMAT = Format(NUMBER, (OperandDigits(0, "msd"), Symbols("+"), OperandDigits(1, "msd"),
                         Symbols("=")), tokens=(("+", 0), ("=", 0)))


def attention(**changes):
    plain = Attention(2, 4, q=Leaf("q", (8, 6)), k=Leaf("k", (8, 6)), v=Leaf("v", (8, 6)),
                      out=Leaf("out", (6, 8)))
    return replace(plain, **changes)


def structure(inside=None, **changes):
    plain = Structure(
        NUMBER, FORMAT, "float64", 6, tuple("abcdef"), Leaf("embedding", (10, 6)), None,
        (Block(inside or attention(), None),), None,
        Head(Leaf("head.weight", (10, 6)), Leaf("head.bias", (1, 10))))
    return replace(plain, **changes)


def module(made, seed=0):
    chance = np.random.default_rng(seed)
    return AdderModule(made, {leaf.name: chance.normal(size=leaf.shape)
                              for leaf in made.leaf_shapes()})


NUMBERS = Mul(Constant(Fraction(3)), Arange(10))
FFN = FeedForward("silu", Leaf("up", (5, 6)), Leaf("down", (6, 5)), Leaf("up_bias", (1, 5)),
                  gate=Leaf("gate", (5, 6)), gate_bias=Leaf("gate_bias", (1, 5)))
CASES = {  # structure -> declared, strict, strict_positional, dense
    "plain": (structure(), 322, 322, 322, 322),
    "no attention": (structure(blocks=(Block(None, FFN),)), 230, 230, 230, 230),
    "gated, with norms": (structure(
        blocks=(Block(attention(), FFN, Norm("rms", Leaf("n", (1, 6))),
                      Norm("layer", Leaf("m", (1, 6)), Leaf("b", (1, 6)))),),
        final_norm=Norm("rms", None, epsilon=1e-5)), 440, 440, 440, 440),
    "tied": (structure(head=Head(Leaf("embedding", (10, 6)))), 252, 252, 252, 312),
    "learned positions": (structure(position=PositionTable(Leaf("place", (12, 6)))),
                          394, 394, 394, 394),
    "sinusoid": (structure(position=Sinusoid(
        Fraction(7), (0, 1), ((0, Fraction(5)), (4, Fraction(3, 2))))), 322, 322, 326, 394),
    "rotary": (structure(attention(rope=Rope((Fraction(19), Fraction(11, 3))))),
               322, 322, 324, 322),
    "slopes": (structure(attention(slopes=Leaf("slopes", (2,)))), 324, 324, 324, 322),
    "slopes times a number": (structure(attention(
        slopes=Mul(Constant(Fraction(1, 2)), Leaf("slopes", (2,))))), 324, 324, 325, 322),
    "routes": (structure(attention(routes=((0,), (0, 3)))), 322, 322, 323, 322),
    "one more key": (structure(attention(kind="softmax1")), 322, 322, 322, 322),
    "scale of its own": (structure(attention(scale=Constant(Fraction(7, 2)))),
                         322, 323, 323, 322),
    "learned scale": (structure(attention(scale=Leaf("scale", ()))), 323, 323, 323, 322),
    "the default scale as a number of its own": (
        structure(attention(scale=Constant(Fraction(1, 2)))), 322, 323, 323, 322),
    "cosine of a constant": (structure(attention(q=Add(Leaf("q", (8, 6)), Scatter(
        Reshape(Cos(Constant(Fraction(2, 11), 1)), (1, 1)), (0,), (1,), (8, 6))))),
        322, 323, 323, 322),
    "constants in the head": (structure(head=Head(
        Add(MatMul(NUMBERS, Leaf("wide", (1, 6))),
            Scatter(Mul(Constant(Fraction(5, 7)), Arange(10)), tuple(range(10)), (2,), (10, 6))),
        Transpose(Mul(Leaf("curve", (1, 1)), Mul(Arange(10), Arange(10)))))), 259, 261, 261, 322),
}


@pytest.mark.parametrize("name", CASES)
def test_both_counts_agree(name):
    made, declared, strict, positional, dense = CASES[name]
    report = audit_compiled(module(made), name)
    assert report.agrees, report.second
    counts = report.counts
    assert (counts.declared, counts.strict, counts.strict_positional, counts.dense) == (
        declared, strict, positional, dense)
    assert sum(total for _, total in report.components) == declared


SPECS = Path(__file__).parents[2] / "specs"
DERIVED = {  # declared, scalars, strict, strict_positional, nonzero, dense
    "tinyadder9": (9, 9, 12, 13, 142, 1685), "nanogpt58": (58, 16, 58, 61, 57, 322),
    "nanogpt58-seed": (58, 19, 58, 61, 61, 322), "nanogpt130": (130, 26, 130, 133, 57, 322),
    "placevalue": (5, 5, 5, 6, 144, 1663), "prefix33": (31, 19, 31, 55, 56, 96),
    "rope19": (23, 12, 23, 24, 57, 74), "rope19-seed": (23, 11, 23, 24, 57, 74),
    "three-operands": (81, 20, 81, 84, 79, 498), "base16-table": (148, 37, 148, 148, 129, 544),
    "llama-style": (172, 22, 172, 173, 111, 270),
}
QUICK = ("tinyadder9", "nanogpt58")


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in DERIVED])
def test_both_counts_of_a_spec_agree(name):
    from adderc import pipeline

    made = pipeline.compile_spec(pipeline.read_spec(str(SPECS / f"{name}.adder")),
                                 pipeline.Settings())
    report = audit_compiled(AdderModule(made.structure, made.values), name)
    assert report.agrees, report.second
    assert tuple(getattr(report.counts, key) for key in CONVENTIONS) == DERIVED[name]


def test_a_second_count_that_differs_is_told_with_both_lists(monkeypatch):
    made = structure(position=Sinusoid(Fraction(7), (0, 1), ((0, Fraction(1)),)))
    lying = replace(made, position=None)
    real = audit_run.count_structure
    monkeypatch.setattr(audit_run, "count_structure", lambda s, v: real(lying, v))
    report = audit_compiled(module(made), "lying")
    assert not report.agrees
    assert "strict_positional: 322 by expressions, 323 by the traced graph" in report.second
    assert "positionals by expressions: none; by the traced graph: 7" in report.second


def test_scalars_count_magnitudes_once():
    made = structure(None)
    values = {leaf.name: np.ones(leaf.shape) for leaf in made.leaf_shapes()}
    values["q"] = np.full((8, 6), -2.5)
    values["k"][:] = 0
    report = audit_compiled(AdderModule(made, values), "few")
    assert report.counts.scalars == 2
    assert report.counts.nonzero == 322 - 48


def test_an_unused_leaf_is_dead_and_ties_are_named():
    made = structure(attention(out=MatMul(Structural((), (6, 6)), Leaf("out", (6, 8)))))
    report = audit_compiled(module(made), "dead")
    assert "multiplied by an exact 0" in {n.reason for n in report.dead}
    assert "out" in {n.name for n in report.dead}
    made = structure(head=Head(Leaf("embedding", (10, 6))))
    (leaf,) = [x for x in audit_compiled(module(made), "tied").leaves if x.name == "embedding"]
    assert leaf.ties == ("head.weight",)


def test_a_spec_is_counted_without_values():
    shared = Take(Leaf("rows", (2, 6)), (0, 0, 1, 1), 0)
    turn = Mul(Leaf("scale", (1, 1)), Add(
        Mul(Cos(Leaf("angle", (1, 1))), Structural(((0, 0, 1), (1, 1, 1)), (8, 6))),
        Mul(Sin(Leaf("angle", (1, 1))), Structural(((0, 1, -1), (1, 0, 1)), (8, 6)))))
    made = structure(
        attention(q=turn, v=MatMul(Leaf("v.left", (8, 1)), Leaf("v.right", (1, 6)))),
        leaves=(LeafInfo("rows", "derived", 7, "rows"),))
    made = replace(made, blocks=(Block(made.blocks[0].attention, FeedForward(
        "relu", shared, Leaf("down", (6, 4)))),))
    report = audit_structure(made, "spec")
    assert report.counts.scalars is None
    assert report.counts.nonzero is None
    found = {choice.place: (choice.form, choice.cost, choice.plain) for choice in report.choices}
    assert found["blocks.0.attention.q"] == ("rotation", 2, 48)
    assert found["blocks.0.attention.v"] == ("rank 1", 14, 48)
    assert found["blocks.0.feed_forward.up"] == ("rows shared", 12, 24)
    assert found["blocks.0.feed_forward.up_bias"] == ("no bias", 0, 4)
    assert found["head.bias"] == ("dense", 10, 10)
    assert [c.line for c in report.choices if c.form == "rows shared"] == [7]


def test_rules_of_a_compiled_model():
    report = audit_compiled(module(structure()), "m", with_rules=True)
    assert {rule.verdict for rule in report.rules} == {"pass"}
    lonely = audit_compiled(module(structure(blocks=(Block(None, FFN),))), "m", with_rules=True)
    verdicts = {rule.rule.split(",")[0]: rule.verdict for rule in lonely.rules}
    assert verdicts["self-attention"] == "fail"
