"""Which operand digits are read together: linear forms of digits as fetches.

Takes: a linear form of digits and a `Grouping`. Gives: `group_digits` → parts.
May import: errors, format, lang, ir.ops.

A softmax weight is positive and the same head cannot look in two directions, so digits are
grouped by offset, sign and the order in which their operand is written; a finer grouping
(by coefficient, then two operands a head, then one) is tried where the coarser one does not align.
With `heads` in the spec the fetches are the named quantities, and every form must be a
combination of those.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from adderc.errors import Fault, Refusal, Span
from adderc.format.prompt import DigitTuples, OperandDigits
from adderc.ir.ops import Target
from adderc.ir.parts import is_answer, pair_name, spoken
from adderc.lang.checked import CheckedSpec
from adderc.lang.syntax import Digit
from adderc.passes.exact import rank, solve
from adderc.passes.features import feature_of

Vector = Mapping[tuple[str, int], Fraction]


@dataclass(frozen=True)
class Declared:
    """A quantity that a head reads, by the spec's own words."""

    name: str
    span: Span


@dataclass(frozen=True)
class Grouping:
    """level 0: by offset, sign and order; 1: also by coefficient; 2: two operands a fetch;
    3: one."""

    level: int = 0
    declared: tuple[Declared, ...] = ()


@dataclass(frozen=True)
class Part:
    """coefficient * fetch of `targets`; no targets means the current token, `name` of it."""

    coefficient: Fraction
    targets: tuple[Target, ...] | None
    name: str = "fetch"
    line: int = 0


def group_digits(vector: Vector, spec: CheckedSpec, grouping: Grouping) -> list[Part]:
    """`vector` as a sum of parts; Refusal where the declared heads do not span it."""
    parts = [Part(c, None, name) for (name, offset), c in vector.items()
             if is_answer(name) and offset == -1]
    rest = {(name, offset): c for (name, offset), c in vector.items()
            if not is_answer(name) or offset != -1}
    if grouping.declared and rest:
        return parts + _combine(rest, spec, grouping)
    return parts + _split(rest, spec, grouping.level)


def _split(rest: Vector, spec: CheckedSpec, level: int) -> list[Part]:
    orders = {
        spec.number.names[segment.operand]: segment.order
        for segment in spec.format.prompt if isinstance(segment, OperandDigits)
    }
    names = spec.number.names
    groups: dict[tuple[object, ...], dict[tuple[str, int], Fraction]] = {}
    for (name, offset), coefficient in paired(rest, spec).items():
        key: tuple[object, ...] = (offset, coefficient > 0, orders.get(name, "lsd"),
                                   is_answer(name), feature_of(spec.format, name))
        if level >= 1:
            key += (abs(coefficient),)
        if level >= 2:
            key += (names.index(name) // (2 if level == 2 else 1) if name in names else name,)
        groups.setdefault(key, {})[name, offset] = coefficient
    return [_part(group, spec) for group in groups.values()]


def paired(vector: Vector, spec: CheckedSpec) -> dict[tuple[str, int], Fraction]:
    """`vector` with the digits that share a token, those of a pair, as one sum of them."""
    if not any(isinstance(segment, DigitTuples) for segment in spec.format.prompt):
        return dict(vector)
    found: dict[tuple[str, int], Fraction] = {}
    places: dict[int, list[tuple[str, Fraction]]] = {}
    for (name, offset), coefficient in vector.items():
        if is_answer(name):
            found[name, offset] = coefficient
        else:
            places.setdefault(offset, []).append((name, coefficient))
    for offset, terms in places.items():
        terms.sort()
        scale = Fraction(math.gcd(*(c.numerator for _, c in terms)),
                         math.lcm(*(c.denominator for _, c in terms)))
        scale = -scale if terms[0][1] < 0 else scale
        found[pair_name([(name, int(c / scale)) for name, c in terms]), offset] = scale
    return found


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
        vector = quantity_vector(spec, quantity)
        if vector is not None and paired(vector, spec) == wanted:
            return quantity, dict(algorithm.lines)[quantity]
    text = re.sub(r"\W", "", "".join(t.name for t in targets))
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
    features = {feature_of(spec.format, name) for name, _ in paired(vector, spec)}
    if len(features) > 1:
        raise Refusal(kind="algorithm impossible", source=spec.source, faults=(Fault(
            f"a head cannot read {head.name!r}: it would move two things a token is worth, "
            + " and ".join(sorted(map(spoken, features))), head.span,
            "give each a head of its own, or solve the attention"),))
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
        Part(c, tuple(Target(n, o, k) for (n, o), k in sorted(paired(vector, spec).items())),
             head.name, lines.get(head.name, 0))
        for c, head, vector in zip(values, grouping.declared, vectors, strict=True) if c != 0
    ]
