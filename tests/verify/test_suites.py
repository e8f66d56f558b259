"""The suites: the public protocol to the letter, distinct samples, every tuple."""

import itertools
import random

import pytest

from adderc.errors import InputError
from adderc.format.number import NumberFormat
from adderc.verify.suites import adderboard, adversarial, evenly, exhaustive

DECIMAL = NumberFormat(10, 10)


def tuples(suite):
    return [tuple(row) for batch in suite.batches() for row in batch.tolist()]


def test_adderboard_is_the_public_protocol():
    pairs = tuples(adderboard(DECIMAL))
    assert pairs[:10] == [
        (0, 0), (0, 1), (9999999999, 0), (9999999999, 1), (9999999999, 9999999999),
        (9999999999, 9999999999), (5000000000, 5000000000), (1111111111, 8888888889),
        (1234567890, 9876543210), (1, 9999999999),
    ]
    rng = random.Random(2025)
    rest = [(rng.randint(0, 9999999999), rng.randint(0, 9999999999)) for _ in range(10_000)]
    assert pairs[10:] == rest
    assert adderboard(DECIMAL).total == len(pairs) == 10_010


@pytest.mark.parametrize("number", [NumberFormat(10, 11), NumberFormat(2, 34),
                                    NumberFormat(10, 64), NumberFormat(10, 10, 2, 9999999999)])
def test_adderboard_runs_wherever_its_operands_fit(number):
    assert len(tuples(adderboard(number))) == 10_010


@pytest.mark.parametrize("number", [NumberFormat(10, 9), NumberFormat(2, 33),
                                    NumberFormat(10, 10, 3), NumberFormat(10, 10, 2, 10**9)])
def test_adderboard_elsewhere_names_adversarial(number):
    with pytest.raises(InputError) as caught:
        adderboard(number)
    assert "adversarial" in str(caught.value)


@pytest.mark.parametrize("number", [NumberFormat(3, 2), NumberFormat(2, 2, 4),
                                    NumberFormat(10, 2, 2, 12)])
def test_exhaustive_is_every_tuple_once(number):
    every = list(itertools.product(range(number.maximum + 1), repeat=number.operands))
    assert tuples(exhaustive(number)) == every
    assert exhaustive(number).total == len(every)


def test_exhaustive_refuses_with_the_number():
    with pytest.raises(InputError, match="100,000,000 sums"):
        exhaustive(NumberFormat(10, 4))
    with pytest.raises(InputError, match=r"about 10\^100000 sums"):
        exhaustive(NumberFormat(10, 50_000))
    assert exhaustive(NumberFormat(10, 3)).total == 10**6


@pytest.mark.parametrize("number", [
    DECIMAL, NumberFormat(2, 40), NumberFormat(36, 7), NumberFormat(3, 64, 3),
    NumberFormat(10, 512), NumberFormat(16, 20, 4), NumberFormat(10, 9, 2, 10**8 + 3),
])
def test_adversarial_tuples_are_distinct_in_range_and_as_many_as_asked(number):
    suite = adversarial(number, 3000, seed=5)
    found = tuples(suite)
    assert len(found) == len(set(found)) == suite.total == 3000
    assert all(0 <= v <= number.maximum for row in found for v in row)
    assert {type(v) for row in found for v in row} == {int}


@pytest.mark.parametrize(("number", "samples"), [
    (NumberFormat(2, 4), 200), (NumberFormat(10, 2), 9_999), (NumberFormat(10, 2), 20_000),
    (NumberFormat(10, 1), 20_000), (NumberFormat(2, 1, 4), 3), (NumberFormat(3, 3), 1),
    (NumberFormat(10, 2, 2, 10), 120),
])
def test_small_ranges_never_give_more_than_they_hold(number, samples):
    size = (number.maximum + 1) ** number.operands
    found = tuples(adversarial(number, samples))
    assert len(set(found)) == len(found) == min(size, samples)
    assert max(max(row) for row in found) <= number.maximum


def test_the_seed_decides_and_batches_can_be_asked_for_again():
    suite = adversarial(DECIMAL, 2000, seed=3)
    assert tuples(suite) == tuples(suite) == tuples(adversarial(DECIMAL, 2000, seed=3))
    assert tuples(suite) != tuples(adversarial(DECIMAL, 2000, seed=4))


def test_sums_that_broke_known_models_are_among_the_default_samples():
    """Sums with a long tail of 0s or 9s, and single digits beside zeros."""
    found = tuples(adversarial(DECIMAL))
    tails = [row for row in found if str(sum(row)).endswith(("000000", "999999"))]
    single = [row for row in found if 0 in row and len(str(max(row)).rstrip("0")) == 1]
    assert len(tails) > 500
    assert len(single) > 20


def test_zero_samples_are_refused():
    with pytest.raises(InputError, match="at least 1"):
        adversarial(DECIMAL, 0)


@pytest.mark.parametrize("number", [DECIMAL, NumberFormat(16, 40, 3),
                                    NumberFormat(2, 34, 2, 10**9)])
def test_evenly_drawn_sums_fill_the_range(number):
    suite = evenly(number, 5000, seed=3)
    found = tuples(suite)
    assert len(found) == suite.total == 5000
    assert found == tuples(evenly(number, 5000, seed=3)) != tuples(evenly(number, 5000, seed=4))
    for column in zip(*found, strict=True):
        assert 0 <= min(column) < number.maximum // 100
        assert number.maximum - number.maximum // 100 < max(column) <= number.maximum
        assert sum(value > number.maximum // 2 for value in column) == pytest.approx(2500, abs=200)
