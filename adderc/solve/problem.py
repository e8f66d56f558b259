"""A solving problem as data: unknown leaves, constraints with their provenance, objective.

Takes: a structure, known leaf values, cases. Gives: `Problem`, `Constraint`, `Answer`.
May import: format, weights, solve.cases, solve.forward.

One constraint for each case and each wrong token:

    logit(right) - logit(token) >= margin + leak,

where leak is what the digits that the case leaves open can take away. Objective: the
largest margin with the unknown leaves' L2 norm at most `norm`; or, with a margin given, the
least norm. Backends get this and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from adderc.solve.cases import Cases
from adderc.solve.forward import Model, model_of
from adderc.weights.expr import Leaf
from adderc.weights.structure import Structure

Array = np.ndarray
ROOM = 100.0  # with a wanted margin, the norm is this many times the usual one


@dataclass(frozen=True, eq=False)
class Wording:
    """How contexts are told to people: operand digits by offset, answers before, the right
    token. A name has the place behind it as the language writes it."""

    operands: tuple[str, ...]
    low: int
    digits: Array  # [rows, operands, places]
    answers: Array  # [rows, back]
    first_token: int

    def context(self, row: int) -> str:
        parts = [f"{name}{place_text(self.low + at)} = {self.digits[row, k, at]}"
                 for at in range(self.digits.shape[2]) for k, name in enumerate(self.operands)]
        back = self.answers.shape[1]
        parts += [f"s{place_text(at - back)} = {self.answers[row, at]}" for at in range(back)]
        return ", ".join(parts)


def place_text(offset: int) -> str:
    return "[i]" if not offset else f"[i{offset:+d}]"


@dataclass(frozen=True)
class Constraint:
    """One inequality with where it comes from; `lead` is how it is met, leak taken off."""

    context: str
    step: int
    right: int
    token: int
    leak: float
    lead: float = math.nan

    def text(self) -> str:
        return (f"{self.context}: {self.right} must win over {self.token}"
                + ("" if math.isnan(self.lead) else f" (lead {self.lead:.4g})"))


@dataclass(frozen=True, eq=False)
class Problem:
    """What is unknown, and what must hold. `start`: where the general lowering stands, if
    there is one. With a `ceiling`, the largest |logit| in the lowering, the margin counts in
    units of the largest |logit|, or the ceiling bounds that. A margin of `enough` ends a
    search under a norm bound."""

    structure: Structure
    unknown: tuple[Leaf, ...]
    known: dict[str, Array]
    cases: Cases
    leak: Array  # [N]
    norm: float
    wording: Wording
    margin: float | None = None
    enough: float | None = None
    ceiling: float | None = None
    start: Array | None = None
    restarts: int = 32

    @property
    def size(self) -> int:
        """Unknown numbers."""
        return sum(math.prod(leaf.shape) for leaf in self.unknown)

    @property
    def vocabulary(self) -> int:
        return self.structure.format.vocabulary

    @property
    def constraints(self) -> int:
        return len(self.cases) * (self.vocabulary - 1)

    def take(self, which: Array) -> Problem:
        """The problem with some of its cases."""
        return replace(self, cases=self.cases.take(which), leak=self.leak[which])

    def model(self, apart: bool = False) -> Model:
        return model_of(self.structure, self.unknown, self.known, self.cases, apart)

    def values(self, point: Array) -> dict[str, Array]:
        """All leaves, the unknown ones from a point [n]."""
        found, at = dict(self.known), 0
        for leaf in self.unknown:
            size = math.prod(leaf.shape)
            found[leaf.name] = point[at : at + size].reshape(leaf.shape)
            at += size
        return found

    def constraint(self, case: int, token: int, lead: float = math.nan) -> Constraint:
        cases, first = self.cases, self.wording.first_token
        return Constraint(self.wording.context(int(cases.row[case])), int(cases.step[case]),
                          int(cases.right[case]) - first, int(token) - first,
                          float(self.leak[case]), lead)


@dataclass(frozen=True, eq=False)
class Field:
    """A problem's leads as numbers and gradients, many points at once."""

    problem: Problem
    model: Model = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", self.problem.model())

    def logits(self, points: Array) -> Array:
        """[R, N, V] of points [R, n]."""
        values = self.model.tape.run(points)[self.model.logits]
        return np.broadcast_to(values, (len(points), *values.shape[1:]))

    def leads(self, logits: Array) -> Array:
        """How far the right token leads [R, N, V], leak taken off; infinite over itself."""
        cases, at = self.problem.cases, np.arange(len(self.problem.cases))
        leads = logits[:, at, cases.right][:, :, None] - logits - self.problem.leak[:, None]
        leads[:, at, cases.right] = np.inf
        return leads

    def margins(self, points: Array) -> Array:
        """The least lead [R] at each point."""
        return np.asarray(self.leads(self.logits(points)).min(axis=(1, 2)))


@dataclass(frozen=True, eq=False)
class Bound:
    """A proof that no point within the norm has a larger margin than `value`.

    `weights` of the constraints (`cases`, `tokens`) are >= 0 and sum to 1: the margin is at
    most their weighted mean, an affine function whose largest value in the ball is known.
    """

    value: float
    cases: Array
    tokens: Array
    weights: Array


@dataclass(frozen=True, eq=False)
class Answer:
    """What a backend found: a point with its margin; or none good enough, with the
    constraints that stand against each other. `bound` is the backend's claim."""

    method: str
    point: Array
    margin: float
    tried: int = 1
    bound: Bound | None = None
    conflict: tuple[Constraint, ...] = ()
    stopped: bool = False  # interrupted
    first_exact: float = math.nan  # seconds until the first point without a wrong token
    exhausted: bool = False  # a finite search without any solution

    @property
    def found(self) -> bool:
        return self.margin > 0


Watch = Callable[[float, int], None]  # best margin so far, starts tried


def no_watch(margin: float, tried: int) -> None:
    """Nobody looks."""
