"""The styles in which people write such modules: right ones, broken twins, cheats.

A twin differs from its module in one number; the truth comes from running every sum.
"""

import itertools
import random
import time

import pytest
import torch
from manners import MANNERS, CisOfTokens, Steps
from modules import plain_format
from mutants import adds_everything
from rare import after_a_chain, at_the_last_digit, for_one_pair

from adderc.format.number import NumberFormat
from adderc.format.prompt import Format
from adderc.prove import run, search
from adderc.prove.run import falsify, prove

FAST = ("Loops", "ByHand", "Steps", "Decided", "Powers", "Divided", "Cis")
FAULTS = {  # which of a module's numbers, and what it becomes
    "carry threshold": ("hinges", 1, -0.2), "wrap threshold": ("hinges", 3, 10.1),
    "digit": ("digits", 7, 7.3), "slack of a hinge": ("hinges", 0, 0.05)}


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


def by_speed(manner):
    """A manner at one digit if it is quick, and all at two digits."""
    if manner.__name__ in FAST:
        yield manner, 1
    yield slow(manner, 2)


@pytest.mark.parametrize(("manner", "width"), [
    chosen for manner in MANNERS for chosen in by_speed(manner)])
def test_a_right_module_of_any_style_is_proven(manner, width, monkeypatch):
    monkeypatch.setattr(search, "EXHAUSTIBLE", 0)
    module, form = manner(width).eval(), plain_format(width)
    assert adds_everything(module, form)
    result = prove(module, form)
    assert (result.verdict, result.grade) == ("PROVEN", "portable"), result.reason


def test_a_complex_table_by_token_is_not_followed(monkeypatch):
    """The numbers of pairs must not be taken for tokens or nodes."""
    monkeypatch.setattr(run, "FIRST_TRIES", 0)
    monkeypatch.setattr(run, "LAST_SECONDS", 0.0)
    result = prove(CisOfTokens(1).eval(), plain_format(1))
    assert result.verdict == "UNDECIDED"
    assert "on complex numbers" in result.reason


@pytest.mark.parametrize("manner", MANNERS)
def test_its_broken_twins_are_refuted(manner):
    for fault, (name, index, value) in FAULTS.items():
        if manner is Steps and fault == "slack of a hinge":
            continue  # it has no hinges
        module = manner(2).eval()
        with torch.no_grad():
            getattr(module, name)[index] = value
        result = prove(module, plain_format(2))
        assert result.verdict == "REFUTED", fault
        failure = result.counterexample
        assert failure.expected == sum(failure.operands) != failure.got


@pytest.mark.parametrize("module", [
    after_a_chain(4, 2, 1, (3, 8)), slow(after_a_chain(10, 7, 5, (3, 8))),
    slow(at_the_last_digit(10, (4, 4))), slow(for_one_pair(10, 1234567890, 987654321, 4)),
], ids=["after a short chain", "after a chain", "last digit", "one pair"])
def test_rare_faults_are_found(module):
    result = prove(module, plain_format(module.width))
    assert result.verdict == "REFUTED"


def test_a_counterexample_keeps_to_the_range(exported_once, monkeypatch):
    """The only failing sum is 77 + 88; the bounds see it, the smaller range lacks it."""
    monkeypatch.setattr(run, "FIRST_TRIES", 0)
    plain, module = plain_format(2), for_one_pair(2, 77, 88, 1)
    for limit, verdict, operands in ((99, "REFUTED", (77, 88)), (76, "UNDECIDED", None)):
        form = Format(NumberFormat(10, 2, 2, limit), plain.prompt, tokens=plain.tokens)
        result = prove(module, form)
        assert result.verdict == verdict
        assert (result.counterexample and result.counterexample.operands) == operands


class Fails(MANNERS[0]):
    """No forward to speak of."""

    def forward(self, tokens):
        raise IndexError("nothing here")


def test_a_module_that_fails_is_undecided():
    for judge in (prove, falsify):
        result = judge(Fails(1), plain_format(1))
        assert result.verdict == "UNDECIDED"
        assert result.reason == "the module fails when it is run: IndexError: nothing here"


class Lucky(MANNERS[0]):
    """Wrong by chance, if rarely: Python's own random numbers."""

    def forward(self, tokens):
        logits = super().forward(tokens)
        return -logits if random.random() < 1e-9 else logits


class Iterates(MANNERS[0]):
    """A counter that is no number: an iterator."""

    def prepare(self, dtype):
        self.calls = itertools.count()

    def forward(self, tokens):
        logits = super().forward(tokens)
        return -logits if next(self.calls) > 10**6 else logits


@pytest.mark.parametrize(("module", "word"), [
    (Lucky(1), "random numbers"), (Iterates(1), "keeps state")], ids=["chance", "iterator"])
def test_hidden_state_is_seen(module, word, monkeypatch):
    monkeypatch.setattr(run, "LAST_SECONDS", 0.0)
    result = prove(module, plain_format(1))
    assert result.verdict == "UNDECIDED"
    assert word in result.reason


def test_samples_of_a_limited_range_are_not_all_its_end():
    plain = plain_format(4)
    form = Format(NumberFormat(2, 30, 2, 10**6), plain.prompt, tokens=plain.tokens)
    rows = search.Search(None, form).structured(500)
    assert max(max(row) for row in rows) == 10**6
    assert len(set(rows)) > 300


def test_falsify_ends_with_its_budget(monkeypatch):
    """From the first look on, every look at the clock is half a second later."""
    start = time.monotonic()
    ticks = itertools.count(start + 0.5, 0.5)
    monkeypatch.setattr(search.time, "monotonic", lambda: next(ticks))
    result = falsify(MANNERS[0](3), plain_format(3), seconds=8.0)
    assert result.verdict == "UNDECIDED"
    assert "no failing operands" in result.reason
    assert 8 <= next(ticks) - start < 16
