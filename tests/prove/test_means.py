"""A mean is a sum and a division: where the divisor is no power of two, its inverse is rounded."""

import torch
from enclosed import check
from modules import plain_format
from torch import nn

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
