"""How far averages move: bounds against averages that were really moved."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from adderc.realize.swing import line_of, shaken, tilt_of

SEEDS = st.integers(0, 10**6)
ERRORS = st.sampled_from([1e-6, 0.01, 0.2, 1.0, 3.0])


def pattern_of(rng: np.random.Generator, steps: int, keys: int) -> np.ndarray:
    pattern = rng.random((steps, keys)) ** rng.integers(1, 12)
    return pattern / pattern.sum(axis=1, keepdims=True)


def averages(pattern: np.ndarray, scores: np.ndarray, worth: np.ndarray) -> np.ndarray:
    weights = pattern * np.exp(scores)
    return (weights * worth).sum(axis=1) / weights.sum(axis=1)


@settings(deadline=None, max_examples=60)
@given(SEEDS, ERRORS)
def test_no_error_moves_more_weight_than_shaken(seed: int, error: float) -> None:
    """Every set of keys gains, and the others lose: the worst that errors can do."""
    rng = np.random.default_rng(seed)
    pattern = pattern_of(rng, 2, 6)
    moved = max(
        float(np.abs(averages(pattern, error * (2 * up - 1), up) - pattern @ up).max())
        for up in (np.array(bits, dtype=float) for bits in itertools.product((0, 1), repeat=6)))
    assert moved <= shaken(pattern, error) / 2 + 1e-12


def test_shaken_is_reached() -> None:
    for error in (0.01, 1.0):
        half = 1 / (1 + np.exp(error))
        pattern = np.array([[half, 1 - half]])
        gained = averages(pattern, np.array([error, -error]), np.array([1.0, 0.0])) - half
        assert abs(2 * gained[0] - shaken(pattern, error)) < 1e-12


@settings(deadline=None, max_examples=100)
@given(SEEDS, st.sampled_from([1, -1]), st.sampled_from([0.0, 1e-3, 0.1]),
       st.sampled_from([0.01, 0.3]))
def test_a_tilt_moves_averages_to_one_side(
    seed: int, sign: int, error: float, height: float
) -> None:
    rng = np.random.default_rng(seed)
    worth = np.sort(rng.random(7))
    share = sign * np.sort(rng.uniform(-1, 1, 7))
    pattern = pattern_of(rng, 3, 9)
    lift = height * (1 - 0.1 * rng.random(pattern.shape))
    tilt = tilt_of(share, lift, pattern)
    assert tilt.sign(worth, np.arange(7)) == sign
    swing, wobble = tilt.swing() / 2, tilt.wobble(error) / 2
    for _ in range(40):
        tokens = rng.integers(0, 7, 9)
        scores = share[tokens] * lift + error * rng.choice([-1, 1], pattern.shape)
        moved = averages(pattern, scores, worth[tokens]) - pattern @ worth[tokens]
        low, high = (0, swing) if sign > 0 else (-swing, 0)
        assert (moved >= low - wobble - 1e-12).all()
        assert (moved <= high + wobble + 1e-12).all()


def test_a_tilt_without_order_has_no_side() -> None:
    tilt = tilt_of(np.array([0.0, 1.0, -1.0]), np.ones((1, 2)), np.full((1, 2), 0.5))
    assert tilt.sign(np.array([0.0, 1.0, 2.0]), np.arange(3)) == 0
    assert tilt.sign(np.array([0.0, 1.0, -1.0]), np.arange(3)) == 1
    assert tilt.sign(np.array([0.0, -1.0, 1.0]), np.arange(3)) == -1
    assert tilt.sign(np.array([5.0, 5.0, 9.0]), np.arange(2)) in (1, -1)  # equal: either side


def test_a_line_holds_vectors_up_to_what_lies_across() -> None:
    line = line_of(np.array([[2.0, 0.0], [-1.0, 0.0], [0.5, 0.25]]))
    assert line.share.tolist() == [1.0, -0.5, 0.25]
    assert line.rest == 0.25
    assert line_of(np.zeros((3, 2))).rest == 0
