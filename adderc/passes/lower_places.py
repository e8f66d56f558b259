"""Lowers a place-value algorithm to prefix sums, and a prefix sum to products.

Takes: a `CheckedSpec` with `places`. Gives: `lower_places` → `Circuit` of prefixes, steps and
a floor; `spread_prefixes`, the same with every prefix as the total of products.
May import: errors, format, lang, ir.

A sum of place values is one prefix for each coefficient and each reach. Where the floor is
taken modulo the base, floor(x + low) mod base with digits x of this place and low below 1
for each operand is x + [low >= 1] + … - base ([x + low >= base] + …): steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from adderc.errors import Fault, Refusal
from adderc.ir.graph import form_of
from adderc.ir.ops import (
    Affine,
    Circuit,
    Decode,
    Fetch,
    Floor,
    Node,
    Op,
    Power,
    Prefix,
    Product,
    Step,
    Target,
    Token,
    Total,
)
from adderc.ir.rules import check_circuit
from adderc.lang.checked import CheckedSpec
from adderc.lang.places import PlaceSum


@dataclass
class _Builder:
    spec: CheckedSpec
    nodes: list[Node] = field(default_factory=list)

    def add(self, name: str, op: Op, line: int) -> str:
        self.nodes.append(Node(name, op, line))
        return name

    @property
    def line(self) -> int:
        assert self.spec.algorithm is not None
        lines = dict(self.spec.algorithm.lines)
        return min([*lines.values(), self.spec.algorithm.emit_line])

    @property
    def emit_line(self) -> int:
        assert self.spec.algorithm is not None
        return self.spec.algorithm.emit_line


def lower_places(spec: CheckedSpec) -> Circuit:
    """The circuit of the algorithm; see the module's docstring."""
    assert spec.places is not None
    builder = _Builder(spec)
    if spec.places.wrapped:
        _wrapped(builder, spec.places)
    else:
        _plain(builder, spec.places)
    builder.add("decode", Decode("digit"), builder.emit_line)
    return check_circuit(Circuit(tuple(builder.nodes)), "places")


def _plain(builder: _Builder, total: PlaceSum) -> None:
    groups: dict[tuple[Fraction, int | None], list[str]] = {}
    for term in total.terms:
        groups.setdefault((term.coefficient, term.upto), []).append(term.name)
    terms: list[tuple[str, Fraction]] = []
    base = builder.spec.number.base
    for (coefficient, upto), names in groups.items():
        name = "prefix_" + "".join(names)
        builder.add(name, Prefix(tuple(names), base, upto), builder.line)
        terms.append((name, coefficient))
    for digit, coefficient in total.digits:
        name = f"{digit.name}_{len(terms)}"
        builder.add(name, Fetch((Target(digit.name, digit.offset),)), builder.line)
        terms.append((name, coefficient))
    builder.add("rest", Affine(tuple(terms), total.constant), builder.line)
    builder.add("digit", Floor("rest"), builder.emit_line)


def _wrapped(builder: _Builder, total: PlaceSum) -> None:
    spec, base = builder.spec, builder.spec.number.base
    names = spec.number.names
    above = any(total.weight(n, t, base) for n in names for t in range(1, total.reach + 1))
    below = all(total.weight(n, t, base) == Fraction(base) ** t for n in names
                for t in range(-total.reach, 1))
    if not below or "s" in total.names or total.constant:
        raise Refusal(kind="not implemented", source=spec.source, faults=(Fault(
            "steps take carries from a sum in which every digit up to this place counts once",
            spec.algorithm.emit.span),))  # type: ignore[union-attr]
    if above:
        raise Refusal(kind="algorithm impossible", source=spec.source, faults=(Fault(
            "a floor mod base needs every whole multiple of the base to be cut off, which no "
            "few steps can do", spec.algorithm.emit.span,  # type: ignore[union-attr]
            "sum the digits up to this place only: floor(place(a[i]) + place(b[i])) mod base"),))
    builder.add("x", Fetch(tuple(Target(n, 0) for n in names)), builder.line)
    builder.add("low", Prefix(names, base, -1), builder.line)
    builder.add("all", Affine((("x", Fraction(1)), ("low", Fraction(1)))), builder.emit_line)
    terms = [("x", Fraction(1))]
    for count in range(1, spec.number.operands):
        suffix = "" if spec.number.operands == 2 else str(count)
        builder.add(f"carry{suffix}", Step("low", Fraction(count)), builder.emit_line)
        builder.add(f"wrap{suffix}", Step("all", Fraction(count * base)), builder.emit_line)
        terms += [(f"carry{suffix}", Fraction(1)), (f"wrap{suffix}", Fraction(-base))]
    builder.add("digit", Affine(tuple(terms)), builder.emit_line)


def spread_prefixes(circuit: Circuit, spec: CheckedSpec) -> Circuit:
    """The circuit with the prefixes of its rest as one total of products.

    sum_q c_q sum_j q_j B^(j - i) = sum over positions of digit * power, where power is
    c_q B^(j - i) at the position of q_j. The coefficients must be 1 or -1.
    """
    rest = next(node for node in circuit.nodes if isinstance(node.op, Floor)).op
    assert isinstance(rest, Floor)
    form = form_of(circuit, rest.argument)
    prefixes = [(circuit[name], c) for name, c in form.terms]
    if form.constant or any(not isinstance(node.op, Prefix) or node.op.upto is not None
                            or abs(c) != 1 for node, c in prefixes):
        raise Refusal(kind="not implemented", source=spec.source, faults=(Fault(
            "products carry whole place values that count once, with either sign"),))
    plus = tuple(n for node, c in prefixes for n in node.op.names if c > 0)  # type: ignore[union-attr]
    minus = tuple(n for node, c in prefixes for n in node.op.names if c < 0)  # type: ignore[union-attr]
    line = circuit[rest.argument].line
    last = circuit.nodes[-2:]
    nodes = (Node("token", Token(), line),
             Node("power", Power(plus, minus, spec.number.base), line),
             Node("term", Product("token", "power"), line),
             Node("rest", Total("term"), line),
             Node(last[0].name, Floor("rest"), last[0].line), last[1])
    return check_circuit(Circuit(nodes), "spread")
