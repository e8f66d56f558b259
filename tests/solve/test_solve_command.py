"""adderc solve: models that are right, reasons where there is none, exit codes."""

import json
from pathlib import Path

import numpy as np
import pytest
from solving import spec_with, states_spec

from adderc import load, pipeline
from adderc.app import run
from adderc.errors import Infeasible, InputError, Source, SpecError, Unsolved
from adderc.nn.module import AdderModule
from specs import spec_text

FEW = ("ffn       relu { rows shared; out rank 1 }", "ffn relu 3 { out dense }")


def written(tmp_path, source):
    path = tmp_path / source.name
    path.write_text(source.text)
    return str(path), str(tmp_path / "model.safetensors")


def solve(capsys, tmp_path, source, *options):
    spec, model = written(tmp_path, source)
    code = run(["solve", spec, "-o", model, "--json", *options])
    return code, json.loads(capsys.readouterr().out), model


def test_a_state_machine_as_a_whole(tmp_path, capsys):
    code, found, model = solve(capsys, tmp_path, states_spec(), "--margin", "2")
    assert code == 0
    assert found["parameters"] == 46
    assert found["method"] == "solve, nlp"
    assert found["norm"] <= 5.417
    assert found["margin"] >= 2
    module = load(model)
    pairs = [(a, b) for a in range(64) for b in range(64)]
    assert module.add_many(pairs) == [a + b for a, b in pairs]
    assert set(module.provenance["leaves"].values()) == {"solved"}
    assert module.provenance["seed"] == 0
    assert module.provenance["solve"]["margin"] == found["margin"]


@pytest.mark.parametrize(("block", "name"), [
    ("ffn", "nanogpt58"), ("ffn", "rope19"), ("decode", "rope19"), ("embedding", "rope19"),
    pytest.param("decode", "nanogpt58", marks=pytest.mark.slow),
    pytest.param("embedding", "nanogpt58", marks=pytest.mark.slow),
])
def test_one_block_is_no_worse_than_the_lowering(tmp_path, capsys, name, block):
    code, found, model = solve(capsys, tmp_path, spec_with(name, f"solve {block}"),
                               "--width", "3", "--base", "4")
    derived = pipeline.compile_spec(spec_with(name, "derive"),
                                    pipeline.Settings(width=3, base=4))
    assert code == 0
    assert found["norm"] <= derived.norm * (1 + 1e-6)
    lowering = found["lowering"]
    assert (found["margin"] / found["largest_logit"]
            >= lowering["margin"] / lowering["largest_logit"])
    module = load(model)
    pairs = [(a, b) for a in range(64) for b in range(64)]
    assert module.add_many(pairs) == [a + b for a, b in pairs]
    how = module.provenance["leaves"]
    assert "solved" in how.values()
    assert "derived" in how.values()


def test_one_unit_too_few_is_proved_where_it_is_linear():
    source = spec_with("nanogpt58", "solve ffn.out", replace=[FEW])
    with pytest.raises(Infeasible, match="proved infeasible") as caught:
        pipeline.compile_spec(source, pipeline.Settings(width=3, base=4))
    assert caught.value.exit_code == 1
    assert "must win over" in str(caught.value)
    assert "one more hidden unit (ffn relu 4)" in str(caught.value)


def test_one_unit_too_few_is_not_found_where_it_bends(monkeypatch):
    from adderc.solve import nlp

    monkeypatch.setattr(nlp, "DOUBLINGS", 1)
    source = spec_with("nanogpt58", "solve ffn", replace=[
        (FEW[0], "ffn relu 1 { out dense }")])
    with pytest.raises(Unsolved, match="not found") as caught:
        pipeline.compile_spec(source, pipeline.Settings(width=1, base=2))
    assert caught.value.exit_code == 3
    assert "must win over" in str(caught.value)


def test_nothing_to_solve_is_bad_usage():
    with pytest.raises(InputError, match="nothing is to be solved"):
        pipeline.compile_spec(spec_with("nanogpt58", "derive"),
                              solver=pipeline.SolverOptions())


@pytest.mark.parametrize(("weights", "message"), [
    ("solve nose", "no leaf or block 'nose'"),
    ("solve ffn { budget 3 }", "no option 'budget'"),
    ("solve ffn { method magic }", "known methods"),
    ("solve ffn { margin -1 }", "positive"),
    ("solve ffn.bias; given ffn.bias = (1, 2, 3, 4)", "nothing is left to solve"),
])
def test_bad_rules_are_told(weights, message):
    with pytest.raises(SpecError, match=message):
        pipeline.compile_spec(spec_with("nanogpt58", weights), pipeline.Settings(width=3))


def test_compile_carries_out_solve_rules():
    made = pipeline.compile_spec(spec_with("nanogpt58", "solve decode"),
                                 pipeline.Settings(width=2, base=3))
    assert made.method == "solve, nlp"
    assert made.solved.checked.holds


def test_a_seed_gives_the_same_file(tmp_path):
    spec, model = written(tmp_path, states_spec())
    files = []
    for _ in range(2):
        assert run(["solve", spec, "-o", model, "--margin", "1", "--seed", "5", "--quiet"]) == 0
        files.append(Path(model).read_bytes())
    assert files[0] == files[1]


def test_an_interrupt_keeps_the_best(tmp_path, capsys, monkeypatch):
    from adderc.solve import nlp

    polish = nlp._Polish.polished
    calls = []

    def interrupted(self, point, steps):
        calls.append(steps)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return polish(self, point, steps)

    monkeypatch.setattr(nlp._Polish, "polished", interrupted)
    code, found, model = solve(capsys, tmp_path, states_spec())
    assert code == 130
    assert found["interrupted"]
    assert load(model).add(13, 29) == 42


def test_norms_that_leave_no_room(tmp_path):
    source = spec_with("nanogpt58", "solve decode { norm 10 }")
    with pytest.raises(SpecError, match="less than that of the known leaves"):
        pipeline.compile_spec(source, pipeline.Settings(width=3))


def test_the_constraints_tell_where_they_come_from(monkeypatch):
    from adderc.solve import nlp

    monkeypatch.setattr(nlp, "DOUBLINGS", 1)
    with pytest.raises(Unsolved) as caught:
        pipeline.compile_spec(states_spec(base=3, width=2, hidden=1, norm="norm 0.5"))
    text = str(caught.value)
    assert "a[i] = " in text
    assert "s[i-1] = " in text
    assert np.any(["lead" in line for line in text.splitlines()])


def test_a_layer_behind_a_routing_table():
    text = spec_text(number="base 3 width 3", model="position routes", weights="solve ffn",
                     format='prompt msd(a) "+" lsd(b) "="\nanswer lsd(s)')
    compiled = pipeline.compile_spec(Source("routes.adder", text))
    attention = compiled.structure.blocks[0].attention
    assert attention is not None
    assert attention.visible is not None
    module = AdderModule(compiled.structure, compiled.values)
    pairs = [(a, b) for a in range(27) for b in range(27)]
    assert module.add_many(pairs) == [a + b for a, b in pairs]
