"""`adderc explain`, `trace` and `export` on a model compiled from a spec that comes along."""

from pathlib import Path

import numpy as np
import pytest

import adderc
from adderc.weights.file import load_model, save_model

SPECS = Path(__file__).parents[2] / "specs"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "nano.safetensors"
    adderc.save(adderc.compile(SPECS / "nanogpt58.adder", width=3), path)
    return path


@pytest.fixture(scope="module")
def edited(model):
    """The same file with one leaf changed: it still says where it came from."""
    stored = load_model(model)
    values = {name: value.copy() for name, value in stored.values.items()}
    name = next(name for name in values if name.endswith("ffn.bias"))
    values[name][0, 0] += 2
    path = model.with_name("edited.safetensors")
    save_model(path, stored.structure, values, stored.provenance)
    return path, name


def fits(text, width):
    return max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize("width", [80, 120])
def test_trace_shows_every_digit_and_what_the_spec_says(adder, model, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    ran = adder("trace", model, 999, 1)
    assert (ran.code, ran.err) == (0, "")
    assert fits(ran.out, width)
    assert "\x1b" not in ran.out
    for word in ("999 + 1 = 1000", "digit 3", "a[0] = 9 × 0.5000", "carry = 1", "ahead of"):
        assert word in ran.out


def test_trace_one_digit_and_json(adder, model):
    ran = adder("trace", model, 999, 1, "--digit", 2, "--json")
    assert ran.json["got"] == "1000"
    step, = ran.json["steps"]
    assert step["place"] == 2
    assert step["quantities"]["x"] == 9
    assert {read["label"] for read in step["heads"][0]["reads"]} == {"a[2]", "b[2]"}


@pytest.mark.parametrize(("words", "message"), [
    ((999, 1, "--digit", 4), "digits 0 to 3"), ((1000, 1), "out of range"), ((1,), "got 1"),
    ((1, "x"), "'x'"),
])
def test_bad_traces(adder, model, words, message):
    ran = adder("trace", model, *words)
    assert ran.code == 2
    assert message in ran.err


def test_a_wrong_sum_exits_1(adder, model, tmp_path):
    stored = load_model(model)
    values = {name: 0 * value for name, value in stored.values.items()}
    save_model(tmp_path / "zero.safetensors", stored.structure, values, {})
    ran = adder("trace", tmp_path / "zero.safetensors", 1, 1)
    assert ran.code == 1
    assert "<- first wrong" in ran.out


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("what", ["spec", "model"])
def test_explain_tells_the_derivation(adder, model, monkeypatch, width, what):
    monkeypatch.setenv("COLUMNS", str(width))
    ran = adder("explain", SPECS / "nanogpt58.adder") if what == "spec" else adder("explain", model)
    assert (ran.code, ran.err) == (0, "")
    assert fits(ran.out, width)
    for word in ("carry = prev > s[i-1]", "gap   = 1 - ", "peak  =", "leak <=", "slack",
                 "embed.left @ embed.right", "z^2 - (d - z)^2", "leads every other by at least"):
        assert word in ran.out
    assert ("compiled again" in ran.out) == (what == "model")


def test_the_gap_of_ten_digits_is_a_cosine(adder):
    assert "gap   = 1 - cos(2 pi / 11) = 0.1587" in adder("explain", SPECS / "nanogpt58.adder").out


def test_explain_json_is_the_same_as_data(adder, model):
    found = adder("explain", model, "--json").json
    assert found["parameters"] == 58
    assert found["margin"] > 0
    assert all(i["slack"] == i["right"] - i["left"] for i in found["inequalities"])
    stored = load_model(model)
    assert {leaf["name"] for leaf in found["leaves"]} == set(stored.values)
    assert sum(np.size(leaf["values"]) for leaf in found["leaves"]) == 58


def test_explain_names_leaves_that_are_not_the_derived_ones(adder, model, edited):
    path, name = edited
    assert f"values of {name} are not" in " ".join(adder("explain", path).out.split())
    assert "are not those" not in adder("explain", model).out


def test_explain_without_a_spec(adder, model, tmp_path):
    stored = load_model(model)
    save_model(tmp_path / "bare.safetensors", stored.structure, stored.values, {})
    ran = adder("explain", tmp_path / "bare.safetensors")
    assert ran.code == 0
    assert "tells of no spec" in ran.out
    assert "embed.left" in ran.out
    assert "peak" not in ran.out


def test_explain_settings_go_with_specs_only(adder, model):
    assert "width" in adder("explain", SPECS / "nanogpt58.adder", "--width", 2, "--json").json
    ran = adder("explain", model, "--width", 2)
    assert ran.code == 2
    assert "go with a spec" in ran.err


def test_export(adder, model, tmp_path):
    ran = adder("export", model, "--to", "py", "-o", tmp_path / "nano.py", "--json")
    assert ran.json["prefixes"] >= 1000
    assert ran.json["parameters"] == 58
    assert "def add(a, b)" in (tmp_path / "nano.py").read_text()
    for kind in ("onnx", "hf", "lens"):
        ran = adder("export", model, "--to", kind, "-o", tmp_path / "x")
        assert ran.code == 2
        assert "not implemented yet" in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["nano.py"]
