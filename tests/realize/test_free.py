"""Structures without a circuit: what every form stores, and what is refused."""

import math

import numpy as np
import pytest

from adderc.errors import Source, SpecError
from adderc.lang.check import check_spec
from adderc.lang.parse import parse
from adderc.lang.show import show
from adderc.nn.module import AdderModule
from adderc.passes.plan import read_plan
from adderc.pipeline.specs import read_spec
from adderc.realize.free import free_structure

LEAVES = {"microadder57": 57, "microadder67": 67, "microadder74": 74, "lowrank512": 512,
          "lowrank582": 582}
TEXT = """adder free
number { base 10  width 3  operands 2 }
format { prompt lsd(a) "+" lsd(b) "="  answer lsd(s) }
model { layers 1  d_model 4  %s }
weights { train { steps 10 } }
"""


def structure_of(model):
    checked = check_spec(parse(Source("free.adder", TEXT % model)))
    return free_structure(read_plan(checked), checked)


def sizes(structure):
    return {leaf.name: math.prod(leaf.shape) for leaf in structure.leaf_shapes()}


@pytest.mark.parametrize("name", LEAVES)
def test_the_trained_specs_have_as_many_leaves_as_published(name):
    spec = parse(read_spec(f"specs/{name}.adder"))
    checked = check_spec(spec)
    structure = free_structure(read_plan(checked), checked)
    assert sum(sizes(structure).values()) == LEAVES[name]
    assert all(info.how == "trained" and info.line for info in structure.leaves)
    assert parse(Source("shown", show(spec))) == spec


def test_components_of_the_tied_spec():
    checked = check_spec(parse(read_spec("specs/microadder57.adder")))
    structure = free_structure(read_plan(checked), checked)
    rng = np.random.default_rng(0)
    values = {leaf.name: rng.normal(size=leaf.shape).astype(np.float32)
              for leaf in structure.leaf_shapes()}
    matrices = {n: m.detach().numpy() for n, m in AdderModule(structure, values).matrices().items()}
    position, head = matrices["position"], values["decode.weight"]
    angle = 2 * np.pi * np.arange(10) / 10
    spiral = np.stack([3.5 * np.cos(angle), 3.5 * np.sin(angle), 0.15 * np.arange(10)], 1)
    for first in (0, 11, 22):  # a, b and the answer share their digits' places
        np.testing.assert_allclose(position[first : first + 10, 2:], spiral, atol=1e-5)
    assert not position[10].any()
    np.testing.assert_array_equal(position[21, 2:], values["position.symbol0"][0])
    np.testing.assert_array_equal(position[32, 2:], values["position.carry"][0])
    assert position.shape == (33, 5)
    assert not position[:, :2].any()
    radius, start, stride = (values[f"embed.{n}"].item() for n in ("radius", "start", "stride"))
    turn = start + stride * np.arange(10)
    np.testing.assert_allclose(matrices["embedding"][:, :2],
                               radius * np.stack([np.cos(turn), np.sin(turn)], 1), atol=1e-5)
    k, q = matrices["blocks.0.attention.k"], matrices["blocks.0.attention.q"]
    assert not k[4].any()
    assert not k[:, :2].any()
    angle = values["attention.q.angle"].item()
    turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    for pair in (slice(0, 2), slice(2, 4)):
        np.testing.assert_allclose(q[pair], turned @ k[pair], atol=1e-5)
    np.testing.assert_array_equal(matrices["blocks.0.attention.v"][:, :2], head.T)
    np.testing.assert_array_equal(matrices["blocks.0.feed_forward.down"], head.T)
    np.testing.assert_allclose(matrices["head.weight"], matrices["embedding"][:, :2] @ head,
                               atol=1e-5)


@pytest.mark.parametrize(("model", "total"), [
    ("heads 1  embed dense  position table  ffn relu 4  decode tied", 48 + 44 + 64 + 40),
    ("heads 2  embed rank 1  position none  ffn relu 4 { bias none }  decode tied",
     16 + 64 + 32),
    ("heads 1  embed dense  position none  attention { q shared; k tied(q); v dense; out dense }"
     "  ffn swiglu 2 { bias none }  decode dense { bias dense }  norm layer",
     48 + 8 + 16 + 16 + 24 + 60 + 24),
    ("heads 2  embed dense  position sinusoid(period = 7)  attention { q rotation(k) }"
     "  ffn gelu 2  decode tied  norm rms shared", 48 + 2 + 48 + 22 + 4),
])
def test_every_form_stores_what_it_says(model, total):
    assert sum(sizes(structure_of(model)).values()) == total


@pytest.mark.parametrize(("model", "message"), [
    ("heads 1  attention { q sparse }", "cannot be 'sparse' without an algorithm"),
    ("heads 1  attention { q tied(k); k tied(q) }", "refers to itself"),
    ("heads 1  decode tied  attention { v transposed(decode) }",
     "is transposed to one other matrix"),
    ("heads 1  attention { k dense(reads = position) }", "cannot read only position"),
    ("heads 1  attention { k dense(size = 9) }", "size is a whole number from 1 to 4"),
    ("heads 1  residual token 3, position 3", "take 6 dimensions, d_model is 4"),
    ("heads 1  position spiral(turns = 2)", "has no option 'turns'"),
    ("heads 1  embed arc", "embed arc has two dimensions"),
    ("heads 1  ffn cubic 3", "unknown activation"),
    ("heads 1  norm batch", "unknown norm"),
    ("heads 1  position routes", "takes the distances"),
])
def test_what_cannot_be_is_refused(model, message):
    with pytest.raises(SpecError) as caught:
        structure_of(model)
    assert message in str(caught.value)


def test_a_model_without_a_size_is_refused():
    text = TEXT.replace("d_model 4", "") % "heads 1"
    checked = check_spec(parse(Source("free.adder", text)))
    with pytest.raises(SpecError, match="needs its d_model"):
        free_structure(read_plan(checked), checked)
