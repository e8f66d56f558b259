"""The bounds of a compiled model contain what its module really computes.

Leaves are spoiled on purpose: a bound that is right only for good weights proves nothing.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from levels import Levels, carry_chains, random_rows

from adderc.errors import Source
from adderc.format.number import to_digits
from adderc.ir.evaluate import evaluate
from adderc.pipeline import Compiled, Settings, read_spec
from adderc.realize.bounds import Inequality
from specs import spec_text

ROWS = [*carry_chains(10, 3), *random_rows(10, 3, 400)]
FACTORS = st.sampled_from([1.0, 1.0, 1 + 1e-4, 1 - 1e-3, 1.01, 0.98, 1.05])
SPOILED = ("embed.left", "attention.q.scale", "attention.q.angle", "attention.k",
           "attention.v.left", "attention.out", "ffn.rows", "ffn.bias", "ffn.out.right",
           "decode.gain", "decode.linear")


def spoiled(factors: dict[str, list[float]], dtype: str = "float32", width: int = 3) -> Levels:
    """nanogpt58 with some leaves multiplied, entry by entry."""
    derived = Levels(read_spec("nanogpt58"), Settings(width=width, dtype=dtype)).compiled.values
    pairs = []
    for name, found in factors.items():
        value = derived[name].ravel() * np.resize(found, derived[name].size)
        pairs.append((name, "[" + ", ".join(repr(float(v)) for v in value) + "]"))
    return Levels(read_spec("nanogpt58"), Settings(width=width, dtype=dtype, set=tuple(pairs)))


def least_margin(levels: Levels, rows: list[tuple[int, ...]]) -> float:
    """The least lead of the right token, fed with right answers."""
    tokens, answers = teacher(levels, rows)
    with torch.inference_mode():
        logits = levels.module(tokens)[:, levels.module.format.prompt_length - 1 :].double()
    right = torch.tensor(answers)[..., None]
    best = logits.scatter(-1, right, -torch.inf).amax(-1)
    return float((logits.gather(-1, right)[..., 0] - best).min())


def teacher(levels: Levels, rows: list[tuple[int, ...]]) -> tuple[torch.Tensor, np.ndarray]:
    answers = levels.integers(rows)
    prompts = levels.module.format.encode(rows)
    return torch.tensor(np.concatenate([prompts, answers[:, :-1]], axis=1)), answers


def inequality(compiled: Compiled, name: str) -> Inequality:
    return next(i for i in compiled.weights.judgement.inequalities if i.name == name)


THREE = """
    x = a[i] + b[i] + c[i]
    prev = a[i-1] + b[i-1] + c[i-1]
    carry = (prev - s[i-1] + base - 1) div base
    emit (x + carry) mod base
