"""Verdicts against the truth found by running every operand pair."""

import pytest
import torch
from modules import (
    Counts,
    Fused,
    InPlace,
    KnowsItIsTraced,
    LooksAtTokens,
    Noisy,
    Normed,
    Overflows,
    PlaceValue,
    RarelyWrong,
    Remembers,
    Resonant,
    StateMachine,
    Summed,
    place_value_format,
    plain_format,
    state_format,
)
from mutants import adds_everything, draw, undo

import adderc
from adderc.nn.conditions import assertions, export_deciding
from adderc.prove import run
from adderc.prove.algebra import Algebra
from adderc.prove.carry import Automaton
from adderc.prove.checker_reader import NotUnderstood, Reader
from adderc.prove.doubt import Unsupported
from adderc.prove.run import falsify, prove
from adderc.prove.scalars import ScalarGraph
from adderc.prove.shadow import Interpreter


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


def test_a_right_model_is_proven(small):
    lines = []
    result = prove(small, progress=lines.append)
    assert [line.split(":")[0] for line in lines] == [f"step {i} of 3" for i in (1, 2, 3)]
    assert (result.verdict, result.grade) == ("PROVEN", "portable")
    assert adds_everything(small)
    assert result.margin > 0.9
    assert result.margin_ulp > 1000
    assert result.cases >= 2 * 2 * 19 - 40
    assert result.counterexample is None
    assert any("exp 4" in line for line in result.assumptions)


def check_mutants(module, count, seed, monkeypatch):
    monkeypatch.setattr(run, "LAST_SECONDS", 0.3)
    seen = {True: 0, False: 0}
    for mutant in draw(module, count, seed):
        old = mutant.apply(module)
        try:
            truth, result = adds_everything(module), prove(module)
        finally:
            undo(module, mutant, old)
        seen[truth] += 1
        assert result.verdict != ("REFUTED" if truth else "PROVEN"), mutant
        if result.verdict == "REFUTED":
            failure = result.counterexample
            assert failure.expected == sum(failure.operands) != failure.got
    assert min(seen.values()) > count // 10


def test_no_mutant_gets_a_false_verdict(exported_once, monkeypatch):
    check_mutants(adderc.compile("nanogpt58", base=3, width=2), 20, 0, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(("base", "width"), [(2, 4), (3, 3), (10, 2)])
def test_no_mutant_of_any_base_gets_a_false_verdict(base, width, exported_once, monkeypatch):
    check_mutants(adderc.compile("nanogpt58", base=base, width=width), 400, 1, monkeypatch)


@pytest.mark.parametrize("module", [
    Resonant(2, leak=2.0, dtype=torch.float64), slow(Resonant(2)), slow(Resonant(2, leak=0.5)),
    slow(InPlace(2)), slow(Fused(2)), slow(Summed(2)), slow(Normed(2, "layer")),
    slow(Normed(2, "rms")),
], ids=["by content in float64", "by position", "by content", "in place", "fused", "einsum",
        "layer norm", "rms norm"])
def test_hand_written_modules_are_proven(module):
    result = prove(module, plain_format(2))
    assert (result.verdict, result.grade) == ("PROVEN", "portable"), result.reason


@pytest.mark.parametrize(("width", "base", "operands"), [(2, 3, 3), slow(2, 10, 2), slow(2, 5, 4)])
def test_most_significant_digit_first_and_several_operands(width, base, operands):
    form = place_value_format(width, base, operands)
    module = PlaceValue(form)
    result = prove(module, form)
    assert result.verdict == "PROVEN", result.reason
    with torch.no_grad():
        module.table[base - 1] -= 0.1
    assert prove(module, form).verdict == "REFUTED"


def test_state_tokens():
    module, form = StateMachine(3, 4), state_format(3, 4)
    assert prove(module, form).verdict == "PROVEN"
    with torch.no_grad():
        module.sums[6] += 0.6
    assert prove(module, form).verdict == "REFUTED"


@pytest.mark.parametrize("module", [
    RarelyWrong(2), Resonant(2, threshold=8.95), Resonant(2, threshold=-0.5), Overflows(2),
], ids=["one total", "threshold high", "threshold low", "overflow"])
def test_wrong_modules_are_not_proven(module):
    result = prove(module, plain_format(2))
    assert result.verdict == "REFUTED"
    failure = result.counterexample
    assert failure.expected == sum(failure.operands) != failure.got


@pytest.mark.parametrize(("module", "word"), [
    (Remembers(1), "reads values"),
    (Counts(1), "keeps state"),
    (KnowsItIsTraced(1), "other arithmetic"),
    (Noisy(1), ""),
], ids=["memo", "counter", "knows it is traced", "random"])
def test_cheats_are_undecided(module, word, monkeypatch):
    monkeypatch.setattr(run, "LAST_SECONDS", 0.1)
    result = prove(module, plain_format(1))
    assert result.verdict == "UNDECIDED"
    assert result.grade is None
    assert word in result.reason


def test_a_branch_on_a_token_value_is_refused(monkeypatch):
    monkeypatch.setattr(run, "LAST_SECONDS", 0.0)
    monkeypatch.setattr(run, "FIRST_TRIES", 0)
    result = prove(LooksAtTokens(2), plain_format(2))
    assert result.verdict == "UNDECIDED"
    assert "a branch" in result.reason


def test_a_branch_that_samples_do_not_show_is_refused_by_both_readers():
    """The graph asserts how the branch went; neither reader takes that on trust."""
    module = LooksAtTokens(1)
    tokens = torch.zeros(1, 5, dtype=torch.int64)
    program = export_deciding(module, tokens)
    assert torch.equal(program.module()(tokens), module(tokens))
    assert assertions(program) >= 1
    automaton = Automaton(plain_format(1))
    graph = ScalarGraph()
    nodes = torch.tensor([[graph.node("token", (), p) for p in range(5)]])
    algebra = Algebra(graph, torch.float32, automaton.domain)
    with pytest.raises(Unsupported, match="a branch"):
        Interpreter(algebra).run(program, nodes)
    reader = Reader(torch.float32, lambda position: 10)
    with pytest.raises(NotUnderstood, match="a branch"):
        reader.read_logits(program, [reader.term("token", (), p) for p in range(5)])


def test_a_fault_for_one_digit_pair_is_found_without_luck(monkeypatch):
    """With no random tries the bounds alone lead to the failing operands."""
    monkeypatch.setattr(run, "FIRST_TRIES", 0)
    result = prove(RarelyWrong(4), plain_format(4))
    assert result.verdict == "REFUTED"


def test_an_exhausted_budget_is_undecided(small):
    result = prove(small, budget=0.0)
    assert result.verdict == "UNDECIDED"
    assert "budget" in result.reason


def test_falsify_never_proves(small):
    assert falsify(small, seconds=1.0).verdict == "UNDECIDED"
    assert falsify(Resonant(2, threshold=8.95), plain_format(2), seconds=5).verdict == "REFUTED"


@pytest.mark.parametrize("settings", [
    {"base": 16, "width": 1}, slow({"base": 2, "width": 10}), slow({"base": 3, "width": 6}),
    slow({"width": 3, "dtype": "float64"}),
], ids=str)
def test_other_bases_and_dtypes_are_proven(settings):
    result = prove(adderc.compile("nanogpt58", **settings))
    assert (result.verdict, result.grade) == ("PROVEN", "portable"), result.reason
