"""The recheck bounds every run of the module from below, and sees a wrong weight."""

import numpy as np
import pytest
import torch
from solving import spec_with

from adderc import pipeline
from adderc.nn.module import AdderModule
from adderc.solve.contexts import truth_table
from adderc.solve.recheck import recheck

SPECS = ["nanogpt58", "rope19", "nanogpt130", "base16-table", "llama-style", "three-operands"]


def least_lead(made, sums=600):
    """The least lead of the right token over any other that the module really has."""
    module = AdderModule(made.structure, made.values)
    number, form = made.spec.number, made.spec.format
    chance = np.random.default_rng(3)
    top = number.base**number.width
    operands = chance.integers(0, top, size=(sums, number.operands)).tolist()
    operands += [[top - 1] * number.operands, [0] * number.operands,
                 [top - 1, *[0] * (number.operands - 2), 1]]
    prompts = form.encode(operands)
    answers = np.array([form.expected(row) for row in operands])
    tokens = torch.tensor(np.hstack([prompts, answers[:, :-1]]))
    with torch.no_grad():
        logits = module(tokens)[:, form.prompt_length - 1 :].double().numpy()
    own = np.take_along_axis(logits, answers[:, :, None], axis=2)
    lead = own - logits
    np.put_along_axis(lead, answers[:, :, None], np.inf, axis=2)
    return float(lead.min())


@pytest.mark.parametrize("name", SPECS)
def test_it_is_below_what_the_module_does_and_close(name):
    made = pipeline.compile_spec(spec_with(name, "derive"), pipeline.Settings(width=6))
    checked = recheck(made.structure, made.values,
                      truth_table(made.spec, made.spec.contexts, False))
    measured = least_lead(made)
    assert checked.holds
    assert 0.6 * measured <= checked.margin <= measured


@pytest.mark.parametrize(("leaf", "change"), [
    ("decode.linear", 1.2), ("ffn.bias", 1.1), ("embed.left", 1.1), ("attention.q.angle", 0.9)])
def test_it_sees_a_wrong_leaf(leaf, change):
    made = pipeline.compile_spec(spec_with("nanogpt58", "derive"))
    values = {**made.values, leaf: made.values[leaf] * change}
    checked = recheck(made.structure, values,
                      truth_table(made.spec, made.spec.contexts, False))
    assert not checked.holds


def test_nan_never_holds():
    made = pipeline.compile_spec(spec_with("nanogpt58", "derive"), pipeline.Settings(width=3))
    values = {**made.values, "decode.gain": np.array([[np.nan]])}
    assert not recheck(made.structure, values,
                       truth_table(made.spec, made.spec.contexts, False)).holds


def test_every_digit_and_one_of_each_sum_agree():
    from adderc.lang.contexts import every_context

    made = pipeline.compile_spec(spec_with("nanogpt58", "derive"),
                                 pipeline.Settings(width=3, base=4))
    few = recheck(made.structure, made.values, truth_table(made.spec, made.spec.contexts, False))
    all_ = recheck(made.structure, made.values,
                   truth_table(made.spec, every_context(made.spec), True))
    assert few.margin <= all_.margin + 1e-6
    assert few.margin == pytest.approx(all_.margin, abs=1e-3)
