"""The syntax tree of a spec: frozen dataclasses named after the rules of grammar.lark.

Takes: nothing. Gives: the node classes; spans never take part in equality.
May import: errors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

from adderc.errors import NOWHERE, Source, Span


def _span() -> Span:
    return field(default=NOWHERE, compare=False, repr=False)


# ---------------------------------------------------------------- expressions


@dataclass(frozen=True)
class Number:
    """A literal; `2.5` and `1e-6` are kept exactly as fractions."""

    value: Fraction
    span: Span = _span()


@dataclass(frozen=True)
class Name:
    """`width`, `base`, `i`, `pi`, a quantity, an operand without index, a scale symbol."""

    name: str
    span: Span = _span()


@dataclass(frozen=True)
class Text:
    """A quoted token such as "+", as an argument."""

    text: str
    span: Span = _span()


@dataclass(frozen=True)
class Digit:
    """`a[i]`, `s[i-1]`: digit i + offset of an operand or of the answer."""

    name: str
    offset: int
    span: Span = _span()


@dataclass(frozen=True)
class Unary:
    """`-x`, `not x`."""

    op: str
    operand: Expr
    span: Span = _span()


@dataclass(frozen=True)
class Binary:
    """`+ - * / ^ div mod and or`; div and mod floor."""

    op: str
    left: Expr
    right: Expr
    span: Span = _span()


@dataclass(frozen=True)
class Compare:
    """`== != < <= > >=`, valued 0 or 1; `=` in the text is printed as `==`."""

    op: str
    left: Expr
    right: Expr
    span: Span = _span()


@dataclass(frozen=True)
class If:
    """`if condition then x else y`."""

    condition: Expr
    then: Expr
    otherwise: Expr
    span: Span = _span()


@dataclass(frozen=True)
class Call:
    """`min(x, y)`, `place(a)`, `log(base)`, `sinusoid(period = width + 1)`, `rotation(x)`."""

    name: str
    args: tuple[Expr, ...] = ()
    options: tuple[Option, ...] = ()
    span: Span = _span()


@dataclass(frozen=True)
class Sequence:
    """`[1, 2, 3]` (given values) and `(x, y)` (a state answer); `bracket` is "[" or "("."""

    items: tuple[Expr, ...]
    bracket: str = "["
    span: Span = _span()


Expr = Number | Name | Text | Digit | Unary | Binary | Compare | If | Call | Sequence


@dataclass(frozen=True)
class Gain:
    """One stretch of a position gain: `G until "="`, `G through "="`, `1` (open end).

    `until` stops before the symbol, `through` (inclusive) after it.
    """

    value: Expr
    until: str | None
    inclusive: bool = False
    span: Span = _span()


@dataclass(frozen=True)
class Option:
    """`name = value` in a call; `gain = G until "=", 1` has several stretches.

    `stretches` is empty for a plain value; else there are two or more, the first with
    `value` as its value, and only the last is open.
    """

    name: str
    value: Expr
    stretches: tuple[Gain, ...] = ()
    span: Span = _span()


# ---------------------------------------------------------------- the five parts


@dataclass(frozen=True)
class Setting:
    """`base 10`: a named number of the number part."""

    name: str
    value: Expr
    span: Span = _span()


@dataclass(frozen=True)
class Segment:
    """One piece of a prompt or answer.

    kind "symbol": `"+"` (`text`), repeated `count` times; "digits": `msd(a)` (`order`,
    `operand`); "pairs": `lsd(pair(a, b))` (`operands` names).
    """

    kind: str
    text: str = ""
    order: str = ""
    operands: tuple[str, ...] = ()
    count: Expr = Number(Fraction(1))
    span: Span = _span()


@dataclass(frozen=True)
class TokenRule:
    """`"+" -> 0`: the symbol is written as that token id; `"+" -> "="` shares an id.

    kind "symbol" (`text`), or "states": `states -> 4` gives state 0 that id, state 1 the next.
    """

    text: str
    target: Expr
    span: Span = _span()
    kind: str = "symbol"


@dataclass(frozen=True)
class FormatPart:
    prompt: tuple[Segment, ...]
    answer: tuple[Segment, ...]
    tokens: tuple[TokenRule, ...] = ()
    span: Span = _span()


@dataclass(frozen=True)
class Definition:
    """`x = a[i] + b[i]`."""

    name: str
    value: Expr
    span: Span = _span()


@dataclass(frozen=True)
class AlgorithmPart:
    definitions: tuple[Definition, ...]
    emit: Expr
    span: Span = _span()


@dataclass(frozen=True)
class Item:
    """A phrase of the model part: `rank 1` is atoms (Name rank, Number 1).

    Either one expression, or names and then one name, number or call; a key of the model or
    weights part can only be the first of those names (write `tied(q)`, not `tied q`).
    """

    atoms: tuple[Expr, ...]
    span: Span = _span()


@dataclass(frozen=True)
class Entry:
    """`KEY item, item { entries }`: one line of the model part."""

    key: str
    items: tuple[Item, ...] = ()
    block: tuple[Entry, ...] = ()
    span: Span = _span()


@dataclass(frozen=True)
class WeightRule:
    """One rule of the weights part.

    action "derive", "solve" or "train" with `targets` and options as entries of a block;
    "given" with `targets` (one dotted name) and `value`.
    """

    action: str
    targets: tuple[str, ...] = ()
    value: Expr | None = None
    block: tuple[Entry, ...] = ()
    span: Span = _span()


@dataclass(frozen=True)
class Spec:
    """A parsed spec; `algorithm` is absent in a purely trained one."""

    name: str
    number: tuple[Setting, ...]
    format: FormatPart
    algorithm: AlgorithmPart | None
    model: tuple[Entry, ...]
    weights: tuple[WeightRule, ...]
    source: Source = field(default=Source("", ""), compare=False, repr=False)
    span: Span = _span()


def walk(expr: Expr) -> Iterator[Expr]:
    """`expr` and every expression inside it, outermost first."""
    yield expr
    match expr:
        case Unary(_, operand):
            yield from walk(operand)
        case Binary(_, left, right) | Compare(_, left, right):
            yield from walk(left)
            yield from walk(right)
        case If(condition, then, otherwise):
            for part in (condition, then, otherwise):
                yield from walk(part)
        case Call(_, args, options):
            for part in args:
                yield from walk(part)
            for option in options:
                stretches = (gain.value for gain in option.stretches)
                for part in stretches if option.stretches else (option.value,):
                    yield from walk(part)
        case Sequence(items):
            for part in items:
                yield from walk(part)
