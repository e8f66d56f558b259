"""Algorithms that do not add, made from a right one: what a module must run as faithfully."""

from __future__ import annotations

SUMS = "x = a[i] + b[i]\nprev = a[i-1] + b[i-1]\n"
CARRY = "carry = prev > s[i-1]\n"
WRAP = "emit (x + carry) mod base"


def with_carry(rule: str) -> str:
    return f"{SUMS}carry = {rule}\n{WRAP}"


def with_emit(digit: str) -> str:
    return f"{SUMS}{CARRY}emit {digit}"


def with_sums(here: str, before: str, rule: str = "prev > s[i-1]") -> str:
    return f"x = {here}\nprev = {before}\ncarry = {rule}\n{WRAP}"


SHIFTED = {f"threshold {t:+d}": with_carry(f"prev > s[i-1] + {t}") for t in (-11, -2, -1, 9, 10)}
COMPARED = {f"carry by {op}": with_carry(f"prev {op} s[i-1]")
            for op in (">=", "<", "<=", "==", "!=")}
WEIGHTED = {
    "a + 2b": with_sums("a[i] + 2*b[i]", "a[i-1] + b[i-1]"),
    "a + 2b in both": with_sums("a[i] + 2*b[i]", "a[i-1] + 2*b[i-1]"),
    "2a + b": with_sums("2*a[i] + b[i]", "a[i-1] + b[i-1]"),
    "2a + 2b": with_sums("2*a[i] + 2*b[i]", "a[i-1] + b[i-1]"),
    "3a + b, div": with_sums("3*a[i] + b[i]", "a[i-1] + b[i-1]", "(prev - s[i-1] + 1) div base"),
    "a only": with_sums("a[i]", "a[i-1] + b[i-1]"),
    "carry of a only": with_sums("a[i] + b[i]", "a[i-1]"),
}
DROPPED = {f"no carry at {k}": with_carry(f"(prev > s[i-1]) * (i != {k})") for k in (1, 2, 3)}
BY_STEP = {
    "if i is 3": with_carry("if i == 3 then 0 else prev > s[i-1]"),
    "and i not 2": with_carry("(prev > s[i-1]) and i != 2"),
    "or i is 1": with_carry("(prev > s[i-1]) or i == 1"),
    "from i = 2 on": with_carry("(prev > s[i-1]) and i >= 2"),
    "other at last": with_emit("if i == width then 1 else (x + carry) mod base"),
    "times i mod 2": with_emit("(x + carry * (i mod 2)) mod base"),
    "plus i": with_emit("(x + i) mod base"),
}
EMITTED = {name: with_emit(name) for name in (
    "min(x + carry, base - 1)", "min(x, base - 1)", "(x + 2*carry) mod base", "x mod base",
    "(x - carry) mod base", "(x + carry + 1) mod base",
    "(x + carry - 1) mod base", "if x + carry > base then x + carry - base else min(x + carry, 9)",
    "abs(x - 9)", "(x^2 + carry) mod base", "x div 2", "(x + carry) div 2",
    "(prev + carry) mod base", "(x + s[i-1]) mod base", "s[i-1]", "carry", "1 - carry", "0", "7",
    "(a[i] - b[i]) mod base", "abs(a[i] - b[i])", "max(a[i], b[i])", "min(a[i], b[i])",
    "min(a[i], b[i-1])", "not carry", "(x + (not carry)) mod base", "x > prev",
    "(x > 9) + (prev > 9)", "(2*x + carry) mod base", "(x + carry) mod 7",
    "max(min(x, 9) - s[i-1], 0)", "max(x + carry - base, 0)",
)}
COMPILES = SHIFTED | COMPARED | WEIGHTED | DROPPED | BY_STEP | EMITTED

# refused so far, for a reason that must be one of these
KINDS = ("dtype bound", "positions collide", "not implemented")
REFUSED = {name: with_emit(name) for name in (
    "(x*carry) mod base", "(a[i]*b[i]) mod base", "(x + s[i-2]) mod base",
    "(a[i] + s[i-1] + s[i-2]) mod base", "a[i+1]", "(x div (1 + carry)) mod base",
)} | {"carry of two back": with_sums("a[i] + b[i]", "a[i-2] + b[i-2]")}
