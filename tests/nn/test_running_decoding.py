"""Decoding with bounds beside the values: the plain loop's answers for every kind of model."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from handmade import rotation_adder
from random_models import random_module

import adderc.nn.running as running
from adderc.format.batches import checked_batch, prompts_of
from adderc.nn.greedy import NOT_A_TOKEN, decode_greedy
from adderc.nn.module import AdderModule
from adderc.nn.near import Near, Unit
from adderc.nn.near_attention import Reader
from adderc.nn.routed import routed_decoder
from adderc.nn.running import has_bounds, running_decoder
from adderc.pipeline import Settings, compile_spec, read_spec


def prompts(module, count, seed=0):
    chance, number = random.Random(seed), module.number
    rows = [tuple(chance.randint(0, number.maximum) for _ in range(number.operands))
            for _ in range(count)]
    return prompts_of(module.format, checked_batch(number, rows))


def plain_loop(module, rows):
    return decode_greedy(module, module.format, rows, batch_size=1, incremental=False)


def decoded(module, rows, tables=True):
    """(answers, how many digits were asked of the module)."""
    asked = []

    def ask(tokens):
        asked.append(tokens)
        return int(module(tokens)[0, -1].argmax())

    decoder = running_decoder(module)
    if not tables:
        decoder._loud = None
    with torch.inference_mode():
        return decoder.decode(rows, ask), len(asked)


@pytest.mark.parametrize("seed", [*range(8), *(
    pytest.param(seed, marks=pytest.mark.slow) for seed in range(8, 80))])
def test_close_calls_are_the_plain_loops(seed):
    """Heads whose logits nearly tie: only the module itself knows which digit it writes."""
    module = random_module(seed, "float32", close=1e-7)
    rows = prompts(module, 17)
    expected = plain_loop(module, rows)
    answers, asked = decoded(module, rows)
    assert np.array_equal(answers, expected)
    assert asked > 12
    assert np.array_equal(decode_greedy(module, module.format, rows), expected)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("seed", range(600, 660))
def test_thousands_of_sums_between_sure_and_close(seed, dtype):
    """Leads of every size beside the bound, with tables and with a cache of keys."""
    close = 10.0 ** np.random.default_rng(seed).uniform(-8, -2)
    module = random_module(seed, dtype, close=close if dtype == "float32" else close**2)
    rows = prompts(module, 60, seed)
    expected = plain_loop(module, rows)
    if running_decoder(module) is None:  # gates after gates: numbers that may overflow
        assert np.array_equal(decode_greedy(module, module.format, rows), expected)
        return
    for tables in (True, False):
        assert np.array_equal(decoded(module, rows, tables)[0], expected)


def test_without_asking_close_calls_go_wrong():
    """The test above can fail: float64 alone takes other digits."""
    wrong = 0
    for seed in range(6):
        module = random_module(seed, "float32", close=1e-7)
        rows = prompts(module, 12)
        decoder = running_decoder(module)
        decoder._choose = lambda x, d=decoder: (d._head(x).mid.argmax(0),
                                                torch.ones(x.mid.shape[1], dtype=torch.bool))
        with torch.inference_mode():
            answers = decoder.decode(rows, None)
        wrong += not np.array_equal(answers, plain_loop(module, rows))
    assert wrong > 3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("seed", range(100, 106))
def test_random_models_are_mostly_sure(seed, dtype):
    module = random_module(seed, dtype)
    rows = prompts(module, 16)
    expected = plain_loop(module, rows)
    for tables in (True, False):
        answers, asked = decoded(module, rows, tables)
        assert np.array_equal(answers, expected)
        assert asked <= 32  # of 64


@pytest.mark.parametrize("seed", range(200, 230))
def test_the_bound_covers_what_float32_does(seed):
    """The module's logits, at the last of many sequences, lie within the bound of ours."""
    module = random_module(seed, "float32")
    decoder = running_decoder(module)
    rows = torch.from_numpy(prompts(module, 64))
    with torch.inference_mode():
        theirs = module(rows)[:, -1].double().T
        for loud in {decoder._loud, None}:
            decoder._loud = loud
            caches = {number: running.Cached(block.heads, 64, rows.shape[1])
                      for number, block in enumerate(decoder._blocks) if block.heads is not None}
            found = decoder._head(decoder._residual(0, rows.T.contiguous(), 0, caches))
            assert not ((theirs - found.mid).abs() > found.off).any()
            if len(module.structure.blocks) == 1 and module.leaves()["embedding"].abs().max() < 8:
                assert found.off.amax() < 1e-3 * found.mid.abs().amax()


