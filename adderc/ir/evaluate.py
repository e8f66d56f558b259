"""Runs a circuit: on arrays of contexts, and digit by digit on operands.

Takes: `Circuit` and what its sources read. Gives: `evaluate` (all node values) and
`run` (the answer digits). Exact on integers; a wave is the float64 nearest its value.
May import: format, ir.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

import numpy as np

from adderc.format.number import NumberFormat, to_digits
from adderc.ir.ops import Affine, Circuit, Decode, Fetch, Index, Step, Token, Wave
from adderc.ir.parts import resolve

Array = np.ndarray
ReadDigit = Callable[[str, int], Array]


def evaluate(circuit: Circuit, read: ReadDigit, index: Array) -> dict[str, Array]:
    """Node values, where `read(name, offset)` gives digit i + offset and `index` gives i."""
    values: dict[str, Array] = {}
    for node in circuit.nodes:
        match node.op:
            case Token(part):
                value = read(part, -1)
            case Index():
                value = index
            case Wave(place, period):
                value = np.cos(2 * math.pi * ((index - place) / float(period)))
            case Fetch(targets):
                value = _weighted(
                    [(read(t.name, t.offset), t.coefficient) for t in targets], Fraction(0)
                )
            case Affine(terms, constant):
                value = _weighted([(values[name], c) for name, c in terms], constant)
            case Step(argument, threshold):
                value = (values[argument] >= _number(threshold)).astype(np.int64)
            case Decode(argument):
                value = values[argument]
                if not np.issubdtype(value.dtype, np.integer):
                    value = np.floor(value + 0.5).astype(np.int64)
        values[node.name] = value
    return values


def run(
    circuit: Circuit, number: NumberFormat, operands: Sequence[int], steps: int | None = None
) -> list[int]:
    """The answer digits (or states) the circuit writes, least significant first."""
    rows = {name: to_digits(value, number.base, number.width)
            for name, value in zip(number.names, operands, strict=True)}
    answer: list[int] = []
    rows["s"] = answer
    for place in range(number.answer_digits if steps is None else steps):
        read = resolve(_reader(rows, place), number.base)
        values = evaluate(circuit, read, np.array([place]))
        answer.append(int(np.ravel(values[circuit.nodes[-1].name])[0]))
    return answer


def _reader(rows: Mapping[str, list[int]], place: int) -> ReadDigit:
    def read(name: str, offset: int) -> Array:
        row, at = rows[name], place + offset
        return np.array([row[at] if 0 <= at < len(row) else 0])

    return read


def _number(value: Fraction) -> int | float:
    return int(value) if value.denominator == 1 else float(value)


def _weighted(parts: list[tuple[Array, Fraction]], constant: Fraction) -> Array:
    total: Array = np.asarray(_number(constant))
    for values, coefficient in parts:
        total = total + values * _number(coefficient)
    return total
