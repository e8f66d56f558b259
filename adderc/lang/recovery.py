"""Going on after a syntax error: which stretch of the text to leave out.

Takes: a text and the place of an error in it. Gives: `Brackets` (what is open, what closes
what) and the repairs, each a text of the same length with blanks where nothing is read; so
every later place keeps its offset.
May import: lang.grammar.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from adderc.lang.grammar import PARTS

_STRING = r'"(?:[^"\\\n]|\\.)*"?'
_SIGNS = re.compile(_STRING + r"|#[^\n]*|[()\[\]{}]")
_COMMENTS = re.compile(_STRING + r"|#[^\n]*")
_PART = re.compile(r"\b(?:(?:" + "|".join(PARTS) + r")\s*\{|adder\s+\w)")
_CLOSING = {"(": ")", "[": "]", "{": "}"}


class Brackets:
    """The brackets of a text, strings and comments left aside."""

    def __init__(self, text: str) -> None:
        self.signs = [(m.start(), m[0]) for m in _SIGNS.finditer(text) if m[0] in "()[]{}"]
        self.depth = 0
        self.closing: dict[int, int] = {}
        self.unclosed = self._match(len(text), self.closing)

    def open_at(self, place: int) -> list[tuple[int, str]]:
        """The brackets still open before `place`, outermost first."""
        return self._match(place, {})

    def _match(self, end: int, closing: dict[int, int]) -> list[tuple[int, str]]:
        """Fills `closing` (place of an opening bracket → of its closing one)."""
        stack: list[tuple[int, str]] = []
        for place, sign in self.signs:
            if place >= end:
                break
            if sign in _CLOSING:
                stack.append((place, sign))
                self.depth = max(self.depth, len(stack))
                continue
            while sign == "}" and stack and stack[-1][1] != "{":
                stack.pop()  # never closed
            if stack and _CLOSING[stack[-1][1]] == sign:
                closing[stack.pop()[0]] = place
        return stack


def drop_comments(text: str) -> str:
    """Comments become blanks."""
    return _COMMENTS.sub(lambda m: m[0] if m[0][0] == '"' else " " * len(m[0]), text)


def blank(text: str, start: int, end: int) -> str:
    """Everything from `start` to `end` but line ends becomes blanks."""
    return text[:start] + re.sub(r"[^\n]", " ", text[start:end]) + text[end:]


def starts_part(text: str, place: int) -> bool:
    """Whether a part begins at `place`."""
    return _PART.match(text, place) is not None


def close_before(text: str, place: int) -> str:
    """Puts the missing "}" into the blank before `place`."""
    return text[: place - 1] + "}" + text[place:] if text[place - 1 : place].isspace() else text


def skip_part(text: str, place: int, whole: bool) -> str:
    """Blanks from `place`, outside all parts, to the next part.

    `whole`: the part began before the error; otherwise it begins with it.
    """
    start = _entry_start(text, place, Brackets(text)) if whole else place
    following = _PART.search(text, place + 1)
    return blank(text, start, following.start() if following else len(text))


def skip_entry(text: str, place: int, past: int, whole: bool, keys: Iterable[str]) -> str:
    """Blanks the entry around the error from `place` to `past`.

    `whole`: the entry began before the error; otherwise it begins with it. An entry that
    does not begin before the error ends at the next of the `keys`, if there is one.
    """
    brackets = Brackets(text)
    start = _entry_start(text, place, brackets) if whole else place
    end = _entry_end(text, place, brackets)
    words = "|".join(re.escape(key) for key in keys)
    following = re.search(rf"\b(?:{words})\b", text[past:end]) if words and not whole else None
    return blank(text, start, past + following.start() if following else end)


def _entry_start(text: str, place: int, brackets: Brackets) -> int:
    """After the line end, ";" or brace before the entry that `place` belongs to."""
    opened = brackets.open_at(place)
    while opened and opened[-1][1] != "{":
        place = opened.pop()[0]
    while True:
        start = max(text.rfind(sign, 0, place) for sign in "\n;{}") + 1
        if start == 0 or text[start - 1] != "\n" or not text[:start].rstrip().endswith(","):
            return start
        place = len(text[:start].rstrip())


def _entry_end(text: str, place: int, brackets: Brackets) -> int:
    """Before the line end, ";" or "}" that ends the entry; blocks belong to their entry."""
    while place < len(text) and text[place] not in "\n;}":
        closing = brackets.closing.get(place)
        if text[place] in "([{" and closing is not None:
            place = closing
        elif text[place] == '"':
            string = re.compile(_STRING).match(text, place)
            assert string is not None
            place = string.end() - 1
        place += 1
    return place
