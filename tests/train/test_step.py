"""The training step: the module's own loss, and gradients that agree three ways."""

import numpy as np
import pytest
import torch
from training import MODELS, structure_of, text_of

from adderc.nn.module import AdderModule
from adderc.train.data import Draw, draw_tokens
from adderc.train.ensemble import Leaves
from adderc.train.forward import Forward
from adderc.train.kernel import build_kernel, fits
from adderc.train.step import TorchStep, stepper_of

BATCH = 32
by_model = pytest.mark.parametrize("name", MODELS)


def case(name, seed=0):
    structure = structure_of(text_of(name))
    leaves = Leaves.of(structure)
    theta = np.random.default_rng(seed).normal(size=leaves.size) * 0.4
    tokens = draw_tokens(structure.format, [Draw(2, carry=0.5)] * 3, BATCH, seed, 0)
    return structure, leaves, theta.astype(structure.dtype), tokens


@by_model
def test_the_forward_is_the_modules(name):
    structure, leaves, theta, tokens = case(name)
    forward = Forward(structure)
    rows = torch.from_numpy(tokens[0].T.astype(np.int64))
    ours = forward.logits(torch.from_numpy(theta)[None], rows[:, :-1])[0]
    module = AdderModule(structure, leaves.split(theta))
    theirs = module(rows[:, :-1])[:, forward.first :]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@by_model
def test_gradients_agree_with_autograd_of_the_module(name):
    structure, leaves, theta, tokens = case(name)
    kernel = build_kernel(structure, BATCH)
    steps = [TorchStep(Forward(structure)), *([kernel] if kernel else [])]
    module = AdderModule(structure, leaves.split(theta))
    rows = torch.from_numpy(tokens[0].T.astype(np.int64))
    first = structure.format.prompt_length - 1
    logits = module(rows[:, :-1])[:, first:]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, first + 1 :].flatten())
    loss.backward()
    wanted = leaves.flat({name: leaf.grad.numpy() for name, leaf in module.leaves().items()})
    for step in steps:
        found, gradient = step.gradient(theta, tokens[0])
        assert found == pytest.approx(loss.item(), rel=1e-5)
        np.testing.assert_allclose(gradient, wanted, rtol=1e-3, atol=2e-6)


@by_model
def test_the_optimizer_is_adamw_with_clipping(name):
    structure, leaves, theta, tokens = case(name)
    rates, decays = np.array([0.02, 0.01, 0.005]), np.array([0.01, 0.01, 0.1])
    found = theta.copy()
    moments = np.zeros_like(theta), np.zeros_like(theta)
    stepper_of(structure, BATCH).train(found, *moments, 0, tokens, rates, decays, 0.05,
                                       (0.9, 0.999), 1e-8)
    module = AdderModule(structure, leaves.split(theta.copy()))
    optimizer = torch.optim.AdamW(module.parameters())
    first = structure.format.prompt_length - 1
    for rate, decay, batch in zip(rates, decays, tokens, strict=True):
        optimizer.param_groups[0].update(lr=float(rate), weight_decay=float(decay))
        rows = torch.from_numpy(batch.T.astype(np.int64))
        logits = module(rows[:, :-1])[:, first:]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1),
                                                 rows[:, first + 1 :].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 0.05)
        optimizer.step()
    wanted = leaves.flat({n: leaf.detach().numpy() for n, leaf in module.leaves().items()})
    moving = np.abs(wanted - theta) > 1e-6
    assert moving.sum() > 0.5 * len(theta)
    # where a gradient is all rounding, AdamW's first steps have an arbitrary sign
    agree = np.isclose(found, wanted, rtol=1e-3, atol=1e-4)
    assert agree.mean() > 0.97


def test_every_model_here_has_a_kernel():
    assert all(fits(structure_of(text_of(name)), BATCH) for name in MODELS)
    assert not fits(structure_of(text_of("small")), BATCH + 1)


def test_without_a_compiler_torch_does_the_work(monkeypatch):
    structure, _, theta, tokens = case("small")
    fast, slow = theta.copy(), theta.copy()
    rates, decays = np.full(3, 0.01), np.zeros(3)
    for vector in (fast, slow):
        stepper = stepper_of(structure, BATCH)
        stepper.train(vector, np.zeros_like(theta), np.zeros_like(theta), 0, tokens, rates,
                      decays, 1.0, (0.9, 0.999), 1e-8)
        monkeypatch.setenv("PATH", "")
    assert isinstance(stepper, TorchStep)
    np.testing.assert_allclose(fast, slow, rtol=1e-3, atol=1e-4)
