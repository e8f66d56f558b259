"""Greedy decoding of a hand-written adder, of other people's callables, and of NaN."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from handmade import (
    plain_attention,
    plain_format,
    plain_structure,
    random_values,
    rotation_adder,
)
from torch import Tensor

from adderc.errors import InputError
from adderc.nn.greedy import NOT_A_TOKEN, choose_token, decode_greedy, decode_one
from adderc.nn.module import AdderModule
from adderc.weights.expr import Leaf
from adderc.weights.structure import Block, FeedForward, PositionTable, Structure


def adder(width: int = 3, dtype: str = "float32") -> AdderModule:
    return AdderModule(*rotation_adder(width, dtype))


def pairs(width: int, count: int, seed: int = 0) -> list[tuple[int, int]]:
    chance, top = random.Random(seed), 10**width - 1
    edges = [(0, 0), (top, 1), (top, top), (top // 2 + 1, top // 2), (1, top), (top, 0)]
    return edges + [(chance.randint(0, top), chance.randint(0, top)) for _ in range(count)]


@pytest.mark.parametrize("width", [1, 3, 10])
def test_the_hand_written_adder_adds(width: int) -> None:
    module, questions = adder(width), pairs(width, 200)
    assert module.add_many(questions) == [a + b for a, b in questions]
    assert module.add_many(questions, batch_size=7) == [a + b for a, b in questions]
    assert [module.add(a, b) for a, b in questions[:8]] == [a + b for a, b in questions[:8]]
    assert module.add_many([]) == []


def test_operands_out_of_range_are_refused() -> None:
    module = adder()
    with pytest.raises(InputError, match="1000 is out of range"):
        module.add(1000, 1)
    with pytest.raises(InputError, match="adds 2 operands, got 1"):
        module.add_many([(1,)])
    with pytest.raises(InputError, match="batch size 0"):
        module.add_many([(1, 1)], batch_size=0)


def deep_structure() -> Structure:
    """Random and wrong in its sums: two blocks, learned positions, every kind of mask."""
    ffn = FeedForward("gelu", Leaf("up", (5, 6)), Leaf("down", (6, 5)))
    routed = plain_attention(routes=((0, 3), (4,)), slopes=Leaf("slopes", (2,)))
    return plain_structure(None, blocks=(Block(routed, ffn), Block(plain_attention(), ffn)),
                           position=PositionTable(Leaf("p", (12, 6))))


def test_incremental_decoding_equals_the_plain_loop() -> None:
    deep = deep_structure()
    calm = {name: 0.6 * value for name, value in random_values(deep, 1).items()}
    for structure, values in ((deep, calm), rotation_adder(3)):
        module = AdderModule(structure, values)
        prompts = structure.format.encode(pairs(3, 60))
        plain = decode_greedy(module, structure.format, prompts, incremental=False)
        assert len(np.unique(plain, axis=0)) > 10
        assert np.array_equal(decode_greedy(module, structure.format, prompts), plain)
        assert np.array_equal(decode_greedy(lambda t, m=module: m(t), structure.format, prompts),
                              plain)


def test_advance_gives_the_logits_of_forward() -> None:
    module = AdderModule(deep_structure(), random_values(deep_structure(), 5))
    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, 10, (4, 12)))
    with torch.inference_mode():
        cache = module.open_cache(4, 12)
        pieces = [tokens[:, :5], tokens[:, 5:6], tokens[:, 6:9], tokens[:, 9:]]
        for piece in pieces:
            logits = module.advance(piece, cache)
            torch.testing.assert_close(logits, module(tokens[:, : cache.length])[:, -1])


def test_a_hooked_module_is_run_on_whole_sequences() -> None:
    module, lengths = adder(), []
    module.hook_point("embed").register_forward_hook(
        lambda m, i, value: lengths.append(value.shape[1]))
    module.add_many([(1, 2)])
    assert lengths == [8, 9, 10, 11]


def scripted(tokens: Tensor) -> Tensor:
    """Logits [N, T, 10] of a model that answers 6, 6, 4, 0 whatever it is asked."""
    logits = torch.zeros(*tokens.shape, 10)
    for position, answer in zip(range(7, 11), (6, 6, 4, 0), strict=True):
        if position < tokens.shape[1]:
            logits[:, position, answer] = 1.0
    return logits


@pytest.mark.parametrize("wrap", [
    scripted,
    lambda t: (scripted(t), None),
    lambda t: scripted(t)[:, -1:],
    lambda t: scripted(t)[:, -1],
    lambda t: SimpleNamespace(logits=scripted(t)),
])
def test_other_peoples_modules(wrap: object) -> None:
    format = plain_format(3)
    assert decode_one(wrap, format, (123, 343)) == 466  # type: ignore[arg-type]
    prompts = format.encode([(0, 0), (1, 2)])
    answers = decode_greedy(wrap, format, prompts)  # type: ignore[arg-type]
    assert answers.tolist() == [[6, 6, 4, 0]] * 2


@pytest.mark.parametrize("wrap", [lambda t: None, lambda t: torch.zeros(3), lambda t: ()])
def test_what_is_no_logits_is_refused(wrap: object) -> None:
    with pytest.raises(InputError, match="not logits"):
        decode_one(wrap, plain_format(3), (1, 2))  # type: ignore[arg-type]


def test_ties_go_to_the_lowest_id_and_nan_is_no_token() -> None:
    inf, nan = float("inf"), float("nan")
    logits = torch.tensor([[1.0, 3.0, 3.0], [nan, 5.0, 1.0], [0.0, -inf, inf], [-inf] * 3])
    assert choose_token(logits).tolist() == [1, NOT_A_TOKEN, 2, 0]


def test_nan_never_counts_as_an_answer() -> None:
    structure, values = rotation_adder(3)
    values["head.quad"] = np.array([[np.nan]])
    module = AdderModule(structure, values)
    assert module.add(0, 0) is None
    assert module.add_many([(0, 0), (1, 2)]) == [None, None]
    prompts = structure.format.encode([(0, 0)])
    assert decode_greedy(module, structure.format, prompts).tolist() == [[NOT_A_TOKEN] * 4]
