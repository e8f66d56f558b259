"""`adderc check`, `compile`, `specs`: what they ask of the pipeline and what they print."""

from types import SimpleNamespace

import pytest

from adderc.errors import Fault, Source, Span, SpecError, Undecided, WrongAlgorithm


@pytest.fixture
def compiled(pipeline):
    saved = []
    pipeline.compiled = SimpleNamespace(
        parameters=58, margin=0.99988, norm=None, seconds=0.25, method="derive",
        warnings=("the hinge has slack 4 of 5",), save=saved.append,
    )
    return saved


def test_compile_passes_everything_on(adder, pipeline, compiled, tmp_path):
    target = str(tmp_path / "m.safetensors")
    ran = adder("compile", "some.adder", "-o", target, "--width", 7, "--base", 16, "--dtype",
                "float64", "--set", "G=2^-4", "--set", "h = a=b", "--seed", 3, "--unchecked")
    [(what, source, (settings, unchecked))] = pipeline.calls
    assert (what, source, unchecked) == ("compile", "source of some.adder", True)
    assert settings == pipeline.Settings(7, 16, "float64", (("G", "2^-4"), ("h", "a=b")), 3)
    assert compiled == [target]
    assert ran.code == 0
    assert ran.err == "warning: the hinge has slack 4 of 5\n"
    assert "58" in ran.out
    assert "0.9999" in ran.out
    assert "norm" not in ran.out


def test_compile_json(adder, compiled, tmp_path):
    ran = adder("compile", "s", "-o", tmp_path / "m", "--json")
    assert ran.err == ""
    wanted = {"parameters": 58, "margin": 0.99988, "norm": None, "seconds": 0.25,
              "method": "derive"}
    assert {key: ran.json[key] for key in wanted} == wanted
    assert ran.json["warnings"] == ["the hinge has slack 4 of 5"]


def test_compile_quiet(adder, compiled, tmp_path):
    ran = adder("compile", "s", "-o", tmp_path / "m", "-q")
    assert (ran.code, ran.out, ran.err, len(compiled)) == (0, "", "", 1)


def test_a_target_that_cannot_be_written_is_found_before_the_work(adder, pipeline, tmp_path):
    for target in (tmp_path / "none" / "m", tmp_path):
        ran = adder("compile", "s", "-o", target)
        assert ran.code == 2
        assert str(tmp_path) in ran.err
    assert pipeline.calls == []


@pytest.mark.parametrize("arguments", [
    ["--width", "0"], ["--base", "1"], ["--base", "37"], ["--dtype", "float16"],
    ["--set", "novalue"], ["--set", "=3"], ["--set", "G="], ["--width", "ten"], ["--wdth", "3"],
])
def test_bad_settings(adder, pipeline, tmp_path, arguments):
    ran = adder("compile", "s", "-o", tmp_path / "m", *arguments)
    assert (ran.code, pipeline.calls) == (2, [])
    assert arguments[0] in ran.err or arguments[1] in ran.err


def test_check(adder, pipeline):
    pipeline.report = SimpleNamespace(text=lambda: "it adds", as_json=lambda: {"adds": True})
    assert adder("check", "s", "--width", 3).out == "it adds\n"
    assert adder("check", "s", "--json").json == {"adds": True}
    assert adder("check", "s", "-q").out == ""


@pytest.mark.parametrize(("error", "code"), [
    (SpecError(faults=(Fault("bad word", Span(0, 3, 1, 1)),), source=Source("f", "bad")), 2),
    (WrongAlgorithm(faults=(Fault("does not add"),), report="bad word at 9 + 1"), 1),
    (Undecided("bad word"), 3),
    (KeyboardInterrupt(), 130),
    (MemoryError(), 3),
    (OSError(28, "bad word: no space left", "file"), 2),
])
def test_every_error_has_its_exit_code(adder, pipeline, error, code):
    pipeline.error = error
    for extra in ((), ("--json",)):
        ran = adder("check", "s", *extra)
        assert ran.code == code
        assert "Traceback" not in ran.err
        if code not in (130, 3):
            assert "bad word" in ran.err
        if extra:
            assert list(ran.json) == ["error"]


def test_a_fault_of_adderc_shows_no_traceback_unless_asked(adder, pipeline, monkeypatch):
    pipeline.error = RuntimeError("lost")
    ran = adder("check", "s")
    assert ran.code == 2
    assert "internal error: RuntimeError: lost" in ran.err
    assert "Traceback" not in ran.err
    monkeypatch.setenv("ADDERC_DEBUG", "1")
    assert "Traceback" in adder("check", "s").err


def test_specs(adder, pipeline):
    ran = adder("specs")
    assert ran.code == 0
    assert max(map(len, ran.out.splitlines())) <= 80
    assert "second-one  Adds too." in ran.out
    assert adder("specs", "-q").out == "first\nsecond-one\n"
    assert [s["name"] for s in adder("specs", "--json").json["specs"]] == ["first", "second-one"]
