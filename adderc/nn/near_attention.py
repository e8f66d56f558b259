"""What an attention head reads, with a bound beside it.

Takes: queries, keys and values with their errors. Gives: `Reader`, one head: `weigh`, then
`average`. May import: nn.near, nn.pattern.

Score s is q . k_s; what it is off by matters only beside what the other scores are off by,
so the error of the query counts with k_s - c for any c, here the mean key, and every other
error of score s by itself: apart_s. With weights w_s and |d_s| <= apart_s the module reads

    sum w_s e^d_s v_s / sum w_s e^d_s,

which differs from the mean z of v by at most sum m_s |v_s - z| over sum w_s e^-apart_s, where
m_s = w_s (e^apart_s - 1). Every sum rounds by its number of terms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adderc.nn.near import Unit
from adderc.nn.pattern import EXP_ULP

Pairs = Sequence[tuple[Tensor, Tensor]]  # (mid, off) of each dimension of a head


@dataclass(frozen=True)
class Weighed:
    """Weights [S, N] beside the largest, how far each can move, and the least it can be; with
    softmax1 the last row is that of the key with score 0."""

    weight: Tensor
    moved: Tensor
    least: Tensor

    def take(self, index: Tensor) -> Weighed:
        """Some of them, by their number."""
        return Weighed(*(v.take(index) for v in (self.weight, self.moved, self.least)))


@dataclass(frozen=True)
class Reader:
    """One head: the scale of its scores, whether that is a weight or the default
    1 / sqrt(E), whether its softmax has one more key of score 0, whether what it reads with
    small weights counts much."""

    scale: float
    given: bool
    softmax1: bool
    unit: Unit
    fine: bool = False

    def weigh(self, q: Pairs, k: Pairs, seen: Tensor | None, bend: Tensor | None) -> Weighed:
        """Weights of keys [S, N] for queries [N], or shapes that broadcast to these.

        `seen` says which keys count, `bend` is what ALiBi takes off each score.
        """
        score = torch.zeros(())
        for (q_mid, _), (k_mid, _) in zip(q, k, strict=True):
            score = score + q_mid * k_mid
        score = score * self.scale
        bent = score if bend is None else score - bend
        shown = bent if seen is None else bent.masked_fill(~seen, -math.inf)
        if self.softmax1:
            shown = torch.cat([shown, torch.zeros_like(shown[:1])])
        below = shown - shown.amax(0).clamp_(min=-1e300)
        weight = below.exp()
        share = weight[: len(score)] / weight.sum(0).clamp_(min=1e-300)
        apart, common = self._apart(q, k, share, score)
        if bend is not None:
            apart.add_(bend.abs() + bent.abs(), alpha=2 * self.unit.size)
        if self.softmax1:
            apart = torch.cat([apart, common[None]])
        apart.add_((-below).clamp_(max=1e6).add_(EXP_ULP), alpha=self.unit.size)
        least = weight * torch.exp(-apart)
        # of a weight that underflows here, too, all that the error could make of it counts
        far = torch.exp((below + apart).clamp_(max=600.0))
        moved = torch.where(apart > 1, far, torch.expm1(apart.clamp(max=1.0)).mul_(weight))
        return Weighed(weight, moved, least)

    def _apart(self, q: Pairs, k: Pairs, share: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
        """What each score is off by itself [S, N], and what a score of 0 is beside them."""
        scale, unit = abs(self.scale), self.unit
        apart, common = torch.zeros_like(score), torch.zeros_like(score[0])
        own = unit.sum(len(q) + 1) * scale
        for (q_mid, q_off), (k_mid, k_off) in zip(q, k, strict=True):
            mean = (share * k_mid).sum(0)
            apart.add_((k_mid - mean).abs_().mul_(q_off), alpha=scale)
            common.add_(mean.abs() * q_off, alpha=scale)
            most = q_mid.abs() + q_off
            apart.add_((scale + own) * k_off * most).add_(own * k_mid.abs() * most)
        if not self.given:  # 1 / sqrt(E) is rounded, too, for all scores alike
            mean = (share * score).sum(0)
            apart.add_((score - mean).abs_(), alpha=2 * unit.size)
            common.add_(mean.abs(), alpha=2 * unit.size)
        return apart.add_(unit.tiny * len(q) * (1 + scale)), common

    def average(
        self, of: Weighed, values: Pairs, largest: Sequence[Tensor], missed: float = 0.0
    ) -> list[tuple[Tensor, Tensor]]:
        """(mid, off) [N] of each dimension of what is read of values [S, N].

        `largest` bounds their magnitude, `missed` the weight of keys that were left out.
        Where no key is seen, 0 is read.
        """
        weight, moved = of.weight, of.moved
        total, lost = weight.sum(0), moved.sum(0)
        own = self.unit.sum(2 * len(weight) + 6)
        most = total + lost
        left = (of.least.sum(0) - missed).clamp_(min=0.0)
        blind = total == 0
        found = []
        for (value, off), top in zip(values, largest, strict=True):
            n = len(value)
            read = (weight[:n] * value).sum(0).div_(total)
            error = (value - read).abs_().mul_(moved[:n]).sum(0)
            if self.softmax1:
                error.addcmul_(moved[n], read.abs())
            if self.fine:  # rounding key by key, not by the largest value
                each = weight[:n] + moved[:n]
                error.add_((each * (off * (1 + own) + value.abs() * own)).sum(0))
                error.addcmul_(most, read.abs(), value=own)
            else:
                error.addcmul_(most, off.amax(0) * (1 + own) + 2 * own * top)
            error.add_(top, alpha=4 * missed).div_(left)
            error.add_(top + 1, alpha=self.unit.tiny * (n + 2))
            if blind.any():
                read, error = (v.masked_fill(blind, 0.0) for v in (read, error))
            found.append((read, error))
        return found
