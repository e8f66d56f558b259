"""`adderc train` and what other commands say of a spec that is to be trained."""

import json

import pytest
from training import text_of

from adderc.app import run
from adderc.errors import Source, SpecError
from adderc.lang.check import check_spec
from adderc.lang.parse import parse
from adderc.train.plan import Race, read_train


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "tiny.adder"
    path.write_text(text_of("small"))
    return str(path)


def test_train_writes_a_model_that_other_commands_read(spec, tmp_path, capsys):
    target = str(tmp_path / "tiny.safetensors")
    code = run(["train", spec, "-o", target, "--steps", "200", "--workers", "1", "--no-finish",
                "--json"])
    value = json.loads(capsys.readouterr().out)
    assert code == (0 if value["exact"] == 1 else 3)
    assert value["parameters"] == 57
    log = json.loads((tmp_path / "tiny.safetensors.log.json").read_text())
    assert len(log["losses"]) == 200
    assert [row["step"] for row in log["history"]] == [100, 200]
    run(["audit", target, "--json", "--no-sample"])
    counts = json.loads(capsys.readouterr().out)["counts"]
    assert (counts["declared"], counts["strict"]) == (57, 57)
    run(["verify", target, "--samples", "200", "--json"])
    assert json.loads(capsys.readouterr().out)["total"] >= 200


def test_resume_goes_on(spec, tmp_path, capsys):
    one, two = (str(tmp_path / f"{name}.safetensors") for name in "ab")
    common = ["--workers", "1", "--no-finish", "--json"]
    run(["train", spec, "-o", one, *common])
    run(["train", spec, "-o", two, *common])
    run(["train", spec, "-o", two, "--resume", *common])
    capsys.readouterr()
    logs = [json.loads((tmp_path / f"{name}.safetensors.log.json").read_text()) for name in "ab"]
    assert logs[0]["history"] == logs[1]["history"]


def test_compile_names_train_and_check_counts(spec, tmp_path, capsys):
    assert run(["compile", spec, "-o", str(tmp_path / "x.safetensors")]) == 2
    assert "adderc train" in capsys.readouterr().err
    assert run(["check", spec]) == 0
    assert "57 numbers are still to be found" in capsys.readouterr().out
    assert run(["train", "nanogpt58", "-o", str(tmp_path / "x.safetensors")]) == 2
    assert "nothing is to be trained" in capsys.readouterr().err


def test_a_learning_curve_is_drawn(spec, tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "curve.png"
    run(["train", spec, "-o", str(tmp_path / "x.safetensors"), "--steps", "200", "--workers", "1",
         "--no-finish", "--plot", str(picture), "--quiet"])
    assert picture.read_bytes().startswith(b"\x89PNG")


def plan_of(block):
    text = text_of("small").partition("weights")[0] + f"weights {{ train {{ {block} }} }}"
    return read_train(check_spec(parse(Source("tiny.adder", text))))


def test_a_plan_reads_as_it_is_written():
    plan = plan_of("steps 50  optimizer adamw(lr = 0.5, beta2 = 0.98)  schedule constant "
                   "warmup 10  clip 2  carry mix(0.8, from = 10, to = 30) "
                   "curriculum mixed(1, steps = 20), digits(width)  restarts race(9, steps = 4, "
                   "keep = 2)  stop exact(5)")
    assert (plan.steps, plan.rate, plan.betas, plan.clip) == (50, 0.5, (0.9, 0.98), 2.0)
    assert plan.race == Race(9, 4, 2)
    assert plan.stop == 5
    assert [plan.rate_at(step) for step in (0, 9, 40)] == pytest.approx([0.05, 0.5, 0.5])
    assert [plan.draw_at(step).carry for step in (0, 20, 30)] == pytest.approx([0.8, 0.4, 0.0])
    assert (plan.draw_at(19).most, plan.draw_at(19).mixed) == (1, True)
    assert (plan.draw_at(20).most, plan.draw_at(20).mixed) == (2, False)


@pytest.mark.parametrize(("block", "message"), [
    ("steps 0.5", "steps takes a whole number"),
    ("optimizer sgd(lr = 1)", "optimizer does not know this"),
    ("margin 1", "has no place in train"),
    ("steps 5 steps 6", "\"steps\" is given twice"),
    ("curriculum digits(1), digits(2)", "every phase but the last has its steps"),
    ("warmup 1, 2", "warmup takes one number"),
])
def test_faults_of_a_plan_are_told(block, message):
    with pytest.raises(SpecError) as caught:
        plan_of(block)
    assert message in str(caught.value)
