"""The operations of a circuit, in the order in which a model carries them out.

Takes: nothing. Gives: the operation classes, `Node` and `Circuit`.
May import: the standard library.

1. What a position knows of itself: `Token`, `Index`, `Wave`.
2. What attention reads: `Fetch`, `Prefix`; `Power` and `Total` are a prefix in two heads.
3. What a feed-forward layer computes: `Step`, on an `Affine` form of values before it, and
   `Product`, at every position.
4. What the head reads: `Decode`, of a whole number or of a `Floor`.
All values are integers, except a `Wave`, place values, and what is affine in them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction


@dataclass(frozen=True)
class Token:
    """The value of the current token: s[i-1], or a part of it, and 0 at the first step."""

    part: str = "s"


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
    """coefficient * name[i + offset], one digit that a fetch reads; 0 where there is none.

    `name` is any of those in ir.parts.
    """

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
class Prefix:
    """Sum of place values: q_j * ratio^(j - i) over all digits of the named numbers, of the
    answer those already written; with `upto` only the digits j <= i + upto."""

    names: tuple[str, ...]
    ratio: int
    upto: int | None = None


@dataclass(frozen=True)
class Power:
    """At every position, how much the digit there counts: ratio^(j - i) for digit j of a
    number in `plus`, minus that in `minus`, 0 for any other token."""

    plus: tuple[str, ...]
    minus: tuple[str, ...]
    ratio: int


@dataclass(frozen=True)
class Product:
    """left * right at every position: a gated unit."""

    left: str
    right: str


@dataclass(frozen=True)
class Total:
    """The sum of the argument over all positions so far: uniform attention."""

    argument: str


@dataclass(frozen=True)
class Floor:
    """The largest whole number that is not above the argument."""

    argument: str


@dataclass(frozen=True)
class Decode:
    """The answer digit: the token whose value is nearest to the argument."""

    argument: str


Op = (Token | Index | Wave | Fetch | Prefix | Power | Product | Total | Affine | Step | Floor
      | Decode)


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
        case Step(argument, _) | Decode(argument) | Total(argument) | Floor(argument):
            return (argument,)
        case Product(left, right):
            return (left, right)
        case _:
            return ()
