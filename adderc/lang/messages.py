"""What to say about a syntax error: a table of situations, and words for everything else.

Takes: the unexpected word or sign and what the parser could have accepted there.
Gives: `SITUATIONS` (message, hint, inputs that must get it: `parse` learns from them which
parser states are meant, and a test runs every one), `HABITS`, `expected_phrase`, `got_phrase`.
May import: the standard library.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Situation:
    """A mistake people make, told in its own words; every bad input must be told so."""

    message: str
    hint: str
    bad_inputs: tuple[str, ...]


SITUATIONS = (
    Situation(
        'expected i, "i - N" or "i + N" as the index of a digit',
        "the digit being written is digit i; read its neighbours as a[i], a[i-1], s[i-1]",
        (
            "algorithm { x = a[j] }",
            "algorithm { x = a[0] }",
            "algorithm { x = a[-1] }",
            "algorithm { x = a[(i)] }",
            "algorithm { x = a[] }",
            "algorithm { x = a[i * 2] }",
            "algorithm { x = a[i / 2] }",
            "algorithm { x = a[i ^ 2] }",
            "algorithm { x = a[i div 2] }",
            "algorithm { x = a[i 1] }",
            "algorithm { x = a[i, 1] }",
            "algorithm { x = a[i - j] }",
            "algorithm { x = a[i + 1.5] }",
            "algorithm { x = a[i - -1] }",
            "algorithm { x = a[i - (1)] }",
            "algorithm { x = a[i - 1 - 1] }",
            "algorithm { x = a[i - 1 + 1] }",
            "algorithm { x = a[i - 1 * 2] }",
        ),
    ),
    Situation(
        "comparisons do not chain",
        'join two comparisons with "and": x < y and y < z',
        (
            "algorithm { x = a[i] < b[i] < 3 }",
            "algorithm { x = a = b = c }",
            "algorithm { x = a == b = c }",
            "algorithm { emit (a <= b) <= c > 3 }",
        ),
    ),
    Situation(
        'expected a value, got "="',
        'write the value without "=", as in "base 10"',
        (
            "number { base = 10 }",
            "number { width = 10 }",
            "algorithm { emit = 10 }",
            "model { layers = 1 }",
            "model { attention { q = rotation } }",
            "weights { solve { margin = 1 } }",
        ),
    ),
    Situation(
        'expected another piece, got ","',
        "the pieces of a prompt or an answer stand side by side without commas",
        (
            'format { prompt msd(a), "+" }',
            'format { prompt "+", "=" }',
            'format { prompt "+" * 2, "=" }',
            "format { answer lsd(pair(a, b)), }",
        ),
    ),
    Situation(
        'expected "{", a new line or another target',
        "options stand in braces: solve ffn { margin 0.5 }",
        (
            "weights { solve ffn margin 0.5 }",
            "weights { train attention, ffn steps 100 }",
            "weights { solve ffn.rows margin 0.5 }",
        ),
    ),
)

# What people write out of habit, and what the language writes.
HABITS = {
    "&&": 'write "and"',
    "||": 'write "or"',
    "%": 'write "mod"',
    "!": 'write "not" or "!="',
    "**": 'write "^" for a power',
    "//": 'write "div" for a floored quotient',
    "<>": 'write "!="',
    "=>": 'write ">="',
    "'": "symbols stand in double quotes",
    "“": 'write a plain "',
    "”": 'write a plain "',
    "≤": 'write "<="',
    "≥": 'write ">="',
    "≠": 'write "!="',
    "×": 'write "*"',
    "·": 'write "*"',
    "−": 'write a plain "-"',
    "→": 'write "->"',
    "π": 'write "pi"',
}

_WORDS = {
    "NAME": "a name",
    "DECIMAL": "a number",
    "INTEGER": "a whole number",
    "TEXT": "a quoted symbol",
    "ADDER_NAME": "a name",
    "COMPARE": "a comparison",
    "_NL": "a new line",
    "$END": "the end of the file",
}

_VALUE = frozenset({"NAME", "DECIMAL", "TEXT", "MINUS", "LPAR", "LSQB"})
OPERATORS = frozenset({
    "PLUS", "MINUS", "STAR", "SLASH", "CARET", "DIV", "MOD", "AND", "OR", "COMPARE", "EQUAL",
})
_GROUP_PHRASES = {
    "part": "a part",
    "number_key": "a number setting",
    "model_key": "a key of the model",
    "option_key": "an option",
    "action": "an action",
}


def expected_phrase(
    accepts: Iterable[str], groups: Mapping[str, frozenset[str]], literals: Mapping[str, str]
) -> str:
    """`a number or an expression`, `"=" or a new line`: what may be written there.

    `groups` are sets of keywords that have a name of their own, `literals` the text of
    terminals that stand for themselves.
    """
    left, phrases = set(accepts), []
    if left >= _VALUE:
        left -= _VALUE | {"NOT", "IF"}
        phrases += ["a number", "an expression"]
    if left & {"EMIT"} and "NAME" in left:
        left -= {"NAME"}
        phrases.append("a quantity name")
    for rule, keywords in groups.items():
        if left >= keywords:
            left -= keywords
            words = ", ".join(sorted(literals[keyword] for keyword in keywords))
            phrases.append(_GROUP_PHRASES[rule] + (f" ({words})" if len(keywords) < 8 else ""))
            left -= {"_NL", "$END"}
    if len(left & OPERATORS) > 3:
        left -= OPERATORS | {"LPAR", "LSQB"}
        phrases.append("an operator")
    left -= {"_NL"} if left == {"_NL"} and phrases else set()
    phrases += sorted(_WORDS.get(name) or f'"{literals.get(name, name)}"' for name in left)
    if len(phrases) == 1:
        return phrases[0]
    return ", ".join(phrases[:-1]) + " or " + phrases[-1]


def got_phrase(kind: str, text: str) -> str:
    """`"width"`, `the end of the line`, `the character "…" (U+2026)`."""
    if kind == "$END":
        return "the end of the file"
    if kind == "_NL" and not text.strip().startswith(";"):
        return "the end of the line"
    shown = text.strip() if kind == "_NL" else text
    if text == '"':
        return "a quote"
    if len(text) == 1 and not (text.isascii() and text.isprintable()):
        readable = f'"{text}" ' if text.isprintable() else ""
        return f"the character {readable}(U+{ord(text):04X})"
    return f'"{shown}"' if len(shown) <= 30 else f'"{shown[:27]}..."'
