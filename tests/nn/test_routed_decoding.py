"""Decoding by tables: the answers of the plain loop, and bounds that hold."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from handmade import plain_attention, plain_structure, random_values, rotation_adder

from adderc.format.batches import prompts_of
from adderc.nn.greedy import decode_greedy, decode_one
from adderc.nn.module import AdderModule
from adderc.nn.pattern import fixed_patterns, reads_positions_only
from adderc.nn.rounding import units_by_row
from adderc.nn.routed import TooManyDoubts, routed_decoder
from adderc.weights.expr import Constant, Leaf, Scatter, Structural
from adderc.weights.structure import Block, FeedForward, PositionTable, Rope

COLUMNS = (3, 4, 5)  # dimensions in which every token of `positional` is alike


def prompts(module, count, seed=0):
    rng = np.random.default_rng(seed)
    top = module.number.maximum + 1
    return prompts_of(module.format, rng.integers(0, top, (count, module.number.operands)))


def plain_loop(module, rows):
    return decode_greedy(module, module.format, rows, batch_size=1, incremental=False)


def positional(seed=0, dtype="float64", ffn=None, **changes):
    """Random weights, but heads that read dimensions 3 to 5, which no token touches."""
    def part(name):
        return Scatter(Leaf(name, (8, 3)), tuple(range(8)), COLUMNS, (8, 6))

    attention = plain_attention(q=part("q"), k=part("k"), **changes)
    length = plain_structure(None).format.length
    structure = plain_structure(
        attention, dtype, blocks=(Block(attention, ffn),),
        embedding=Scatter(Leaf("embedding", (10, 3)), tuple(range(10)), (0, 1, 2), (10, 6)),
        position=PositionTable(Leaf("position", (length, 6))))
    values = {name: value / 3 for name, value in random_values(structure, seed).items()}
    return AdderModule(structure, values)


FFNS = {
    "relu": FeedForward("relu", Leaf("up", (4, 6)), Leaf("down", (6, 4)), Leaf("up.bias", (1, 4))),
    "gated silu": FeedForward("silu", Leaf("up", (4, 6)), Leaf("down", (6, 4)),
                              gate=Leaf("gate", (4, 6)), down_bias=Leaf("down.bias", (1, 6))),
    "gelu": FeedForward("gelu", Leaf("up", (4, 6)), Leaf("down", (6, 4))),
    "none": None,
}
CHANGES = {
    "softmax": {},
    "softmax1": {"kind": "softmax1"},
    "rope": {"rope": Rope((Fraction(7), Fraction(19, 2)))},
    "slopes": {"slopes": Leaf("slopes", (2,)), "scale": Leaf("scale", ())},
    "routes": {"routes": ((1, 4), (9,))},
    "biases": {"q_bias": Leaf("q.bias", (1, 8)), "v_bias": Leaf("v.bias", (1, 8)),
               "out_bias": Leaf("out.bias", (1, 6))},
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("ffn", FFNS)
@pytest.mark.parametrize("change", CHANGES)
def test_random_models_answer_as_the_plain_loop_does(change, ffn, dtype):
    module = positional(3, dtype, FFNS[ffn], **CHANGES[change])
    decoder = routed_decoder(module)
    assert decoder is not None
    rows = prompts(module, 40)
    asked = []

    def ask(tokens):
        asked.append(tokens)
        return int(module(tokens)[0, -1].argmax())

    with torch.inference_mode():
        assert np.array_equal(decoder.decode(rows, ask), plain_loop(module, rows))
    assert len(asked) < 16


@pytest.mark.parametrize("width", [1, 3, 7])
def test_an_adder_answers_as_one_sum_at_a_time(width):
    module = AdderModule(*rotation_adder(width))
    rows = np.random.default_rng(1).integers(0, 10**width, (64, 2)).tolist()
    assert routed_decoder(module) is not None
    assert module.add_many(rows) == [decode_one(module, module.format, row) for row in rows]


@pytest.mark.parametrize("change", CHANGES)
def test_the_table_is_the_modules_own_pattern(change):
    module = positional(5, "float32", **CHANGES[change])
    found = routed_decoder(module).pattern.table
    seen = {}
    point = module.hook_point("blocks.0.attention.pattern")
    handle = point.register_forward_hook(lambda _p, _i, value: seen.update(pattern=value))
    first, length = module.format.prompt_length - 1, found.shape[2]
    with torch.inference_mode():
        module(torch.zeros((1, length), dtype=torch.int64))
    handle.remove()
    assert np.abs(found - seen["pattern"][0, :, first:].numpy()).max() < 1e-5


@pytest.mark.parametrize("ffn", FFNS)
@pytest.mark.parametrize("change", CHANGES)
def test_the_doubt_covers_what_float32_does(change, ffn):
    """Logit differences of a float32 module lie within the bound of the exact ones."""
    module = positional(7, "float32", FFNS[ffn], **CHANGES[change])
    exact = positional(7, "float64", FFNS[ffn], **CHANGES[change])
    for name, leaf in module.leaves().items():  # the same numbers, to the last bit
        exact.leaves()[name].data.copy_(leaf.double())
    lead = routed_decoder(module).steep.lead
    rows = torch.from_numpy(prompts(module, 200))
    with torch.inference_mode():
        off = module(rows)[:, -1].double() - exact(rows)[:, -1]
    apart = (off[:, :, None] - off[:, None]).abs().amax(0).numpy()
    assert (apart <= lead + 1e-300).all()
    assert np.median(lead) < 1e-2


def test_heads_that_see_tokens_have_no_table():
    structure = plain_structure(plain_attention())
    assert routed_decoder(AdderModule(structure, random_values(structure))) is None
    embedding = np.array([[1.0, 2, 0], [1, 3, 0]])
    assert reads_positions_only(embedding, (np.array([[5.0, 0, 1]]),))
    assert not reads_positions_only(embedding, (np.array([[0.0, 1e-30, 0]]),))


def test_norms_and_later_attention_have_no_table():
    from adderc.weights.structure import Norm

    module = positional()
    structure = replace(module.structure, final_norm=Norm("rms", None))
    assert routed_decoder(AdderModule(structure, module.leaf_values())) is None
    block = module.structure.blocks[0]
    structure = replace(module.structure, blocks=(block, block))
    assert routed_decoder(AdderModule(structure, module.leaf_values())) is None


def test_a_tie_is_asked_of_the_module():
    module = positional()
    with torch.no_grad():
        module.leaves()["head.weight"][5] = module.leaves()["head.weight"][4]
        module.leaves()["head.bias"][0, 4:6] = 1e3
    rows = prompts(module, 20)
    asked = []
    decoder = routed_decoder(module)
    with torch.inference_mode():
        answers = decoder.decode(rows[:2], lambda tokens: asked.append(tokens.shape[1]) or 4)
    first = module.format.prompt_length
    assert sorted(asked) == sorted(2 * list(range(first, first + module.format.steps)))
    assert (answers == 4).all()
    with pytest.raises(TooManyDoubts):
        decoder.decode(rows, lambda tokens: 4)
    assert (decode_greedy(module, module.format, rows) == plain_loop(module, rows)).all()


def test_what_is_asked_is_fed_on():
    """A head whose logits nearly tie: the module's own answers continue the sequence."""
    module = positional(11, "float32")
    with torch.no_grad():
        weight = module.leaves()["head.weight"]
        weight[1:] = weight[0] * (1 + 1e-7 * torch.randn(9, 1))
        module.leaves()["head.bias"].zero_()
    rows = prompts(module, 16)
    decoder = routed_decoder(module)

    def ask(tokens):
        return int(module(tokens)[0, -1].argmax())

    with torch.inference_mode():
        assert np.array_equal(decoder.decode(rows, ask), plain_loop(module, rows))


