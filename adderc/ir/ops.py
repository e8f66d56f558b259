"""The operations of a circuit, in the order in which a model carries them out.

Takes: nothing. Gives: the operation classes, `Node` and `Circuit`.
May import: the standard library.

1. What a position knows of itself: `Token`, `Index`, `Wave`.
2. What attention reads: `Fetch`.
3. What a feed-forward layer computes: `Step`, on an `Affine` form of values before it.
4. What the head reads: `Decode`.
All values are integers, except a `Wave` and what is affine in one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction


@dataclass(frozen=True)
class Token:
    """The value of the current token: s[i-1], and 0 at the first step."""


@dataclass(frozen=True)
class Index:
    """The number i of the step."""


@dataclass(frozen=True)
class Wave:
    """cos(2 pi (i - place) / period): 1 at step `place`, less at every other step."""

    place: int
    period: Fraction


@dataclass(frozen=True)
class Target:
    """coefficient * name[i + offset], one digit that a fetch reads; 0 where there is none."""

    name: str
    offset: int
    coefficient: Fraction = Fraction(1)


@dataclass(frozen=True)
class Fetch:
    """Sum of digits at other positions, with positive coefficients: one attention head."""

    targets: tuple[Target, ...]


@dataclass(frozen=True)
class Affine:
    """constant + sum of coefficient * node: no unit of its own, read off the residual."""

    terms: tuple[tuple[str, Fraction], ...]
    constant: Fraction = Fraction(0)


@dataclass(frozen=True)
class Step:
    """1 where argument >= threshold, else 0: a hinge pair or a saturated unit."""

    argument: str
    threshold: Fraction


@dataclass(frozen=True)
class Decode:
    """The answer digit: the token whose value is nearest to the argument."""

    argument: str


Op = Token | Index | Wave | Fetch | Affine | Step | Decode


@dataclass(frozen=True)
class Node:
    """One operation with its name, its exact values over all contexts, and its spec line."""

    name: str
    op: Op
    line: int = 0
    values: tuple[Fraction, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class Circuit:
    """Nodes in an order of computation; the last one is the `Decode`."""

    nodes: tuple[Node, ...]

    def __getitem__(self, name: str) -> Node:
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)

    @property
    def decode(self) -> Decode:
        op = self.nodes[-1].op
        assert isinstance(op, Decode)
        return op

    def of(self, kind: type) -> tuple[Node, ...]:
        """The nodes whose operation is of class `kind`, in order."""
        return tuple(node for node in self.nodes if isinstance(node.op, kind))


def arguments(op: Op) -> tuple[str, ...]:
    """The names an operation reads."""
    match op:
        case Affine(terms, _):
            return tuple(name for name, _ in terms)
        case Step(argument, _) | Decode(argument):
            return (argument,)
        case _:
            return ()
