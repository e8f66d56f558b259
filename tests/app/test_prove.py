"""`adderc prove`, `falsify`, `check-proof` and `compile --prove` on small models."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import adderc
from adderc import app_prove
from adderc.results import ProofResult

SPECS = Path(__file__).parents[2] / "specs"
KEYS = {"verdict", "grade", "counterexample", "margin", "margin_ulp", "step", "case",
        "competing_token", "reason", "cases", "seconds", "assumptions", "rounding_share"}


@pytest.fixture(scope="session")
def proven(tmp_path_factory):
    """A right model of width 2, as `small.safetensors`."""
    path = tmp_path_factory.mktemp("proven") / "small.safetensors"
    adderc.save(adderc.compile(str(SPECS / "nanogpt58.adder"), width=2), path)
    return path


@pytest.fixture(scope="session")
def certificate(proven):
    """Its certificate, written once by the command."""
    from adderc import app

    path = proven.with_name("small.cert")
    assert app.run(["prove", str(proven), "-o", str(path), "-q"]) == 0
    return path


@pytest.fixture(scope="session")
def broken(proven):
    """The same model with every carry step too early."""
    import torch

    path = proven.with_name("broken.safetensors")
    model = adderc.load(proven)
    with torch.no_grad():
        model.get_parameter("ffn.bias").add_(5)
    adderc.save(model, path)
    return path


def loop(model, operands):
    """The sum by the plain greedy loop through the module's own forward."""
    import torch

    tokens = torch.as_tensor(model.format.encode([operands]))
    with torch.inference_mode():
        for _ in range(model.format.steps):
            best = model(tokens)[:, -1].argmax(-1, keepdim=True)
            tokens = torch.cat([tokens, best], dim=1)
    return model.format.decode(tokens[0, model.format.prompt_length:].tolist())


# ---------------------------------------------------------------- prove


def test_a_right_model_is_proven(adder, proven, tmp_path):
    target = tmp_path / "c"
    ran = adder("prove", proven, "-o", target)
    assert ran.code == 0
    assert ran.out.startswith("PROVEN, portable\n")
    for words in ("logits, ", "answer digit ", "against token ", "round-to-nearest",
                  f"wrote {target}"):
        assert words in ran.out
    shown = ran.out.replace(str(target), "c")
    assert max(map(len, shown.splitlines())) <= 80
    assert [entry.name for entry in tmp_path.iterdir()] == ["c"]


def test_json_of_a_proof(adder, proven):
    ran = adder("prove", proven, "--json")
    found = ran.json
    assert found.keys() == KEYS
    assert (found["verdict"], found["grade"], found["counterexample"]) == (
        "PROVEN", "portable", None)
    assert 0 < found["margin"] < 1 < found["margin_ulp"]
    assert found["step"] in range(3)
    assert found["cases"] > 0
    assert found["seconds"] > 0
    assert all(isinstance(line, str) for line in found["assumptions"])
    assert found["assumptions"]


@pytest.mark.parametrize("command", ["prove", "falsify"])
def test_the_known_wrong_model_is_refuted(adder, tmp_path, command):
    path = tmp_path / "seed.safetensors"
    assert adder("compile", "nanogpt58-seed", "-o", path, "-q").code == 0
    ran = adder(command, path, "--json")
    found = ran.json
    assert ran.code == 1
    assert (found["verdict"], found["grade"]) == ("REFUTED", None)
    wrong = found["counterexample"]
    assert int(wrong["expected"]) == sum(map(int, wrong["operands"]))
    assert wrong["got"] != wrong["expected"]
    operands = [int(value) for value in wrong["operands"]]
    assert loop(adderc.load(path), operands) == int(wrong["got"])
    assert adder("add", path, *operands).out != wrong["expected"] + "\n"


def test_a_refutation_traces_the_first_wrong_digit(adder, broken, tmp_path):
    target = tmp_path / "c"
    ran = adder("prove", broken, "-o", target)
    assert ran.code == 1
    assert ran.out.startswith("REFUTED\n  operands  ")
    assert "first wrong at answer digit" in ran.out
    assert "is right\n" in ran.out
    assert f"{target} was not written: only a proof has a certificate" in ran.out
    assert not target.exists()
    assert "certificate" in adder("prove", broken, "-o", target, "--json").json


def test_out_of_budget_is_undecided(adder, proven, tmp_path):
    ran = adder("prove", proven, "--budget", 0.001, "-o", tmp_path / "c")
    assert ran.code == 3
    assert ran.out.startswith("UNDECIDED\n")
    assert not (tmp_path / "c").exists()


def test_a_right_model_is_not_falsified(adder, proven):
    ran = adder("falsify", proven, "--budget", 0.5, "--seed", 3, "--json")
    assert ran.code == 3
    assert ran.json.keys() == KEYS
    assert (ran.json["verdict"], ran.json["counterexample"]) == ("UNDECIDED", None)


def test_quiet_says_it_by_the_exit_code(adder, proven, broken, certificate):
    for arguments, code in [(["prove", proven], 0), (["prove", broken], 1),
                            (["check-proof", certificate, proven], 0)]:
        ran = adder(*arguments, "-q")
        assert (ran.code, ran.out) == (code, "")


