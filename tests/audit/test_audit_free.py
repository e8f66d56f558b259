"""Specs whose weights are trained or solved for, counted before there are any."""

from pathlib import Path

import numpy as np
import pytest

from adderc.app import run
from adderc.app_audit import audit_spec
from adderc.audit.run import audit_compiled
from adderc.nn.module import AdderModule
from adderc.report.audit import audit_text

SPECS = Path(__file__).parents[2] / "specs"


def counted(name):
    from adderc import pipeline

    path = str(SPECS / f"{name}.adder")
    return audit_spec(pipeline, pipeline.read_spec(path), pipeline.Settings(), path, False, False)


COMPONENTS = {
    "gpt46": {"embedding": 8, "attention Q": 4, "attention K": 4, "attention V": 4,
              "attention O": 4, "FFN in": 12, "FFN out": 10},
    "lowrank512": {"embedding": 98, "positions": 120, "norms": 42, "attention Q": 84,
                   "attention O": 42, "FFN in": 63, "FFN out": 63},
    "lowrank582": {"embedding": 98, "positions": 120, "norms": 42, "attention Q": 84,
                   "attention O": 42, "FFN in": 98, "FFN out": 98},
    "microadder57": {"embedding": 3, "positions": 6, "norms": 5, "attention Q": 13,
                     "attention V": 10, "attention O": 10, "FFN in": 10},
    "microadder67": {"embedding": 3, "positions": 6, "norms": 5, "attention Q": 13,
                     "attention V": 10, "attention O": 10, "FFN in": 10, "FFN out": 10},
    "microadder74": {"embedding": 3, "positions": 10, "norms": 5, "attention Q": 16,
                     "attention V": 10, "attention O": 10, "FFN in": 10, "FFN out": 10},
}
SIBLINGS = ("lowrank582", "microadder67", "microadder74")  # of those that always run
POSITIONS = {"gpt46": [35], "microadder57": [0.15, 3.5, 10], "microadder67": [0.15, 3.5, 10],
             "microadder74": [0.628319]}  # what fixes the positions, besides the leaves


@pytest.mark.parametrize("name", COMPONENTS)
def test_the_reference_architectures(name):
    report = counted(name)
    assert dict(report.components) == COMPONENTS[name]
    total = int(name.lstrip("abcdefghijklmnopqrstuvwxyz"))
    assert report.counts.declared == report.counts.strict == total
    assert (report.counts.scalars, report.counts.nonzero) == (None, None)
    assert all(leaf.line > 0 for leaf in report.leaves)


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.slow if name in SIBLINGS else [])
    for name in COMPONENTS])
def test_both_counts_of_untrained_weights_agree(name, numbers):
    from adderc import pipeline

    structure = pipeline.planned_spec(
        pipeline.read_spec(str(SPECS / f"{name}.adder")), pipeline.Settings())
    chance = np.random.default_rng(0)
    values = {leaf.name: chance.normal(size=leaf.shape).astype(structure.dtype)
              for leaf in structure.leaf_shapes()}
    report = audit_compiled(AdderModule(structure, values), name)
    assert report.agrees, report.second
    assert dict(report.components) == COMPONENTS[name]
    assert numbers(report) == []
    assert numbers(report, "positional") == POSITIONS.get(name, [])
    declared = sum(COMPONENTS[name].values())
    assert report.counts.scalars == report.counts.strict == declared
    assert report.counts.strict_positional == declared + len(POSITIONS.get(name, []))


def test_what_each_choice_changes():
    choices = {c.component: c for c in counted("lowrank512").choices if c.form != "no bias"}
    joint = choices["attention Q, K, V"]
    assert (joint.form, joint.cost, joint.plain) == ("rank 3 together", 84, 3 * 49)
    assert (choices["positions"].cost, choices["positions"].plain) == (120, 33 * 7)
    assert (choices["head"].form, choices["head"].cost, choices["head"].plain) == (
        "tied to embedding", 0, 98)
    micro = {c.component: c for c in counted("microadder57").choices if c.form != "no bias"}
    assert micro["attention K"].form == "tied to attention Q"
    assert micro["FFN out"].form == "tied to attention V"
    assert micro["final norm"].form == "tied to norm before attention"
    assert micro["embedding"].form == "circular arc"


@pytest.mark.parametrize("wide", [80, 120])
def test_nothing_runs_over_the_edge(wide):
    for name in COMPONENTS:
        text = audit_text(counted(name), wide)
        assert max(map(len, text.splitlines())) <= wide
        assert "…" not in text


def test_several_specs_are_sorted_by_any_count(capsys):
    paths = [str(SPECS / f"{name}.adder") for name in ("lowrank512", "microadder57", "gpt46")]
    assert run(["audit", *paths, "--sort", "dense"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table[1:4]] == [
        "gpt46.adder", "microadder57.adder", "lowrank512.adder"]
