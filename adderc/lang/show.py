"""Canonical printing of a syntax tree.

Takes: a `Spec` or an expression. Gives: `show` and `show_expr`, text that parses back to
the same tree; parentheses stand only where the precedence asks for them.
May import: lang.syntax.

What has no text form of its own is printed as an equal value: a negative or non-decimal
number, which no text gives, as a negation or a quotient.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction

from adderc.lang.states import PARTS
from adderc.lang.syntax import (
    Binary,
    Call,
    Compare,
    Digit,
    Entry,
    Expr,
    FormatPart,
    Gain,
    If,
    Item,
    Name,
    Number,
    Option,
    Segment,
    Sequence,
    Spec,
    Text,
    Unary,
    WeightRule,
)

INDENT = "    "
_LEVELS = {"or": 1, "and": 2, "not": 3, "+": 5, "-": 5, "*": 6, "/": 6, "div": 6, "mod": 6, "^": 8}
_IF, _COMPARE, _NEGATION, _SIGN, _ATOM = 0, 4, 3, 7, 9
_PLAIN_DIGITS = 15


def show(spec: Spec) -> str:
    """The whole spec, parts in their usual order, one entry a line."""
    parts = [
        _part("number", [f"{s.name} {show_expr(s.value)}" for s in spec.number]),
        _part("format", _format_lines(spec.format)),
    ]
    if spec.algorithm is not None:
        lines = [f"{d.name} = {show_expr(d.value)}" for d in spec.algorithm.definitions]
        parts.append(_part("algorithm", [*lines, f"emit {show_expr(spec.algorithm.emit)}"]))
    parts.append(_part("model", _entry_lines(spec.model)))
    if spec.weights:
        parts.append(_part("weights", (line for r in spec.weights for line in _rule_lines(r))))
    return "\n".join([f"adder {spec.name}\n", *parts])


def show_expr(expr: Expr, level: int = 0) -> str:
    """`expr`, in parentheses where it binds less tightly than `level`."""
    text, own = _leveled(expr)
    return f"({text})" if own < level else text


def _leveled(expr: Expr) -> tuple[str, int]:
    """The text of `expr` and how tightly it binds."""
    match expr:
        case Number(value):
            return show_number(value)
        case Name(name):
            return name, _ATOM
        case Text(text):
            return quote(text), _ATOM
        case Digit(name, offset):
            at = f"[i{offset:+d}]" if offset else "[i]"
            part = next((part for part, inner in PARTS.items() if inner == name), None)
            if part is not None:
                return f"{part}(s{at})", _ATOM
            return name + at, _ATOM
        case Unary("not", operand):
            return f"not {show_expr(operand, _NEGATION)}", _NEGATION
        case Unary(op, operand):
            return op + show_expr(operand, _SIGN), _SIGN
        case Binary(op, left, right):
            own = _LEVELS[op]
            first, second = (_ATOM, _SIGN) if op == "^" else (own, own + 1)
            return f"{show_expr(left, first)} {op} {show_expr(right, second)}", own
        case Compare(op, left, right):
            sides = [show_expr(side, _COMPARE + 1) for side in (left, right)]
            return f" {op} ".join(sides), _COMPARE
        case If(condition, then, otherwise):
            words = (show_expr(part) for part in (condition, then, otherwise))
            return "if {} then {} else {}".format(*words), _IF
        case Call(name, args, options):
            return f"{name}({', '.join([*map(show_expr, args), *map(_option, options)])})", _ATOM
        case Sequence(items, bracket):
            closing = "]" if bracket == "[" else ")"
            return bracket + ", ".join(map(show_expr, items)) + closing, _ATOM


def show_number(value: Fraction) -> tuple[str, int]:
    """The shortest usual writing of a decimal fraction, and how tightly it binds."""
    if value < 0:
        text, own = show_number(-value)
        return "-" + (text if own >= _SIGN else f"({text})"), _SIGN
    exponent, rest = 0, value.denominator
    for prime in (2, 5):
        count = 0
        while rest % prime == 0:
            rest, count = rest // prime, count + 1
        exponent = max(exponent, count)
    if rest != 1:
        return f"{value.numerator} / {value.denominator}", _LEVELS["/"]
    digits = str(value.numerator * 10**exponent // value.denominator)
    if exponent == 0:
        short = digits.rstrip("0")
        zeros = len(digits) - len(short)
        return (f"{short}e{zeros}" if zeros > _PLAIN_DIGITS else digits), _ATOM
    if exponent > _PLAIN_DIGITS:
        return f"{digits}e-{exponent}", _ATOM
    digits = digits.zfill(exponent + 1)
    return f"{digits[:-exponent]}.{digits[-exponent:]}", _ATOM


def quote(text: str) -> str:
    """A symbol in double quotes."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _option(option: Option) -> str:
    values = option.stretches or (Gain(option.value, None),)
    return f"{option.name} = {', '.join(map(_stretch, values))}"


def _stretch(gain: Gain) -> str:
    if gain.until is None:
        return show_expr(gain.value)
    return f"{show_expr(gain.value)} {'through' if gain.inclusive else 'until'} {quote(gain.until)}"


def _part(name: str, lines: Iterable[str]) -> str:
    return "\n".join([f"{name} {{", *(INDENT + line for line in lines), "}\n"])


def _format_lines(part: FormatPart) -> Iterator[str]:
    yield " ".join(["prompt", *map(_segment, part.prompt)])
    yield " ".join(["answer", *map(_segment, part.answer)])
    if part.tokens:
        rules = (f"{quote(rule.text) if rule.kind == 'symbol' else rule.kind} -> "
                 f"{show_expr(rule.target)}" for rule in part.tokens)
        yield "tokens " + ", ".join(rules)


def _segment(segment: Segment) -> str:
    match segment.kind:
        case "symbol":
            if segment.count == Number(Fraction(1)):
                return quote(segment.text)
            simple = isinstance(segment.count, Number | Name | Call)
            return f"{quote(segment.text)} * {show_expr(segment.count, _ATOM)}" if simple \
                else f"{quote(segment.text)} * ({show_expr(segment.count)})"
        case "digits":
            return f"{segment.order}({segment.operands[0]})"
        case _:
            return f"{segment.order}(pair({', '.join(segment.operands)}))"


def _item(item: Item) -> str:
    return " ".join(show_expr(atom) for atom in item.atoms)


def _entry_lines(entries: Iterable[Entry]) -> Iterator[str]:
    for entry in entries:
        head = entry.key + (" " + ", ".join(map(_item, entry.items)) if entry.items else "")
        yield from _with_block(head, entry.block, empty=not entry.items)


def _rule_lines(rule: WeightRule) -> Iterator[str]:
    if rule.value is not None:
        yield f"given {rule.targets[0]} = {show_expr(rule.value)}"
        return
    head = rule.action + (" " + ", ".join(rule.targets) if rule.targets else "")
    yield from _with_block(head, rule.block, empty=False)


def _with_block(head: str, block: tuple[Entry, ...], empty: bool) -> Iterator[str]:
    """`head { … }`; an empty block only where the grammar asks for one."""
    if not block:
        yield head + (" { }" if empty else "")
        return
    yield head + " {"
    for line in _entry_lines(block):
        yield INDENT + line
    yield "}"
