"""`adderc add` with a Python model: our format and our loop, run only on request."""

import pytest

SPEC = """number { base 10  width 2 }
format { prompt msd(a) "+" msd(b) "="  answer lsd(s) }
"""
MODEL = """
import torch

class Copies(torch.nn.Module):  # every answer token is the prompt's second token
    def forward(self, x):
        return torch.nn.functional.one_hot(x[:, 1], 12).double()[:, None].expand(-1, x.shape[1], -1)

def build_model():
    return Copies(), {"name": "copies"}

def add(model, a, b):
    return a + b
"""


@pytest.fixture
def files(tmp_path):
    spec, model = tmp_path / "small.adder", tmp_path / "model.py"
    spec.write_text(SPEC)
    model.write_text(MODEL)
    return spec, model


def test_the_models_forward_decides_and_not_its_add(adder, files):
    spec, model = files
    ran = adder("add", model, 17, 20, "--format", spec, "--trust-code")
    assert (ran.code, ran.out) == (0, "777\n")


@pytest.mark.parametrize(("options", "words"), [
    ((), "--format"), (("--format", "{spec}"), "--trust-code")])
def test_it_needs_a_format_and_trust(adder, files, options, words):
    spec, model = files
    ran = adder("add", model, 1, 2, *(o.format(spec=spec) for o in options))
    assert ran.code == 2
    assert words in ran.err


def test_two_parts_make_a_format_but_no_spec(adder, files):
    spec, model = files
    ran = adder("compile", spec, "-o", spec.with_suffix(".safetensors"))
    assert ran.code == 2
    assert '"model" is missing' in ran.err
    spec.write_text("number { base 10  width 2 }\n")
    ran = adder("add", model, 1, 2, "--format", spec, "--trust-code")
    assert ran.code == 2
    assert '"format" is missing' in ran.err
    assert '"model" is missing' not in ran.err
