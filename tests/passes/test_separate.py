"""Separating weights: valid, small, and nearly as wide as the widest there are."""

from __future__ import annotations

import itertools
import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from adderc.passes.separate import separate


def margin(points: np.ndarray, passes: np.ndarray, weights: np.ndarray) -> float:
    """Passing minus failing value, for |w|_1 = 1."""
    values = points @ weights
    return float(values[passes].min() - values[~passes].max()) / float(np.abs(weights).sum())


def widest(points: np.ndarray, passes: np.ndarray, largest: int) -> float:
    """The best margin over all small integer weights, by trying them."""
    best = -math.inf
    for weights in itertools.product(range(-largest, largest + 1), repeat=points.shape[1]):
        if any(weights):
            best = max(best, margin(points, passes, np.array(weights)))
    return best


@st.composite
def sides(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    features = draw(st.integers(1, 2))
    rows = draw(st.lists(st.tuples(*[st.integers(-6, 6)] * features), min_size=2, max_size=12,
                         unique=True))
    points = np.array(rows)
    if draw(st.booleans()):  # a side of a line, so that many examples are separable
        normal = np.array(draw(st.tuples(*[st.integers(-5, 5)] * features)))
        passes = points @ normal > draw(st.integers(-5, 5))
    else:
        passes = np.array(draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))))
    if passes.all() or not passes.any():
        passes[0] = not passes[0]
    return points, passes


@settings(max_examples=30, deadline=None)
@given(sides())
def test_against_trying_all_small_weights(example: tuple[np.ndarray, np.ndarray]) -> None:
    points, passes = example
    weights = separate(points, passes)
    best = widest(points, passes, 12)
    if weights is None:
        assert best <= 1e-9
        return
    found = np.array(weights)
    assert margin(points, passes, found) >= 0.98 * best - 1e-9 > 0
    assert math.gcd(*weights) == 1


def test_a_carry_inside_a_wrap() -> None:
    """x + [d > 0] >= B over x and d: B x + d, here found as a ratio near B."""
    base = 10
    points = np.array([(x, d) for x in range(19) for d in (-1, 0, 9, 10)])
    passes = points[:, 0] + (points[:, 1] > 0) >= base
    weights = separate(points, passes)
    assert weights is not None
    assert margin(points, passes, np.array(weights)) > 0
    assert weights[0] > weights[1] > 0


def test_small_integers_do_not_cost_the_margin() -> None:
    """A weight ratio of 1 separates, 7 : 1 is far wider: the widest is kept, nearly."""
    points = np.array([(1, -6), (1, 0), (0, 6), (0, 0)])
    passes = np.array([True, True, False, False])
    weights = separate(points, passes)
    assert weights is not None
    assert margin(points, passes, np.array(weights)) >= 0.98 * widest(points, passes, 20)


def test_what_no_plane_separates() -> None:
    points = np.array([(0, 0), (1, 1), (0, 1), (1, 0)])
    assert separate(points, np.array([True, True, False, False])) is None
    assert separate(np.array([[0], [1], [2]]), np.array([True, False, True])) is None


def test_one_feature_of_either_sign() -> None:
    points = np.array([[0], [1], [5]])
    assert separate(points, np.array([False, False, True])) == (1,)
    assert separate(points, np.array([True, False, False])) == (-1,)
