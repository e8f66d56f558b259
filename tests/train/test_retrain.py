"""The trained models that come with the package: again from their recorded seed."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest

from adderc.app import run
from adderc.lang.parse import parse
from adderc.pipeline import Settings
from adderc.pipeline.driver import settle
from adderc.pipeline.specs import read_spec
from adderc.pipeline.train import TrainOptions, machine, task_of
from adderc.train.conduct import leg

MODELS = Path(__file__).resolve().parents[2] / "models"
LOGS = sorted(MODELS.glob("*.log.json"))
COMPARED, ELSEWHERE, CLOSE = 500, 20, 1e-4


def test_there_is_a_log_for_every_trained_model():
    assert [f"{path.name}.log.json" for path in sorted(MODELS.glob("*.safetensors"))] == [
        path.name for path in LOGS]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["microadder57", "lowrank512"])
def test_the_trained_models_are_proven(capsys, name):
    """All sums of ten digits, as the README says."""
    assert run(["prove", str(MODELS / f"{name}.safetensors"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "PROVEN"


@pytest.mark.slow
@pytest.mark.filterwarnings("default::UserWarning")
@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.name.partition(".")[0])
def test_a_recorded_run_repeats(path, record_property):
    """Bit-identical for 500 steps on the machine that the log names; on any other the first
    20 losses within 1e-4. Says which of the two it was."""
    record = json.loads(path.read_text(encoding="utf-8"))
    source = read_spec(f"specs/{path.name.partition('.')[0]}.adder")
    checked = settle(parse(source), Settings(), unchecked=False)
    task = task_of(checked, Settings(), TrainOptions(steps=record["plan"]["steps"]), source.text)
    assert task.plan.rate == record["plan"]["rate"]
    assert task.plan.batch == record["plan"]["batch"]
    state = leg(task, record["seed"], None)
    here, kept = machine(task), record["losses"]
    alike = all(here[key] == record["machine"][key] for key in ("torch", "cpu", "step"))
    said = "bit-identical: same machine" if alike else f"within {CLOSE}: another machine"
    record_property("compared", said)
    warnings.warn(UserWarning(f"{path.name}: {said}"), stacklevel=1)
    if alike:
        assert state.losses[:COMPARED] == kept[:COMPARED]
    else:
        np.testing.assert_allclose(state.losses[:ELSEWHERE], kept[:ELSEWHERE], rtol=0, atol=CLOSE)
