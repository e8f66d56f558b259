"""Drawn sums: written as the format writes them, of the lengths and kinds asked for."""

import numpy as np
import pytest
from training import checked_of, text_of

from adderc.format.batches import values_of
from adderc.train.data import Draw, carrying, draw_digits, draw_tokens, stream, tokens_of
from adderc.train.plan import read_train

WIDE = text_of("small").replace("width 2 ", "width 6 ")


def formats():
    pairs = WIDE.replace('lsd(a) "+" lsd(b) "="', 'lsd(pair(a, b)) "="').replace(
        ', "=" -> 0', ', "=" -> 3').replace('"+" -> 0,', "")
    return {"lsd": WIDE, "msd": WIDE.replace("lsd(a)", "msd(a)").replace("lsd(s)", "msd(s)"),
            "base 7": WIDE.replace("base 10", "base 7"),
            "three": WIDE.replace("operands 2", "operands 3").replace(
                'lsd(b) "="', 'lsd(b) lsd(c) "="'),
            "limited": WIDE.replace("operands 2", "operands 2 max 70321"),
            "pairs": pairs.replace('tokens  "=" -> 3', 'tokens "=" -> 3')}


@pytest.mark.parametrize("name", formats())
def test_tokens_are_what_the_format_writes(name):
    form = checked_of(formats()[name]).format
    number = form.number
    digits = draw_digits(form, [Draw(6, carry=0.5), Draw(3), Draw(6, mixed=True)], 40,
                         np.random.default_rng(1))
    tokens = tokens_of(form, digits)
    operands = values_of(digits.transpose(2, 0, 1), number.base, np.dtype(np.int64))
    assert operands.max() <= number.maximum
    for column, row in zip(tokens.T, operands.tolist(), strict=True):
        assert column[: form.prompt_length].tolist() == form.encode([row])[0].tolist()
        answer = column[form.prompt_length : form.prompt_length + form.steps]
        assert answer.tolist() == form.expected(row)
        assert column[-1] == form.ids[form.answer_end]


def test_a_chunk_depends_on_seed_and_number_alone():
    form = checked_of(WIDE).format
    draws = [Draw(6, carry=0.5)] * 4
    first = draw_tokens(form, draws, 32, 5, 3)
    assert np.array_equal(first, draw_tokens(form, draws, 32, 5, 3))
    assert not np.array_equal(first, draw_tokens(form, draws, 32, 5, 4))
    assert not np.array_equal(first, draw_tokens(form, draws, 32, 6, 3))
    assert first.shape == (4, form.length, 32)


def test_operands_are_as_long_as_the_curriculum_says():
    form = checked_of(WIDE).format
    digits = draw_digits(form, [Draw(2), Draw(6), Draw(6, mixed=True)], 400,
                         np.random.default_rng(0))
    lengths = 6 - np.argmax(digits[:, ::-1] > 0, axis=1)  # 6 for 0 too, which is rare
    assert (digits[:, 2:, :400] == 0).all()
    assert np.mean(lengths[:, 400:800] == 6) > 0.85
    assert {1, 2, 3, 4, 5, 6} <= set(lengths[:, 800:].ravel().tolist())
    assert np.mean(lengths[:, 800:] == 6) < 0.3


def test_carrying_sums_carry():
    digits = carrying(10, 6, np.full(4000, 6, dtype=np.uint8), stream(0, 0, 0)).astype(int)
    values = (digits * 10 ** np.arange(6)[:, None]).sum(axis=1)
    plain = digits.sum(axis=0) % 10
    total = values.sum(axis=0)
    written = total // 10 ** np.arange(6)[:, None] % 10
    carries = (plain != written).any(axis=0) | (total >= 10**6)
    assert carries[0::4].mean() > 0.75  # one place carries, the highest into a new digit
    assert carries[1::4].mean() > 0.85  # a chain, unless the small number is 0
    assert ((values[0, 1::4] + 1) == 10 ** (np.char.str_len(values[0, 1::4].astype(str)))).all()
    assert ((digits[1, :, 2::4] > 0).sum(axis=0) == 1).all()
    assert (values[1, 3::4] < 20).all()


@pytest.mark.parametrize("name", ["lsd", "base 7", "three"])
def test_calm_sums_carry_nowhere_and_keep_their_first_operand(name):
    form = checked_of(formats()[name]).format
    plain = draw_digits(form, [Draw(6)], 500, np.random.default_rng(3))
    calm = draw_digits(form, [Draw(6, calm=1.0)], 500, np.random.default_rng(3))
    base = form.number.base
    assert (plain.sum(axis=0) >= base).any()
    totals = calm.astype(int).sum(axis=0)
    assert totals.max() == base - 1
    assert np.array_equal(calm[0], plain[0])
    assert len(np.unique(totals)) == base


def test_a_calm_beginning_fades():
    text = text_of("small").replace(
        "carry mix(0.5, from = 100, to = 200)",
        "carry none(from = 10, to = 20), mix(0.5, from = 30, to = 40)")
    plan = read_train(checked_of(text))
    draws = [plan.draw_at(step) for step in (0, 10, 15, 20, 35, 40)]
    assert [draw.calm for draw in draws] == [1.0, 1.0, 0.5, 0.0, 0.0, 0.0]
    assert [draw.carry for draw in draws] == [0.0, 0.5, 0.5, 0.5, 0.25, 0.0]
