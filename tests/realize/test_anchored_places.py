"""Place values by plain softmax: the first token stands for all that would come before it."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from adderc import pipeline
from adderc.errors import Refusal, Source, SpecError
from adderc.nn.module import AdderModule
from adderc.prove.run import prove
from adderc.realize.place_layout import place_layout
from adderc.verify.run import verify
from adderc.verify.suites import adversarial, exhaustive

TEXT = (Path(__file__).resolve().parents[2] / "specs" / "placevalue.adder").read_text(
    encoding="utf-8")
ANCHORED = (('"bos" msd(a)', '"bos" "+" msd(a)'), ('    tokens  "+" -> "bos"\n', ""),
            ("softmax softmax1", "softmax softmax"))


def source(*changes):
    text = TEXT
    for old, new in (*ANCHORED, *changes):
        assert old in text
        text = text.replace(old, new)
    return Source("anchored", text)


def compiled(*changes, **settings):
    return pipeline.compile_spec(source(*changes), pipeline.Settings(**settings))


def module_of(result):
    return AdderModule(result.structure, result.values)


def wrong(module, suite):
    found = verify(module, module.format, suite)
    return found.total - found.passed


@pytest.mark.parametrize(("base", "width"), [(10, 1), (10, 2), (2, 1), (2, 7), (3, 4), (16, 1)])
def test_every_sum_of_a_small_width_is_right(base, width):
    module = module_of(compiled(base=base, width=width))
    assert wrong(module, exhaustive(module.number)) == 0


@pytest.mark.parametrize(("base", "width", "dtype"), [
    (10, 13, "float64"), (10, 4, "float32"), (2, 24, "float64"), (16, 9, "float64")])
def test_adversarial_sums_of_wide_numbers_are_right(base, width, dtype):
    result = compiled(base=base, width=width, dtype=dtype)
    assert [block.attention.kind for block in result.structure.blocks] == ["softmax", "softmax"]
    assert result.parameters == 5
    module = module_of(result)
    assert wrong(module, adversarial(module.number, samples=300, seed=3)) == 0


def test_every_rows_denominator_is_the_same():
    """Behind a symbol, position t has the place value (B-1)/B B^-t, however long the prompt."""
    result = compiled(width=6)
    module = module_of(result)
    patterns = []
    module.hook_point("blocks.0.attention.pattern").register_forward_hook(
        lambda *found: patterns.append(found[2][0, 0].numpy()))
    module.add(999_999, 123_456)
    rows = patterns[-1]
    for query, key in itertools.combinations(range(1, len(rows)), 2):
        assert rows[key, query] == pytest.approx(0.9 * 10.0 ** (query - key), rel=1e-13)
    assert rows[1:, 0] == pytest.approx(10.0 ** -np.arange(1, len(rows)), rel=1e-13)


def test_without_the_anchors_score_sums_go_wrong():
    result = compiled(("weights { derive }", "weights { derive; given place.anchor = 0 }"), width=4)
    assert result.warnings
    module = module_of(result)
    assert wrong(module, adversarial(module.number, samples=200, seed=3)) > 50
    derived = compiled(width=4)
    assert derived.values["place.anchor"].item() == math.log(10 / 9)
    assert not derived.warnings


def test_three_operands():
    module = module_of(compiled(
        ("place(a) + place(b)", "place(a) + place(b) + place(c)"),
        ('msd(b) "="', 'msd(b) "+" msd(c) "="'), ("operands 2", "operands 3"), width=3))
    assert wrong(module, adversarial(module.number, samples=300, seed=3)) == 0


@pytest.mark.parametrize("prompt", [
    'msd(a) "+" msd(b) "="', '"+" "+" msd(a) "+" msd(b) "="', '"=" "+" msd(a) "+" msd(b) "="'])
def test_the_first_token_must_be_one_of_its_own(prompt):
    with pytest.raises(Refusal, match="the first token") as found:
        compiled(('"bos" "+" msd(a) "+" msd(b) "="', prompt))
    assert found.value.kind == "algorithm impossible"
    assert "softmax1" in str(found.value)


def test_the_first_token_is_no_symbol_of_a_number():
    with pytest.raises(Refusal, match="no symbol stands before operand a"):
        compiled(('"bos" "+" msd(a)', '"bos" msd(a)'))


def test_a_wide_residual_is_not_built():
    with pytest.raises(Refusal, match="not built"):
        compiled(("position  alibi", "position  alibi\n    residual  wide"))


def test_the_key_of_softmax1_is_no_leaf_here():
    with pytest.raises(SpecError, match=r"no leaf 'place\.key'"):
        compiled(("weights { derive }", "weights { derive; given place.key = 1 }"))


def test_the_layout_has_the_first_token_apart():
    spec = pipeline.settle(pipeline.parse(source()), pipeline.Settings(width=2), unchecked=False)
    layout = place_layout(spec, anchored=True)
    assert (layout.anchors, layout.tops, layout.spare) == ((1, 4, 7), (2, 5), 0)
    assert layout.start == spec.format.ids["bos"]


@pytest.mark.parametrize(("dtype", "widest"), [("float64", 13), ("float32", 4)])
def test_the_widest_numbers_are_stated_and_wider_ones_refused(dtype, widest):
    with pytest.raises(Refusal, match=f"{dtype} holds width 1 to {widest} in base 10"):
        compiled(width=widest + 1, dtype=dtype)


def test_a_small_one_is_proven_portable():
    module = module_of(compiled(width=2))
    result = prove(module, module.format)
    assert (result.verdict, result.grade) == ("PROVEN", "portable")


@pytest.mark.slow
def test_ten_digits_are_proven_portable():
    module = module_of(compiled())
    result = prove(module, module.format)
    assert (result.verdict, result.grade) == ("PROVEN", "portable")
