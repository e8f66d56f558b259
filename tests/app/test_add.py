"""`adderc add`: operands, files, bad lines, answers that are no number."""

import io

import numpy as np
import pytest

from adderc import app_tuples


@pytest.fixture(autouse=True)
def model(use_model, adder_class):
    use_model(adder_class())


def test_two_operands(adder):
    ran = adder("add", "m", "9999999999", "1")
    assert (ran.code, ran.out, ran.err) == (0, "10000000000\n", "")


def test_json_sums_are_strings(adder):
    assert adder("add", "m", "9999999999", "1", "--json").json == {"sums": ["10000000000"]}


def test_four_operands(adder, use_model, adder_class):
    use_model(adder_class(width=3, operands=4))
    assert adder("add", "m", 999, 999, 999, "1_0").out == "3007\n"


@pytest.mark.parametrize(("text", "sums"), [
    ("1,2\n3, 4\n", "3\n7\n"), ("1 2\n\n  3\t4", "3\n7\n"), ("\ufeff1,2\r\n", "3\n"),
    ('"1","2"\n', "3\n"), ("", ""),
])
def test_files(adder, tmp_path, text, sums):
    path = tmp_path / "tuples.csv"
    path.write_bytes(text.encode())
    ran = adder("add", "m", "--file", path)
    assert (ran.code, ran.out, ran.err) == (0, sums, "")


def test_stdin(adder, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"1 2\n3 4\n")))
    assert adder("add", "m", "--file", "-").out == "3\n7\n"


@pytest.mark.parametrize(("line", "words"), [
    ("1", "2 operands, got 1"), ("1,2,3", "got 3"), ("1,,2", "operand b ''"), ("1,x", "'x'"),
    ("1,-2", "'-2'"), ("1,10000000000", "operand b = 10000000000 is out of range"),
    ("1,2,", "operand ''"), ("1.5 2", "'1.5'"), ("9" * 5000 + " 1", "5000 digits"),
    ("١ 2", "operand a"),
])
def test_a_bad_line_is_named_and_its_part_is_not_added(adder, tmp_path, line, words):
    path = tmp_path / "tuples"
    path.write_text(f"1 2\n\n{line}\n5 6\n")
    for extra in ((), ("--json",)):
        ran = adder("add", "m", "--file", path, *extra)
        assert ran.code == 2
        assert "line 3: " in ran.err
        assert words in ran.err
        assert len(ran.err) < 400
        if extra:
            assert list(ran.json) == ["error"]
        else:
            assert ran.out == ""


def test_a_long_file_streams(adder, tmp_path):
    path = tmp_path / "tuples"
    lines = app_tuples.PART_BYTES // 4
    path.write_text("1 2\n" * lines + "bad\n")
    ran = adder("add", "m", "--file", path)
    assert (ran.code, ran.out) == (2, "3\n" * lines)
    assert f"line {lines + 1}" in ran.err


def test_bad_files(adder, tmp_path):
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00\x9f")
    for path, words in ((binary, "not a text file"), (tmp_path / "none", "cannot read"),
                        (tmp_path, "cannot read")):
        ran = adder("add", "m", "--file", path)
        assert ran.code == 2
        assert words in ran.err
        assert "internal" not in ran.err


@pytest.mark.parametrize(("arguments", "words"), [
    ([], "either the operands or --file"), (["1"], "2 operands, got 1"),
    (["1", "2", "3"], "got 3"), (["-5", "3"], "operand a '-5'"), (["1", "ten"], "'ten'"),
    (["1", "10000000000"], "out of range"), (["1", "2", "--jsn"], 'did you mean "--json"'),
    (["1", "2", "--file", "-"], "either the operands or --file"), (["1", ""], "operand b ''"),
])
def test_bad_operands(adder, arguments, words):
    ran = adder("add", "m", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert words in ran.err


def test_an_answer_that_is_no_number(adder, use_model, adder_class):
    model = adder_class(width=1)
    model.decode = lambda prompts: np.array([[10, 0]] * len(prompts))
    use_model(model)
    ran = adder("add", "m", 1, 2)
    assert (ran.code, ran.out) == (1, "?\n")
    assert adder("add", "m", 1, 2, "--json").json == {"sums": [None]}


def test_numbers_beyond_pythons_own_limit_of_digits(adder, use_model, adder_class):
    use_model(adder_class(width=5000))
    assert adder("add", "m", "9" * 5000, 1).out == "1" + "0" * 5000 + "\n"
