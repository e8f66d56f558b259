"""The parser: from a spec's text to its syntax tree, with all faults of the text at once.

Takes: a `Source`. Gives: `parse` → `Spec`; SpecError lists every fault that was found.
After a syntax error the entry around it is left out and the text is read again, until what
is left can be read; the faults of the builder are added to those.
May import: errors, lang.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple

from lark import Token, Tree
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from adderc.errors import Fault, FaultList, Source, did_you_mean
from adderc.lang import recovery
from adderc.lang.builder import MAX_DEPTH, REQUIRED, build
from adderc.lang.expressions import spans_of
from adderc.lang.grammar import groups, keywords, language, literals
from adderc.lang.messages import (
    HABITS,
    OPERATORS,
    SITUATIONS,
    Situation,
    expected_phrase,
    got_phrase,
)
from adderc.lang.syntax import Spec

MAX_FAULTS = 20
MAX_CHARACTERS = 1_000_000


class Error(NamedTuple):
    """A syntax error, freed from lark: where, what stands there, what could stand there."""

    start: int
    end: int
    kind: str  # "word", "character", or a terminal's name
    text: str
    accepts: frozenset[str]
    state: Any


def _read_error(error: UnexpectedInput, text: str) -> Error:
    parser = error.interactive_parser
    accepts, state = frozenset(parser.accepts()), parser.parser_state.position
    if isinstance(error, UnexpectedCharacters):
        start = end = error.pos_in_stream or 0
        while end < len(text) and (text[end].isalnum() or text[end] in "_."):
            end += 1
        end = max(end, start + 1)
        return Error(start, end, "character", text[start:end], accepts, state)
    assert isinstance(error, UnexpectedToken)
    token = error.token
    if token.type == "$END":
        start = len(text.rstrip())
        return Error(start, start + 1, "$END", "", accepts, state)
    kind, value, start = token.type, str(token), token.start_pos or 0
    if value.isidentifier():
        kind = "word"
    elif kind == "ADDER_NAME":  # digits first: a number, or something like 10x
        value = value.partition("-")[0]
        kind = "DECIMAL" if value.isdigit() else "character"
    return Error(start, start + len(value), kind, value, accepts, state)


@cache
def _situations() -> dict[tuple[Any, str], Situation]:
    """Situations by parser state, and by what is accepted, with the kind of the error."""
    found: dict[tuple[Any, str], Situation] = {}
    for situation in SITUATIONS:
        for bad_input in situation.bad_inputs:
            try:
                language().parse(bad_input)
            except UnexpectedInput as error:
                told = _read_error(error, bad_input)
                found[told.state, told.kind] = found[told.accepts, told.kind] = situation
    return found


def _explain(error: Error, text: str) -> tuple[str, str]:
    """Message and hint."""
    words = _words(error)
    suggestion = did_you_mean(error.text, words) if error.kind == "word" else ""
    situation = _situations().get((error.accepts, error.kind)) or _situations().get(
        (error.state, error.kind))
    if situation and not suggestion:
        return situation.message, situation.hint
    if words and error.kind == "word" and error.text not in literals().values():
        expected = expected_phrase(error.accepts - OPERATORS, groups(), literals())
        return f'unknown word "{error.text}": expected {expected}', suggestion
    expected = expected_phrase(error.accepts, groups(), literals())
    hint = suggestion or _habit(error, text) or _misread(error, text)
    return f"expected {expected}, got {got_phrase(error.kind, error.text)}", hint


def _words(error: Error) -> list[str]:
    """The keywords that could stand where the error is, operators left aside."""
    names = error.accepts - OPERATORS
    return sorted(literals()[n] for n in names if literals().get(n, "").isidentifier())


def _habit(error: Error, text: str) -> str:
    if error.kind in ("$END", "_NL"):
        return ""
    for start in (error.start, error.start - 1):
        for wrong, hint in HABITS.items():
            if text.startswith(wrong, start) and start + len(wrong) >= error.end:
                return hint
    if error.kind != "character":
        return ""
    if error.text == '"':
        empty = text.startswith('""', error.start)
        return "a symbol has at least one character" if empty else "the quote is never closed"
    if error.text[0].isdigit() or error.text[0] == ".":
        return "numbers are written as 10, 0.5 or 1e-6"
    if len(error.text) > 1 or error.text.isalpha():
        return "names are made of the letters a-z and A-Z, digits and _"
    return ""


def _misread(error: Error, text: str) -> str:
    """Hints from what stands before the error."""
    for rule, place in (("number_key", "the number part"), ("model_key", "the model part")):
        if error.kind == "word" and "NAME" not in error.accepts and error.text in keywords(rule):
            return f'"{error.text}" belongs into {place}'
    before = text[: error.start].split()
    if before and error.kind == "DECIMAL" and before[-1] in _words(error):
        return f'"{before[-1]}" was read as a value: is one missing before it?'
    line = text[text.rfind("\n", 0, error.start) + 1 :].split("\n")[0]
    if line.replace('\\"', "").count('"') % 2:
        return "the line has an odd number of quotes"
    return ""


class _Reader:
    """Reads a text to its end, leaving out what cannot be read."""

    def __init__(self, source: Source, faults: FaultList) -> None:
        self.faults, self.text = faults, source.text
        self.span = spans_of(source.text)

    def read(self) -> Tree[Token] | None:
        """The tree of what could be read; None where nothing helped."""
        for _ in range(MAX_FAULTS):
            try:
                return language().parse(self.text)
            except UnexpectedInput as error:
                before, self.text = self.text, recovery.drop_comments(self.text)
                self.text = self._repair(_read_error(error, before))
                if self.text == before:
                    return None
        self.faults.faults.append(Fault(f"more than {MAX_FAULTS} faults: the rest was not read"))
        return None

    def _repair(self, error: Error) -> str:
        """Notes the fault; the text without it."""
        text = self.text
        brackets = recovery.Brackets(text)
        opened = brackets.open_at(error.start)
        if error.kind == "$END" and brackets.unclosed:
            for place, sign in brackets.unclosed:
                self._unclosed(place, sign, "the end of the file")
            return text + "".join({"(": ")", "[": "]", "{": "}"}[s] for _, s in reversed(opened))
        if opened and opened[-1][1] != "{":
            place, sign = opened[-1]
            ends = error.kind in ("RBRACE", "_NL", "$END") or "\n" in text[place : error.start]
            if place not in brackets.closing and ends:
                self._unclosed(place, sign, got_phrase(error.kind, error.text))
                return recovery.skip_entry(text, place, place + 1, True, ())
        if opened and recovery.starts_part(text, error.start) and "RBRACE" in error.accepts:
            self._unclosed(*opened[-1], got_phrase(error.kind, error.text))
            return recovery.close_before(text, error.start)
        if error.start >= len(self.faults.source.text):  # at a bracket that was put there
            start = len(self.faults.source.text.rstrip())
            error = error._replace(start=start, end=start + 1, kind="$END", text="")
        message, hint = _explain(error, text)
        self.faults.add(message, self.span(error.start, error.end), hint)
        if not opened:
            return recovery.skip_part(text, error.start, "$END" not in error.accepts)
        whole = "RBRACE" not in error.accepts
        return recovery.skip_entry(text, error.start, error.end, whole, _words(error))

    def _unclosed(self, place: int, sign: str, before: str) -> None:
        closing = {"(": ")", "[": "]", "{": "}"}[sign]
        self.faults.add(f'"{sign}" is never closed', self.span(place, place + 1),
                        f'expected "{closing}" before {before}')


def parse(source: Source, needed: Iterable[str] = tuple(REQUIRED)) -> Spec:
    """The syntax tree of a spec; SpecError with all its faults, in the order of the text.

    Of the parts that a spec must have, those in `needed` must be there.
    """
    faults = FaultList(source)
    _refuse_unreadable(source, faults)
    faults.raise_if_any()
    tree = _Reader(source, faults).read()
    spec = build(tree, faults, not faults.faults, needed) if tree is not None else None
    faults.raise_if_any()
    assert spec is not None
    return spec


def _refuse_unreadable(source: Source, faults: FaultList) -> None:
    """Faults of the text as a whole."""
    text = source.text
    if "\0" in text:
        faults.add("expected a text file, got binary data")
    elif len(text) > MAX_CHARACTERS:
        faults.add(f"expected at most {MAX_CHARACTERS} characters, got {len(text)}")
    elif not recovery.drop_comments(text).strip(" \t\r\n\ufeff;"):
        faults.add("the spec is empty", hint="expected adder, number, format and model")
    elif recovery.Brackets(text).depth > MAX_DEPTH:
        faults.add(f"expected brackets at most {MAX_DEPTH} deep",
                   hint="name parts of the expression as quantities of their own")
