"""The plain-integer interpreter of a checked spec: what the spec says, step by step.

Takes: `CheckedSpec`. Gives: `Reference` with `digits`, `add` and `work` (every quantity at
every step). Sees only the checked spec; knows nothing of circuits, weights or models.
May import: errors, format, lang.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from adderc.format.number import from_digits, to_digits
from adderc.lang.checked import CheckedSpec
from adderc.lang.places import place_value
from adderc.lang.states import read_part
from adderc.lang.syntax import Binary, Call, Compare, Digit, Expr, If, Name, Number, Unary


@dataclass(frozen=True)
class Step:
    """One answer token: its place, the quantities by name, and the emitted digit or state."""

    place: int
    quantities: tuple[tuple[str, int | Fraction], ...]
    emitted: int


@dataclass(frozen=True)
class Reference:
    """Runs the algorithm of `spec` on operands; raises ValueError if it has none."""

    spec: CheckedSpec

    def work(self, operands: Sequence[int]) -> list[Step]:
        """Every step in order of writing."""
        number, algorithm = self.spec.number, self.spec.algorithm
        if algorithm is None:
            raise ValueError("the spec has no algorithm")
        digits: dict[str, list[int]] = {
            name: to_digits(value, number.base, number.width)
            for name, value in zip(number.names, operands, strict=True)
        }
        digits["s"] = [0] * self.spec.format.steps
        constants = {name: int(v) for name, v in algorithm.definitions.constants}
        quantities, steps = algorithm.quantities, []
        for step in range(self.spec.format.steps):
            place = self.spec.format.answer_place(step)
            run = _Run(quantities, digits, place, constants | {"i": place})
            emitted = run.value(algorithm.emit)
            steps.append(Step(place, tuple((n, run.named(n)) for n in algorithm.order), emitted))
            digits["s"][place] = emitted
        return steps

    def digits(self, operands: Sequence[int]) -> list[int]:
        """The answer digits, least significant first; of states, the last carry comes last."""
        steps, base = self.work(operands), self.spec.number.base
        emitted = [step.emitted for step in sorted(steps, key=lambda step: step.place)]
        if self.spec.format.answer_kind == "digits":
            return emitted
        return [*(state % base for state in emitted), emitted[-1] // base]

    def add(self, *operands: int) -> int:
        """What the algorithm answers, right or wrong."""
        return from_digits(self.digits(operands), self.spec.number.base)


@dataclass
class _Run:
    """One step: the digits so far, and the names whose values are known."""

    quantities: Mapping[str, Expr]
    digits: Mapping[str, list[int]]
    place: int
    known: dict[str, Any]

    def named(self, name: str) -> Any:
        if name not in self.known:
            self.known[name] = self.value(self.quantities[name])
        return self.known[name]

    def value(self, expr: Expr) -> Any:
        """An integer, or a fraction where place values are summed."""
        match expr:
            case Number(value):
                return int(value)
            case Name(name):
                return self.named(name)
            case Digit(name, offset):
                row, at = self.digits[name.partition(".")[0]], self.place + offset
                digit = row[at] if 0 <= at < len(row) else 0
                return int(read_part(name, self.known["base"], digit))
            case Unary(op, operand):
                inner = self.value(operand)
                return -inner if op == "-" else int(inner == 0)
            case Binary(op, left, right) | Compare(op, left, right):
                return _OPERATIONS[op](self.value(left), self.value(right))
            case If(condition, then, otherwise):
                return self.value(then) if self.value(condition) else self.value(otherwise)
            case Call("place", (Name(name),)):
                return place_value(self.digits, name, None, self.place, self.known["base"])
            case Call("place", (Digit(name, offset),)):
                return place_value(self.digits, name, offset, self.place, self.known["base"])
            case Call("floor", (inner,)):
                return math.floor(self.value(inner))
            case Call(name, args):
                values = [self.value(arg) for arg in args]
                if name == "abs":
                    return abs(values[0])
                return min(values) if name == "min" else max(values)
            case _:
                raise TypeError(f"{type(expr).__name__} has no integer value")


_OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "^": operator.pow,
    "div": operator.floordiv, "mod": operator.mod,
    "and": lambda a, b: int(a != 0 and b != 0), "or": lambda a, b: int(a != 0 or b != 0),
    "==": lambda a, b: int(a == b), "!=": lambda a, b: int(a != b),
    "<": lambda a, b: int(a < b), "<=": lambda a, b: int(a <= b),
    ">": lambda a, b: int(a > b), ">=": lambda a, b: int(a >= b),
}
