"""Exported files: alone in a process of their own they compute what the module computes."""

import json
import random
import runpy
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from handmade import plain_attention, plain_structure, random_values, rotation_adder

from adderc.errors import InputError
from adderc.export import write
from adderc.export.source import constants_of
from adderc.export.write import ExportFault, export
from adderc.format.number import NumberFormat
from adderc.format.prompt import DigitTuples, Format, OperandDigits, Symbols
from adderc.nn.module import AdderModule
from adderc.weights.expr import (
    Add,
    Arange,
    Constant,
    Leaf,
    MatMul,
    Mul,
    Neg,
    Reciprocal,
    Scatter,
    Structural,
    Take,
    Transpose,
)
from adderc.weights.structure import (
    Block,
    FeedForward,
    Head,
    Norm,
    PositionTable,
    Rope,
    Sinusoid,
)

ALONE = """
import json, runpy, sys
sys.modules["adderc"] = None  # importing it is an error
found = runpy.run_path(sys.argv[1], run_name="alone")
pairs = json.loads(sys.argv[2])
if "build_model" in found:
    model, metadata = found["build_model"]()
    sums = [found["add"](model, *pair) for pair in pairs]
else:
    metadata, sums = None, [found["add"](*pair) for pair in pairs]
print(json.dumps({"sums": sums, "metadata": metadata}))
"""


def run_alone(path, pairs, folder):
    ran = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", ALONE, str(path), json.dumps(pairs)],
        cwd=folder, capture_output=True, text=True, check=True)
    return json.loads(ran.stdout)


def module_of(structure, scale=0.5):
    values = {name: scale * value for name, value in random_values(structure).items()}
    return AdderModule(structure, values)


def test_the_file_adds_where_adderc_is_not(tmp_path):
    module = AdderModule(*rotation_adder(10))
    path = tmp_path / "adder.py"
    found = export(module, "py", path)
    assert found.prefixes >= 1000
    assert found.largest_difference <= found.allowed < 0.01
    pairs = [(9999999999, 1), (0, 0), (1234567890, 9876543210)]
    assert run_alone(path, pairs, tmp_path)["sums"] == [sum(pair) for pair in pairs]
    assert [p.name for p in tmp_path.iterdir()] == ["adder.py"]
    script = subprocess.run([sys.executable, "-I", str(path), "12", "34"], cwd="/",
                            capture_output=True, text=True, check=True)
    assert script.stdout == "46\n"
    assert max(map(len, path.read_text().splitlines())) <= 100


def test_the_public_protocol(tmp_path):
    module = AdderModule(*rotation_adder(10))
    path = tmp_path / "entry.py"
    export(module, "adderboard", path, {"spec": {"name": "hand.adder", "text": ""}})
    chance = random.Random(2025)
    pairs = [(0, 9999999999), (9999999999, 9999999999), (1111111111, 8888888889)]
    pairs += [(chance.randint(0, 10**10 - 1), chance.randint(0, 10**10 - 1)) for _ in range(20)]
    found = run_alone(path, pairs, tmp_path)
    assert found["sums"] == [sum(pair) for pair in pairs]
    metadata = found["metadata"]
    assert metadata["params"] == sum(p.numel() for p in module.parameters())
    assert metadata["name"] == "hand"
    assert any("period 11" in text for text in metadata["constants"])


def odd_structures():
    """Everything a structure can hold, one oddity at a time."""
    yield "rope", plain_structure(plain_attention(rope=Rope((Fraction(7), Fraction(19, 2)))))
    yield "slopes", plain_structure(plain_attention(
        slopes=Leaf("slopes", (2,)), scale=Constant(Fraction(1, 3), 1), kind="softmax1"))
    yield "routes", plain_structure(plain_attention(
        routes=((0, 3), (8,)), q_bias=Leaf("q.bias", (1, 8)), out_bias=Leaf("o.bias", (1, 6))))
    norm = Norm("rms", Leaf("n.weight", (1, 6)))
    layer = Norm("layer", Leaf("l.weight", (6,)), Leaf("l.bias", (6,)))
    gated = FeedForward("silu", Leaf("up", (4, 6)), Leaf("down", (6, 4)),
                        gate=Leaf("gate", (4, 6)), gate_bias=Leaf("gate.bias", (1, 4)),
                        down_bias=Leaf("down.bias", (1, 6)))
    gelu = FeedForward("gelu", Leaf("up2", (4, 6)), Leaf("down2", (6, 4)),
                       up_bias=Leaf("up2.bias", (4,)))
    yield "norms", plain_structure(None, "float32", final_norm=norm, blocks=(
        Block(plain_attention(), gated, norm, layer), Block(None, gelu, None, norm)))
    table = Leaf("position", (11, 6))
    yield "table", plain_structure(plain_attention(), position=PositionTable(table))
    for rounded in (None, "float32"):
        signal = Sinusoid(Fraction(9, 2), (2, 4), ((0, Fraction(3, 2)), (5, Fraction(1))), rounded)
        yield f"sinusoid {rounded}", plain_structure(plain_attention(), "float32", position=signal)
    balanced = replace(signal, rounded=None, balance=5)
    yield "balanced", plain_structure(plain_attention(), "float32", position=balanced)
    column = Leaf("column", (10, 1))
    arc = Add(Mul(Arange(10), Reciprocal(column)), Neg(Mul(column, Constant(Fraction(7, 2)))))
    tied = MatMul(arc, Structural(((0, 1, 1), (0, 4, -1)), (1, 6)))
    yield "tied", plain_structure(plain_attention(), embedding=tied, head=Head(tied))
    square = Leaf("square", (6, 6))
    taken = Take(Take(square, (0, 2, 2, 5, 1, 1, 3, 0), 0), (1, 0, 2, 3, 4, 5), 1)
    mixed = plain_attention(q=taken, k=Transpose(Scatter(square, tuple(range(6)),
                                                         tuple(range(1, 7)), (6, 8))))
    yield "tables", plain_structure(mixed)


