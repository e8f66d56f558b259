"""Batches of tuples and of answers, beside the same one row at a time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adderc.errors import InputError
from adderc.format.batches import checked_batch, prompts_of, sums_written
from adderc.format.number import NumberFormat
from adderc.format.prompt import DigitTuples, Format, OperandDigits

FORMS = [
    Format(number, prompt, order, kind)
    for number in (NumberFormat(10, 4), NumberFormat(3, 50, 3), NumberFormat(36, 12))
    for order in ("lsd", "msd")
    for kind, prompt in (
        ("digits", tuple(OperandDigits(k, "msd") for k in range(number.operands))),
        ("states", (DigitTuples("lsd"),)))
]


@pytest.mark.parametrize("form", FORMS)
@given(seed=st.integers(0, 1000))
def test_rows_together_are_rows_alone(form, seed):
    chance = np.random.default_rng(seed)
    limit = form.number.base * (form.number.operands if form.answer_kind == "states" else 1)
    tokens = chance.integers(0, limit, (5, form.steps))
    tokens[chance.random((5, form.steps)) < 0.5 / form.steps] = chance.choice([-1, limit])
    assert sums_written(form, tokens) == [form.decode(row) for row in tokens.tolist()]


@pytest.mark.parametrize("form", FORMS)
def test_prompts_are_those_of_encode(form):
    top = form.number.maximum
    rows = [[top] * form.number.operands, [0] * form.number.operands,
            [top // (k + 2) for k in range(form.number.operands)]]
    batch = checked_batch(form.number, rows)
    assert np.array_equal(prompts_of(form, batch), form.encode(rows))
    assert checked_batch(form.number, []).shape == (0, form.number.operands)


@pytest.mark.parametrize("rows", [[(1, 10**4)], [(-1, 2)], [(1, 2, 3)], [(1, 2), (3,)],
                                  [(1, 10**30)]])
def test_bad_rows_are_refused(rows):
    with pytest.raises(InputError):
        checked_batch(NumberFormat(10, 4), rows)
