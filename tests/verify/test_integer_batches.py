"""Integers of any size to digits and back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adderc.format.batches import digits_of, integer_type, sums_of, values_of
from adderc.format.number import NumberFormat, to_digits


@given(st.integers(2, 36), st.integers(1, 80), st.data())
def test_digits_are_those_of_plain_division(base, places, data):
    values = data.draw(st.lists(st.integers(0, base**places - 1), min_size=1, max_size=4))
    digits = digits_of(np.array(values, dtype=object), base, places)
    assert digits.tolist() == [to_digits(value, base, places) for value in values]
    assert values_of(digits, base, np.dtype(object)).tolist() == values


@pytest.mark.parametrize(("base", "width"), [(10, 10), (2, 61), (36, 10), (2, 62), (10, 19)])
def test_both_integer_types_agree(base, width):
    number = NumberFormat(base, width)
    top = [[number.maximum, number.maximum], [0, 1], [number.maximum, 1]]
    batch = np.array(top, dtype=integer_type(number))
    plain = np.array(top, dtype=object)
    assert sums_of(batch).tolist() == sums_of(plain).tolist() == [sum(row) for row in top]
    places = number.answer_digits
    assert (digits_of(sums_of(batch), base, places)
            == digits_of(sums_of(plain), base, places)).all()


def test_int64_ends_where_a_power_of_the_base_would_overflow():
    assert integer_type(NumberFormat(10, 17)) == np.int64
    assert integer_type(NumberFormat(10, 18)).hasobject
    assert integer_type(NumberFormat(2, 61)) == np.int64
    assert integer_type(NumberFormat(2, 62)).hasobject
