"""Which operand digits are read together: linear forms of digits as fetches.

Takes: a linear form of digits and a `Grouping`. Gives: `group_digits` → parts.
May import: errors, format, lang, ir.ops.

A softmax weight is positive and the same head cannot look in two directions, so digits are
grouped by offset, sign and the order in which their operand is written; a finer grouping
(by coefficient, then one operand a head) is tried where the coarser one does not align.
With `heads` in the spec the fetches are the named quantities, and every form must be a
combination of those.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from adderc.errors import Fault, Refusal, Span
from adderc.format.prompt import OperandDigits
from adderc.ir.ops import Target
from adderc.lang.checked import CheckedSpec
from adderc.lang.syntax import Digit
from adderc.passes.exact import rank, solve

Vector = Mapping[tuple[str, int], Fraction]


@dataclass(frozen=True)
class Declared:
    """A quantity that a head reads, by the spec's own words."""

    name: str
    span: Span


@dataclass(frozen=True)
class Grouping:
    """level 0: by offset, sign and order; 1: also by coefficient; 2: one operand a fetch."""

    level: int = 0
    declared: tuple[Declared, ...] = ()


@dataclass(frozen=True)
class Part:
    """coefficient * fetch of `targets`; no targets means the current token."""

    coefficient: Fraction
    targets: tuple[Target, ...] | None
    name: str = "fetch"
    line: int = 0


def group_digits(vector: Vector, spec: CheckedSpec, grouping: Grouping) -> list[Part]:
    """`vector` as a sum of parts; Refusal where the declared heads do not span it."""
    parts = []
    token = vector.get(("s", -1), Fraction(0))
    if token:
        parts.append(Part(token, None))
    rest = {digit: c for digit, c in vector.items() if digit != ("s", -1)}
    if grouping.declared and rest:
        return parts + _combine(rest, spec, grouping)
    return parts + _split(rest, spec, grouping.level)


def _split(rest: Vector, spec: CheckedSpec, level: int) -> list[Part]:
    orders = {
        spec.number.names[segment.operand]: segment.order
        for segment in spec.format.prompt if isinstance(segment, OperandDigits)
    }
    groups: dict[tuple[object, ...], dict[tuple[str, int], Fraction]] = {}
    for (name, offset), coefficient in rest.items():
        key: tuple[object, ...] = (offset, coefficient > 0, orders.get(name, "lsd"), name == "s")
        if level >= 1:
            key += (abs(coefficient),)
        if level >= 2:
            key += (name,)
        groups.setdefault(key, {})[name, offset] = coefficient
    return [_part(group, spec) for group in groups.values()]


def _part(group: Mapping[tuple[str, int], Fraction], spec: CheckedSpec) -> Part:
    """A group scaled so that its coefficients are the smallest positive integers."""
    lead = next(iter(group.values()))
    smallest = min(abs(c) for c in group.values())
    scale = smallest if all((c / smallest).denominator == 1 for c in group.values()) else Fraction(
        1)
    scale = -scale if lead < 0 else scale
    targets = tuple(
        Target(name, offset, c / scale) for (name, offset), c in sorted(group.items()))
    name, line = _name_of(targets, spec)
    return Part(scale, targets, name, line)


def _name_of(targets: tuple[Target, ...], spec: CheckedSpec) -> tuple[str, int]:
    """The quantity that is exactly this sum of digits, or a name made of its digits."""
    algorithm = spec.algorithm
    assert algorithm is not None
    wanted = {(t.name, t.offset): t.coefficient for t in targets}
    for quantity in algorithm.order:
        if quantity_vector(spec, quantity) == wanted:
            return quantity, dict(algorithm.lines)[quantity]
    text = "".join(t.name for t in targets)
    offset = targets[0].offset
    return text + ("" if offset == 0 else f"_{'m' if offset < 0 else 'p'}{abs(offset)}"), 0


def quantity_vector(spec: CheckedSpec, quantity: str) -> dict[tuple[str, int], Fraction] | None:
    """The digits a quantity is the sum of; None where it is not a plain sum of digits."""
    algorithm = spec.algorithm
    assert algorithm is not None
    linear = algorithm.definitions.linear(algorithm.quantities[quantity])
    if linear.constant or not all(isinstance(atom, Digit) for atom, _ in linear.terms):
        return None
    return {(a.name, a.offset): c for a, c in linear.terms if isinstance(a, Digit)}


def declared_vector(spec: CheckedSpec, head: Declared) -> dict[tuple[str, int], Fraction]:
    """The digits a declared head reads; Refusal where that is no positive sum of digits."""
    algorithm = spec.algorithm
    assert algorithm is not None
    vector = quantity_vector(spec, head.name)
    if not vector or any(c <= 0 for c in vector.values()):
        raise Refusal(kind="algorithm impossible", source=spec.source, faults=(Fault(
            f"a head cannot read {head.name!r}", head.span,
            "attention averages: it reads sums of digits with positive coefficients"),))
    return vector


def _combine(rest: Vector, spec: CheckedSpec, grouping: Grouping) -> list[Part]:
    vectors = [declared_vector(spec, head) for head in grouping.declared]
    digits = sorted({*rest, *(digit for vector in vectors for digit in vector)})
    columns = [[vector.get(d, Fraction(0)) for d in digits] for vector in vectors]
    wanted = [rest.get(d, Fraction(0)) for d in digits]
    values = solve(columns, wanted)
    if values is None:
        raise Refusal(kind="algorithm impossible", source=spec.source, faults=(Fault(
            "the heads do not read what the algorithm needs: "
            + " + ".join(f"{name}[i{offset:+d}]".replace("+0", "") for name, offset in rest),
            grouping.declared[0].span, f"at least {rank([*columns, wanted])} heads are needed"),))
    lines = dict(spec.algorithm.lines) if spec.algorithm else {}
    return [
        Part(c, tuple(Target(n, o, k) for (n, o), k in sorted(vector.items())),
             head.name, lines.get(head.name, 0))
        for c, head, vector in zip(values, grouping.declared, vectors, strict=True) if c != 0
    ]
