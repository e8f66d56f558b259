"""Exact values of constant expressions: sizes, periods, given weights.

Takes: an expression and named values. Gives: a sympy number (`exact`), a Fraction
(`rational`) or an integer (`integer`), or a `ConstantFault` that says what is wrong.
May import: errors, lang.syntax. Imports sympy only where a root, a logarithm or pi occurs.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from adderc.errors import Span, did_you_mean
from adderc.lang.linear import fold
from adderc.lang.syntax import Binary, Call, Compare, Expr, If, Name, Number, Unary, walk

FUNCTIONS = ("sqrt", "log", "exp", "sin", "cos", "min", "max", "abs", "floor")
CONSTANTS = ("pi",)
MAGNITUDE = 10**5000


class ConstantFault(Exception):
    """A constant expression without a value: message, place and hint."""

    def __init__(self, message: str, span: Span, hint: str = "") -> None:
        super().__init__(message)
        self.message, self.span, self.hint = message, span, hint


def exact(expr: Expr, names: Mapping[str, Fraction]) -> Any:
    """The value as a Fraction where it is rational, else as an exact sympy number."""
    transcendental = any(
        (isinstance(node, Call) and node.name not in ("min", "max", "abs", "floor"))
        or (isinstance(node, Name) and node.name in CONSTANTS)
        for node in walk(expr)
    )
    if not transcendental:
        return _rational(expr, names)
    value = _symbolic(expr, names)
    return Fraction(int(value.p), int(value.q)) if value.is_Rational else value


def rational(expr: Expr, names: Mapping[str, Fraction]) -> Fraction:
    """The value as a Fraction; ConstantFault where it is irrational."""
    value = exact(expr, names)
    if not isinstance(value, Fraction):
        raise ConstantFault(f"{value} is not a rational number", expr.span)
    return value


def integer(expr: Expr, names: Mapping[str, Fraction]) -> int:
    """The value as an integer; ConstantFault otherwise."""
    value = rational(expr, names)
    if value.denominator != 1:
        raise ConstantFault(f"expected an integer, found {value}", expr.span)
    return int(value)


def real(expr: Expr, names: Mapping[str, Fraction]) -> float:
    """The value rounded once to float64."""
    value = exact(expr, names)
    return float(value) if isinstance(value, Fraction) else float(value.evalf(40))


def _unknown(expr: Name | Call, names: Mapping[str, Fraction]) -> ConstantFault:
    known = (*names, *CONSTANTS) if isinstance(expr, Name) else FUNCTIONS
    what = "name" if isinstance(expr, Name) else "function"
    hint = did_you_mean(expr.name, known) or f"known here: {', '.join(sorted(known))}"
    return ConstantFault(f"unknown {what} {expr.name!r} in a constant", expr.span, hint)


def _rational(expr: Expr, names: Mapping[str, Fraction]) -> Fraction:
    match expr:
        case Number(value):
            return value
        case Name(name):
            if name not in names:
                raise _unknown(expr, names)
            return names[name]
        case Unary(op, operand):
            inner = _rational(operand, names)
            return -inner if op == "-" else Fraction(int(inner == 0))
        case Binary(op, left, right) | Compare(op, left, right):
            a, b = _rational(left, names), _rational(right, names)
            result = None if op == "^" and _is_huge(a, b) else fold(op, a, b)
            if result is None or abs(result) > MAGNITUDE:
                raise ConstantFault(f"{op} has no value here", expr.span)
            return result
        case If(condition, then, otherwise):
            return _rational(then if _rational(condition, names) else otherwise, names)
        case Call("min" | "max" | "abs" | "floor" as name, args) if args:
            values = [_rational(arg, names) for arg in args]
            if name in ("min", "max"):
                return min(values) if name == "min" else max(values)
            return abs(values[0]) if name == "abs" else Fraction(values[0].__floor__())
        case Call():
            raise _unknown(expr, names)
        case _:
            raise ConstantFault("expected a number", expr.span)


def _is_huge(a: Fraction, b: Fraction) -> bool:
    """Whether a ^ b would have too many digits to be worth computing."""
    digits = max(a.numerator.bit_length(), a.denominator.bit_length())
    return digits * abs(b) > 20_000


def _symbolic(expr: Expr, names: Mapping[str, Fraction]) -> Any:
    import sympy

    def value(node: Expr) -> Any:
        match node:
            case Name("pi"):
                return sympy.pi
            case Number() | Name():
                found = _rational(node, names)
                return sympy.Rational(found.numerator, found.denominator)
            case Unary("-", operand):
                return -value(operand)
            case Binary(op, left, right) if op in "+-*/^":
                a, b = value(left), value(right)
                if op == "/" and b == 0:
                    raise ConstantFault("division by zero", node.span)
                return {"+": a + b, "-": a - b, "*": a * b}.get(op) if op in "+-*" else (
                    a / b if op == "/" else a**b)
            case Call(name, (arg,)) if name in FUNCTIONS:
                return getattr(sympy, {"abs": "Abs"}.get(name, name))(value(arg))
            case Call(name, args) if name in ("min", "max") and args:
                return getattr(sympy, name.capitalize())(*map(value, args))
            case Call():
                raise _unknown(node, names)
            case _:
                raise ConstantFault("expected a number", node.span)

    result = value(expr)
    if not result.is_real or not result.is_finite:
        raise ConstantFault(f"{result} is not a real number", expr.span)
    return result
