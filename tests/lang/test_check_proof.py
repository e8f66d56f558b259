"""The proof of an algorithm against running every sum: verdict, smallest failure, values."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from random_algorithms import algorithms, run_every_sum
from wrong_algorithms import COMPILES

from adderc.errors import Source, SpecError, WrongAlgorithm
from adderc.format.number import to_digits
from adderc.lang.check import check_spec, diagnose
from adderc.lang.checked import CheckedSpec
from adderc.lang.explore import Explorer
from adderc.lang.failing import ambiguous
from adderc.lang.parse import parse
from adderc.pipeline import Settings
from adderc.pipeline import check_spec as check_source
from adderc.reference import Reference
from specs import RIPPLE, spec_text

PROMPTS = {
    2: 'prompt msd(a) "+" msd(b) "="; answer lsd(s); tokens "+" -> 0, "=" -> 0',
    3: 'prompt msd(a) "+" msd(b) "+" msd(c) "="; answer lsd(s); tokens "+" -> 0, "=" -> 0',
    4: 'prompt msd(a) "+" msd(b) "+" msd(c) "+" msd(d) "="; answer lsd(s)\n'
       'tokens "+" -> 0, "=" -> 0',
}


def checked(algorithm: str, base: int, width: int, operands: int = 2) -> CheckedSpec:
    number = f"base {base} width {width} operands {operands}"
    return check_spec(parse(source(algorithm, number, operands)))


def source(algorithm: str, number: str, operands: int = 2) -> Source:
    return Source("t", spec_text(algorithm, number, PROMPTS[operands]))


def ripple(operands: int) -> str:
    names = "abcd"[:operands]
    here, before = (" + ".join(f"{n}[{at}]" for n in names) for at in ("i", "i-1"))
    carry = "(prev - s[i-1] + base - 1) div base"
    return f"x = {here}\nprev = {before}\ncarry = {carry}\nemit (x + carry) mod base"


# ---------------------------------------------------------------- against every sum


@settings(max_examples=25, deadline=None)
@given(algorithms(), st.integers(2, 3), st.integers(1, 3))
def test_verdict_values_and_smallest_failure(text: str, base: int, width: int) -> None:
    try:
        spec = checked(text, base, width)
    except SpecError as error:
        message = error.faults[0].message
        assume("which is no digit" in message)
        return
    truth = run_every_sum(spec)
    assert truth.digits
    assert dict(spec.values) == truth.values
    assert spec.contexts is not None
    assert spec.contexts.adds == (truth.smallest is None)
    if truth.smallest is not None:
        assert diagnose(spec).operands == truth.smallest


@settings(max_examples=20, deadline=None)
@given(algorithms(), st.integers(2, 3), st.integers(1, 2))
def test_an_emit_beyond_the_digits_is_real(text: str, base: int, width: int) -> None:
    text = text.replace(") mod base", ")").replace("s[i-1]", "1").replace("s[i-2]", "0")
    try:
        checked(text, base, width)
    except SpecError as error:
        value = int(error.faults[0].message.split()[3].rstrip(","))
        assert not 0 <= value < base
        bare = text.replace("emit ", "digit = ") + "\nemit 0"
        assert value in run_every_sum(checked(bare, base, width)).values["digit"]


@pytest.mark.parametrize("base", [2, 3, 4])
@pytest.mark.parametrize("name", [
    "threshold -1", "threshold +9", "carry by >=", "carry by <", "a + 2b", "a only",
    "no carry at 1", "or i is 1", "plus i", "min(x + carry, base - 1)", "(x + 2*carry) mod base",
    "carry of a only", "(x + carry + 1) mod base", "other at last",
])
def test_the_smallest_failing_sum_is_the_smallest(name: str, base: int) -> None:
    text = COMPILES[name].replace("+ 9", "+ (base - 1)").replace("min(x", "min(abs(x)")
    spec = checked(text, base, 2)
    truth = run_every_sum(spec)
    assert truth.smallest is not None
    assert diagnose(spec).operands == truth.smallest


# ---------------------------------------------------------------- what is right


@pytest.mark.parametrize("carry", [
    "prev > s[i-1]", "prev != s[i-1] and prev >= s[i-1]", "prev > s[i-1] + 5",
    "(prev - s[i-1] + 1) div base", "not (prev <= s[i-1])", "prev - s[i-1] >= 4",
    "if prev > s[i-1] then 1 else 0", "min(1, max(0, prev - s[i-1]))",
])
def test_right_rules_of_many_shapes(carry: str) -> None:
    for width in (1, 2, 9):
        text = RIPPLE.replace("prev > s[i-1]", carry)
        assert check_source(source(text, f"base 10 width {width}")).spec.contexts.adds


@pytest.mark.parametrize("emit", [
    "if x + carry >= base then x + carry - base else x + carry",
    "x + carry - base * (x + carry > base - 1)", "(x + carry + base) mod base",
])
def test_right_wraps_of_many_shapes(emit: str) -> None:
    text = RIPPLE.replace("(x + carry) mod base", emit)
    assert check_source(source(text, "base 10 width 3")).spec.contexts.adds


@pytest.mark.parametrize(("operands", "base"), [
    (2, 2), (2, 36), (3, 3), (3, 10), (3, 36), (4, 4), (4, 10), (4, 16),
])
def test_more_operands_up_to_the_base(operands: int, base: int) -> None:
    report = check_source(source(ripple(operands), f"base {base} width 5 operands {operands}",
                                 operands))
    assert report.spec.contexts.adds
    assert dict(report.spec.values)["carry"] == tuple(range(operands))
    spec = checked(ripple(operands), base, 2, operands)
    for row in [(base**2 - 1,) * operands, (base - 1,) * operands, (1,) * operands]:
        assert Reference(spec).add(*row) == sum(row)


def test_the_contexts_do_not_grow_with_the_width() -> None:
    rows = {width: checked(RIPPLE, 10, width).contexts for width in (4, 40, 400)}
    assert len({len(contexts) for contexts in rows.values()}) == 1
    assert all(contexts.adds for contexts in rows.values())


# ---------------------------------------------------------------- what no rule can do


@pytest.mark.parametrize(("operands", "base"), [(3, 2), (4, 2), (4, 3)])
def test_operands_beyond_the_base(operands: int, base: int) -> None:
    """Two sums agree in prev and s[i-1] and differ in the carry."""
    width = 3
    with pytest.raises(WrongAlgorithm) as caught:
        check_source(source(ripple(operands), f"base {base} width {width} operands {operands}",
                            operands))
    assert caught.value.exit_code == 1
    assert f"no rule on these digits can add {operands} operands in base {base}" in str(
        caught.value)
    spec = checked(ripple(operands), base, width, operands)
    pair = ambiguous(Explorer(spec.algorithm, spec.number, spec.source))
    assert pair is not None
    assert all(" + ".join(map(str, row)) in str(caught.value) for row in pair)
    views = [dict(zip(("view", "carry"), zip(*seen_by_step(row, base, width), strict=True),
                      strict=True)) for row in pair]
    agreeing = [
        (p, q) for p, view in enumerate(views[0]["view"])
        for q, other in enumerate(views[1]["view"])
        if view == other and views[0]["carry"][p] != views[1]["carry"][q]]
    assert agreeing


def seen_by_step(row: tuple[int, ...], base: int, width: int) -> list[tuple[tuple, int]]:
    """Per step of the right sum: (digit sum, previous digit sum, previous answer), the carry."""
    digits = [to_digits(value, base, width + 3) for value in row]
    answer = to_digits(sum(row), base, width + 3)
    found = []
    for step in range(width + 2):
        here = sum(d[step] for d in digits)
        before = sum(d[step - 1] for d in digits) if step else 0
        written = answer[step - 1] if step else 0
        carry = sum(value % base**step for value in row) // base**step
        found.append(((here, before, written), carry))
    return found


def test_no_such_pair_where_a_rule_exists() -> None:
    for operands, base in ((2, 2), (3, 3), (4, 5)):
        wrong = ripple(operands).replace("+ carry", "+ 0*carry")
        with pytest.raises(WrongAlgorithm) as caught:
            check_source(source(wrong, f"base {base} width 3 operands {operands}", operands))
        assert "no rule on these digits" not in str(caught.value)


# ---------------------------------------------------------------- the report


def test_the_report_works_the_sum_digit_by_digit() -> None:
    text = RIPPLE.replace("prev > s[i-1]", "prev >= s[i-1]")
    with pytest.raises(WrongAlgorithm) as caught:
        check_source(source(text, "base 10 width 4"))
    assert caught.value.operands == (0, 0)
    text = RIPPLE.replace("prev > s[i-1]", "prev > s[i-1] + 9")
    with pytest.raises(WrongAlgorithm) as caught:
        check_source(source(text, "base 10 width 4"))
    assert str(caught.value).splitlines() == [
        "t:12:10: the algorithm does not add: 1 + 99 is the smallest failing sum",
        "   12 |     emit (x + carry) mod base",
        "                 ^^^^^^^^^^^^^^^^^^^^",
        "",
        "  1 + 99 = 100, the algorithm answers 0",
        "",
        "  digit  a  b   x  prev  carry  emit  right",
        "      0  1  9  10     0      0     0      0",
        "      1  0  9   9    10      1     0      0",
        "      2  0  0   0     9      0     0      1  <- wrong",
        "      3  0  0   0     0      0     0      0",
    ]


def test_overrides_decide_the_verdict() -> None:
    text = RIPPLE.replace("prev > s[i-1]", "prev > s[i-1] + 4")
    check_source(source(text, "base 10 width 4"))
    with pytest.raises(WrongAlgorithm):
        check_source(source(text, "base 10 width 4"), Settings(base=4))
