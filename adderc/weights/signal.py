"""Fixed position signals in float64: the numbers behind sinusoids and rotary positions, masks.

Takes: `Sinusoid`, `Rope`, `Attention`. Gives: float64 tables by position and masks, one
definition for the module and for whoever reasons about it.
May import: weights.structure.

The phase p / period is reduced modulo 1 in integer arithmetic first, so that two positions
one period apart get identical numbers however far along they are.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from adderc.weights.structure import Attention, Rope, Sinusoid


def phases(period: Fraction, length: int) -> np.ndarray:
    """2 pi (p / period mod 1) for p = 0 … length - 1, in radians from 0 to 2 pi, [length]."""
    numerator, denominator = period.numerator, period.denominator
    turns = [(p * denominator % numerator) / numerator for p in range(length)]
    return 2 * math.pi * np.array(turns, dtype=np.float64)


def circle(period: Fraction, length: int, rounded: str | None = None) -> np.ndarray:
    """(sin, cos)(2 pi p / period) by position, [length, 2].

    With `rounded`, a dtype: p * (2 pi / period), its sine and its cosine are each rounded to
    that dtype, and the phase is not reduced.
    """
    angles = phases(period, length)
    if rounded is not None:
        step = np.asarray(2 * math.pi / float(period), dtype=rounded)
        angles = (np.arange(length).astype(rounded) * step).astype(np.float64)
    # one angle at a time: a vectorised sine may round the same angle in two ways
    rows = [(math.sin(angle), math.cos(angle)) for angle in angles.tolist()]
    table = np.array(rows, dtype=np.float64).reshape(length, 2)
    return table if rounded is None else table.astype(rounded).astype(np.float64)


def gains(signal: Sinusoid, length: int) -> np.ndarray:
    """The gain of each position, [length]; positions before the first stretch get 0."""
    gain = np.zeros(length)
    for first, value in signal.gains:
        gain[first:] = float(value)
    return gain


def sinusoid_table(signal: Sinusoid, length: int, d_model: int) -> np.ndarray:
    """What position p adds to the residual stream, [length, d_model]."""
    table = np.zeros((length, d_model))
    waves = gains(signal, length)[:, None] * circle(signal.period, length, signal.rounded)
    table[:, list(signal.slots)] += waves
    if signal.balance is not None:
        table[:, signal.balance] -= waves.sum(axis=1)
    return table


def rope_table(rope: Rope, length: int) -> np.ndarray:
    """(sin, cos) of pair j's turn at position p, [length, pairs, 2]."""
    pairs = [circle(period, length) for period in rope.periods]
    return np.stack(pairs, axis=1) if pairs else np.zeros((length, 0, 2))


def seen_keys(attention: Attention, head: int, queries: np.ndarray, length: int) -> np.ndarray:
    """Which of the first `length` positions a head sees from each query, bool [Q, length]."""
    keys = np.arange(length)
    if attention.visible is not None:
        rows = attention.visible[head]
        return np.stack([np.isin(keys, rows[q]) for q in queries.tolist()])
    behind = queries[:, None] - keys
    return behind >= 0 if attention.routes is None else np.isin(behind, attention.routes[head])
