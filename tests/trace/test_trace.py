"""A trace says what the module does, and its text fits the terminal."""

import numpy as np
import pytest
import torch
from handmade import plain_attention, plain_structure, random_values, rotation_adder
from rich.text import Text

from adderc.errors import InputError
from adderc.nn.module import AdderModule
from adderc.report.tracing import trace_json, trace_lines
from adderc.trace import trace
from adderc.weights.expr import Leaf
from adderc.weights.structure import Block, FeedForward, Norm


@pytest.fixture(scope="module")
def adder():
    return AdderModule(*rotation_adder(4))


def text(found, width=80, places=()):
    lines = [line.plain if isinstance(line, Text) else str(line)
             for line in trace_lines(found, width, places)]
    assert max(map(len, lines)) <= width
    return "\n".join(lines)


def test_the_reads_are_the_digits_of_the_place(adder):
    found = trace(adder, (1234, 9876))
    assert (found.expected, found.got, found.first_wrong) == (11110, 11110, None)
    assert [step.token_written for step in found.steps] == [0, 1, 1, 1, 1]
    for step in found.steps[1:4]:
        x, prev = step.heads
        assert {read.label for read in x.reads} == {f"a[{step.place}]", f"b[{step.place}]"}
        assert {read.label for read in prev.reads} == {
            f"a[{step.place - 1}]", f"b[{step.place - 1}]"}
        assert x.reads[0].weight == pytest.approx(0.5, abs=1e-3)
        labels = dict(found.prompt)
        assert all(read.token == labels[read.label] for read in x.reads)


def test_logits_residual_and_units_are_the_modules_own(adder):
    found = trace(adder, (1234, 9876))
    tokens = [token for _, token in found.prompt] + [s.token_written for s in found.steps[:-1]]
    with torch.inference_mode():
        logits = adder(torch.tensor([tokens]))[0, len(found.prompt) - 1 :]
    for step, row in zip(found.steps, logits.tolist(), strict=True):
        assert list(step.logits) == row
        best = sorted(row)
        assert step.margin == pytest.approx(best[-1] - best[-2])
        assert row.index(best[-2]) == step.runner_up
        names = [name for name, _ in step.residual]
        assert names == ["start", "+ attention", "+ feed-forward"]
        unit = step.hidden[0]
        assert list(unit.after) == [max(0.0, value) for value in unit.before]


def test_the_first_wrong_digit_is_marked():
    structure, values = rotation_adder(4)
    values["ffn.bias"] = np.array([-400, -500, -9945, -9955.0])  # wraps too late
    module = AdderModule(structure, values)
    found = trace(module, (7, 3))
    assert found.got == 9
    assert found.first_wrong == 0
    shown = text(found)
    assert "the right sum is 10" in shown
    assert shown.count("<- first wrong") == 1
    assert "0 is right" in shown
    assert trace_json(found)["first_wrong"] == 0


def test_hooks_are_gone_afterwards(adder):
    trace(adder, (1, 2))
    assert not any(p._forward_hooks for p in adder.hook_points().values())


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("digits", [1, 4, 30])
def test_text_fits(width, digits):
    module = AdderModule(*rotation_adder(digits))
    said = dict.fromkeys(range(digits + 1), (("x", 10), ("prev", 0), ("long_name" * 3, 1)))
    found = trace(module, (10**digits - 1, 1), said)
    shown = text(found, width)
    assert "digit 0" in shown
    if digits == 30:
        assert " digits are not shown; --digit I" in shown
        assert text(found, width, (17,)).count("\ndigit 17") == 1
        assert "digits are not shown" not in text(found, width, (17,))


def test_two_blocks_and_norms():
    ffn = FeedForward("gelu", Leaf("up", (4, 6)), Leaf("down", (6, 4)))
    norm = Norm("rms", None)
    structure = plain_structure(plain_attention(), blocks=(
        Block(plain_attention(), ffn, norm, norm), Block(plain_attention(), ffn)),
        final_norm=norm)
    module = AdderModule(structure, random_values(structure))
    found = trace(module, (123, 456))
    assert [head.block for head in found.steps[0].heads] == [0, 0, 1, 1]
    assert found.steps[0].residual[-1][0] == "norm"
    assert sum(r.weight for r in found.steps[1].heads[0].reads) + (
        found.steps[1].heads[0].rest) == pytest.approx(1)
    text(found)


def test_a_nan_is_no_token():
    structure, values = rotation_adder(2)
    values["head.lin"] = np.array([[np.nan]])
    found = trace(AdderModule(structure, values), (1, 2))
    assert found.got is None
    assert found.steps[0].token_written is None
    assert "no token" in text(found)
    assert "no number" in text(found)


def test_operands_out_of_range(adder):
    with pytest.raises(InputError, match="out of range"):
        trace(adder, (10**4, 1))
