"""The certificate and its independent checker."""

import ast
import hashlib
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from modules import Resonant, place_value_format, plain_format
from mutants import adds_everything, draw, undo

import adderc
from adderc.errors import InputError
from adderc.prove import checker
from adderc.prove.certificate import write_certificate
from adderc.prove.checker import check_certificate
from adderc.prove.checker_digits import NEVER, Case, Places, Reach
from adderc.prove.run import prove


@pytest.fixture(scope="session")
def certified(small, tmp_path_factory):
    """The small model's certificate file and the result it came from."""
    path = tmp_path_factory.mktemp("proof") / "certificate.json"
    result = prove(small)
    write_certificate(path, result)
    return path, result


def rewrite(path, target, change):
    """A certificate with one change and a digest that fits it again."""
    data = json.loads(path.read_text())
    change(data)
    body = {key: value for key, value in data.items() if key != "digest"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    data["digest"] = hashlib.sha256(text.encode()).hexdigest()
    target.write_text(json.dumps(data))
    return target


def test_the_checker_confirms_a_proof(small, certified):
    path, result = certified
    lines = []
    check = check_certificate(path, small, progress=lines.append)
    assert check.accepted, check.reason
    assert check.grade == "portable"
    assert check.cases == result.cases
    assert 0 < check.margin <= 1
    assert len(lines) == small.format.steps


@pytest.mark.parametrize("place", [(0, "margin"), (2, "margin")])
def test_an_edited_number_is_refused(small, certified, tmp_path, place):
    path, _ = certified
    data = json.loads(path.read_text())
    data["steps"][place[0]][place[1]] *= 1.01
    edited = tmp_path / "edited.json"
    edited.write_text(json.dumps(data))
    check = check_certificate(edited, small)
    assert not check.accepted
    assert "edited" in check.reason


@pytest.mark.parametrize("change", [
    lambda data: data["steps"][1].update(margin=2.5),
    lambda data: data["steps"][1].update(margin=0.0),
    lambda data: data["steps"][1].update(margin="1"),
    lambda data: data["steps"].pop(),
    lambda data: data.update(grade="kernel"),
    lambda data: data.update(model="0" * 64),
    lambda data: data.update(format="other"),
    lambda data: data["steps"][0].update(near=5),
    lambda data: data.update(steps=None),
    lambda data: data["steps"][2].update(margin=float("nan")),
    lambda data: data["steps"][2].update(margin=float("inf")),
    lambda data: data["steps"][2].update(margin=-0.5),
    lambda data: data["steps"][2].update(margin=True),
    lambda data: data["steps"][1]["near"].append([0, 77]),
    lambda data: data["steps"][1].update(near=[[0, 0], [0, 0]]),
    lambda data: data["steps"][1]["tuples"].append([0, 3, -1.0]),
    lambda data: data["steps"][1].update(cases=[]),
    lambda data: data["steps"].append(data["steps"][-1]),
    lambda data: data.update(dtype="torch.float64"),
    lambda data: data.update(version=2),
], ids=["margin too large", "no margin", "text", "a step less", "grade", "model", "format",
        "no list", "no steps", "not a number", "infinite", "negative", "true", "no such case",
        "twice", "a fraction", "cases of its own", "a step more", "dtype", "version"])
def test_a_forged_certificate_with_a_good_digest_is_refused(small, certified, tmp_path, change):
    forged = rewrite(certified[0], tmp_path / "forged.json", change)
    assert not check_certificate(forged, small).accepted


def test_another_weight_is_refused(small, certified):
    leaf = next(iter(small.leaves().values()))
    old = leaf.detach().clone()
    try:
        with torch.no_grad():
            leaf.view(-1)[3] *= 1 + 1e-6
        check = check_certificate(certified[0], small)
    finally:
        with torch.no_grad():
            leaf.copy_(old)
    assert not check.accepted
    assert "other weights" in check.reason


def test_a_wrong_model_is_refused_even_with_its_own_identity(small, certified, tmp_path):
    """A forger who names the broken weights still meets the bounds."""
    name, leaf = next((n, p) for n, p in small.leaves().items() if n.endswith("ffn.bias"))
    old = leaf.detach().clone()
    try:
        with torch.no_grad():
            leaf.view(-1)[0] += 5
        identity = checker.model_identity(small)
        forged = rewrite(certified[0], tmp_path / "f.json", lambda d: d.update(model=identity))
        check = check_certificate(forged, small)
    finally:
        with torch.no_grad():
            leaf.copy_(old)
    assert not check.accepted, name
    assert "other weights" not in check.reason


def forged_answer(module, certificate, target):
    """The checker's answer when a certificate names the module and claims little."""

    def claim(data):
        data["model"] = checker.model_identity(module)
        for step in data["steps"]:
            step["margin"] = 1e-9

    return check_certificate(rewrite(certificate, target, claim), module)


def check_mutants(module, certificate, count, seed, tmp_path):
    accepted = wrong = 0
    for mutant in draw(module, count, seed):
        old = mutant.apply(module)
        try:
            right = adds_everything(module)
            check = forged_answer(module, certificate, tmp_path / "f.json")
        finally:
            undo(module, mutant, old)
        assert right or not check.accepted, mutant
        accepted, wrong = accepted + check.accepted, wrong + (not right)
    assert wrong
    assert accepted


def test_no_forger_passes_a_mutant_that_adds_wrongly(small, certified, read_once, tmp_path):
    check_mutants(small, certified[0], 7, 5, tmp_path)


@pytest.mark.slow
def test_no_forger_passes_one_of_many_mutants(small, certified, read_once, tmp_path):
    check_mutants(small, certified[0], 150, 6, tmp_path)


def test_what_is_no_certificate_is_refused(small, tmp_path):
    missing = check_certificate(tmp_path / "none.json", small)
    (tmp_path / "list.json").write_text("[]")
    assert not missing.accepted
    assert not check_certificate(tmp_path / "list.json", small).accepted


def test_only_a_proof_is_written(tmp_path):
    result = prove(Resonant(2, threshold=8.95), plain_format(2))
    with pytest.raises(InputError, match="REFUTED"):
        write_certificate(tmp_path / "c.json", result)


def test_the_checker_shares_no_code_with_the_prover():
    """Its files import each other, and what DESIGN allows; nothing imports them back."""
    room = Path(checker.__file__).parent
    own = {path.stem for path in room.glob("checker*.py")}
    assert len(own) > 5
    for path in room.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = ([node.module or ""] if isinstance(node, ast.ImportFrom) else
                     [alias.name for alias in node.names] if isinstance(node, ast.Import) else [])
            for name in names:
                mine = name.removeprefix("adderc.prove.") in own
                others = name.startswith("adderc.") and name.split(".")[1] not in {
                    "format", "nn", "results"}
                assert mine or not others if path.stem in own else not mine, (path.stem, name)


def test_integer_tables_have_exact_extremes():
    """Three operands, most significant digit first: against all operand tuples."""
    form = place_value_format(2, 3, 3)
    places, step = Places(form), 1
    place, near_place = form.answer_place(step), form.answer_place(step - 1)
    positions = [p for p in places.place_of if p < form.prompt_length + step]
    draw = np.random.default_rng(3)
    tables = {p: draw.integers(-50, 50, (1, places.tokens(p))).astype(float) for p in positions}

    def total(operands, place):
        """Digit sum and carry in at a place."""
        below = sum(v % 3**place for v in operands) // 3**place
        return sum(v // 3**place % 3 for v in operands), below

    best = {}
    for operands in itertools.product(range(9), repeat=3):
        tokens = [*form.encode([operands])[0], *form.expected(operands)]
        value = sum(tables[p][0, tokens[p]] for p in positions)
        digit_sum, carry = total(operands, place)
        key = Case(carry, digit_sum, sum(total(operands, near_place)))
        best[key] = max(best.get(key, NEVER), value)
    found = Reach(places, place, near_place, list(best)).largest(
        tables, 1, np.zeros(len(best), dtype=int))
    assert found.tolist() == list(best.values())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "settings"), [
    ("nanogpt58", {}), ("nanogpt58", {"base": 2}), ("nanogpt58", {"base": 3}),
    ("nanogpt58", {"base": 16}), ("nanogpt58", {"dtype": "float64"}),
    ("placevalue", {"base": 16, "width": 10}), ("microadder57", None),
], ids=str)
def test_full_width_proofs_are_confirmed(name, settings, tmp_path):
    module = (adderc.load(Path(__file__).parents[2] / "models" / f"{name}.safetensors")
              if settings is None else adderc.compile(name, **settings))
    result = prove(module)
    write_certificate(tmp_path / "c.json", result)
    check = check_certificate(tmp_path / "c.json", module)
    assert check.accepted, check.reason
    assert check.seconds < 10 * max(result.seconds, 1.0)