def test_an_interrupt_ends_with_130(adder, proven, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("adderc.prove.run.prove", interrupt)
    assert adder("prove", proven).code == 130


def test_a_certificate_appears_whole_or_not_at_all(adder, proven, tmp_path, monkeypatch):
    def fail(path, result):
        Path(path).write_text("half")
        raise OSError(28, "No space left on device")

    target = tmp_path / "c"
    target.write_text("older")
    monkeypatch.setattr("adderc.prove.certificate.write_certificate", fail)
    ran = adder("prove", proven, "-o", target)
    assert ran.code == 2
    assert f"cannot write {target}: No space left" in ran.err
    assert [(e.name, e.read_text()) for e in tmp_path.iterdir()] == [("c", "older")]


# ---------------------------------------------------------------- check-proof


def test_the_checker_accepts(adder, proven, certificate):
    ran = adder("check-proof", certificate, proven)
    assert ran.code == 0
    assert ran.out.startswith("accepted, portable\n")
    found = adder("check-proof", certificate, proven, "--json").json
    assert found["accepted"] is True
    assert found["margin"] > 0


@pytest.mark.parametrize("resealed", [False, True])
def test_an_edited_certificate_is_refused(adder, proven, certificate, tmp_path, resealed):
    data = json.loads(certificate.read_text())
    data["steps"][1]["margin"] = 1.5
    if resealed:
        del data["digest"]
        text = json.dumps(data, sort_keys=True, separators=(",", ":"))
        data["digest"] = hashlib.sha256(text.encode()).hexdigest()
    edited = tmp_path / "edited.cert"
    edited.write_text(json.dumps(data))
    ran = adder("check-proof", edited, proven)
    assert ran.code == 1
    assert ran.out.startswith("refused")
    assert ("edited" in ran.out) is not resealed


def test_an_edited_model_is_refused(adder, certificate, broken):
    ran = adder("check-proof", certificate, broken, "--json")
    assert ran.code == 1
    assert ran.json["accepted"] is False
    assert "other weights" in ran.json["reason"]


# ---------------------------------------------------------------- Python models


def test_a_python_model_under_a_format(adder, proven, tmp_path):
    """Somebody's file is proven by the same engine; what it prints is not in the JSON."""
    path, spec = tmp_path / "small.py", tmp_path / "small.adder"
    assert adder("export", proven, "--to", "adderboard", "-o", path, "-q").code == 0
    path.write_text(path.read_text() + "\nprint('hello')\n")
    text = (SPECS / "nanogpt58.adder").read_text().replace("width 10", "width 2")
    spec.write_text(text)
    words = ("--format", spec, "--trust-code", "--json")
    ran = adder("prove", path, "-o", tmp_path / "c", *words)
    assert ran.json["verdict"] == "PROVEN"
    assert ran.code == 0
    ran = adder("check-proof", tmp_path / "c", path, *words)
    assert (ran.code, ran.json["accepted"]) == (0, True), ran.json


def test_code_that_leaves_the_process_proves_nothing(adder, tmp_path):
    path = tmp_path / "leaves.py"
    path.write_text("import sys\ndef build_model():\n    return (lambda t: sys.exit(0)), {}\n")
    ran = adder("prove", path, "--format", "nanogpt58", "--trust-code")
    assert ran.code == 2
    assert "sys.exit(0)" in ran.err


# ---------------------------------------------------------------- bad input


def test_bad_input(adder, proven, certificate, tmp_path):
    python, text = tmp_path / "m.py", tmp_path / "text.adder"
    python.write_text("def build_model():\n    return None\n")
    text.write_text("no spec at all")
    for arguments, words in [
        (["prove", tmp_path / "none.safetensors"], "none.safetensors"),
        (["prove", certificate], "small.cert"),
        (["prove", proven, "--format", "nanogpt58"], "holds its own format"),
        (["prove", python], "needs --format"),
        (["prove", python, "--format", "nanogpt58"], "--trust-code"),
        (["prove", python, "--format", text, "--trust-code"], "text.adder"),
        (["prove", proven, "-o", tmp_path / "no" / "c"], "does not exist"),
        (["prove", proven, "-o", proven], "would replace the model"),
        (["prove", proven, "--budget", "nan"], "--budget"),
        (["falsify", proven, "--budget", "-1"], "--budget"),
        (["check-proof", tmp_path / "none", proven], "cannot read"),
        (["check-proof", proven, proven], "is no certificate"),
        (["check-proof", certificate, tmp_path / "none.safetensors"], "none.safetensors"),
    ]:
        ran = adder(*arguments)
        assert (ran.code, ran.out) == (2, ""), arguments
        assert words in ran.err, arguments
        assert "internal error" not in ran.err, arguments


# ---------------------------------------------------------------- compile --prove


def test_compile_and_prove(adder, tmp_path):
    path = tmp_path / "m.safetensors"
    ran = adder("compile", "nanogpt58", "--width", 2, "-o", path, "--prove")
    assert ran.code == 0
    assert ran.out.startswith(f"wrote {path}\n")
    assert "\nPROVEN, portable\n" in ran.out
    found = adder("compile", "nanogpt58", "--width", 2, "-o", path, "--prove", "--json").json
    assert found["parameters"] == 58
    assert found["proof"].keys() == KEYS
    assert found["proof"]["verdict"] == "PROVEN"


def test_compile_and_refute(adder, tmp_path):
    path = tmp_path / "m.safetensors"
    ran = adder("compile", "nanogpt58-seed", "-o", path, "--prove", "-q")
    assert (ran.code, ran.out) == (1, "")
    assert path.exists()


def test_exit_codes():
    codes = {v: app_prove.exit_code(ProofResult(v)) for v in ("PROVEN", "REFUTED", "UNDECIDED")}
    assert codes == {"PROVEN": 0, "REFUTED": 1, "UNDECIDED": 3}


def test_help_imports_no_torch():
    code = ("import sys\nfrom adderc.app import run\n"
            "for name in ('prove', 'falsify', 'check-proof'): assert run([name, '--help']) == 0\n"
            "assert 'torch' not in sys.modules and 'numpy' not in sys.modules")
    ran = subprocess.run([sys.executable, "-c", code], cwd=SPECS.parent, check=False,
                         capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
