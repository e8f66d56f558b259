"""Every wrong spec of `wrong/` is refused with exactly the message beside it.

`NAME.adder` is the spec, `NAME.txt` what a person reads. A spec that parses is checked, and
one that passes is compiled, so that faults of every stage stand in the same directory.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adderc.errors import AddercError, Source, SpecError
from adderc.lang.messages import SITUATIONS, Situation
from adderc.lang.parse import parse
from adderc.pipeline import check_spec, compile_spec
from specs import spec_text

WRONG = sorted((Path(__file__).parent / "wrong").glob("*.adder"))
GOOD = """adder good
number { base 10  width 10  operands 2 }
format { prompt msd(a) "+" msd(b) "="; answer lsd(s); tokens "+" -> 0, "=" -> 0 }
algorithm {
    x = a[i] + b[i]
    prev = a[i-1] + b[i-1]
    emit (x + (prev > s[i-1])) mod base
}
model { layers 1; position sinusoid(period = 11, gain = G until "=", 1); ffn relu 4 { rows q } }
weights { derive attention; given ffn.rows = [1, 2] }
"""


def judge(source: Source) -> None:
    """Every stage in turn; the first that finds fault raises."""
    parse(source)
    check_spec(source)
    compile_spec(source)


@pytest.mark.parametrize("path", WRONG, ids=lambda path: path.stem)
def test_the_message(path: Path) -> None:
    text = path.read_bytes().decode("utf-8")
    with pytest.raises(AddercError) as caught:
        judge(Source(path.name, text))
    assert str(caught.value) + "\n" == path.with_suffix(".txt").read_text(encoding="utf-8")


def test_no_message_without_a_spec() -> None:
    folder = Path(__file__).parent / "wrong"
    assert {path.stem for path in folder.glob("*.txt")} == {path.stem for path in WRONG}
    assert len(WRONG) > 100


def test_the_frame_of_these_specs_is_sound() -> None:
    """So what is refused is the fault, not its surroundings."""
    judge(Source("t", spec_text()))


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.message)
def test_every_bad_input_gets_its_message(situation: Situation) -> None:
    for bad_input in situation.bad_inputs:
        with pytest.raises(SpecError) as caught:
            parse(Source("t", bad_input))
        found = {(fault.message, fault.hint) for fault in caught.value.faults}
        assert (situation.message, situation.hint) in found, bad_input


def refused(text: str) -> SpecError:
    with pytest.raises(SpecError) as caught:
        parse(Source("t", text))
    assert caught.value.faults
    return caught.value


def test_tabs_and_crlf_keep_columns_and_carets() -> None:
    error = refused("adder x\r\n\tnumber {\r\n\t\tbase\t@\r\n\t}\r\n")
    assert str(error) == (
        "t:3:8: expected a number or an expression, got \"@\"\n"
        "    3 |   base @\n"
        "               ^")


@pytest.mark.parametrize(("text", "message"), [
    ("\0\1ELF\0", "expected a text file, got binary data"),
    (" \t\r\n\ufeff# x", "the spec is empty"),
    ("number { base " + "(" * 10_000 + "1" + ")" * 10_000 + "}", "expected brackets at most"),
    ("number { base " + "(" * 10_000, "expected brackets at most 100 deep"),
    ("number { base " + "-" * 10_000 + "1 }", "the expression is nested deeper than 100 levels"),
    ("number { base " + "1+" * 10_000 + "1 }", "the expression is nested deeper than 100 levels"),
    ("# " + "x" * 1_000_001, "expected at most 1000000 characters"),
    ("number { base 1e999999999 }", "the number is too long"),
    ("number { base " + "9" * 5000 + " }", "the number is too long"),
])
def test_hostile_texts_get_one_short_message(text: str, message: str) -> None:
    error = refused(text)
    assert message in str(error)
    assert len(str(error)) < 1200


def test_a_flood_of_faults_is_cut() -> None:
    error = refused("number {\n" + "widht 10\n" * 500 + "}")
    assert len(error.faults) == 21
    assert "more than 20 faults" in str(error)


def test_the_good_spec_is_good() -> None:
    assert parse(Source("t", GOOD)).name == "good"


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_a_damaged_spec_is_read_or_refused(data: st.DataObject) -> None:
    text = GOOD
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 12)))
        new = data.draw(st.text(st.sampled_from('(){}[]"#;,\n\r\t =<-+ix10eé@.'), max_size=3))
        text = text[:start] + new + text[end:]
    source = Source("t", text)
    try:
        parse(source)
    except SpecError as error:
        for fault in error.faults:
            assert fault.message
            assert 0 <= fault.span.start <= len(text) + 1
            if fault.span.line:
                before = text[: fault.span.start]
                assert fault.span.line == before.count("\n") + 1
                assert fault.span.column == len(before) - (before.rfind("\n") + 1) + 1