def test_a_wide_pattern_is_read_in_parts():
    """Keys that cannot count are left out; their weight is in the bound."""
    compiled = compile_spec(read_spec("llama-style"), Settings(width=40))
    module = AdderModule(compiled.structure, compiled.values)
    decoder = running_decoder(module)
    places, missed = decoder._loud._heard[0][7]
    assert len(places) < 12
    assert 0 <= missed < 1e-14
    answers, asked = decoded(module, prompts(module, 20))
    assert asked == 0
    assert np.array_equal(answers[:3], plain_loop(module, prompts(module, 20)[:3]))


@pytest.mark.parametrize("name", ["llama-style", "rope19", "rope19-seed", "placevalue"])
def test_specs_with_norms_or_later_heads_answer_as_the_plain_loop_does(name):
    compiled = compile_spec(read_spec(name), Settings())
    module = AdderModule(compiled.structure, compiled.values)
    assert routed_decoder(module) is None
    rows = prompts(module, 24)
    answers, asked = decoded(module, rows)
    assert np.array_equal(answers[:6], plain_loop(module, rows[:6]))
    assert asked < 12


def test_overflow_and_nan_go_through_the_loop():
    structure, values = rotation_adder(3)
    for name, value in (("q.scale", 1e30), ("head.quad", np.nan)):
        module = AdderModule(structure, values | {name: np.full(values[name].shape, value)})
        assert running_decoder(module) is None
        rows = prompts(module, 20)
        found = decode_greedy(module, module.format, rows)
        assert np.array_equal(found, plain_loop(module, rows))
    assert (found == NOT_A_TOKEN).all()


def test_half_precision_has_no_bounds():
    module = AdderModule(*rotation_adder(3)).to(torch.bfloat16)
    assert not has_bounds(module)
    assert decode_greedy(module, module.format, prompts(module, 20)).shape == (20, 4)


def test_a_weight_that_underflows_can_still_be_wrong():
    """Score -1000 of products of 1e10: float32 may see anything within 1e3 of it."""
    def pair(*mid):
        return torch.tensor(mid).double()[:, None], torch.zeros((len(mid), 1)).double()

    reader = Reader(1.0, True, False, Unit.of("float32"))
    queries = [tuple(v[0] for v in pair(1e10)), tuple(v[0] for v in pair(1e10))]
    of = reader.weigh(queries, [pair(0.0, 1.0), pair(0.0, -1 - 1e-7)], None, None)
    assert of.weight[1] == 0
    assert of.moved[1] > 1


def test_a_norms_common_error_cancels_between_logits():
    """Logits of 2^16 that differ by 1: their common factor must not count."""
    x = Near(torch.tensor([[2.0**16], [3.0]], dtype=torch.float64),
             torch.zeros((2, 1), dtype=torch.float64), rel=torch.tensor([1e-5]).double())
    weight = torch.tensor([[1.0, 1.0], [1.0, 0.5]], dtype=torch.float64)
    logits = weight @ x.mid
    left = running.lead(weight, torch.zeros_like(logits), x, logits, None, torch.tensor([0]))
    assert 1.49 < float(left[1, 0]) < 1.5


def test_balance_of_a_rounded_sinusoid_is_kept():
    from fractions import Fraction

    from adderc.nn.position import PositionSignals
    from adderc.weights.structure import Sinusoid

    structure, _ = rotation_adder(3)
    signal = Sinusoid(Fraction(4), (1, 2), ((0, Fraction(8)),), rounded="float32", balance=3)
    structure = replace(structure, position=signal)
    rows = PositionSignals(structure, torch.float64).residual(0, 6)
    assert torch.equal(rows[:, 3], -(rows[:, 1] + rows[:, 2]))
    assert rows[1, 3] != 0
