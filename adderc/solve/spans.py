"""Sums of signals with their common sources of error kept apart, with rounding.

Takes: balls. Gives: `Span` and `Spans`: values that move together with a few named errors,
so that two hidden units that read the same sum are off by the same amount.
May import: numpy, solve.balls.

C contexts, D entries, S sources: value = mid + lin . e + r with every |e_s| <= 1 and
|r| <= rad. A bend is replaced by a slope and what it leaves open.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from adderc.solve.balls import GROW, ULPS, VALUES, Ball, Rounding, slope_range

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Span:
    mid: Array  # [C, D]
    lin: Array  # [C, D, S]
    rad: Array  # [C, D]

    @classmethod
    def sources(cls, ball: Ball) -> Span:
        """Each entry of a ball [C, D] as a source of its own."""
        count = ball.mid.shape[1]
        return cls(ball.mid, ball.rad[:, :, None] * np.eye(count), np.zeros_like(ball.mid))

    @classmethod
    def apart(cls, ball: Ball, sources: int) -> Span:
        """A ball that shares no source."""
        return cls(ball.mid, np.zeros((*ball.mid.shape, sources)), ball.rad)

    @property
    def reach(self) -> Array:
        """How far off the middle a value can be."""
        return np.asarray((np.abs(self.lin).sum(axis=-1) + self.rad) * GROW)

    @property
    def ball(self) -> Ball:
        return Ball(self.mid, self.reach)


@dataclass(frozen=True)
class Spans:
    """The operations of one dtype."""

    rounding: Rounding

    def rounded(self, mid: Array, lin: Array, rad: Array, ulps: float = 1.0) -> Span:
        size = np.abs(mid) + np.abs(lin).sum(axis=-1) + rad
        lost = ulps * self.rounding.unit * size + self.rounding.tiny
        return Span(mid, lin, (rad + lost) * GROW)

    def add(self, a: Span, b: Span) -> Span:
        return self.rounded(a.mid + b.mid, a.lin + b.lin, a.rad + b.rad)

    def scaled(self, a: Span, factor: Ball, ulps: float = 1.0) -> Span:
        """Times a ball that is broadcast over contexts or over entries."""
        f = np.broadcast_to(factor.mid, a.mid.shape)
        spread = (np.abs(a.mid) + a.reach) * factor.rad
        return self.rounded(a.mid * f, a.lin * f[:, :, None], np.abs(f) * a.rad + spread, ulps)

    def project(self, a: Span, weight: Ball, bias: Ball | None) -> Span:
        """a @ W.T + b, sums in any order."""
        w, n = weight.mid.T, weight.mid.shape[1]
        size = np.abs(a.mid) + a.reach
        terms = size @ weight.size.T
        rad = a.rad @ np.abs(w) + size @ weight.rad.T + (n + 2) * self.rounding.unit * terms
        lin = np.einsum("cds,df->cfs", a.lin, w)
        span = Span(a.mid @ w, lin, rad * GROW + n * self.rounding.tiny)
        if bias is None:
            return span
        row = bias.move(lambda v: np.broadcast_to(v.reshape(1, -1), span.mid.shape))
        return self.add(span, Span.apart(row, lin.shape[-1]))

    def mul(self, a: Span, b: Span) -> Span:
        lin = a.mid[:, :, None] * b.lin + b.mid[:, :, None] * a.lin
        rad = np.abs(a.mid) * b.rad + np.abs(b.mid) * a.rad + a.reach * b.reach
        return self.rounded(a.mid * b.mid, lin, rad)

    def activation(self, name: str, a: Span) -> Span:
        low, high = a.ball.low, a.ball.high
        if name == "relu":
            return self.hinge(a, low, high)
        least, most = slope_range(name, low, high)
        slope, loose = (least + most) / 2, (most - least) / 2 * GROW
        mid = VALUES[name](a.mid)
        lost = ULPS[name] * self.rounding.unit * (
            np.abs(a.mid) if name == "gelu" else np.abs(mid))  # 1 + erf cancels
        rad = np.abs(slope) * a.rad + loose * a.reach + lost
        return self.rounded(mid, slope[:, :, None] * a.lin, rad, ULPS[name])

    def hinge(self, a: Span, low: Array, high: Array) -> Span:
        """max(z, 0): exact off the bend; across it, the chord with half the gap either way."""
        across = (low < 0) & (high > 0)
        width = np.where(across, high - low, 1.0)
        slope = np.where(across, high / width, (high > 0).astype(np.float64))
        gap = np.where(across, -slope * low / 2, 0.0) * GROW
        return self.rounded(slope * a.mid + gap, slope[:, :, None] * a.lin,
                             slope * a.rad + gap)

