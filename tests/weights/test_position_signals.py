"""Position signals: exact phase, gains by stretch."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from adderc.weights.signal import circle, gains, phases, rope_table, sinusoid_table
from adderc.weights.structure import Rope, Sinusoid


def test_phases_are_exact_however_far_along() -> None:
    angle = phases(Fraction(11, 3), 10**5)
    assert np.array_equal(angle[:11], angle[99000:99011])  # 99000 is 27000 periods
    assert angle[2] == 2 * math.pi * (6 / 11)
    assert ((angle >= 0) & (angle < 2 * math.pi)).all()


def test_a_negative_period_turns_the_other_way() -> None:
    forward, back = circle(Fraction(7), 20), circle(Fraction(-7), 20)
    np.testing.assert_allclose(back, forward * [-1, 1], atol=1e-15)


def test_gains_hold_from_their_first_position_on() -> None:
    signal = Sinusoid(Fraction(4), (2, 0), ((0, Fraction(8)), (3, Fraction(1, 2))))
    assert gains(signal, 5).tolist() == [8, 8, 8, 0.5, 0.5]
    table = sinusoid_table(signal, 5, 3)
    np.testing.assert_allclose(table[:, 2], [0, 8, 0, -0.5, 0], atol=1e-14)
    np.testing.assert_allclose(table[:, 0], [8, 0, -8, 0, 0.5], atol=1e-14)
    assert not table[:, 1].any()


def test_rope_has_one_pair_a_period() -> None:
    table = rope_table(Rope((Fraction(4), Fraction(2))), 3)
    np.testing.assert_allclose(table[1], [[1, 0], [0, -1]], atol=1e-15)
    assert rope_table(Rope(()), 3).shape == (3, 0, 2)