ODD = dict(odd_structures())


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("target", ["py", "adderboard"])
def test_every_kind_of_structure_is_the_same_model(name, target, tmp_path):
    module = module_of(ODD[name])
    found = export(module, target, tmp_path / "odd.py")
    assert found.largest_difference <= found.allowed
    assert found.parameters == sum(p.numel() for p in module.parameters())


def test_other_formats(tmp_path):
    number = NumberFormat(3, 2, 3)
    form = Format(number, (Symbols("^", 2), DigitTuples("msd"), Symbols("=")),
                  answer_order="msd", answer_kind="states", tokens=(("^", 27), ("=", 28)))
    structure = plain_structure(
        plain_attention(), number=number, format=form, embedding=Leaf("embedding", (29, 6)),
        head=Head(Leaf("head.weight", (29, 6))))
    module = module_of(structure)
    path = tmp_path / "states.py"
    export(module, "py", path)
    triples = [(0, 0, 0), (8, 8, 8), (1, 5, 7)]
    assert run_alone(path, triples, tmp_path)["sums"] == [module.add(*t) for t in triples]
    namespace = runpy.run_path(str(path))
    assert namespace["encode"](1, 5, 7) == form.encode([(1, 5, 7)])[0].tolist()
    assert namespace["decode"]([4, 8]) == form.decode([4, 8])
    with pytest.raises(ValueError, match="not from 0 to 8"):
        namespace["encode"](9, 0, 0)


def test_operand_orders(tmp_path):
    number = NumberFormat(10, 3, 2, limit=500)
    form = Format(number, (OperandDigits(0, "lsd"), Symbols("+"), OperandDigits(1, "msd")),
                  answer_order="msd", tokens=(("+", 0),))
    module = module_of(plain_structure(plain_attention(), number=number, format=form))
    export(module, "py", tmp_path / "m.py")
    namespace = runpy.run_path(str(tmp_path / "m.py"))
    assert namespace["encode"](123, 456) == [3, 2, 1, 0, 4, 5, 6]
    assert namespace["add"](123, 456) == module.add(123, 456)
    assert namespace["MAXIMUM"] == 500


@pytest.mark.parametrize(("spoil", "words"), [
    (lambda text: text.replace("torch.softmax(scores", "torch.softmax(-scores"), "differs"),
    (lambda text: text.replace("x = x + (hidden", "x = x - (hidden"), "another token"),
])
def test_a_file_that_differs_is_not_written(spoil, words, tmp_path, monkeypatch):
    right = write.TARGETS["py"]
    monkeypatch.setitem(write.TARGETS, "py", lambda *a: spoil(right(*a)))
    (tmp_path / "old.py").write_text("kept")
    with pytest.raises(ExportFault, match=words):
        export(AdderModule(*rotation_adder(3)), "py", tmp_path / "old.py")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["kept"]


def test_nan_models_are_exported_as_they_are(tmp_path):
    structure, values = rotation_adder(2)
    values["head.lin"] = np.array([[np.nan]])
    values["out.x"] = np.array([[np.inf]])
    export(AdderModule(structure, values), "py", tmp_path / "nan.py")


@pytest.mark.parametrize(("target", "name", "words"), [
    ("onnx", "m.py", "onnx is not implemented yet"), ("exe", "m.py", "no export target"),
    ("py", "m.txt", "Python file"), ("py", "none/m.py", "does not exist"),
])
def test_bad_requests(target, name, words, tmp_path):
    with pytest.raises(InputError, match=words):
        export(AdderModule(*rotation_adder(2)), target, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_constants_are_all_named():
    slopes = ODD["slopes"]
    assert constants_of(slopes) == ["1/3 * pi^1 in blocks.0.attention.scale"]
    assert constants_of(ODD["rope"]) == ["rotary periods 7, 19/2 (positions only)"]
    assert constants_of(ODD["table"]) == []
