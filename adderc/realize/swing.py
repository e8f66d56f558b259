"""How far an average moves when the scores of its weights do.

Takes: patterns, and how far each score can be off. Gives: `shaken`, for any error; `Tilt`, for
scores that the token at the key moves. May import: numpy.

A token that stands in the slots which keys read moves its own score. Where these moves have
one direction for all tokens, token t at position j moves its score by g[i, j] mu[t]. Take g[i]
at the loudest key for g[i, j]: the weights are then p[j] e^(g mu[d_j]), and by Chebyshev's sum
inequality their average of values r[d_j] is at most that of p where mu falls as r rises, at
least that of p where both rise. What g[i, j] - g[i] leaves is bounded key by key.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

Array = np.ndarray


def shaken(pattern: Array, error: float) -> float:
    """Twice how much weight can move between positions when every score is off by at most
    `error`: the average of values that spread over R moves by at most R/2 times this.

    If a set of positions of weight p gains most and the rest loses most, p becomes
    p e^error / (p e^error + (1 - p) e^-error). The gain is largest at p = 1 / (1 + e^error);
    where one position holds all but d < 1/2, every set weighs at most d or at least 1 - d,
    and sets that weigh more than 1/2 gain no more than their complements would.
    """
    return _moved(_spare(pattern), min(error, 300.0))


def _spare(pattern: Array) -> Array:
    """The weight beside the largest [steps], at most 1/2."""
    return np.asarray(np.minimum(1 - pattern.max(axis=1), 0.5))


def _moved(spare: Array, error: float) -> float:
    part = np.minimum(spare, 1 / (1 + math.exp(error)))
    up, down = part * math.exp(error), (1 - part) * math.exp(-error)
    return 2 * float((up / (up + down) - part).max())


@dataclass(frozen=True)
class Line:
    """Vectors [V, E] along one direction: `share` [V] of `along` [E], up to `rest` across."""

    along: Array
    share: Array
    rest: float


def line_of(vectors: Array) -> Line:
    """The direction of the longest vector, and how much of it each has."""
    along = vectors[int(np.argmax((vectors**2).sum(axis=1)))]
    square = float((along**2).sum())
    share = vectors @ along / square if square else np.zeros(len(vectors))
    rest = np.linalg.norm(vectors - np.outer(share, along), axis=1).max()
    return Line(along, share, float(rest))


@dataclass(frozen=True)
class Tilt:
    """Scores of a head's `pattern` that the token at the key moves: by `moves` [V] at most
    where it is loudest; other keys [steps, T] by up to `uneven` less or more."""

    pattern: Array
    moves: Array
    uneven: Array

    @property
    def half(self) -> float:
        return min(float(np.ptp(self.moves)) / 2, 100.0)

    def swing(self) -> float:
        """`shaken` by the moves alone."""
        return _moved(_spare(self.pattern), self.half)

    def wobble(self, error: float) -> float:
        """`shaken`, of any tilted pattern, by an `error` in every score and uneven moves."""
        error, most = min(error, 100.0), math.exp(2 * self.half)
        before = _spare(self.pattern)
        spare = np.minimum(before * most / (before * most + 1 - before), 0.5)
        gained = np.expm1(np.minimum(self.uneven, 100.0))
        rest = float((self.pattern * gained).sum(axis=1).max()) * most * math.exp(2 * error)
        return _moved(spare, error) + (2 * rest / (1 - rest) if rest < 0.5 else 2.0)

    def sign(self, read: Array, used: Array) -> int:
        """1 where tokens worth more to a reader gain weight, -1 where they lose it, else 0."""
        worth, moves = read[used], self.moves[used]
        rising, falling = (moves[np.lexsort((s * moves, worth))] * s for s in (1, -1))
        return 1 if (np.diff(rising) >= 0).all() else -1 if (np.diff(falling) >= 0).all() else 0


def tilt_of(share: Array, lift: Array, pattern: Array) -> Tilt:
    """The tilt where token t moves the score of key j at step i by share[t] lift[i, j]."""
    peak = lift[np.arange(len(lift)), pattern.argmax(axis=1)]
    side = 1.0 if peak.max(initial=0.0) >= -peak.min(initial=0.0) else -1.0
    peak = np.maximum(side * peak, 0.0) * side
    most = float(np.abs(share).max(initial=0.0))
    return Tilt(pattern, share * side * float(np.abs(peak).max(initial=0.0)),
                np.abs(lift - peak[:, None]) * most)