"""
SPOILT = st.dictionaries(st.sampled_from(SPOILED), st.lists(FACTORS, min_size=1, max_size=6),
                         min_size=1, max_size=3)


def assert_bounded(factors: dict[str, list[float]], dtype: str) -> None:
    levels = spoiled(factors, dtype)
    assert levels.compiled.margin <= least_margin(levels, ROWS)


@settings(max_examples=12, deadline=None)
@given(SPOILT, st.sampled_from(["float32", "float64"]))
def test_the_margin_is_a_bound_for_spoiled_weights_too(
    factors: dict[str, list[float]], dtype: str
) -> None:
    assert_bounded(factors, dtype)


@pytest.mark.slow
@settings(max_examples=120, deadline=None)
@given(SPOILT, st.sampled_from(["float32", "float64"]))
def test_the_margin_is_a_bound_for_many_spoiled_weights(
    factors: dict[str, list[float]], dtype: str
) -> None:
    assert_bounded(factors, dtype)


@pytest.mark.parametrize(("name", "dtype", "most"), [
    ("rope19", "float32", 0.5), ("base16-table", "float32", 1.0)])
def test_the_margin_is_a_bound_behind_norms_and_tied_heads(
    name: str, dtype: str, most: float
) -> None:
    levels = Levels(read_spec(name), Settings(width=3, dtype=dtype))
    number = levels.number
    rows = [*carry_chains(number.base, 3), *random_rows(number.base, 3, 200)]
    assert 0 < levels.compiled.margin <= least_margin(levels, rows)
    assert levels.compiled.margin < most


def test_one_head_for_two_places_holds_a_wide_format_in_float32() -> None:
    """Tokens move the scores of their own keys, by known amounts and to one side."""
    levels = Levels(read_spec("rope19"), Settings(width=32, dtype="float32"))
    rows = [*carry_chains(10, 32), *random_rows(10, 32, 40)]
    rows += [(9 * (10**32 // 99) * at, 10**32 - 1) for at in (0, 1, 10)]
    assert 0.1 < levels.compiled.margin <= least_margin(levels, rows)


@pytest.mark.parametrize(("number", "operands", "model", "least"), [
    ("base 36 width 2 operands 4", 4, "position rope\nembed table", 0.4),
    ("base 2 width 48", 2, "norm layer\nffn geglu", 0.5),
    ("base 11 width 4", 2, "norm rms\nposition rope\nffn tanh\ndecode vshape", 0.9),
])
def test_the_margin_is_a_bound_where_steps_norms_or_digits_are_large(
    number: str, operands: int, model: str, least: float
) -> None:
    names = "abcd"[:operands]
    form = ' "+" '.join(f"lsd({name})" for name in names)
    one, before = (" + ".join(f"{name}[{at}]" for name in names) for at in ("i", "i-1"))
    carry = "prev > s[i-1]" if operands == 2 else "(prev - s[i-1] + base - 1) div base"
    levels = Levels(Source("large", spec_text(
        number=number, model=model,
        algorithm=f"x = {one}\nprev = {before}\ncarry = {carry}\nemit (x + carry) mod base",
        format=f'prompt "<bos>" {form} "="\nanswer lsd(s)')))
    base, width = levels.number.base, levels.number.width
    rows = [*carry_chains(base, width, operands), *random_rows(base, width, 200, operands)]
    assert least < levels.compiled.margin <= least_margin(levels, rows)


def test_a_norms_factor_moves_digits_against_the_heads_bias() -> None:
    """The bias of a head is not normalised: what a norm shrinks is off beside it."""
    text = spec_text(
        number="base 12 width 3 operands 3", model="dtype float64\nposition routes\nnorm rms",
        format='prompt lsd(a) lsd(b) lsd(c) "="\nanswer lsd(s)', algorithm=THREE)
    levels = Levels(Source("norm", text))
    rows = [*carry_chains(12, 3, 3), *random_rows(12, 3, 200, 3)]
    assert 0.99 < levels.compiled.margin <= least_margin(levels, rows)


def test_the_bound_is_not_empty() -> None:
    """It is near the truth for good weights, and follows when they get worse."""
    good = spoiled({})
    assert 0.9 < good.compiled.margin <= least_margin(good, ROWS) < 1.001
    bad = spoiled({"decode.gain": [0.98]})
    assert bad.compiled.margin < good.compiled.margin - 0.2
    assert bad.compiled.margin <= least_margin(bad, ROWS)
    assert least_margin(bad, ROWS) - bad.compiled.margin < 0.2


@pytest.mark.parametrize("factors", [
    {}, {"attention.q.scale": [0.2]}, {"attention.q.scale": [0.08]}, {"attention.out": [1.01]},
    {"attention.k": [1.02, 0.97, 1.0]}, {"embed.left": [1.0, 1.003]},
], ids=str)
def test_what_hinges_read_lies_inside_the_inequalities(factors: dict[str, list[float]]) -> None:
    """`off` bounds the largest sum of a step that is 0, `on` the least one of a step that is 1."""
    levels = spoiled(factors)
    compiled = levels.compiled
    seen: dict[str, torch.Tensor] = {}
    levels.module.hook_point("blocks.0.ffn.pre").register_forward_hook(
        lambda module, inputs, output: seen.update(pre=output.detach()))
    tokens, _ = teacher(levels, ROWS)
    with torch.inference_mode():
        levels.module(tokens)
    first = levels.module.format.prompt_length - 1
    bias = compiled.values["ffn.bias"].ravel()
    sums = seen["pre"][:, first:].double().numpy() - bias
    for at, unit in enumerate(compiled.placed.units):
        truth = true_values(compiled, unit.step) > 0
        both = sums[..., [2 * at, 2 * at + 1]].max(axis=-1)
        assert truth.any()
        assert not truth.all()
        assert both[~truth].max() <= inequality(compiled, f"{unit.step} off").left + 1e-3
        assert both[truth].min() >= inequality(compiled, f"{unit.step} on").right - 1e-3


def true_values(compiled: Compiled, name: str) -> np.ndarray:
    """A node's value at every step of every row [N, steps]."""
    number = compiled.spec.number
    digits = {
        letter: np.array([to_digits(row[at], number.base, number.width) for row in ROWS])
        for at, letter in enumerate(number.names)}
    digits["s"] = np.array([to_digits(sum(row), number.base, number.answer_digits)
                            for row in ROWS])
    columns = []
    for step in range(number.answer_digits):
        def read(letter: str, offset: int, step: int = step) -> np.ndarray:
            table, place = digits[letter], step + offset
            inside = 0 <= place < table.shape[1]
            return table[:, place] if inside else np.zeros(len(table), dtype=int)

        columns.append(evaluate(compiled.placed.circuit, read, np.array(step))[name])
    return np.stack(columns, axis=1)


def test_scales_grow_with_the_width_and_break_with_the_dtype() -> None:
    scales = []
    for width in (2, 8, 32):
        compiled = Levels(read_spec("nanogpt58"), Settings(width=width)).compiled
        assert all(i.holds for i in compiled.weights.judgement.inequalities)
        assert all(np.isfinite((i.left, i.right)).all()
                   for i in compiled.weights.judgement.inequalities)
        scales.append(float(compiled.values["attention.q.scale"][0, 0]))
    assert scales == sorted(scales)
    assert scales[-1] > 8 * scales[0]


def test_a_nan_breaks_an_inequality() -> None:
    assert not Inequality("x", "", float("nan"), 1.0).holds
    assert not Inequality("x", "", 0.0, float("nan")).holds
    assert Inequality("x", "", 1.0, 1.0).holds
