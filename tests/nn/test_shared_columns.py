"""Tokens that are alike share their computation; the answers stay the plain loop's."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from random_models import random_module

from adderc.format.batches import checked_batch, prompts_of
from adderc.nn.greedy import decode_greedy
from adderc.nn.module import AdderModule
from adderc.nn.near import Near
from adderc.nn.near_cached import Cached, Columns, columns_of
from adderc.nn.running import running_decoder
from adderc.pipeline import Settings, compile_spec, read_spec


def prompts(module, count, seed=0):
    chance, number = random.Random(seed), module.number
    rows = [tuple(chance.randint(0, number.maximum) for _ in range(number.operands))
            for _ in range(count)]
    return prompts_of(module.format, checked_batch(number, rows))


def compiled(name, **settings):
    result = compile_spec(read_spec(name), Settings(**settings))
    return AdderModule(result.structure, result.values)


def columns(tokens, start, size):
    ids, places, index = columns_of(tokens, start, size)
    value = (ids + 100 * places).double()[None]  # says which token stood where
    return Columns(Near(value, value / 8), places, index)


@pytest.mark.parametrize(("count", "batch", "size"), [
    (1, 9, 4), (5, 9, 4), (3, 4, 3), (2, 3, 12), (4, 6, None)])
def test_a_column_is_its_tokens_own(count, batch, size):
    chance = np.random.default_rng(count)
    tokens = torch.from_numpy(chance.integers(0, size or 5, (count, batch)))
    x = columns(tokens, 7, size)
    right = tokens + 100 * torch.arange(7, 7 + count)[:, None]
    if size is not None and size < batch:
        assert len(x.places) == len(set(right.flatten().tolist()))
    for shown, whole in ((x, right), (x.each(), right), (x.last(), right[-1:])):
        assert torch.equal(shown.near.mid[0][shown.index].long(), whole)
        assert torch.equal(shown.near.off, shown.near.mid / 8)
        assert torch.equal(shown.places[shown.index], whole // 100)
    assert torch.equal(x.each().index.flatten(), torch.arange(count * batch))


def test_as_many_columns_as_sums_are_still_not_one_a_sum():
    tokens = torch.tensor([[0, 1, 0, 1], [0, 1, 1, 0]])  # 4 columns, 4 sums
    x = columns(tokens, 0, 2)
    assert len(x.places) == 4
    assert x.last().near.mid[0].tolist() == [100.0, 101.0, 101.0, 100.0]


def heard(module, rows):
    """Per block, whether what its heads added was alike for all sums, over all steps."""
    found = {}

    class Watched(Cached):
        def attend(self, x, last_only):
            added, shared = super().attend(x, last_only)
            found.setdefault(id(self._heads), []).append(shared)
            return added, shared

    decoder, steps = running_decoder(module), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("adderc.nn.running.Cached", Watched)
        with torch.inference_mode():
            decoder.decode(rows, lambda tokens: steps.append(tokens) or int(
                module(tokens)[0, -1].argmax()))
    return [all(found[id(block.heads)]) for block in decoder._blocks], len(steps)


def test_heads_that_look_at_positions_only_are_read_once_for_all_sums():
    module = compiled("placevalue")
    shared, asked = heard(module, prompts(module, 40))
    assert shared == [True, False]
    assert asked == 0


def test_heads_that_look_at_tokens_are_not_shared():
    seeds = [seed for seed in range(40)
             if len(random_module(seed, "float32").structure.blocks) > 1]
    module = random_module(seeds[0], "float32")
    assert not any(heard(module, prompts(module, 40))[0])


@pytest.mark.parametrize("size", [1, 7, 64])
def test_answers_do_not_depend_on_how_many_are_decoded_together(size):
    module = compiled("placevalue", width=4, base=3)
    rows = prompts(module, 64)
    whole = decode_greedy(module, module.format, rows)
    assert np.array_equal(decode_greedy(module, module.format, rows, batch_size=size), whole)
    loop = decode_greedy(module, module.format, rows[:5], batch_size=1, incremental=False)
    assert np.array_equal(whole[:5], loop)


@pytest.mark.parametrize("seed", range(300, 306))
def test_bounds_hold_for_shared_columns(seed):
    """The module's logits lie within the bound of a batch with many equal tokens."""
    module = random_module(seed, "float32")
    decoder = running_decoder(module)
    rows = torch.from_numpy(np.repeat(prompts(module, 6), 8, axis=0))
    with torch.inference_mode():
        theirs = module(rows)[:, -1].double().T
        decoder._loud = None
        caches = {number: Cached(block.heads, 48, rows.shape[1])
                  for number, block in enumerate(decoder._blocks) if block.heads is not None}
        found = decoder._head(decoder._residual(0, rows.T.contiguous(), 0, caches))
    assert not ((theirs - found.mid).abs() > found.off).any()


def test_small_weights_of_large_values_are_bounded_key_by_key():
    """An anchor of e^37 times the weight of a digit: no digit must be asked of the module."""
    module = compiled("prefix33", width=5)
    assert module.structure.blocks[0].attention.kind == "softmax"
    rows = prompts(module, 30)
    assert running_decoder(module)._loud is not None
    asked = []
    with torch.inference_mode():
        answers = running_decoder(module).decode(rows, asked.append)
    assert not asked
    loop = decode_greedy(module, module.format, rows[:5], batch_size=1, incremental=False)
    assert np.array_equal(answers[:5], loop)


def test_a_frozen_module_is_the_module_of_its_moment():
    module = compiled("placevalue", width=3)
    tokens = torch.from_numpy(prompts(module, 3))
    with torch.inference_mode():
        before, frozen = module(tokens), module.frozen()
        assert torch.equal(frozen(tokens), before)
        module.hook_point("blocks.0.out").register_forward_hook(lambda *found: found[2] * 2)
        assert not torch.equal(module(tokens), before)
        assert torch.equal(frozen(tokens), before)
    with torch.no_grad():
        module.leaves()["place.value"].mul_(2)
        assert torch.equal(frozen(tokens), before)
        assert not torch.equal(module.frozen()(tokens), before)
