"""Canonical printing: a printed tree parses back to itself, for random trees and examples."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from adderc.errors import Source
from adderc.lang import syntax as s
from adderc.lang.grammar import keywords
from adderc.lang.parse import parse
from adderc.lang.show import show, show_expr

# Keywords of other parts are on purpose among the names.
NAMES = st.sampled_from(["x", "prev", "carry", "base", "width", "layers", "q", "out", "number",
                         "steps", "pair", "derive", "i", "max", "_t2", "G", "then", "div"])
# After a word, the keys of model and weights are read as keys.
WORDS = st.sampled_from(["rank", "relu", "shared", "in", "pairs", "base", "derive"])
SYMBOLS = st.text(st.sampled_from('+=#{};"\\ aé<>/'), min_size=1, max_size=4)
NUMBERS = st.builds(lambda digits, exponent: s.Number(Fraction(digits) * Fraction(10) ** exponent),
                    st.integers(0, 10**6), st.integers(-30, 30))
NAME_NODES = st.builds(s.Name, NAMES)
DIGITS = st.builds(s.Digit, st.sampled_from("abs"), st.integers(-3, 3))
COMPARISONS = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
OPERATORS = st.sampled_from(["+", "-", "*", "/", "^", "div", "mod", "and", "or"])


def several(strategy: st.SearchStrategy, least: int = 1) -> st.SearchStrategy:
    return st.lists(strategy, min_size=least, max_size=3).map(tuple)


def option(expr: st.SearchStrategy) -> st.SearchStrategy:
    plain = st.builds(s.Option, NAMES, expr)
    stretched = st.builds(
        lambda name, held, last: s.Option(name, held[0].value, (*held, s.Gain(last, None))),
        NAMES, several(st.builds(s.Gain, expr, SYMBOLS, st.booleans())), expr)
    return st.one_of(plain, stretched)


def call(expr: st.SearchStrategy, names: st.SearchStrategy = NAMES) -> st.SearchStrategy:
    return st.builds(s.Call, names, several(expr, 0), several(option(expr), 0))


def larger(expr: st.SearchStrategy) -> st.SearchStrategy:
    return st.one_of(
        st.builds(s.Unary, st.sampled_from(["-", "not"]), expr),
        st.builds(s.Binary, OPERATORS, expr, expr),
        st.builds(s.Compare, COMPARISONS, expr, expr),
        st.builds(s.If, expr, expr, expr),
        call(expr),
        st.builds(s.Sequence, several(expr), st.just("[")),
        st.builds(s.Sequence, several(expr, 2), st.just("(")),
    )


ATOMS = st.one_of(NUMBERS, NAME_NODES, DIGITS, st.builds(s.Text, SYMBOLS))
EXPRS = st.recursive(ATOMS, larger, max_leaves=8)


def unique_keys(entries: st.SearchStrategy) -> st.SearchStrategy:
    return st.lists(entries, max_size=4, unique_by=lambda entry: entry.key).map(tuple)


def entries(rule: str) -> st.SearchStrategy:
    keys = st.sampled_from(keywords(rule))
    phrases = st.builds(lambda words, last: (*words, last), several(st.builds(s.Name, WORDS)),
                        st.one_of(NUMBERS, st.builds(s.Name, WORDS), call(ATOMS, WORDS)))
    items = st.builds(s.Item, st.one_of(phrases, EXPRS.map(lambda expr: (expr,))))
    inner = unique_keys(st.builds(s.Entry, keys, several(items)))
    return unique_keys(st.builds(s.Entry, keys, several(items, 0), inner))


DIGIT_PIECES = st.builds(
    lambda order, name: s.Segment("digits", order=order, operands=(name,)),
    st.sampled_from(["msd", "lsd"]), st.sampled_from("abs"))
PAIR_PIECES = st.builds(
    lambda order, names: s.Segment("pairs", order=order, operands=names),
    st.sampled_from(["msd", "lsd"]), several(st.sampled_from("abcd"), 2))
PIECES = st.one_of(
    DIGIT_PIECES, PAIR_PIECES,
    st.builds(lambda text, count: s.Segment("symbol", text, count=count), SYMBOLS, EXPRS))
FORMATS = st.builds(s.FormatPart, several(PIECES), several(PIECES),
                    several(st.builds(s.TokenRule, SYMBOLS, EXPRS), 0))
DEFINED = NAMES.filter(lambda name: name not in ("then", "div"))
ALGORITHMS = st.builds(s.AlgorithmPart, several(st.builds(s.Definition, DEFINED, EXPRS), 0), EXPRS)
LEAVES = NAMES.filter(lambda name: name != "derive")  # an action cannot be the first target
TARGETS = st.lists(LEAVES, min_size=1, max_size=3).map(".".join)
RULES = st.one_of(
    st.builds(lambda action, targets, block: s.WeightRule(action, targets, block=block),
              st.sampled_from(["derive", "solve", "train"]), several(TARGETS, 0),
              entries("option_key")),
    st.builds(lambda target, value: s.WeightRule("given", (target,), value), TARGETS, EXPRS))
SETTINGS = st.lists(st.builds(s.Setting, st.sampled_from(keywords("number_key")), EXPRS),
                    max_size=4, unique_by=lambda setting: setting.name).map(tuple)


def around(expr: s.Expr) -> str:
    return (f'adder t number {{ }} format {{ prompt "+" ; answer "+" }} model {{ }}\n'
            f"algorithm {{ emit {show_expr(expr)} }}")


@settings(max_examples=100, deadline=None)
@given(EXPRS)
def test_an_expression_parses_back(expr: s.Expr) -> None:
    spec = parse(Source("random", around(expr)))
    assert spec.algorithm is not None
    assert spec.algorithm.emit == expr


# Shrinking whole specs takes minutes; the tree is printed as it was found.
@settings(max_examples=30, deadline=None, phases=[Phase.reuse, Phase.generate])
@given(st.builds(s.Spec, st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,5}", fullmatch=True), SETTINGS,
                 FORMATS, st.none() | ALGORITHMS, entries("model_key"), several(RULES, 0)))
def test_a_spec_parses_back_and_prints_the_same(spec: s.Spec) -> None:
    text = show(spec)
    again = parse(Source("random", text))
    assert again == spec
    assert show(again) == text


@pytest.mark.parametrize(("written", "shown"), [
    ("1 + 2 * 3", "1 + 2 * 3"),
    ("(1 + 2) * 3", "(1 + 2) * 3"),
    ("1 - (2 - 3) - 4", "1 - (2 - 3) - 4"),
    ("-x ^ 2", "-x ^ 2"),
    ("(-x) ^ -2 ^ 3", "(-x) ^ -2 ^ 3"),
    ("(2 ^ 3) ^ 4", "(2 ^ 3) ^ 4"),
    ("not (a and b) or c", "not (a and b) or c"),
    ("not x = y", "not x == y"),
    ("(x < y) < z", "(x < y) < z"),
    ("1 + (if x then y else z)", "1 + (if x then y else z)"),
    ("s[ i - 01 ] + a[i+0]", "s[i-1] + a[i]"),
    ("1e-6 + 2.50 + 1e20 + 1e3", "0.000001 + 2.5 + 1e20 + 1000"),
    ("1e-30", "1e-30"),
    ("min(x,y,f(p=1,g=G until\"=\",2))", 'min(x, y, f(p = 1, g = G until "=", 2))'),
    ('f(g=2*G through"a",G until "=", 2)', 'f(g = 2 * G through "a", G until "=", 2)'),
])
def test_the_canonical_text(written: str, shown: str) -> None:
    spec = parse(Source("t", around(s.Name("HERE")).replace("HERE", written)))
    assert spec.algorithm is not None
    assert show_expr(spec.algorithm.emit) == shown


def test_numbers_without_a_literal_keep_their_value() -> None:
    assert show_expr(s.Binary("*", s.Number(Fraction(-1, 3)), s.Name("x"))) == "-(1 / 3) * x"
