"""Evaluation of integer expressions on arrays of contexts.

Takes: an expression and the arrays of what it mentions. Gives: an int64 array; div and mod
floor, comparisons are 0 or 1. A division by zero in any context raises ZeroDivisionError.
May import: lang.syntax.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from adderc.lang.syntax import Binary, Call, Compare, Digit, Expr, If, Name, Number, Unary

Array = np.ndarray
Lookup = Callable[[Name | Digit], Array]

_COMPARE: dict[str, Callable[[Array, Array], Array]] = {
    "==": np.equal,
    "!=": np.not_equal,
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
}


def evaluate(expr: Expr, look_up: Lookup) -> Array:
    """The value of `expr` in every context, as int64."""
    match expr:
        case Number(value):
            if value.denominator != 1:
                raise TypeError(f"{value} is not an integer")
            return np.asarray(int(value), dtype=np.int64)
        case Name() | Digit():
            return look_up(expr)
        case Unary(op, operand):
            inner = evaluate(operand, look_up)
            return -inner if op == "-" else (inner == 0).astype(np.int64)
        case Binary(op, left, right):
            return _binary(op, evaluate(left, look_up), evaluate(right, look_up))
        case Compare(op, left, right):
            a, b = evaluate(left, look_up), evaluate(right, look_up)
            return _COMPARE[op](a, b).astype(np.int64)
        case If(condition, then, otherwise):
            chosen = evaluate(condition, look_up) != 0
            return np.where(chosen, evaluate(then, look_up), evaluate(otherwise, look_up))
        case Call("min" | "max" as name, args):
            fold = np.minimum if name == "min" else np.maximum
            extreme = evaluate(args[0], look_up)
            for arg in args[1:]:
                extreme = fold(extreme, evaluate(arg, look_up))
            return extreme
        case Call("abs", (arg,)):
            return np.abs(evaluate(arg, look_up))
        case _:
            raise TypeError(f"{type(expr).__name__} has no integer value")


def _binary(op: str, a: Array, b: Array) -> Array:
    match op:
        case "+":
            return a + b
        case "-":
            return a - b
        case "*":
            return a * b
        case "div" | "mod":
            if np.any(b == 0):
                raise ZeroDivisionError(op)
            return a // b if op == "div" else a % b
        case "and":
            return ((a != 0) & (b != 0)).astype(np.int64)
        case "or":
            return ((a != 0) | (b != 0)).astype(np.int64)
        case "^":
            if np.any(b < 0):
                raise ZeroDivisionError(op)
            return a**b
    raise TypeError(op)
