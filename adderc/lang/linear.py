"""Affine normal form of integer expressions over digits, the index and nonlinear parts.

Takes: an algorithm's definitions and expressions. Gives: `Linear`, `Definitions.linear`,
and `digit_forms`: the few linear forms through which an algorithm sees its operands.
May import: errors, lang.syntax.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from adderc.lang.syntax import (
    Binary,
    Call,
    Compare,
    Digit,
    Expr,
    If,
    Name,
    Number,
    Unary,
    walk,
)

INDEX = Name("i")


@dataclass(frozen=True)
class Linear:
    """constant + sum of coefficient * atom.

    Atoms are operand and answer digits, the index `i`, and nonlinear expressions.
    """

    terms: tuple[tuple[Expr, Fraction], ...] = ()
    constant: Fraction = Fraction(0)

    def scaled(self, factor: Fraction) -> Linear:
        if factor == 0:
            return Linear()
        return Linear(tuple((a, c * factor) for a, c in self.terms), self.constant * factor)

    def plus(self, other: Linear) -> Linear:
        total: dict[Expr, Fraction] = dict(self.terms)
        for atom, coefficient in other.terms:
            total[atom] = total.get(atom, Fraction(0)) + coefficient
        kept = tuple((atom, c) for atom, c in total.items() if c != 0)
        return Linear(kept, self.constant + other.constant)

    @property
    def is_constant(self) -> bool:
        return not self.terms


@dataclass(frozen=True)
class Definitions:
    """Quantities by name, and the values of `width`, `base`, `operands`."""

    quantities: tuple[tuple[str, Expr], ...]
    constants: tuple[tuple[str, Fraction], ...]

    def linear(self, expr: Expr) -> Linear:
        """The affine normal form of `expr`, quantities written out."""
        match expr:
            case Number(value):
                return Linear(constant=value)
            case Name(name):
                return self._name(name, expr)
            case Unary("-", operand):
                return self.linear(operand).scaled(Fraction(-1))
            case Binary("+", left, right):
                return self.linear(left).plus(self.linear(right))
            case Binary("-", left, right):
                return self.linear(left).plus(self.linear(right).scaled(Fraction(-1)))
            case Binary("*", left, right):
                a, b = self.linear(left), self.linear(right)
                if a.is_constant:
                    return b.scaled(a.constant)
                if b.is_constant:
                    return a.scaled(b.constant)
            case _:
                pass
        return self._atom(expr)

    def _name(self, name: str, expr: Expr) -> Linear:
        constants, quantities = dict(self.constants), dict(self.quantities)
        if name in quantities:
            return self.linear(quantities[name])
        if name in constants:
            return Linear(constant=constants[name])
        return Linear(((expr, Fraction(1)),))

    def _atom(self, expr: Expr) -> Linear:
        value = self.constant_value(expr)
        return Linear(((expr, Fraction(1)),)) if value is None else Linear(constant=value)

    def constant_value(self, expr: Expr) -> Fraction | None:
        """The value of an expression in which only constants occur; None otherwise."""
        match expr:
            case Number(value):
                return value
            case Name(name):
                quantities = dict(self.quantities)
                if name in quantities:
                    return self.constant_value(quantities[name])
                return dict(self.constants).get(name)
            case Binary(op, left, right) | Compare(op, left, right):
                a, b = self.constant_value(left), self.constant_value(right)
                return None if a is None or b is None else fold(op, a, b)
            case Unary(op, operand):
                inner = self.constant_value(operand)
                if inner is None:
                    return None
                return -inner if op == "-" else Fraction(int(inner == 0))
            case Call("min" | "max" as name, args):
                values = [self.constant_value(arg) for arg in args]
                known = [value for value in values if value is not None]
                if len(known) < len(values):
                    return None
                return min(known) if name == "min" else max(known)
            case _:
                return None


def fold(op: str, a: Fraction, b: Fraction) -> Fraction | None:
    """One binary operation on exact values; None for division by zero or a wild power."""
    match op:
        case "+":
            return a + b
        case "-":
            return a - b
        case "*":
            return a * b
        case "/" | "div" | "mod":
            if b == 0:
                return None
            return a / b if op == "/" else Fraction(a // b) if op == "div" else a % b
        case "^":
            if b.denominator != 1 or abs(b) > 4096 or (a == 0 and b < 0):
                return None
            return a ** int(b)
        case "and":
            return Fraction(int(a != 0 and b != 0))
        case "or":
            return Fraction(int(a != 0 or b != 0))
        case "==":
            return Fraction(int(a == b))
        case "!=":
            return Fraction(int(a != b))
        case "<":
            return Fraction(int(a < b))
        case "<=":
            return Fraction(int(a <= b))
        case ">":
            return Fraction(int(a > b))
        case ">=":
            return Fraction(int(a >= b))
    return None


def operands_of(expr: Expr) -> tuple[Expr, ...]:
    """The expressions a nonlinear operation is applied to."""
    match expr:
        case Binary(_, left, right) | Compare(_, left, right):
            return (left, right)
        case Unary(_, operand):
            return (operand,)
        case If(condition, then, otherwise):
            return (condition, then, otherwise)
        case Call(_, args, _):
            return args
        case _:
            return ()


def difference(definitions: Definitions, expr: Compare) -> Linear:
    """left - right of a comparison."""
    left, right = definitions.linear(expr.left), definitions.linear(expr.right)
    return left.plus(right.scaled(Fraction(-1)))


def digit_forms(
    definitions: Definitions, root: Expr, operands: tuple[str, ...]
) -> dict[int, set[tuple[Fraction, ...]]]:
    """Per offset, the coefficient vectors over `operands` in which their digits occur.

    The value of `root` depends on the operand digits at offset o only through these
    linear forms; so contexts that agree in them need to be looked at once.
    """
    forms: dict[int, set[tuple[Fraction, ...]]] = {}

    def visit(linear: Linear) -> None:
        vectors: dict[int, dict[str, Fraction]] = {}
        for atom, coefficient in linear.terms:
            if isinstance(atom, Digit):
                if atom.name in operands:
                    vectors.setdefault(atom.offset, {})[atom.name] = coefficient
                continue
            if isinstance(atom, Compare):
                visit(difference(definitions, atom))
                continue
            for part in operands_of(atom):
                visit(definitions.linear(part))
        for offset, vector in vectors.items():
            row = tuple(vector.get(name, Fraction(0)) for name in operands)
            lead = next(c for c in row if c != 0)
            forms.setdefault(offset, set()).add(tuple(c / lead for c in row))

    visit(definitions.linear(root))
    return forms


def mentions_index(definitions: Definitions, root: Expr) -> bool:
    """Whether the value depends on the step number `i`."""
    quantities = dict(definitions.quantities)
    for node in walk(root):
        if isinstance(node, Name):
            if node.name == INDEX.name:
                return True
            if node.name in quantities and mentions_index(definitions, quantities[node.name]):
                return True
    return False
