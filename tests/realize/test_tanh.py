"""Steps by tanh: one file of the realize room makes them usable in any spec."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from adderc.errors import Refusal, Source
from adderc.nn.module import AdderModule
from adderc.pipeline import compile_spec
from adderc.realize.activations import ACTIVATIONS
from adderc.realize.tanh import tanh_step
from adderc.verify.run import verify
from adderc.verify.suites import exhaustive
from specs import spec_text


def test_a_step_is_right_where_it_must_be() -> None:
    for off, on in ((0.0, 1.0), (-3.0, 6.0), (90.0, 99.0)):
        made = tanh_step(off, on)
        for z, wanted in ((off, 0.0), (on, 1.0), (off - 5, 0.0), (on + 5, 1.0)):
            value = made.constant + sum(
                u.out * np.tanh(u.gain * z + u.bias) for u in made.units)
            assert abs(value - wanted) < 1e-12


@pytest.mark.parametrize("layers", [1, 2])
def test_a_model_with_tanh_adds(layers: int) -> None:
    model = f"layers {layers}\nffn tanh"
    compiled = compile_spec(Source("t", spec_text(number="base 10 width 1", model=model)))
    module = AdderModule(compiled.structure, compiled.values)
    assert compiled.structure.blocks[0].feed_forward.activation == "tanh"
    result = verify(module, module.format, exhaustive(module.number))
    assert result.passed == result.total == 100


@pytest.mark.parametrize("embed", ["quadratic", "arc"])
def test_tanh_copies_a_token_for_a_tied_head(embed: str) -> None:
    model = f"ffn tanh\nembed {embed}\ndecode tied"
    compiled = compile_spec(Source("t", spec_text(number="base 7 width 2", model=model)))
    module = AdderModule(compiled.structure, compiled.values)
    result = verify(module, module.format, exhaustive(module.number))
    assert result.passed == result.total == 49**2


@pytest.mark.parametrize(("number", "model"), [
    ("base 10 width 2", ""), ("base 2 width 4", "norm layer"),
    ("base 36 width 1", "norm rms\ndtype float32")])
def test_steps_make_a_v_shape(number: str, model: str) -> None:
    """One step between any two tokens: the logit falls by 1 with each digit's distance."""
    text = spec_text(number=number, model=f"ffn tanh {{ bias none }}\ndecode vshape\n{model}")
    compiled = compile_spec(Source("t", text))
    module = AdderModule(compiled.structure, compiled.values)
    assert compiled.values["decode.rows"].shape[0] == module.format.vocabulary - 1
    assert compiled.margin > 0.99
    result = verify(module, module.format, exhaustive(module.number))
    assert result.passed == result.total


def test_a_v_shape_asks_for_odd_steps() -> None:
    """A step of another constant would leave a slope over all tokens."""
    crooked = replace(ACTIVATIONS["tanh"], step=lambda off, on: replace(
        tanh_step(off, on), constant=0.0))
    text = spec_text(model="ffn tanh\ndecode vshape")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ACTIVATIONS, "tanh", crooked)
        with pytest.raises(Refusal) as found:
            compile_spec(Source("t", text))
    assert found.value.kind == "not implemented"
