"""`adderc audit`: what it takes, what it prints, its JSON keys and exit codes."""

import json

import pytest
from sources import PLAIN, ROTATION

from adderc import app

SPEC = "nanogpt58"


@pytest.fixture
def adderc(capsys):
    def run(*words):
        code = app.run([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model file of the spec with the best known breakdown."""
    path = tmp_path_factory.mktemp("models") / "m.safetensors"
    assert app.run(["compile", SPEC, "-o", str(path), "--quiet"]) == 0
    return path


@pytest.fixture
def python_file(tmp_path):
    def write(text, name="model.py"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_the_seed_breakdown(adderc, model):
    code, out, _ = adderc("audit", model, "--json", "--no-sample")
    found = json.loads(out)
    assert code == 0
    assert found["agrees"] is True
    assert found["counts"] | {"scalars": 0, "nonzero": 0} == {
        "declared": 58, "scalars": 0, "strict": 58, "strict_positional": 61, "nonzero": 0,
        "dense": 322}
    assert list(found["components"].values()) == [14, 3, 8, 8, 2, 12, 8, 3]
    assert {"counts", "leaves", "constants", "dead"} <= set(found)
    leaf = next(x for x in found["leaves"] if x["component"] == "embedding")
    assert leaf["line"] > 0
    assert len(leaf["values"]) == leaf["elements"]
    assert sorted(c["values"][0] for c in found["constants"]) == [2, 11, 21]
    assert found["dead"] == []


@pytest.mark.parametrize("wide", [80, 120])
def test_the_ledger_fits_the_columns(adderc, model, monkeypatch, wide):
    monkeypatch.setenv("COLUMNS", str(wide))
    code, out, _ = adderc("audit", model, "--rules", "adderboard", "--no-sample")
    assert code == 0
    assert max(map(len, out.splitlines())) <= wide
    for words in ("embedding", "attention Q", "FFN in", "head", "line ", "second count: "
                  "the traced graph gives the same counts", "rotation", "pass"):
        assert words in out


def test_a_spec_at_another_width(adderc):
    code, out, _ = adderc("audit", SPEC, "--width", 20, "--no-sample", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["kind"] == "spec"
    assert found["counts"]["declared"] == 58
    forms = {c["form"]: c["change"] for c in found["choices"]}
    assert forms["rotation"] == 13
    assert forms["no bias"] == 4


def test_settings_go_with_specs_only(adderc, model):
    code, _, err = adderc("audit", model, "--width", 20)
    assert code == 2
    assert "settings go with specs" in err


def test_a_python_model(adderc, python_file):
    path = python_file(PLAIN)
    code, out, err = adderc("audit", path)
    assert (code, out) == (2, "")
    assert "--trust-code" in err
    code, out, _ = adderc("audit", path, "--trust-code", "--no-sample", "--rules", "adderboard")
    assert code == 0
    assert "15  tensor literal" in out
    assert "table: derived from one, ten" in out
    assert max(map(len, out.splitlines())) <= 80


def test_several_models_as_a_table(adderc, model, python_file):
    path = python_file(ROTATION)
    words = ("audit", model, path, "--trust-code", "--no-sample")
    code, out, _ = adderc(*words, "--sort", "strict_positional")
    assert code == 0
    rows = [line.split() for line in out.splitlines() if "model.py" in line or "safe" in line]
    assert [row[1] for row in rows] == ["51", "58"]
    assert max(map(len, out.splitlines())) <= 80
    code, out, _ = adderc(*words, "--sort", "dense", "--json")
    assert [m["counts"]["declared"] for m in json.loads(out)["models"]] == [51, 58]


def test_what_cannot_be_traced_ends_with_three(adderc, python_file):
    path = python_file("""
import torch
class Net(torch.nn.Module):
    def forward(self, tokens):
        if tokens.sum().item() > 3:
            return torch.zeros(1, tokens.shape[1], 10)
        return torch.ones(1, tokens.shape[1], 10)
def build_model():
    return Net(), {}
def add(model, a, b):
    return int(model(torch.tensor([[a % 10, b % 10]]))[0, -1].argmax())
""")
    code, out, err = adderc("audit", path, "--trust-code")
    assert (code, out) == (3, "")
    assert "not audited" in err


def test_counts_that_differ_end_with_one(adderc, model, monkeypatch):
    from adderc.audit import run

    real = run.compare_counts
    monkeypatch.setattr(run, "compare_counts", lambda a, b: [*real(a, b), "declared: 1, 2"])
    code, out, _ = adderc("audit", model, "--no-sample")
    assert code == 1
    assert "THE TWO COUNTS DO NOT AGREE" in out
    assert "declared: 1, 2" in out


def test_verify_takes_python_models_with_a_format(adderc, python_file):
    path = python_file(ROTATION)
    code, _, err = adderc("verify", path, "--trust-code")
    assert code == 2
    assert "--format" in err
    code, _, err = adderc("verify", path, "--format", SPEC)
    assert code == 2
    assert "--trust-code" in err
    code, out, _ = adderc("verify", path, "--format", SPEC, "--trust-code", "--samples", 200,
                          "--json")
    assert code == 0
    assert json.loads(out)["passed"] == 200


def test_what_foreign_code_prints_stays_out_of_the_result(adderc, python_file):
    path = python_file(PLAIN.replace("def build_model():", "def build_model():\n    print('hi')"))
    code, out, _ = adderc("audit", path, "--trust-code", "--no-sample", "--json")
    assert code == 0
    assert json.loads(out)["counts"]["strict"] == 5
