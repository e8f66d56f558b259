"""A circuit as text, one node a line, that reads back to an equal circuit.

Takes: `Circuit`. Gives: `show_circuit`, `read_circuit`. May import: ir.ops.

    x     = fetch a[i] + b[i]           # line 17
    t1    = affine prev - token         # line 19
    carry = step t1 >= 1                # line 19
"""

from __future__ import annotations

import re
from fractions import Fraction

from adderc.ir.ops import (
    Affine,
    Circuit,
    Decode,
    Fetch,
    Floor,
    Index,
    Node,
    Op,
    Power,
    Prefix,
    Product,
    Step,
    Target,
    Token,
    Total,
    Wave,
)

_TERM = re.compile(r"([+-]) (?:(\d+(?:/\d+)?) )?([^\s+-][^\s]*)")
_DIGIT = re.compile(r"([\w.]+|\([\w+-]+\))\[i(?:([+-]\d+))?\]")


def show_circuit(circuit: Circuit) -> str:
    """One line per node, names aligned."""
    width = max(len(node.name) for node in circuit.nodes)
    lines = [f"{node.name.ljust(width)} = {show_op(node.op)}" for node in circuit.nodes]
    longest = max(map(len, lines))
    return "\n".join(
        f"{line.ljust(longest)}  # line {node.line}" if node.line else line
        for line, node in zip(lines, circuit.nodes, strict=True)
    )


def show_op(op: Op) -> str:
    """One operation, as `show_circuit` writes it."""
    match op:
        case Token(part):
            return "token" if part == "s" else f"token {part}"
        case Index():
            return "index"
        case Wave(place, period):
            return f"wave {place} period {period}"
        case Fetch(targets):
            return "fetch " + _sum([(_digit(t), t.coefficient) for t in targets], Fraction(0))
        case Affine(terms, constant):
            return "affine " + _sum(list(terms), constant)
        case Step(argument, threshold):
            return f"step {argument} >= {threshold}"
        case Prefix(names, ratio, upto):
            last = "" if upto is None else f" upto {upto}"
            return f"prefix {' '.join(names)} ratio {ratio}{last}"
        case Power(plus, minus, ratio):
            signed = (*(f"+{name}" for name in plus), *(f"-{name}" for name in minus))
            return f"power {' '.join(signed)} ratio {ratio}"
        case Product(left, right):
            return f"product {left} {right}"
        case Total(argument):
            return f"total {argument}"
        case Floor(argument):
            return f"floor {argument}"
        case Decode(argument):
            return f"decode {argument}"


def read_circuit(text: str) -> Circuit:
    """The circuit that `show_circuit` wrote; ValueError for anything else."""
    nodes = []
    for line in filter(None, (line.strip() for line in text.splitlines())):
        body, _, comment = line.partition("  # line ")
        name, _, operation = body.partition(" = ")
        nodes.append(Node(name.strip(), _read_op(operation.strip()), int(comment or 0)))
    return Circuit(tuple(nodes))


def _read_op(text: str) -> Op:
    word, _, rest = text.partition(" ")
    match word:
        case "token":
            return Token(rest or "s")
        case "index":
            return Index()
        case "wave":
            place, period = rest.split(" period ")
            return Wave(int(place), Fraction(period))
        case "fetch":
            terms, _ = _read_sum(rest)
            return Fetch(tuple(_read_digit(name, c) for name, c in terms))
        case "affine":
            terms, constant = _read_sum(rest)
            return Affine(tuple(terms), constant)
        case "step":
            argument, threshold = rest.split(" >= ")
            return Step(argument, Fraction(threshold))
        case "prefix":
            names, _, ratio = rest.partition(" ratio ")
            ratio, _, upto = ratio.partition(" upto ")
            return Prefix(tuple(names.split()), int(ratio), int(upto) if upto else None)
        case "power":
            names, _, ratio = rest.partition(" ratio ")
            signed = [(name[0], name[1:]) for name in names.split()]
            return Power(tuple(n for sign, n in signed if sign == "+"),
                         tuple(n for sign, n in signed if sign == "-"), int(ratio))
        case "product":
            left, right = rest.split()
            return Product(left, right)
        case "total":
            return Total(rest)
        case "floor":
            return Floor(rest)
        case "decode":
            return Decode(rest)
    raise ValueError(f"not an operation: {text!r}")


def _digit(target: Target) -> str:
    return f"{target.name}[i{target.offset:+d}]" if target.offset else f"{target.name}[i]"


def _read_digit(text: str, coefficient: Fraction) -> Target:
    match = _DIGIT.fullmatch(text)
    if match is None:
        raise ValueError(f"not a digit: {text!r}")
    return Target(match[1], int(match[2] or 0), coefficient)


def _sum(terms: list[tuple[str, Fraction]], constant: Fraction) -> str:
    pieces = []
    for name, coefficient in terms:
        size = "" if abs(coefficient) == 1 else f"{abs(coefficient)} "
        pieces.append(f"{'-' if coefficient < 0 else '+'} {size}{name}")
    if constant or not pieces:
        pieces.append(f"{'-' if constant < 0 else '+'} {abs(constant)}")
    text = " ".join(pieces)
    return text.removeprefix("+ ")


def _read_sum(text: str) -> tuple[list[tuple[str, Fraction]], Fraction]:
    if not text.startswith("- "):
        text = "+ " + text
    terms, constant = [], Fraction(0)
    at = 0
    while at < len(text):
        match = _TERM.match(text, at)
        if match is None:
            raise ValueError(f"not a sum: {text!r}")
        sign = -1 if match[1] == "-" else 1
        if match[2] is None and re.fullmatch(r"\d+(/\d+)?", match[3]):
            constant += sign * Fraction(match[3])
        else:
            terms.append((match[3], sign * Fraction(match[2] or 1)))
        at = match.end() + 1
    return terms, constant
