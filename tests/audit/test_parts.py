"""The parts of the audit that have rules of their own: patterns, literals, held tensors."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from adderc.audit.holders import find_held, replaced
from adderc.audit.literals import Literals
from adderc.audit.patterns import magnitude, recognise, recognise_signal
from adderc.weights.signal import rope_table, sinusoid_table
from adderc.weights.structure import Rope, Sinusoid


@pytest.mark.parametrize(("values", "numbers"), [
    ([[0, 1], [-1, 0]], ()),
    (range(10), ()),
    (range(1, 10), ()),
    ([n * n for n in range(10)], ()),
    ([2.5 * n for n in range(10)], (2.5,)),
    ([-3.0 * n * n for n in range(10)], (3,)),
    ([[n, 0, 0] for n in range(10)], ()),
    ([math.cos(0.3), -math.sin(0.3), 0], (0.3,)),
    ([2.0] * 4, None),
    ([2.0, 3.0, 5.0, 7.0], None),
    (range(2, 12), (2,)),
    ([3, 4.5, 6, 7.5], (1.5, 3)),
    ([10.0 ** n for n in range(5)], (10,)),
    ([2, 20, 200, 2001], None),
    (range(40), None),  # longer than vocabulary and sequence
    ([math.inf, 0], None),
])
def test_what_a_table_is_made_of(values, numbers):
    found = recognise(np.array(list(values), dtype=float), 20)
    if numbers is None:
        assert found is None
    else:
        assert found is not None
        assert np.allclose(found.numbers, numbers, rtol=1e-6)


def test_signals_are_read_back_from_their_tables():
    from fractions import Fraction

    signal = Sinusoid(Fraction(11), (1, 2), ((0, Fraction(100)), (22, Fraction(3))))
    table = sinusoid_table(signal, 33, 4).astype(np.float32)
    assert recognise_signal(table).numbers == (3, 11, 22, 100)
    rope = Rope((Fraction(19), Fraction(7, 2)))
    assert recognise_signal(rope_table(rope, 30)).numbers == (3.5, 19)
    assert recognise_signal(np.random.default_rng(0).normal(size=(30, 4))) is None


@pytest.mark.parametrize(("phase", "ramp", "numbers"), [
    (0.0, (0.15, 0.0), (0.15, 3.5, 10)),
    (0.3, (0.15, 0.7), (0.15, 0.3, 0.7, 3.5, 10)),
    (math.pi / 2, (0.0, 0.0), (3.5, 10)),  # a quarter turn, no ramp
])
def test_a_spiral_is_its_amplitude_period_phase_and_ramp(phase, ramp, numbers):
    place = np.arange(10)
    angle = 2 * math.pi * place / 10 + phase
    table = np.stack([3.5 * np.cos(angle), 3.5 * np.sin(angle), ramp[0] * place + ramp[1]], 1)
    found = recognise_signal(table.astype(np.float32))
    assert np.allclose(found.numbers, numbers, rtol=1e-4)
    assert recognise_signal(table[:, [0, 2]]) is None


def test_magnitudes_ignore_sign_and_float_type():
    assert magnitude(-0.1) == magnitude(float(np.float32(0.1)))
    assert magnitude(0.1) != magnitude(0.10001)


def test_literals_that_come_from_one_another():
    source = """
import math
BIG = 1024.0
SMALL = 1 / BIG
OTHER = BIG * 3
ROOT = math.sqrt(7)
class A:
    def f(self, x=2.5, *, y=4.5):
        self.z = -BIG
        return lambda t, u=6.5: t
"""
    found = Literals(source)
    assert found.independent([1024.0]) == 1
    assert found.independent([1024.0, 1 / 1024]) == 1
    assert found.independent([1024.0, 1 / 1024, 3072.0]) == 2
    assert found.independent([1024.0, 2.5, 99.0]) == 3
    assert "module constant ROOT" in found.form(math.sqrt(7), 0)
    assert "default argument x" in found.form(2.5, 0)
    assert "default argument y" in found.form(4.5, 0)
    assert "default argument u" in found.form(6.5, 0)
    assert found.form(17.0, 0) == ""


def test_every_kind_of_holder():
    class Inner:
        def __init__(self):
            self.raw = torch.ones(2)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(3))
            self.again = self.w
            self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)
            self.register_buffer("kept", torch.ones(4))
            self.register_buffer("lost", torch.ones(5), persistent=False)
            self.attribute = torch.ones(6)
            self.box = {"a": [torch.ones(7)], "b": (torch.ones(8), 1)}
            self.inner = Inner()
            self.child = nn.Linear(2, 2)

    net = Net()
    held = find_held(net, {"TABLE": torch.ones(9), "__x__": torch.ones(1)}, __name__)
    kinds = {item.name: item.kind for item in held}
    assert kinds == {
        "w": "parameter", "frozen": "frozen parameter", "kept": "buffer",
        "lost": "non-persistent buffer", "child.weight": "parameter", "child.bias": "parameter",
        "attribute": "tensor attribute", "box.a.0": "tensor attribute",
        "box.b.0": "tensor attribute", "inner.raw": "held tensor",
        "TABLE": "module-level tensor"}
    assert next(item for item in held if item.name == "w").paths == ["w", "again"]
    others = [torch.zeros_like(item.tensor) for item in held]
    pair = net.box["b"][0]
    with replaced(held, others):
        assert not net.w.any()
        assert not net.again.any()
        assert not net.box["b"][0].any()
        assert not net.inner.raw.any()
    assert net.box["b"][0] is pair
    assert net.w is net.again
    assert isinstance(net.w, nn.Parameter)
