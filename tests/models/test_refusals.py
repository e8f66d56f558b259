"""Models that cannot be: refused with the place, the reason and what would help."""

from __future__ import annotations

import pytest
from levels import Levels

from adderc.errors import AddercError, Refusal, Source, SpecError
from adderc.pipeline import Settings, compile_spec, read_spec
from specs import RIPPLE, spec_text


def message(model: str = "layers 1", weights: str = "derive", number: str = "base 10 width 4",
            error: type[AddercError] = Refusal, **settings: object) -> str:
    source = Source("t", spec_text(number=number, model=model, weights=weights))
    with pytest.raises(error) as caught:
        compile_spec(source, Settings(**settings))
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize(("model", "kind", "words"), [
    ("ffn relu 2", "algorithm impossible", ("2 hidden units are too few", "relu 4")),
    ("d_model 3", "algorithm impossible", ("d_model 3 is too small", "write d_model 4")),
    ("decode vshape\nd_model 3", "algorithm impossible", ("write d_model 14", "10 logits")),
    ("norm layer\nd_model 3", "algorithm impossible", ("write d_model 7", "balance")),
    ("position rope", "positions collide", ("run backwards", "in the same order")),
    ("position sinusoid(period = 2)", "positions collide", ("period 2: at step", "position 0")),
    ("position sinusoid(period = 4)", "positions collide", ("period 4", "position")),
    ("heads rotation(x)", "algorithm impossible", ("at least 2 heads are needed",)),
    ("attention { k shared }", "algorithm impossible", ("attention.k cannot be shared",)),
    ("attention { k rank 1 }", "algorithm impossible", ("has rank 2, the form allows 1",)),
    ("decode parabola { bias fixed }", "algorithm impossible", ("0, 1 and -1",)),
])
def test_refusals(model: str, kind: str, words: tuple[str, ...]) -> None:
    text = message(model)
    assert f"cannot compile ({kind})" in text
    assert "t:" in text
    assert "^" in text
    for word in words:
        assert word in text


@pytest.mark.parametrize("model", ["d_model 14\ndecode vshape", "d_model 7\nnorm layer"])
def test_the_dimensions_that_a_refusal_asks_for_are_enough(model: str) -> None:
    text = spec_text(number="base 10 width 4", model=model)
    assert compile_spec(Source("t", text)).structure.d_model == int(model.split()[1])


@pytest.mark.parametrize(("model", "words"), [
    ("embed rank 0", ("rank 0 is out of range: 1 to 65536",)),
    ("ffn relu 1000000000", ("relu 1000000000 is out of range",)),
    ("position sinusoid(gain = 0)", ("with a gain of 0", "cannot be told apart")),
    ('position sinusoid(gain = 2 until "=", 0)', ("with a gain of 0",)),
])
def test_numbers_that_cannot_be(model: str, words: tuple[str, ...]) -> None:
    text = message(model, error=SpecError)
    assert "^" in text
    for word in words:
        assert word in text


@pytest.mark.parametrize(("model", "words"), [
    ("position sinusiod", ("unknown", "sinusiod", "sinusoid")),
    ("ffn rleu", ("unknown", "rleu", "relu")),
    ("decode parabla", ("unknown", "parabla", "parabola")),
    ("heads rotaton(x), rotation(prev)", ("unknown", "rotaton", "rotation")),
    ("attention { q triangular }", ("unknown matrix form", "triangular")),
    ("norm batch", ("unknown norm", "batch")),
])
def test_unknown_realizations(model: str, words: tuple[str, ...]) -> None:
    text = message(model, error=SpecError)
    for word in words:
        assert word in text


@pytest.mark.parametrize(("base", "width", "factor"), [
    (10, 12, 2000), pytest.param(36, 200, 9, marks=pytest.mark.slow)])
def test_a_dtype_too_short_for_the_width(base: int, width: int, factor: int) -> None:
    """Many steps to tell apart, on sums many times as large, leave float32 little slack."""
    algorithm = RIPPLE.replace("(x + carry)", f"({factor}*x + carry)")
    text = spec_text(algorithm, f"base {base} width {width}")
    with pytest.raises(Refusal) as caught:
        compile_spec(Source("t", text), unchecked=True)
    assert caught.value.kind == "dtype bound"
    assert f"float32 cannot hold width {width} in base {base}" in str(caught.value)
    assert "is not at most" in str(caught.value)
    assert "--dtype float64" in str(caught.value)
    assert compile_spec(Source("t", text), Settings(dtype="float64"), unchecked=True).margin > 0


@pytest.mark.parametrize("pair", [
    ("attention.q.scal", "3"), ("ffn.bias", "[1, 2]"), ("ffn.bias", "[1, 2, 3, wdth]"),
    ("ffn.bias", "1 +"), ("ffn.bias", "10^99999"), ("width", "x"), ("a b", "3"),
])
def test_settings_that_fit_nothing(pair: tuple[str, str]) -> None:
    text = message(error=AddercError, set=(pair,))
    assert pair[0] in text
    assert "adder test" not in text  # no line of the spec is to blame


def test_given_scales_that_break_are_warnings_not_refusals() -> None:
    levels = Levels(read_spec("nanogpt58"), Settings(set=(("attention.q.scale", "1/64"),)))
    assert any("leak" in warning for warning in levels.compiled.warnings)
    assert levels.compiled.margin < 0


def test_a_scale_symbol_is_given_by_its_name() -> None:
    compiled = Levels(read_spec("nanogpt58"), Settings(set=(("G", "3"),))).compiled
    assert compiled.structure.position.gains == ((0, 3), (21, 1))
    with pytest.raises(SpecError, match="there is no leaf 'g'"):
        compile_spec(read_spec("nanogpt58"), Settings(set=(("g", "3"),)))
