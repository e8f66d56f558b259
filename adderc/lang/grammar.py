"""The grammar as a parser: grammar.lark, its words, and where lines end.

Takes: grammar.lark. Gives: `language` (the lark parser), `literals`, `keywords`, `groups`.
May import: the standard library.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import ClassVar

from lark import Lark, Token

PARTS = ("number", "format", "algorithm", "model", "weights")


class LineEnds:
    """Drops line ends inside ( ) and [ ] and after a comma; ";" is never dropped."""

    always_accept: ClassVar[tuple[str, ...]] = ("_NL", "NAME")

    def process(self, stream: Iterator[Token]) -> Iterator[Token]:
        depth, before = 0, ""
        for token in stream:
            if token.type in ("LPAR", "LSQB"):
                depth += 1
            elif token.type in ("RPAR", "RSQB"):
                depth -= 1
            elif token.type in ("LBRACE", "RBRACE"):
                depth = 0
            goes_on = depth > 0 or before == "COMMA"
            if token.type == "_NL" and goes_on and ";" not in token:
                continue
            before = token.type
            yield token


@cache
def language() -> Lark:
    """The parser made from grammar.lark."""
    grammar = files("adderc.lang").joinpath("grammar.lark").read_text(encoding="utf-8")
    return Lark(grammar, parser="lalr", lexer="contextual", propagate_positions=True,
                maybe_placeholders=False, postlex=LineEnds())


@cache
def literals() -> dict[str, str]:
    """The terminals that stand for one fixed text: keywords and signs."""
    return {t.name: t.pattern.value for t in language().terminals if t.pattern.type == "str"}


@cache
def keywords(rule: str) -> tuple[str, ...]:
    """The words of a rule such as `model_key`, in the grammar's order."""
    found = [r.expansion[0].name for r in language().rules if r.origin.name == rule]
    return tuple(literals()[name] for name in found)


@cache
def groups() -> dict[str, frozenset[str]]:
    """The sets of keywords that have a name of their own, as terminals."""
    names = {text: name for name, text in literals().items()}
    found = {
        rule: frozenset(names[word] for word in keywords(rule))
        for rule in ("number_key", "model_key", "option_key")
    }
    found["action"] = frozenset(names[w] for w in (*keywords("action"), "given"))
    found["part"] = frozenset(names[w] for w in ("adder", *PARTS))
    return found
