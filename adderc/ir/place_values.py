"""Runs a circuit of place values digit by digit, on exact fractions.

Takes: `Circuit`, number format, order of writing, operands. Gives: `run_places`, the answer
digits. A node that has a value at every position is a table by number and place.
May import: format, ir.ops.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

from adderc.format.number import NumberFormat, to_digits
from adderc.ir.ops import (
    Affine,
    Circuit,
    Decode,
    Fetch,
    Floor,
    Power,
    Prefix,
    Product,
    Step,
    Token,
    Total,
)

Rows = Mapping[str, Sequence[int]]
Table = dict[tuple[str, int], Fraction]
Value = Fraction | Table


def run_places(
    circuit: Circuit, number: NumberFormat, order: str, operands: Sequence[int]
) -> list[int]:
    """The answer digits the circuit writes, least significant first."""
    count = number.answer_digits
    rows = {name: to_digits(value, number.base, number.width)
            for name, value in zip(number.names, operands, strict=True)}
    answer = [0] * count
    rows["s"] = answer
    for place in range(count) if order == "lsd" else reversed(range(count)):
        answer[place] = _digit(circuit, rows, place)
    return answer


def _digit(circuit: Circuit, rows: Rows, place: int) -> int:
    values: dict[str, Value] = {}

    def plain(name: str) -> Fraction:
        value = values[name]
        assert isinstance(value, Fraction)
        return value

    for node in circuit.nodes:
        match node.op:
            case Product(left, right):
                values[node.name] = _times(values[left], values[right])
            case Total(argument):
                table = values[argument]
                assert isinstance(table, dict)
                values[node.name] = sum(table.values(), Fraction(0))
            case _:
                values[node.name] = _value(node.op, rows, place, plain)
    return int(plain(circuit.nodes[-1].name))


def _value(op: object, rows: Rows, place: int, plain: Callable[[str], Fraction]) -> Value:
    match op:
        case Token():
            return {(name, at): Fraction(d) for name, row in rows.items()
                    for at, d in enumerate(row)}
        case Power(plus, minus, ratio):
            return {(name, at): sign * Fraction(ratio) ** (at - place)
                    for sign, names in ((1, plus), (-1, minus)) for name in names
                    for at in range(len(rows[name]))}
        case Prefix(names, ratio, upto):
            last = None if upto is None else max(0, place + upto + 1)
            return sum((d * Fraction(ratio) ** (at - place) for name in names
                        for at, d in enumerate(rows[name][:last])), Fraction(0))
        case Fetch(targets):
            return sum((t.coefficient * rows[t.name][place + t.offset] for t in targets
                        if 0 <= place + t.offset < len(rows[t.name])), Fraction(0))
        case Affine(terms, constant):
            return sum((c * plain(name) for name, c in terms), constant)
        case Step(argument, threshold):
            return Fraction(int(plain(argument) >= threshold))
        case Floor(argument):
            return Fraction(math.floor(plain(argument)))
        case Decode(argument):
            return Fraction(math.floor(plain(argument) + Fraction(1, 2)))
    raise TypeError(f"{type(op).__name__} has no value here")


def _times(left: Value, right: Value) -> Table:
    assert isinstance(left, dict)
    assert isinstance(right, dict)
    return {key: left[key] * right[key] for key in left if key in right}
