"""Bad input from end to end: one clear message, exit code 2 (1 for a wrong algorithm), no file.

Nothing stands in for the pipeline or the model here.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from adderc.pipeline import Settings, compile_spec, read_spec
from specs import RIPPLE, spec_text

WRONG_CARRY = RIPPLE.replace("prev >", "prev >=")

SPECS = {
    "unknown keyword": (spec_text().replace("weights {", "wieghts {"), 'did you mean "weights"'),
    "unknown setting": (spec_text(number="base 10 widht 2"), 'did you mean "width"'),
    "base 1": (spec_text(number="base 1 width 2"), "base 1 is out of range: 2 to 36"),
    "base 37": (spec_text(number="base 37 width 2"), "base 37 is out of range: 2 to 36"),
    "width 0": (spec_text(number="base 10 width 0"), "width 0 is out of range: 1 to 4096"),
    "empty": ("", "empty"),
    "only blanks": ("\n \n\t\n", "empty"),
    "binary": (b"\x7fELF\x02\x01\x00\x00", "binary"),
    "not UTF-8": (b"adder x\xff\xfe", "not text"),
    "collision": (spec_text(model="position sinusoid(period = 2)"), "position"),
    "no symbol between": (spec_text(format='prompt msd(a) msd(b) "="; answer lsd(s)'), "position"),
    "unknown name": (spec_text(RIPPLE.replace("prev >", "prv >")), 'did you mean "prev"'),
    "emits no digit": (spec_text(RIPPLE.replace(") mod base", ")")), "emit can be 10"),
    "unknown realization": (spec_text(model="ffn rleu"), "rleu"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("models") / "m.safetensors")
    compile_spec(read_spec("nanogpt58"), Settings(width=3)).save(path)
    return path


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "bad.adder"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def assert_one_message(ran, words: str, code: int = 2) -> None:
    assert ran.code == code
    assert ran.out == ""
    assert ran.err.startswith("error: ")
    assert ran.err.count("error: ") == 1
    assert "Traceback" not in ran.err
    assert "internal error" not in ran.err
    assert words in ran.err


# ---------------------------------------------------------------- specs


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("existing", [False, True])
def test_compile_refuses_a_bad_spec(adder, tmp_path, name, existing) -> None:
    text, words = SPECS[name]
    spec, target = write(tmp_path, text), tmp_path / "m.safetensors"
    if existing:
        target.write_text("what was there before")
    before = sorted(tmp_path.iterdir())
    assert_one_message(adder("compile", spec, "-o", target), words)
    assert sorted(tmp_path.iterdir()) == before  # no model, no part of one
    if existing:
        assert target.read_text() == "what was there before"


@pytest.mark.parametrize("name", [n for n in SPECS if n not in ("collision", "no symbol between")])
def test_check_refuses_a_bad_spec(adder, tmp_path, name) -> None:
    text, words = SPECS[name]
    assert_one_message(adder("check", write(tmp_path, text)), words)
    ran = adder("check", tmp_path / "bad.adder", "--json")
    assert ran.code == 2
    assert words in ran.json["error"]


@pytest.mark.parametrize("command", ["check", "compile"])
def test_a_wrong_algorithm_is_exit_code_1(adder, tmp_path, command) -> None:
    spec, target = write(tmp_path, spec_text(WRONG_CARRY)), tmp_path / "m.safetensors"
    more = ("-o", target) if command == "compile" else ()
    assert_one_message(adder(command, spec, *more), "0 + 0 is the smallest failing sum", code=1)
    assert not target.exists()
    ran = adder(command, spec, *more, "--json")
    assert ran.code == 1
    assert "<- wrong" in ran.json["error"]


def test_unchecked_compiles_it(adder, tmp_path) -> None:
    spec, target = write(tmp_path, spec_text(WRONG_CARRY)), tmp_path / "m.safetensors"
    assert adder("compile", spec, "-o", target, "--unchecked", "-q").code == 0
    assert adder("add", target, 0, 0).out == "101\n"
    assert adder("verify", target, "--suite", "exhaustive", "-q").code == 1


@pytest.mark.parametrize(("options", "words"), [
    (("--base", "1"), "1"), (("--base", "37"), "37"), (("--width", "0"), "0"),
    (("--width", "4097"), "4097"), (("--width", "x"), "'x'"), (("--dtype", "float16"), "float16"),
    (("--set", "nothing=3"), "nothing"), (("--set", "ffn.bias=[1]"), "ffn.bias has 4 numbers"),
    (("--set", "width=0"), "width 0 is out of range"), (("--set", "ffn.bias=?"), "ffn.bias"),
    (("--set", "base=pi"), "base"),
])
def test_bad_options(adder, tmp_path, options, words) -> None:
    target = tmp_path / "m.safetensors"
    assert_one_message(adder("compile", "nanogpt58", "-o", target, *options), words)
    assert list(tmp_path.iterdir()) == []


def test_a_spec_that_is_not_there(adder, tmp_path) -> None:
    assert_one_message(adder("check", tmp_path / "none.adder"), "no such spec file")
    assert_one_message(adder("check", "nanogpt59"), "nanogpt58")
    assert_one_message(adder("check", tmp_path), "is a folder")


def test_an_output_folder_that_is_not_there(adder, tmp_path) -> None:
    target = tmp_path / "none" / "m.safetensors"
    assert_one_message(adder("compile", "nanogpt58", "-o", target), str(tmp_path / "none"))
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- model files


def spoil(path: str, how: str) -> bytes:
    data = Path(path).read_bytes()
    size = int.from_bytes(data[:8], "little")
    match how:
        case "cut in the values":
            return data[:-3]
        case "cut in the header":
            return data[: size // 2]
        case "cut to nothing":
            return b""
        case "a value edited":
            return data[:-4] + bytes([data[-4] ^ 1]) + data[-3:]
        case "the structure edited":
            return data.replace(b"float32", b"float64", 1)
        case "the spec edited":
            return data.replace(b"Adds from", b"Ends from", 1)
        case "more behind the end":
            return data + b"0123"
        case "text":
            return b"adder nanogpt58\n"
    raise ValueError(how)


HOW = ("cut in the values", "cut in the header", "cut to nothing", "a value edited",
       "the structure edited", "the spec edited", "more behind the end", "text")


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("command", [("add", 1, 2), ("verify",)])
def test_a_spoiled_model_file(adder, model, tmp_path, how, command) -> None:
    path = tmp_path / "spoiled.safetensors"
    path.write_bytes(spoil(model, how))
    assert path.read_bytes() != Path(model).read_bytes()
    assert_one_message(adder(command[0], path, *command[1:]), "spoiled.safetensors")


def test_a_newer_model_file(adder, model, tmp_path) -> None:
    from safetensors import safe_open

    with safe_open(model, "np") as file:
        metadata = file.metadata()
    [(key, text)] = metadata.items()
    newer = json.loads(text) | {"format_version": 99}
    path = tmp_path / "newer.safetensors"
    save_file(load_file(model), path, {key: json.dumps(newer, separators=(",", ":"))})
    assert_one_message(adder("add", path, 1, 2), "99")


def test_a_model_file_that_is_not_there(adder, tmp_path) -> None:
    assert_one_message(adder("add", tmp_path / "none.safetensors", 1, 2), "none.safetensors")
    assert_one_message(adder("add", tmp_path, 1, 2), str(tmp_path))


# ---------------------------------------------------------------- operands


@pytest.mark.parametrize(("operands", "words"), [
    ((1000, 1), "operand a = 1000 is out of range: 0 to 999"),
    ((1, 1000), "operand b = 1000 is out of range: 0 to 999"),
    ((-1, 5), "operand a '-1' is not a non-negative decimal integer"),
    (("five", 5), "operand a 'five' is not a non-negative decimal integer"),
    (("1.5", 5), "'1.5'"), (("1e3", 5), "'1e3'"), (("", 5), "''"), (("٣", 5), "'٣'"),
    ((1,), "2 operands, got 1"), ((1, 2, 3), "2 operands, got 3"), (("9" * 5000, 1), "range"),
])
def test_operands(adder, model, operands, words) -> None:
    assert_one_message(adder("add", model, *operands), words)


@pytest.mark.parametrize(("line", "words"), [
    ("1 1000", "operand b = 1000 is out of range"), ("1", "got 1"), ("1,2,3", "got 3"),
    ("one two", "'one'"), ("1,-2", "'-2'"), ("1,,2", "''"),
])
def test_a_bad_line_is_named_by_its_number(adder, model, tmp_path, line, words) -> None:
    path = tmp_path / "tuples.txt"
    path.write_text(f"1 2\n\n3,4\n{line}\n5 6\n")
    ran = adder("add", model, "--file", path)
    assert_one_message(ran, words)
    assert "tuples.txt, line 4" in ran.err


def test_a_file_of_tuples_that_cannot_be_read(adder, model, tmp_path) -> None:
    assert_one_message(adder("add", model, "--file", tmp_path / "none"), "none")
    path = tmp_path / "binary"
    path.write_bytes(b"\xff\xfe1 2")
    assert_one_message(adder("add", model, "--file", path), "not a text file")
