"""Single roundings: of means, of constants, and a model that hangs by a few of them."""

import operator

import numpy as np
import pytest
import torch
from enclosed import check
from flint import arb
from hypothesis import given
from hypothesis import strategies as st
from modules import plain_format
from torch import nn

import adderc
from adderc.prove.certificate import write_certificate
from adderc.prove.checker import check_certificate
from adderc.prove.checker_balls import Arithmetic
from adderc.prove.run import prove

PAIRS = [(a, b) for a in range(0, 100, 7) for b in range(0, 100, 9)]


class Mean(nn.Module):
    """Each logit is the mean of three numbers of the last token, of which one is not 0."""

    def __init__(self, numbers):
        super().__init__()
        table = torch.zeros(10, 3)
        table[:, 1] = numbers
        self.table = nn.Parameter(table)

    def forward(self, tokens):
        return self.table[tokens].mean(-1, keepdim=True) * torch.ones(10)


def test_the_mean_of_one_number_and_zeros_is_inside_its_bounds():
    numbers = torch.arange(1.0, 2.0, 2**-12)
    differ = numbers * torch.tensor(1 / 3) != torch.stack(
        [numbers, 0 * numbers, 0 * numbers]).mean(0)
    chosen = numbers[differ][:10]  # here a product with 1/3 would be another number
    assert len(chosen) == 10
    found = check(Mean(chosen), plain_format(2), PAIRS, 1)
    assert found.tried > 1_000
    assert found.outside == 0
    assert max(found.widths) < 1.0
    assert min(found.widths) > 0.0


@given(st.sampled_from([np.float32, np.float64]), st.sampled_from(["add", "sub", "mul"]),
       st.integers(-(10**9), 10**9), st.integers(-(10**9), 10**9), st.integers(-60, 20))
def test_the_checker_rounds_numbers_as_the_dtype_does(kind, op, one, other, exponent):
    """One operation on numbers of the dtype is one number of it again."""
    x, y = kind(np.ldexp(one, exponent)), kind(other)
    found = Arithmetic(kind).one(op, [arb(float(x)), arb(float(y))])
    assert found == arb(float(getattr(operator, op)(x, y)))


def test_the_checker_rounds_ties_to_even():
    arithmetic = Arithmetic(np.float32)
    for number in range(2**24, 2**24 + 9):
        for sign in (1, -1):
            assert arithmetic.nearest(arb(sign * (2 * number + 1))) == sign * int(
                np.float32(2 * number + 1))
    wide = arithmetic.rounded(arb(2**24) + arb(0, 3))
    assert wide.contains(2**24 - 3)
    assert wide.contains(2**24 + 4)


@pytest.mark.slow
def test_a_published_model_that_hangs_by_an_ulp_is_proven_and_checked(tmp_path):
    """Margins below one unit in the last place of the logits, by bounds on every rounding."""
    module = adderc.compile("rope19-seed")
    result = prove(module)
    assert (result.verdict, result.grade) == ("PROVEN", "portable"), result.reason
    assert 0 < result.margin_ulp < 1
    write_certificate(tmp_path / "certificate.json", result)
    check = check_certificate(tmp_path / "certificate.json", module)
    assert check.accepted, check.reason
