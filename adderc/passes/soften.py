"""Softening: a digit that is a function of one sum, as a slope and fewer steps.

Takes: a lowered circuit and its node values per context. Gives: `soften` → a circuit whose
decoded number lies within TOLERANCE of the digit in every context (the decode rounds), with
fewer steps; or the circuit itself. May import: ir, numpy.

The digit is a function f of one sum z on finitely many values. For a slope m the remainder
f(z) - m z is cut into stretches that each vary by at most twice the tolerance; every cut is
one step. With z = base x + prev - s, the carry disappears: x + carry lies within 1/base of
z / base, so only the step that takes the base off is left.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from adderc.ir.form import Form
from adderc.ir.graph import decoded, form_of, live
from adderc.ir.ops import Affine, Circuit, Decode, Fetch, Node, Step
from adderc.ir.rules import check_circuit

Array = np.ndarray
TOLERANCE = Fraction(1, 4)
SLOPES = 400


def soften(circuit: Circuit, values: dict[str, Array]) -> Circuit:
    """The circuit with the fewest steps whose digit is right after rounding."""
    total = single_sum(circuit)
    if total is None:
        return circuit
    along = np.zeros(len(values["emitted"]), dtype=np.int64)
    for name, coefficient in total.terms:
        along = along + int(coefficient) * values[name]
    points, first = np.unique(along, return_index=True)
    digits = [int(d) for d in values["emitted"][first]]
    if not np.array_equal(values["emitted"], np.array(digits)[np.searchsorted(points, along)]):
        return circuit
    best = min((stretches(points, digits, slope) for slope in slopes(points, digits)),
               key=lambda found: len(found[1]))
    slope, starts, offsets = best
    if len(starts) - 1 >= len(circuit.of(Step)):
        return circuit
    return rebuilt(circuit, total, slope, points, [Fraction(s) for s in starts], offsets)


def single_sum(circuit: Circuit) -> Form | None:
    """The one sum of sources (coprime integers) that everything else is a function of."""
    found: Form | None = None
    forms = [decoded(circuit)]
    for node in circuit.of(Step):
        assert isinstance(node.op, Step)
        forms.append(form_of(circuit, node.op.argument))
    for form in forms:
        terms = tuple((n, c) for n, c in form.terms if not isinstance(circuit[n].op, Step))
        if not terms:
            continue
        lead = Form(terms).scaled(1 / min(abs(c) for _, c in terms))
        if any(c.denominator != 1 for _, c in lead.terms):
            return None
        fetched = [c for n, c in lead.terms if isinstance(circuit[n].op, Fetch)]
        if (fetched or [lead.terms[0][1]])[0] < 0:
            lead = lead.scaled(-1)
        if found is not None and set(found.terms) != set(lead.terms):
            return None
        found = found or lead
    return found


def slopes(points: Array, digits: list[int]) -> list[Fraction]:
    """Secant slopes from the first point: one of them follows each straight piece."""
    found = {Fraction(0)}
    for point, digit in zip(points[1:], digits[1:], strict=True):
        if digit != digits[0]:
            found.add(Fraction(digit - digits[0], int(point - points[0])))
    return sorted(found, key=lambda m: (m.denominator, abs(m)))[:SLOPES]


def stretches(
    points: Array, digits: list[int], slope: Fraction
) -> tuple[Fraction, list[int], list[Fraction]]:
    """(slope, first point of each stretch, offset of each stretch), cut greedily."""
    starts: list[int] = []
    offsets: list[Fraction] = []
    low = high = Fraction(0)
    for point, digit in zip(points, digits, strict=True):
        rest = digit - slope * int(point)
        if starts and max(high, rest) - min(low, rest) <= 2 * TOLERANCE:
            low, high = min(low, rest), max(high, rest)
        else:
            starts.append(int(point))
            offsets.append(Fraction(0))
            low = high = rest
        middle = (low + high) / 2
        near = Fraction(round(middle))
        fits = max(abs(high - near), abs(low - near)) <= TOLERANCE
        offsets[-1] = near if fits else middle
    return slope, starts, offsets


def rebuilt(
    circuit: Circuit, total: Form, slope: Fraction, points: Array, starts: list[Fraction],
    offsets: list[Fraction],
) -> Circuit:
    """The circuit of slope * total + offset + steps."""
    last = circuit.nodes[-1]
    assert isinstance(last.op, Decode)
    line = last.line
    sources = [n for n in circuit.nodes if not isinstance(n.op, Affine | Step | Decode)]
    nodes = [*sources]
    name = total.node
    if name is None:
        name = "sum"
        nodes.append(Node(name, Affine(total.terms), line,
                          tuple(Fraction(int(point)) for point in points)))
    digit = Form(total.scaled(slope).terms, offsets[0])
    for number, (start, before, after) in enumerate(
        zip(starts[1:], offsets[:-1], offsets[1:], strict=True), start=1
    ):
        step = "wrap" if len(starts) == 2 else f"wrap{number}"
        nodes.append(Node(step, Step(name, start), line))
        digit = digit.plus(Form.of(step).scaled(after - before))
    nodes.append(Node("digit", Affine(digit.terms, digit.constant), line))
    nodes.append(Node(last.name, Decode("digit"), line))
    return check_circuit(live(Circuit(tuple(nodes))), "lowered")
