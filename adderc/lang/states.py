"""State answers: tokens that hold a digit of the sum and the carry out of its place.

Takes: the algorithm part as parsed. Gives: `settle_states`: its expressions with the parts
of a state named, and the two parts that are emitted; `read_part`, a part's value.
May import: errors, lang.syntax.

`emit (x, y)` writes the state x + base * y. Later steps read it whole as `s[i-1]`, its
digit as `digit(s[i-1])` and its carry as `carry(s[i-1])`; before the first step the state
is 0. Inside the compiler the parts are digits named `s.digit` and `s.carry`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from adderc.errors import FaultList
from adderc.lang.syntax import (
    AlgorithmPart,
    Binary,
    Call,
    Compare,
    Digit,
    Expr,
    If,
    Name,
    Sequence,
    Unary,
)

STATE, STATE_DIGIT, STATE_CARRY = "s", "s.digit", "s.carry"
ANSWERS = (STATE, STATE_DIGIT, STATE_CARRY)
PARTS = {"digit": STATE_DIGIT, "carry": STATE_CARRY}


def writes_states(part: AlgorithmPart | None) -> bool:
    """Whether the algorithm emits states rather than digits."""
    return part is not None and isinstance(part.emit, Sequence) and part.emit.bracket == "("


def settle_states(
    part: AlgorithmPart, faults: FaultList
) -> tuple[AlgorithmPart, tuple[Expr, Expr] | None]:
    """The part with one emitted number and with `carry(s[i-1])` as a digit; the emitted parts.

    An algorithm that emits digits is returned as it is.
    """
    if not writes_states(part):
        return part, None
    emit = part.emit
    assert isinstance(emit, Sequence)
    if len(emit.items) != 2:
        faults.add(f"a state has two parts, {len(emit.items)} are emitted", emit.span,
                   "write emit (t mod base, t div base)")
        return part, None
    digit, carry = (_named(item, faults) for item in emit.items)
    whole = Binary("+", digit, Binary("*", Name("base", emit.span), carry, emit.span), emit.span)
    definitions = tuple(replace(d, value=_named(d.value, faults)) for d in part.definitions)
    return AlgorithmPart(definitions, whole, part.span), (digit, carry)


def read_part(name: str, base: int, state: Any) -> Any:
    """The value of `s`, `s.digit` or `s.carry`, given the state (an integer or an array); that
    of any other name is the state's."""
    if name == STATE_DIGIT:
        return state % base
    return state // base if name == STATE_CARRY else state


def _named(expr: Expr, faults: FaultList) -> Expr:
    """`expr` with every `digit(s[i-1])` and `carry(s[i-1])` as the digit it is."""
    match expr:
        case Call(name, (Digit("s", offset),), ()) if name in PARTS:
            return Digit(PARTS[name], offset, expr.span)
        case Call(name, _, _) if name in PARTS:
            faults.add(f"{name} takes a written state", expr.span, f"write {name}(s[i-1])")
            return expr
        case Unary(_, operand):
            return replace(expr, operand=_named(operand, faults))
        case Binary(_, left, right) | Compare(_, left, right):
            return replace(expr, left=_named(left, faults), right=_named(right, faults))
        case If(condition, then, otherwise):
            return If(_named(condition, faults), _named(then, faults), _named(otherwise, faults),
                      expr.span)
        case Call(_, args, _):
            return replace(expr, args=tuple(_named(arg, faults) for arg in args))
        case _:
            return expr
