"""The tape's logits are the module's, and its gradients are those of the logits."""

import numpy as np
import pytest
import torch
from solving import problem_of, spec_with, states_spec

from adderc import pipeline
from adderc.nn.module import AdderModule
from adderc.solve.cases import cases_of
from adderc.solve.forward import model_of

SPECS = ["nanogpt58", "rope19", "nanogpt130", "base16-table", "llama-style"]


def compiled_cases(name, width=3):
    made = pipeline.compile_spec(spec_with(name, "derive"),
                                 pipeline.Settings(width=width, dtype="float64"))
    cases = cases_of(made.spec, made.spec.contexts, made.structure,
                     range(made.spec.format.steps))
    chance = np.random.default_rng(1)
    return made, cases.take(chance.choice(len(cases), 40, replace=False))


@pytest.mark.parametrize("name", SPECS)
def test_logits_are_the_modules(name):
    made, cases = compiled_cases(name)
    model = model_of(made.structure, made.structure.leaf_shapes(), {}, cases)
    point = np.concatenate([made.values[leaf.name].ravel()
                            for leaf in made.structure.leaf_shapes()])
    found = model.tape.run(point[None])[model.logits][0]
    module = AdderModule(made.structure, made.values)
    for at in range(len(cases)):
        seen = cases.seen[at].any(axis=0)
        with torch.no_grad():
            logits = module(torch.tensor(cases.tokens[at][seen][None]))[0, -1].numpy()
        scale = np.abs(logits).max()
        assert np.abs(found[at] - logits).max() <= 1e-9 * scale


@pytest.mark.parametrize("name", SPECS)
def test_gradients_are_slopes(name):
    made, cases = compiled_cases(name)
    cases = cases.take(np.arange(6))
    leaves = made.structure.leaf_shapes()
    model = model_of(made.structure, leaves, {}, cases)
    point = np.concatenate([made.values[leaf.name].ravel() for leaf in leaves])[None]
    chance = np.random.default_rng(0)
    point = point + 1e-3 * np.abs(point).max() * 0 + 1e-4 * chance.normal(size=point.shape)
    values = model.tape.run(point)
    seed = chance.normal(size=values[model.logits].shape)
    grad = model.tape.gradient(values, model.logits, seed)[0]
    apart = model_of(made.structure, leaves, {}, cases, apart=True)
    rows = apart.tape.gradient(apart.tape.run(point), apart.logits, seed[0][:, None])
    assert np.allclose(rows.sum(axis=0), grad, rtol=1e-9, atol=1e-9 * np.abs(grad).max())
    direction = chance.normal(size=point.shape) * np.maximum(np.abs(point), 1e-3)
    steps = [((model.tape.run(point + sign * 1e-7 * direction)[model.logits]) * seed).sum()
             for sign in (1, -1)]
    slope = (steps[0] - steps[1]) / 2e-7
    assert slope == pytest.approx(float(grad @ direction[0]), rel=1e-3, abs=1e-3 * np.abs(slope))


def test_only_blocks_behind_the_unknown_are_computed_again():
    made, cases = compiled_cases("nanogpt58")
    leaves = tuple(leaf for leaf in made.structure.leaf_shapes() if leaf.name.startswith("ffn"))
    known = {n: v for n, v in made.values.items() if not n.startswith("ffn")}
    model = model_of(made.structure, leaves, known, cases)
    assert sum(node.constant is None for node in model.tape.nodes) < 20
    assert not model.affine
    out = tuple(leaf for leaf in leaves if leaf.name == "ffn.out.left")
    rest = {n: v for n, v in made.values.items() if n != "ffn.out.left"}
    assert model_of(made.structure, out, rest, cases).affine


def test_the_cases_of_a_state_machine_are_its_table():
    for base in (2, 3):
        problem, _ = problem_of(states_spec(base))
        assert len(problem.cases) == base**2 * 2 * base
