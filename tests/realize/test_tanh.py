"""Steps by tanh: one file of the realize room makes them usable in any spec."""

from __future__ import annotations

import numpy as np
import pytest

from adderc.errors import Source
from adderc.nn.module import AdderModule
from adderc.pipeline import compile_spec
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
