"""State answers in the language: contexts, the interpreter, token ids, text."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from random_algorithms import algorithms, expressions

from adderc.errors import Refusal, Source, SpecError
from adderc.format.batches import sums_written
from adderc.lang.check import check_spec, diagnose
from adderc.lang.checked import CheckedSpec
from adderc.lang.contexts import every_context
from adderc.lang.parse import parse
from adderc.lang.show import show
from adderc.reference import Reference
from adderc.verify.run import expected_tokens, right_sums
from specs import spec_text

SHARED = 'prompt lsd(pair(a, b)) "start"; answer lsd(s); tokens "start" -> 0'
APART = ('prompt lsd(pair(a, b)) "start"; answer lsd(s)\n'
         'tokens "start" -> base^2, states -> base^2')
MACHINE = "t = a[i] + b[i] + carry(s[i-1])\nemit (t mod base, t div base)"


def checked(
    algorithm: str = MACHINE, base: int = 2, width: int = 3, form: str = SHARED, operands: int = 2
) -> CheckedSpec:
    number = f"base {base} width {width} operands {operands}"
    return check_spec(parse(Source("t", spec_text(algorithm, number, form))))


@pytest.mark.parametrize("base", [2, 3, 10])
def test_contexts_are_pairs_times_states(base: int) -> None:
    spec = checked(base=base)
    every = every_context(spec)
    seen = {(*digits.ravel(), *before) for digits, before in
            zip(every.digits, every.answers, strict=True)}
    assert len(seen) == len(every) == base**2 * 2 * base
    assert every.adds
    assert spec.contexts is not None
    assert len(spec.contexts) < len(every)
    sums = every.digits.sum(axis=(1, 2)) + every.answers[:, 0] // base
    assert np.array_equal(every.emitted, sums)


@pytest.mark.parametrize("operands", [2, 3, 4])
def test_only_states_that_can_be_written_are_fed_back(operands: int) -> None:
    names = "abcd"[:operands]
    form = SHARED.replace("a, b", ", ".join(names))
    text = MACHINE.replace("a[i] + b[i]", " + ".join(f"{n}[i]" for n in names))
    spec = checked(text, 3, 4, form, operands)
    every = every_context(spec)
    assert every.adds
    assert set(every.answers.ravel().tolist()) == set(range(3 * operands))
    one_step = every_context(checked(text, 3, 1, form, operands))
    assert set(one_step.answers.ravel().tolist()) == {0}


# ---------------------------------------------------------------- against every sum


@settings(max_examples=20, deadline=None)
@given(st.data(), st.integers(2, 3), st.integers(1, 3))
def test_random_machines(data: st.DataObject, base: int, width: int) -> None:
    atoms = ("a[i] + b[i]", "a[i-1] + b[i-1]", "carry(s[i-1])", "digit(s[i-1])", "s[i-1]",
             "carry(s[i-2])", "i")
    q = data.draw(expressions(atoms))
    text = (f"q = {q}\nemit (q mod base, min(1, abs(q) div base))"
            if data.draw(st.booleans()) else
            f"q = a[i] + b[i] + (({q}) mod 2)\nemit (q mod base, q div base)")
    try:
        spec = checked(text, base, width)
    except SpecError as error:
        assume("can be" in error.faults[0].message)  # a carry of 2, or a digit below 0
        return
    reference, wrong, values = Reference(spec), [], set()
    for row in itertools.product(range(base**width), repeat=2):
        steps = [step.emitted for step in reference.work(row)]
        values |= set(steps)
        if steps != spec.format.expected(row):
            wrong.append((sum(row), row))
    assert spec.contexts is not None
    assert spec.contexts.adds == (not wrong)
    assert dict(spec.values)["emit"] == tuple(sorted(values))
    if wrong:
        assert diagnose(spec).operands == min(wrong)[1]


@pytest.mark.parametrize("form", [SHARED, APART])
@pytest.mark.parametrize("base", [2, 3])
def test_the_interpreter_adds_and_the_format_reads_it(form: str, base: int) -> None:
    spec = checked(base=base, form=form)
    reference, first = Reference(spec), spec.format.first_state
    assert first == (0 if form == SHARED else base**2)
    batch = np.array(list(itertools.product(range(base**3), repeat=2)))
    tokens = expected_tokens(spec.format, batch)
    assert tokens.tolist() == [spec.format.expected(row) for row in batch.tolist()]
    assert right_sums(spec.format, batch, tokens).all()
    assert sums_written(spec.format, tokens) == batch.sum(axis=1).tolist()
    for row, written in zip(batch.tolist(), tokens.tolist(), strict=True):
        assert [step.emitted + first for step in reference.work(row)] == written
        assert reference.add(*row) == sum(row) == spec.format.decode(written)


@pytest.mark.parametrize("form", [SHARED, APART])
def test_wrong_states_are_no_sum(form: str) -> None:
    spec = checked(form=form)
    first = spec.format.first_state
    batch = np.array([[5, 3]])
    good = expected_tokens(spec.format, batch)
    beyond = good.copy()
    beyond[0, 1] = first + 4
    assert sums_written(spec.format, beyond) == [None]
    assert spec.format.decode(beyond[0].tolist()) is None
    below = good.copy()
    below[0, 0] = first - 1
    assert sums_written(spec.format, below) == [None] == [spec.format.decode(below[0].tolist())]
    other = good.copy()
    other[0, -1] ^= 1
    assert not right_sums(spec.format, batch, other).any()


# ---------------------------------------------------------------- text


@pytest.mark.parametrize("form", [SHARED, APART])
def test_a_spec_reads_back(form: str) -> None:
    text = MACHINE.replace("carry(s[i-1])", "carry(s[i-1]) + 0 * digit(s[i-2])")
    spec = parse(Source("t", spec_text(text, "base 2 width 3", form)))
    assert parse(Source("t", show(spec))) == spec


def test_a_hint_where_the_carry_is_not_read() -> None:
    fault = diagnose(checked(MACHINE.replace("carry", "digit"))).faults[0]
    assert "no rule on these digits can add" in fault.hint
    fault = diagnose(checked(MACHINE.replace("t mod base,", "(t + 1) mod base,"))).faults[0]
    assert not fault.hint


def test_too_many_pairs() -> None:
    form = SHARED.replace("a, b", "a, b, c, d")
    with pytest.raises(SpecError, match="1,679,616 token ids"):
        checked("t = a[i] + b[i] + c[i] + d[i]\nemit (t mod base, 0)", 36, 2, form, 4)


# ---------------------------------------------------------------- operands up to a limit


@settings(max_examples=20, deadline=None)
@given(algorithms(), st.integers(2, 3), st.integers(1, 3), st.data())
def test_a_limit_on_the_operands(text: str, base: int, width: int, data: st.DataObject) -> None:
    """An algorithm is right exactly if it adds what the spec allows, and no more is blamed."""
    top = data.draw(st.integers(1, base**width - 1))
    number = f"base {base} width {width} max {top}"
    form = 'prompt msd(a) "+" msd(b) "="; answer lsd(s); tokens "+" -> 0, "=" -> 0'
    source = Source("t", spec_text(f"{text} mod base" if "mod" not in text else text, number, form))
    try:
        spec = check_spec(parse(source))
    except SpecError as error:
        assume("which is no digit" in error.faults[0].message)
        return
    reference, wrong = Reference(spec), []
    for row in itertools.product(range(top + 1), repeat=2):
        if reference.digits(row) != spec.format.expected(row):
            wrong.append((sum(row), row))
    assert spec.contexts is not None
    assert spec.contexts.adds == (not wrong)
    if wrong:
        assert diagnose(spec).operands == min(wrong)[1]


def limited(text: str, number: str) -> CheckedSpec:
    form = 'prompt msd(a) "+" msd(b) "="; answer lsd(s); tokens "+" -> 0, "=" -> 0'
    return check_spec(parse(Source("t", spec_text(text, number, form))))


@pytest.mark.parametrize("top", [1, 4, 5, 14, 44, 999])
def test_a_rule_without_carries_is_right_up_to_4(top: int) -> None:
    spec = limited("emit (a[i] + b[i]) mod base", f"base 10 width 3 max {top}")
    assert spec.contexts is not None
    assert spec.contexts.adds == (top <= 4)
    if top > 4:
        assert diagnose(spec).operands == ((5, 5) if top == 5 else (1, 9))


def test_the_first_sum_beyond_the_limit_is_the_first_wrong_one() -> None:
    """One carry only, from place 0 to place 1: right as long as no sum reaches 100."""
    text = "emit (a[i] + b[i] + (i == 1) * (a[i-1] + b[i-1] >= base)) mod base"
    right = limited(text, "base 10 width 9 max 49")
    assert right.contexts is not None
    assert right.contexts.adds
    wrong = limited(text, "base 10 width 9 max 50")
    assert wrong.contexts is not None
    assert not wrong.contexts.adds
    assert diagnose(wrong).operands == (50, 50)


def test_a_limit_that_is_not_looked_at() -> None:
    """At great widths nothing is said of sums that the spec does not allow."""
    spec = limited("emit (a[i] + b[i]) mod base", "base 10 width 200 max 4")
    assert spec.contexts is not None
    assert not spec.contexts.adds
    with pytest.raises(Refusal, match="1 \\+ 9"):
        diagnose(spec)
