"""Each family contains what it claims, found by counting in the drawn operands themselves."""

from itertools import groupby

import numpy as np
import pytest

from adderc.format.number import NumberFormat, to_digits
from adderc.verify.families import FAMILIES, Shape, significant_places, split

DRAW = {name: draw for name, _, draw in FAMILIES}


def drawn(name, number, n=600, seed=1):
    shape = Shape(number, significant_places(number))
    values = DRAW[name](shape, np.random.default_rng(seed), n, 0)
    assert values.shape == (n, number.operands)
    return [tuple(row) for row in values.tolist()]


def carries(operands, number):
    """Carry out of each place, worked by hand from plain integers."""
    columns = zip(*(to_digits(v, number.base, number.width) for v in operands), strict=True)
    carry, found = 0, []
    for column in columns:
        carry = (sum(column) + carry) // number.base
        found.append(carry)
    return found


def runs(operands, number):
    """(start, length) of each chain: a generating place and the places it runs through."""
    base = number.base
    columns = zip(*(to_digits(v, base, number.width) for v in operands), strict=True)
    sums = [sum(column) for column in columns]
    found = []
    for start, t in enumerate(sums):
        if t >= base:
            length = 0
            while start + length + 1 < len(sums) and sums[start + length + 1] == base - 1:
                length += 1
            found.append((start, length))
    return found


@pytest.mark.parametrize(("base", "width"), [(10, 6), (2, 7), (3, 5), (36, 4)])
def test_chains_have_every_start_and_length(base, width):
    number = NumberFormat(base, width)
    found = {run for row in drawn("chains", number, 1500) for run in runs(row, number)}
    assert found >= {(s, n) for s in range(width) for n in range(width - s)}


def test_chains_of_every_length_in_wide_numbers():
    number = NumberFormat(10, 200)
    rows = drawn("chains", number, 1800)
    found = [run for row in rows for run in runs(row, number)]
    assert {length for _, length in found} == set(range(200))
    assert {start for start, _ in found} == set(range(200))
    assert {start + length for start, length in found} == set(range(200))


@pytest.mark.parametrize(("base", "operands"), [(10, 2), (10, 3), (10, 4), (5, 3), (16, 4)])
def test_carries_of_every_height_run_through_places(base, operands):
    number = NumberFormat(base, 6, operands)
    heights = set()
    for row in drawn("chains", number, 900):
        groups = [(height, len(list(same))) for height, same in groupby(carries(row, number))]
        heights |= {height for height, length in groups if length >= 4}
    assert heights >= set(range(1, operands))


@pytest.mark.parametrize(("base", "operands"), [(10, 2), (10, 4), (2, 2), (2, 4), (7, 3)])
def test_heights_reach_every_carry_and_every_boundary_sum(base, operands):
    number = NumberFormat(base, 5, operands)
    seen, totals = set(), set()
    for row in drawn("heights", number, 1500):
        seen |= set(carries(row, number))
        columns = zip(*(to_digits(v, base, 5) for v in row), strict=True)
        totals |= {sum(column) for column in columns}
    assert seen >= set(range(operands))
    for height in range(1, operands):
        near = {height * base - 1, height * base, height * (base - 1)}
        assert totals >= {t for t in near if t <= operands * (base - 1)}


def test_propagation_has_places_of_base_minus_one_with_and_without_a_carry_in():
    number = NumberFormat(10, 12)
    counts = {0: 0, 1: 0}
    for row in drawn("propagation", number):
        digits = [sum(c) for c in zip(*(to_digits(v, 10, 12) for v in row), strict=True)]
        into = [0, *carries(row, number)]
        for t, carry in zip(digits, into, strict=False):
            counts[carry] += t == 9
    assert min(counts.values()) > 500


@pytest.mark.parametrize(("base", "width"), [(10, 10), (2, 9), (16, 30)])
def test_tails_end_near_a_multiple_of_every_power(base, width):
    number = NumberFormat(base, width)
    sums = [sum(row) for row in drawn("tails", number, 400)]
    for power in (base**j for j in range(3, width + 1)):
        distances = {(s + power // 2) % power - power // 2 for s in sums}
        assert distances >= set(range(-3, 4)), power


def test_boundary_digits_and_no_other():
    number = NumberFormat(16, 5)
    digits = {d for row in drawn("boundary", number) for v in row for d in to_digits(v, 16, 5)}
    assert digits == {0, 1, 8, 14, 15}


def test_lonely_has_a_zero_operand_or_at_most_two_digits():
    number = NumberFormat(10, 10)
    lonely = 0
    for row in drawn("lonely", number):
        nonzero = sum(digit != 0 for v in row for digit in to_digits(v, 10, 10))
        assert 0 in row or nonzero <= 2
        lonely += nonzero == 1
    assert lonely > 10


def test_maximal_contains_the_largest_sum_and_its_neighbours():
    number = NumberFormat(10, 30, limit=10**29 + 7)
    rows = drawn("maximal", number)
    top = number.maximum
    assert {(top, top), (top - 1, top), (top, top - 3)} <= set(rows)


def test_mixed_has_operands_of_every_length():
    lengths = {len(str(v)) if v else 0 for row in drawn("mixed", NumberFormat(10, 8)) for v in row}
    assert lengths == set(range(9))


def test_uniform_respects_a_limit_exactly():
    rows = drawn("uniform", NumberFormat(10, 3, limit=4))
    assert {v for row in rows for v in row} == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("operands", [2, 3, 4])
def test_split_adds_up_at_every_place(operands):
    number = NumberFormat(7, 9, operands)
    shape = Shape(number, 9)
    rng = np.random.default_rng(3)
    profile = rng.integers(0, shape.largest_digit_sum + 1, (50, 9))
    for row, sums in zip(split(profile, shape, rng).tolist(), profile.tolist(), strict=True):
        columns = zip(*(to_digits(v, 7, 9) for v in row), strict=True)
        assert [sum(column) for column in columns] == sums


def test_shares_add_up_to_a_hundred():
    assert sum(share for _, share, _ in FAMILIES) == 100
