"""Place values: `place(a)`, `place(a[i-1])` and `floor(…)`, and the algebra of their sums.

Takes: an algorithm as parsed or settled. Gives: `uses_places`, `opened` (place values as
digits, for checks of names), `check_places`, `place_sum` → `PlaceSum`, the one sum whose
floor is emitted, and `proof_of`, why that floor is the digit, for every width.
May import: errors, format, lang.

At the step that writes place p, `place(q)` is the sum of q's known digits q_j * base^(j - p):
all digits of an operand, of the answer those already written. `place(q[i+m])` counts only
the digits up to place p + m. It is a fraction; `floor` makes an integer of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from adderc.errors import FaultList
from adderc.format.number import NumberFormat
from adderc.lang.linear import Definitions, Linear
from adderc.lang.syntax import (
    AlgorithmPart,
    Binary,
    Call,
    Compare,
    Digit,
    Expr,
    If,
    Name,
    Unary,
    walk,
)

PLACE, FLOOR = "place", "floor"


@dataclass(frozen=True)
class PlaceTerm:
    """coefficient * place(name), of the digits up to i + `upto` where that is not None."""

    name: str
    upto: int | None
    coefficient: Fraction


@dataclass(frozen=True)
class PlaceSum:
    """emit floor(sum of terms + digits + constant), modulo the base where `wrapped`."""

    terms: tuple[PlaceTerm, ...]
    digits: tuple[tuple[Digit, Fraction], ...]
    constant: Fraction
    wrapped: bool

    @property
    def names(self) -> tuple[str, ...]:
        """The numbers whose digits occur, in order of first use."""
        return tuple(dict.fromkeys([*(t.name for t in self.terms),
                                    *(d.name for d, _ in self.digits)]))

    def weight(self, name: str, offset: int, base: int) -> Fraction:
        """How much the digit at place i + offset of a number counts."""
        total = sum((t.coefficient for t in self.terms if t.name == name
                     and (t.upto is None or offset <= t.upto)), Fraction(0))
        total *= Fraction(base) ** offset
        return total + sum((c for d, c in self.digits if (d.name, d.offset) == (name, offset)),
                           Fraction(0))

    @property
    def reach(self) -> int:
        """Beyond this many places off, every weight is one coefficient times a power."""
        offsets = [abs(t.upto) for t in self.terms if t.upto is not None]
        return 1 + max([0, *offsets, *(abs(d.offset) for d, _ in self.digits)])


@dataclass(frozen=True)
class PlaceProof:
    """A place-value algorithm that was judged: why it adds, or the least sum that fails.

    `tried` additions at small widths and bases were worked by the interpreter as well.
    """

    total: PlaceSum
    reason: str
    failing: tuple[int, ...] | None = None
    tried: int = 0

    @property
    def adds(self) -> bool:
        return self.failing is None


# ---------------------------------------------------------------- names


def expressions(part: AlgorithmPart) -> Iterator[Expr]:
    """Every expression of an algorithm part."""
    yield from (definition.value for definition in part.definitions)
    yield part.emit


def is_place(node: Expr) -> bool:
    return isinstance(node, Call) and node.name in (PLACE, FLOOR)


def uses_places(part: AlgorithmPart | None) -> bool:
    """Whether place values or floors occur."""
    return part is not None and any(is_place(n) for e in expressions(part) for n in walk(e))


def opened(expr: Expr) -> Expr:
    """`expr` with each place value as one of its digits, and each floor as what is inside."""
    match expr:
        case Call("place", (Name(name),)):
            return Digit(name, -1 if name == "s" else 0, expr.span)
        case Call("place", (Digit() as digit,)):
            return digit
        case Call("floor", (inner,)):
            return opened(inner)
        case Call(_, args):
            return replace(expr, args=tuple(map(opened, args)))
        case Unary(_, operand):
            return replace(expr, operand=opened(operand))
        case Binary(_, left, right) | Compare(_, left, right):
            return replace(expr, left=opened(left), right=opened(right))
        case If(condition, then, otherwise):
            return If(opened(condition), opened(then), opened(otherwise), expr.span)
        case _:
            return expr


def check_places(part: AlgorithmPart, number: NumberFormat, faults: FaultList) -> None:
    """Faults of what stands in `place` and `floor`, and of fractions that are emitted."""
    for expr in expressions(part):
        for node in walk(expr):
            if not is_place(node):
                continue
            assert isinstance(node, Call)
            known = (*number.names, "s")
            if len(node.args) != 1 or node.options:
                faults.add(f"{node.name} takes one value", node.span)
            elif node.name == PLACE and not (
                isinstance(node.args[0], Name | Digit) and node.args[0].name in known
            ):
                faults.add("place takes an operand or the answer", node.args[0].span,
                           f"known: {', '.join(known)}; write place(a), or place(a[i-1]) for "
                           "the digits below this place")


# ---------------------------------------------------------------- the sum


def place_sum(definitions: Definitions, emit: Expr, base: int) -> PlaceSum | str:
    """The sum whose floor is emitted, or why the emitted value is no such floor."""
    wrapped, inner = False, emit
    while isinstance(inner, Name) and inner.name in dict(definitions.quantities):
        inner = dict(definitions.quantities)[inner.name]
    if isinstance(inner, Binary) and inner.op == "mod":
        if definitions.constant_value(inner.right) != base:
            return "a place-value rule emits a floor, or a floor mod base"
        wrapped, inner = True, inner.left
    outer = definitions.linear(inner)
    floors = [(atom, c) for atom, c in outer.terms if isinstance(atom, Call)
              and atom.name == FLOOR]
    if len(floors) != 1 or floors[0][1] != 1:
        return "one floor(…) must be emitted: a place value is a fraction"
    argument = floors[0][0]
    assert isinstance(argument, Call)
    rest = Linear(tuple(t for t in outer.terms if t[0] != argument), outer.constant)
    return _sorted(definitions.linear(argument.args[0]).plus(rest), wrapped)


def _sorted(total: Linear, wrapped: bool) -> PlaceSum | str:
    terms, digits = [], []
    for atom, coefficient in total.terms:
        match atom:
            case Digit():
                digits.append((atom, coefficient))
            case Call("place", (Name(name),)):
                terms.append(PlaceTerm(name, None, coefficient))
            case Call("place", (Digit(name, offset),)):
                terms.append(PlaceTerm(name, offset, coefficient))
            case _:
                return "only place values, digits and constants can be summed under floor(…)"
    return PlaceSum(tuple(terms), tuple(digits), total.constant, wrapped)


def proof_of(total: PlaceSum, number: NumberFormat, order: str) -> str | None:
    """Why the floor is the digit of the sum S, for operands of every width; None if unknown.

    Written from the top, with the higher digits right: place(s) = base floor(S / base^(p+1)),
    so place(a) + … - place(s) = S / base^p - base floor(S / base^(p+1)), whose floor is the
    digit. Modulo the base, whole multiples of the base may be added, so digits above p may
    count with any multiple of their power of the base, and those up to p must count once.
    """
    base, reach = number.base, total.reach
    offsets = range(-reach, reach + 1)
    answer = {t: total.weight("s", t, base) for t in offsets}
    known = {t for t in offsets if (t > 0 if order == "msd" else t < 0)}
    if total.constant or set(total.names) - {*number.names, "s"}:
        return None
    weights = {(n, t): total.weight(n, t, base) for n in number.names for t in offsets}
    power = {t: Fraction(base) ** t for t in offsets}
    if any(weights[n, t] != power[t] for n in number.names for t in offsets if t <= 0):
        return None
    if total.wrapped:
        above = [weights[n, t] for n in number.names for t in offsets if t > 0]
        if all((w / base).denominator == 1 for w in [*above, *(answer[t] for t in known)]):
            return ("the digits up to this place count by their place value, all others by "
                    "multiples of the base")
        return None
    exact = all(weights[n, t] == power[t] for n in number.names for t in offsets if t > 0)
    if order == "msd" and exact and all(answer[t] == -power[t] for t in known):
        return ("with S the sum and p the place, the rest is S/base^p - "
                "base*floor(S/base^(p+1)), and its floor is digit p of S")
    return None


# ---------------------------------------------------------------- values


def place_value(
    digits: Mapping[str, list[int]], name: str, upto: int | None, place: int, base: int
) -> Fraction:
    """place(name), or place(name[i + upto]), at the step that writes `place`."""
    row = digits[name]
    last = len(row) if upto is None else min(len(row), max(0, place + upto + 1))
    whole = 0
    for digit in reversed(row[:last]):
        whole = whole * base + digit
    return Fraction(whole, base**place)
