"""Lower bounds that the form of a computation gives: no square is negative, no sum of them.

Takes: a term, the bounds of a dtype's rounding. Gives: `floor_of`.
May import: prove.checker_balls, prove.checker_reader, flint.

Rounding is monotone and keeps 0, so what is not negative in reals is not negative as
computed, in any order of summation. An interval of a sum of linearised squares does not know
this, and a root or a quotient of such a sum needs it.
"""

from __future__ import annotations

from flint import arb

from adderc.prove.checker_balls import ZERO, Arithmetic, max_of
from adderc.prove.checker_reader import Term

DEPTH = 60  # a floor that is found deeper down is not worth the search
NEVER_NEGATIVE = frozenset(("abs", "inverse of", "nonnegative", "relu", "sqrt"))


def floor_of(term: Term, arithmetic: Arithmetic, depth: int = DEPTH) -> arb | None:
    """A number from 0 on that the computed term does not fall below; None where none is known."""
    def floor(arg: Term) -> arb | None:
        return floor_of(arg, arithmetic, depth - 1) if depth else None

    def positive(one: Term, other: Term) -> bool:
        return one is other or not (floor(one) is None or floor(other) is None)

    match term.op:
        case "constant":
            return arb(term.data) if 0 <= term.data < float("inf") else None
        case "mul" | "div" if positive(*term.args):
            return ZERO
        case "sum" if all(map(positive, term.args[::2], term.args[1::2])):
            return ZERO
        case "loosen" if term.args[0] is term.args[1]:  # by less than itself
            return None if floor(term.args[0]) is None else ZERO
        case "add":
            x, y = (floor(arg) for arg in term.args)
            if x is None or y is None:
                return None
            found = (x + y) * (1 - 2 * arithmetic.unit) - 4 * arithmetic.tiny
            return ZERO.max(found.lower())
        case "max":
            floors = [x for x in map(floor, term.args) if x is not None]
            return max_of(floors) if floors else None
    return ZERO if term.op in NEVER_NEGATIVE else None


__all__ = ["floor_of"]
