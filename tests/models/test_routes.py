"""Routing masks by table: operands in any order, with or without symbols between them."""

from __future__ import annotations

import numpy as np
import pytest

from adderc.audit.run import audit_compiled
from adderc.errors import InputError, Source
from adderc.export.write import export
from adderc.nn.module import AdderModule, check_structure
from adderc.pipeline import Settings, compile_spec
from adderc.prove.run import prove
from adderc.verify.run import verify
from adderc.verify.suites import adversarial, exhaustive
from specs import spec_text

FORMATS = {
    "msd": 'msd(a) "+" msd(b) "="', "mixed": 'msd(a) "+" lsd(b) "="',
    "no symbols between": 'lsd(a) msd(b) "="', "bos": '"<bos>" lsd(a) msd(b) "="',
    "padded": 'msd(a) "0" * 3 lsd(b) "0" * 2 "="',
}
THIRD = "(c)"
THREE = """
x = a[i] + b[i] + c[i]
prev = a[i-1] + b[i-1] + c[i-1]
carry = (prev - s[i-1] + base - 1) div base
emit (x + carry) mod base
"""


def model(prompt: str, width: int, **parts: str) -> AdderModule:
    zero = '\ntokens "0" -> 0' if '"0"' in prompt else ""
    text = spec_text(number=f"base 3 width {width} operands {3 if THIRD in prompt else 2}",
                     format=f'prompt {prompt}\nanswer lsd(s) "<eos>"{zero}',
                     model="position routes", **parts)
    compiled = compile_spec(Source("routes", text), Settings())
    return AdderModule(compiled.structure, compiled.values)


@pytest.mark.parametrize("prompt", FORMATS.values(), ids=FORMATS.keys())
def test_every_order_and_spacing_adds(prompt: str) -> None:
    small, wide = model(prompt, 2), model(prompt, 7)
    for module, suite in ((small, exhaustive(small.number)),
                          (wide, adversarial(wide.number, samples=100, seed=1))):
        result = verify(module, module.format, suite)
        assert result.passed == result.total
    attention = small.structure.blocks[0].attention
    assert attention is not None
    assert attention.routes is None
    assert attention.visible is not None


def test_three_operands_in_three_places_prove_export_and_count(tmp_path) -> None:
    module = model('msd(a) "+" lsd(b) msd(c) "="', 2, algorithm=THREE)
    assert prove(module, module.format).verdict == "PROVEN"
    report = audit_compiled(module, "routes", [], "spec", False)
    assert report.agrees
    found = export(module, "py", str(tmp_path / "m.py"), {})
    assert found.largest_difference == 0


def test_a_damaged_table_is_refused() -> None:
    from dataclasses import replace

    structure = model('msd(a) "+" msd(b) "="', 2).structure
    block = structure.blocks[0]
    assert block.attention is not None
    table = block.attention.visible
    assert table is not None
    ahead = (((*table[0][:-1], (len(table[0]),)), *table[1:]))
    for wrong in (table[:1], ahead, (table[0], table[1][:-1])):
        damaged = replace(structure, blocks=(replace(
            block, attention=replace(block.attention, visible=wrong)),))
        with pytest.raises(InputError):
            check_structure(damaged)


def test_more_tokens_than_the_mask_covers_are_refused() -> None:
    import torch

    module = model('msd(a) "+" msd(b) "="', 2)
    with pytest.raises(InputError, match="mask"):
        module(torch.from_numpy(np.zeros((1, 40), dtype=np.int64)))


@pytest.mark.parametrize("embed", ["quadratic", "arc"])
def test_symbols_with_ids_of_their_own_beside_a_tied_head(embed: str) -> None:
    text = spec_text(number="base 5 width 2", model=f"position rope\nembed {embed}\ndecode tied",
                     format='prompt "<bos>" lsd(a) "+" lsd(b) "="\nanswer lsd(s) "<eos>"')
    compiled = compile_spec(Source("own", text), Settings())
    module = AdderModule(compiled.structure, compiled.values)
    assert module.format.vocabulary == 9
    result = verify(module, module.format, exhaustive(module.number))
    assert result.passed == result.total
    assert prove(module, module.format).verdict == "PROVEN"


@pytest.mark.parametrize("embed", ["quadratic", "arc"])
def test_a_tied_head_behind_two_layers(embed: str) -> None:
    model = f"layers 2\nembed {embed}\ndecode tied"
    compiled = compile_spec(Source("deep", spec_text(number="base 6 width 2", model=model)))
    module = AdderModule(compiled.structure, compiled.values)
    result = verify(module, module.format, exhaustive(module.number))
    assert result.passed == result.total