def test_an_edited_leaf_is_noticed():
    module = positional()
    first = routed_decoder(module)
    assert routed_decoder(module) is first
    with torch.no_grad():
        module.leaves()["v"] += 1
    assert routed_decoder(module) is not first


def test_units_of_one_row_come_on_from_the_largest_bias():
    up = np.array([[1.0, 2], [0, 1], [1, 2]])
    groups = [group.tolist() for group in units_by_row(up, np.array([-5.0, 0, -4]))]
    assert sorted(groups) == [[1], [2, 0]]


def test_equal_embedding_columns_need_not_be_zero():
    embedding = np.array([[0.0, 3], [1, 3]])
    attention = plain_attention(heads=1, head_dim=1)
    weights = {"q": np.array([[0.0, 1]]), "k": np.array([[0.0, 1]])}
    found = fixed_patterns(attention, weights, embedding, np.zeros((4, 2)), None, 2, 2.0**-24)
    assert np.allclose(found.table[0], [[1 / 3, 1 / 3, 1 / 3, 0], [1 / 4] * 4])


def test_constants_and_silent_heads_are_fine():
    silent = Structural((), (8, 6))
    attention = plain_attention(q=silent, k=silent, scale=Constant(Fraction(1, 3)))
    structure = plain_structure(attention)
    module = AdderModule(structure, random_values(structure))
    rows = prompts(module, 30)
    assert routed_decoder(module) is not None
    assert np.array_equal(decode_greedy(module, module.format, rows), plain_loop(module, rows))


def test_off_the_ramps_the_flat_bound_holds_and_is_small():
    module = AdderModule(*rotation_adder(6))
    exact = AdderModule(replace(module.structure, dtype="float64"), module.leaf_values())
    decoder = routed_decoder(module)
    rows = torch.from_numpy(prompts(module, 300))
    for _ in range(module.format.steps):
        with torch.inference_mode():
            # the fixed signal, too, is rounded to the dtype: well within twice the bound
            ours, theirs = module(rows)[:, -1].double(), exact(rows)[:, -1]
        token = ours.argmax(-1)
        behind = ours[torch.arange(len(rows)), token, None] - ours
        away = theirs[torch.arange(len(rows)), token, None] - theirs
        lead = torch.from_numpy(decoder.flat.lead)[token]
        assert ((behind - away).abs() <= 2 * lead + 1e-300).all()
        rows = torch.cat([rows, token[:, None]], 1)
    assert decoder.flat.lead[0, 1] < decoder.steep.lead[0, 1] / 4
