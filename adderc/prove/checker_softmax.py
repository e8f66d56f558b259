"""Softmax rows: exponentials, and weights that are divided out only where they must be.

Takes: scores. Gives: `soft_row` -> `SoftRow`, whose weights are columns or `Weight`s.
May import: prove.checker_balls, prove.checker_forms, prove.checker_reader, flint.

The kernel's exponential of a score s is exp((s - m) (1 + d)) (1 + e) with m its own maximum,
|d| <= u and e by its ulps, plus underflow; their sum has gamma, the division 3 u. A softmax
does not change when all scores are shifted: here an upper bound of all scores is subtracted,
which is no smaller than m, so |s - m| is no more than its distance from s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from flint import arb

from adderc.prove.checker_balls import FUNCTIONS, ONE, ZERO, max_of, min_of, plus_minus
from adderc.prove.checker_forms import Balls, Column, Form, Value, at, column, together
from adderc.prove.checker_reader import NotUnderstood


@dataclass(eq=False)
class SoftRow:
    """Exponentials of one row (None: a masked key), the relative error of a weight beyond that
    of its exponential; `least` bounds their sum below, which is a form where it depends on
    several tokens."""

    exponentials: list[Value | None]
    loss: arb
    tiny: arb
    least: arb  # of the sum
    sum: Form = field(default_factory=lambda: Form([ONE]))
    weights: list[Any] = field(default_factory=list)


@dataclass(eq=False)
class Weight:
    """One weight of a row whose weights depend on tokens, not divided yet."""

    row: SoftRow
    key: int
    _value: Value | None = None

    @property
    def exponential(self) -> Value:
        found = self.row.exponentials[self.key]
        assert found is not None
        return found

    def value(self) -> Value:
        """The weight by its own key's token, whatever the other keys' tokens are."""
        if self._value is None:
            others = sum((_all(e) for k, e in enumerate(self.row.exponentials)
                          if k != self.key and e is not None), ZERO)
            own = self.exponential
            balls = [divided(self.row, ball, others) for ball in
                     (own.balls if isinstance(own, Column) else own.base)]
            self._value = Column(own.position, balls) if isinstance(own, Column) else Form(balls)
        return self._value


def soft_row(owner: Any, scores: Sequence[Value | None], passes: int) -> SoftRow:
    """A row for its scores, None where a key is masked; `owner` is the evaluator.

    `passes`: how often a kernel may rescale what it has summed.
    """
    live = [score for score in scores if score is not None]
    if not live:
        raise NotUnderstood("a softmax with no key")
    arithmetic = owner.arithmetic
    bounds = [_scores(owner, score) for score in live]
    top = max_of([ball.upper() for balls in bounds for ball in balls])
    exponentials: list[Value | None] = [None] * len(scores)
    found = iter(bounds)
    for key, score in enumerate(scores):
        if score is not None:
            balls = [_exponential(ball, top, arithmetic, passes) for ball in next(found)]
            exponentials[key] = (Column(score.position, balls) if isinstance(score, Column)
                                 else Form(balls))
    # the kernel's largest exponential is 1 up to its ulps; some score is no less than this
    highest = max_of([min_of([ball.lower() for ball in balls]) for balls in bounds])
    least = (highest - top).exp() * (1 - arithmetic.gamma(64))
    loss = (passes * arithmetic.gamma(len(live) + 4)).abs_upper()
    row = SoftRow(exponentials, loss, 4 * len(live) * arithmetic.tiny, least.lower())
    columns = [score for score in live if isinstance(score, Column)]
    where = together(columns) if len(columns) == len(live) else None
    if where is not None:
        row.weights = _of_one_token(row, *where)
        return row
    parts = [(e, Column(-1, [ONE])) for e in exponentials if e is not None]
    row.sum = owner.total(parts)[0].settled(object())
    row.weights = [Column(-1, [ZERO]) if e is None else Weight(row, key)
                   for key, e in enumerate(exponentials)]
    return row


def _scores(owner: Any, score: Value) -> Balls:
    """Balls by token, or by case for a score of several tokens."""
    if isinstance(score, Column):
        return score.balls
    return [low.union(high) for low, high in zip(*owner.ranges.of(score), strict=True)]


def _exponential(score: arb, top: arb, arithmetic: Any, passes: int) -> arb:
    """exp(score - top) as the kernel has it."""
    ulps = FUNCTIONS["exp"].ulps * 2 * arithmetic.unit
    lost = passes * ((top - score).abs_upper() * arithmetic.unit + ulps) * arb("1.01")
    return (score - top + plus_minus(lost)).exp() + plus_minus(arithmetic.tiny)


def _of_one_token(row: SoftRow, position: int, tokens: int) -> list[Column]:
    """Weights that one token settles, token by token; or no token at all."""
    by_token = []
    for token in range(tokens):
        sizes = [at(e, token) if isinstance(e, Column) else None for e in row.exponentials]
        by_token.append(_weights(row, sizes))
    return [Column(-1, [ZERO]) if e is None else
            column(position, [weights[key] for weights in by_token])
            for key, e in enumerate(row.exponentials)]


def _weights(row: SoftRow, sizes: Sequence[arb | None]) -> list[arb]:
    """The weights of exponentials; those of the other keys are summed from both ends."""
    before, after = [ZERO], [ZERO]  # sums of the keys before each one, and after it
    for size in sizes:
        before.append(before[-1] + (ZERO if size is None else size))
    for size in reversed(sizes):
        after.append(after[-1] + (ZERO if size is None else size))
    return [ZERO if size is None else
            divided(row, size, before[key] + after[len(sizes) - 1 - key])
            for key, size in enumerate(sizes)]


def divided(row: SoftRow, size: arb, others: arb) -> arb:
    """size / (size + others) as the kernel has it; neither is negative."""
    low, high = size.lower().max(ZERO), size.upper()
    least, most = low + others.upper(), high + others.lower().max(ZERO)
    if not (least > 0 and most > 0):
        raise NotUnderstood("a softmax whose denominator may be 0")
    weight = (low / least).union(high / most)
    return weight * (1 + plus_minus(row.loss)) + plus_minus(row.tiny)


def _all(value: Value) -> arb:
    """A ball of everything the value is, over all tokens or cases."""
    balls = value.balls if isinstance(value, Column) else value.base
    found = balls[0]
    for ball in balls[1:]:
        found = found.union(ball)
    return found


__all__ = ["SoftRow", "Weight", "soft_row"]
