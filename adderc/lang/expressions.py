"""From lark's subtrees to expression nodes: the half of the tree builder for expressions.

Takes: lark tokens and built children, bottom up. Gives: `ExpressionBuilder`, a lark
transformer that collects faults (numbers out of range, misplaced arguments), `Piece`,
`spans_of`.
May import: errors, lang.syntax.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

from lark import Token, Transformer_NonRecursive, v_args
from lark.tree import Meta

from adderc.errors import NOWHERE, FaultList, Span
from adderc.lang import syntax

MAX_DIGITS = 4000
MAX_OFFSET = 10**6


@dataclass(frozen=True)
class Piece:
    """A token or subtree without a node class of its own: its rule or text, its children."""

    name: str
    children: tuple[Any, ...]
    span: Span


def spans_of(text: str) -> Callable[[int, int], Span]:
    """A function (start, end) → `Span` for character offsets into `text`."""
    starts = [0, *(i + 1 for i, character in enumerate(text) if character == "\n")]

    def span(start: int, end: int) -> Span:
        line = bisect_right(starts, start)
        return Span(start, end, line, start - starts[line - 1] + 1)

    return span


def _ending(gain: syntax.Gain) -> str:
    return "through" if gain.inclusive else "until"


@v_args(meta=True)
class ExpressionBuilder(Transformer_NonRecursive):
    """One method for each rule of the grammar; lark calls them bottom up, without recursion."""

    def __init__(self, faults: FaultList) -> None:
        super().__init__(visit_tokens=True)
        self.faults = faults
        self.span = spans_of(faults.source.text)

    def at(self, meta: Meta) -> Span:
        return NOWHERE if meta.empty else self.span(meta.start_pos, meta.end_pos)

    def at_token(self, token: Token) -> Span:
        assert token.start_pos is not None
        return self.span(token.start_pos, token.start_pos + len(token))

    def __default__(self, rule: Any, children: list[Any], meta: Meta) -> Piece:
        return Piece(str(rule), (*children,), self.at(meta))

    # ------------------------------------------------------------ tokens

    def NAME(self, token: Token) -> Piece:
        return Piece(str(token), (), self.at_token(token))

    OPTION = NAME

    def TEXT(self, token: Token) -> Piece:
        return Piece(re.sub(r"\\(.)", r"\1", token[1:-1]), (), self.at_token(token))

    def DECIMAL(self, token: Token) -> Fraction:
        mantissa, _, exponent = token.lower().partition("e")
        zeros = exponent.lstrip("+-").lstrip("0") or "0"
        size = len(mantissa) + (int(zeros) if len(zeros) < 6 else MAX_DIGITS)
        if size <= MAX_DIGITS:
            return Fraction(str(token))
        self.faults.add("the number is too long: expected at most "
                        f"{MAX_DIGITS} digits when it is written out", self.at_token(token),
                        "exponents count: 1e6 is written out with 7 digits")
        return Fraction(0)

    # ------------------------------------------------------------ atoms

    def literal(self, meta: Meta, children: list[Any]) -> syntax.Number:
        return syntax.Number(children[0], self.at(meta))

    def name(self, meta: Meta, children: list[Any]) -> syntax.Name:
        return syntax.Name(children[0].name, self.at(meta))

    def text(self, meta: Meta, children: list[Any]) -> syntax.Text:
        return syntax.Text(children[0].name, self.at(meta))

    def digit(self, meta: Meta, children: list[Any]) -> syntax.Digit:
        steps = "".join(str(child) for child in children[1:]) or "0"
        offset = int(steps) if len(steps) <= 8 else MAX_OFFSET + 1
        if abs(offset) > MAX_OFFSET:
            self.faults.add("the index is too far off: expected at most "
                            f"{MAX_OFFSET} steps from i", self.at(meta))
        return syntax.Digit(children[0].name, offset, self.at(meta))

    def round_list(self, meta: Meta, children: list[Any]) -> syntax.Sequence:
        return syntax.Sequence(tuple(children), "(", self.at(meta))

    def square_list(self, meta: Meta, children: list[Any]) -> syntax.Sequence:
        return syntax.Sequence(tuple(children), "[", self.at(meta))

    # ------------------------------------------------------------ operators

    def unary(self, meta: Meta, children: list[Any]) -> syntax.Unary:
        return syntax.Unary(str(children[0]), children[1], self.at(meta))

    def binary(self, meta: Meta, children: list[Any]) -> syntax.Binary:
        left, sign, right = children
        return syntax.Binary(str(sign), left, right, self.at(meta))

    def compare(self, meta: Meta, children: list[Any]) -> syntax.Compare:
        left, sign, right = children
        return syntax.Compare("==" if sign == "=" else str(sign), left, right, self.at(meta))

    def if_else(self, meta: Meta, children: list[Any]) -> syntax.If:
        condition, then, otherwise = children
        return syntax.If(condition, then, otherwise, self.at(meta))

    # ------------------------------------------------------------ calls

    def stretch(self, meta: Meta, children: list[Any]) -> syntax.Gain:
        value, end, symbol = children
        return syntax.Gain(value, symbol.name, end == "through", self.at(meta))

    def option(self, meta: Meta, children: list[Any]) -> syntax.Option:
        name, value, *ending = children
        gain = syntax.Gain(value, None, span=value.span)
        if ending:
            end, symbol = ending
            span = self.span(value.span.start, symbol.span.end)
            gain = syntax.Gain(value, symbol.name, end == "through", span)
        return syntax.Option(name.name, value, (gain,), self.at(meta))

    def call(self, meta: Meta, children: list[Any]) -> syntax.Call:
        """Positional arguments, then options, each with the stretches that follow it."""
        name, *arguments = children
        args: list[Any] = []
        groups: list[tuple[syntax.Option, list[syntax.Gain]]] = []
        for argument in arguments:
            if isinstance(argument, syntax.Option):
                groups.append((argument, [*argument.stretches]))
            elif groups:
                whole = isinstance(argument, syntax.Gain)
                gain = argument if whole else syntax.Gain(argument, None, span=argument.span)
                groups[-1][1].append(gain)
            elif isinstance(argument, syntax.Gain):
                self.faults.add('expected an option such as "gain = " before a value with '
                                f'"{_ending(argument)}"', argument.span)
            else:
                args.append(argument)
        options = tuple(self._close(option, gains) for option, gains in groups)
        return syntax.Call(name.name, tuple(args), options, self.at(meta))

    def _close(self, option: syntax.Option, gains: list[syntax.Gain]) -> syntax.Option:
        """The option with all its stretches; only the last one is open."""
        for gain, after in pairwise(gains):
            if gain.until is None:
                self.faults.add(
                    f'a value without a name stands after the option "{option.name}"', after.span,
                    f'expected it before the options, or stretches: {option.name} = x until "=", 1',
                )
        if gains[-1].until is not None:
            self.faults.add(
                f'the option "{option.name}" has no value after its last "{_ending(gains[-1])}"',
                gains[-1].span, f'expected one more value: {option.name} = x until "=", 1',
            )
        start = option.span.start
        span = self.span(start, gains[-1].span.end)
        stretches = tuple(gains) if len(gains) > 1 else ()
        return syntax.Option(option.name, option.value, stretches, span)
