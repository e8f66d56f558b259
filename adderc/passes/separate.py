"""Linear separation of finite point sets with the widest margin, in small integers.

Takes: integer (or real) points and which of them must pass. Gives: `separate` → integer
weights, or None. May import: numpy, scipy.

With |w|_1 <= 1 the widest m such that w f >= t + m on the points that pass and w f <= t - m
on the others is a linear programme; a bound on |w|_1 is the right one because every feature
carries about the same error, and the errors of a weighted sum add up as |w|_1.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linprog

Array = np.ndarray
KEPT = 0.98  # share of the widest margin that smaller integers must keep
LARGEST = 4096


def separate(points: Array, passes: Array) -> tuple[int, ...] | None:
    """Weights w [F], coprime integers, with min over passing of w f > max over the others."""
    table = np.unique(np.hstack([points, passes[:, None]]), axis=0)
    points, passes = table[:, :-1], table[:, -1] > 0
    if points.shape[1] == 1:
        best: tuple[int, ...] | None = (1,) if _margin(points, passes, np.array([1])) > 0 else None
        return best if best else ((-1,) if _margin(points, passes, np.array([-1])) > 0 else None)
    weights = _widest(points, passes)
    if weights is None:
        return None
    widest = _margin(points, passes, weights) / np.abs(weights).sum()
    if widest <= 1e-9:
        return None
    unit = weights / np.abs(weights).max()
    for size in range(1, LARGEST):
        rounded = np.rint(unit * size)
        if _margin(points, passes, rounded) >= KEPT * widest * np.abs(rounded).sum():
            return tuple(int(w) for w in rounded)
    return None


def _margin(points: Array, passes: Array, weights: Array) -> float:
    """Least passing value minus largest other value."""
    values = points @ weights
    return float(values[passes].min() - values[~passes].max())


def _widest(points: Array, passes: Array) -> Array | None:
    """The linear programme's weights; variables are w+, w-, t, m."""
    features = points.shape[1]
    sign = np.where(passes, -1.0, 1.0)[:, None]
    rows = np.hstack([sign * points, -sign * points, -sign, np.ones((len(points), 1))])
    norm = np.concatenate([np.ones(2 * features), [0.0, 0.0]])[None, :]
    result = linprog(
        c=np.concatenate([np.zeros(2 * features + 1), [-1.0]]),
        A_ub=np.vstack([rows, norm]), b_ub=np.concatenate([np.zeros(len(points)), [1.0]]),
        bounds=[(0, None)] * (2 * features) + [(None, None)] * 2, method="highs",
    )
    if result.status != 0 or result.x[-1] <= 1e-9:
        return None
    weights: Array = result.x[:features] - result.x[features : 2 * features]
    return weights
