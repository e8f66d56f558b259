"""The derived models: leaf counts, right at every base and width, margins as claimed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from levels import Levels, carry_chains

from adderc.errors import Source
from adderc.pipeline import Settings, read_spec
from adderc.verify.run import verify
from adderc.verify.suites import adderboard, adversarial

SPECS = ("nanogpt58", "nanogpt130")
VARIANTS = [(10, 1), (10, 7), (10, 10), (10, 64), (2, 40), (3, 10), (16, 10), (36, 10)]


def adversarial_rows(levels: Levels, samples: int) -> list[tuple[int, ...]]:
    suite = adversarial(levels.number, samples, seed=1)
    return [tuple(map(int, row)) for batch in suite.batches() for row in batch]


def margins(levels: Levels, rows: list[tuple[int, ...]]) -> np.ndarray:
    """How far the right token's logit lies ahead of the best other one [N, steps]."""
    form = levels.module.format
    answers = levels.integers(rows)  # written least significant first
    tokens = np.concatenate([form.encode(rows), answers[:, :-1]], axis=1)
    with torch.inference_mode():
        logits = levels.module(torch.tensor(tokens))[:, form.prompt_length - 1 :]
    right = torch.tensor(answers)[..., None]
    chosen = logits.gather(-1, right)[..., 0]
    best = logits.scatter(-1, right, -torch.inf).amax(-1)
    return (chosen - best).double().numpy()


# ---------------------------------------------------------------- counts


@pytest.mark.parametrize(("name", "counts"), [
    ("nanogpt58", {"embed": 14, "attention.q": 3, "attention.k": 8, "attention.v": 8,
                   "attention.out": 2, "ffn.rows": 8, "ffn.bias": 4, "ffn.out": 8, "decode": 3}),
    ("nanogpt58-seed", {"embed": 14, "attention.q": 3, "attention.k": 8, "attention.v": 8,
                        "attention.out": 2, "ffn.rows": 8, "ffn.bias": 4, "ffn.out": 8,
                        "decode": 3}),
    ("nanogpt130", {"embed": 14, "attention.qkv": 48, "attention.out": 16, "ffn.rows": 16,
                    "ffn.bias": 4, "ffn.out": 8, "decode": 24}),
])
def test_leaf_counts(name: str, counts: dict[str, int]) -> None:
    levels = Levels(read_spec(name))
    found: Counter[str] = Counter()
    for leaf in levels.compiled.structure.leaf_shapes():
        parts = leaf.name.split(".")
        found[".".join(parts[: 1 if parts[0] in ("embed", "decode") else 2])] += int(
            np.prod(leaf.shape))
    assert dict(found) == counts
    assert levels.compiled.parameters == sum(counts.values())
    assert sum(p.numel() for p in levels.module.parameters()) == sum(counts.values())


@pytest.mark.parametrize("name", SPECS)
def test_every_leaf_has_a_line_and_a_meaning(name: str) -> None:
    compiled = Levels(read_spec(name)).compiled
    leaves = {leaf.name for leaf in compiled.structure.leaf_shapes()}
    infos = {info.name: info for info in compiled.structure.leaves}
    assert set(infos) == leaves == set(compiled.values)
    assert all(info.how == "derived" and info.meaning for info in infos.values())


# ---------------------------------------------------------------- right


@pytest.mark.parametrize(("base", "width"), VARIANTS)
def test_it_adds_at_every_base_and_width(base: int, width: int) -> None:
    levels = Levels(read_spec("nanogpt58"), Settings(width=width, base=base))
    samples = 150 if width > 16 else 1000
    result = verify(levels.module, levels.module.format, adversarial(levels.number, samples))
    assert result.failures == ()
    assert result.passed == result.total > 0
    assert levels.compiled.warnings == ()
    assert all(inequality.holds
               for inequality in levels.compiled.weights.judgement.inequalities)
    assert levels.compiled.margin > 0


@pytest.mark.parametrize("name", SPECS)
def test_the_public_protocol(name: str) -> None:
    levels = Levels(read_spec(name))
    result = verify(levels.module, levels.module.format, adderboard(levels.number))
    assert (result.passed, result.total) == (10_010, 10_010)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_width_512(dtype: str) -> None:
    levels = Levels(read_spec("nanogpt58"), Settings(width=512, dtype=dtype))
    result = verify(levels.module, levels.module.format, adversarial(levels.number, 500))
    assert result.passed == result.total == 500
    assert levels.compiled.margin > 0


def test_a_spoiled_leaf_is_found() -> None:
    """The suite can fail: a carry threshold moved by more than its slack."""
    levels = Levels(read_spec("nanogpt58"))
    with torch.no_grad():
        levels.module.leaves()["ffn.bias"][0, 0] += 40
    suite = adversarial(levels.number, 500)
    assert verify(levels.module, levels.module.format, suite).failures


# ---------------------------------------------------------------- the margin is a bound


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("base", "width"), [(10, 1), (10, 10), (10, 64), (2, 40), (3, 7), (36, 7)])
def test_no_sum_has_a_smaller_margin_than_claimed(base: int, width: int, dtype: str) -> None:
    levels = Levels(read_spec("nanogpt58"), Settings(width=width, base=base, dtype=dtype))
    rows = [*carry_chains(base, width), *adversarial_rows(levels, 60 if width > 16 else 400)]
    least = margins(levels, rows).min()
    assert 0 < levels.compiled.margin <= least
    assert least < 1.01


@pytest.mark.parametrize("name", ["nanogpt130"])
def test_the_margin_of_the_ancestor(name: str) -> None:
    levels = Levels(read_spec(name))
    assert 0 < levels.compiled.margin <= margins(levels, adversarial_rows(levels, 400)).min()


@pytest.mark.parametrize("scale", [4.0, 6.0, 9.0, 16.0])
def test_the_bound_holds_for_dull_heads_too(scale: float) -> None:
    """With far too small a score scale much leaks: the bound must still not exceed the truth."""
    derived = Levels(read_spec("nanogpt58"), Settings(width=4)).compiled
    value = float(derived.values["attention.q.scale"][0, 0]) / scale
    levels = Levels(read_spec("nanogpt58"), Settings(
        width=4, set=(("attention.q.scale", repr(value)),)))
    assert levels.compiled.margin < derived.margin
    rows = [*carry_chains(10, 4), *adversarial_rows(levels, 2000)]
    assert levels.compiled.margin <= margins(levels, rows).min()


@pytest.mark.parametrize(("line", "leaves"), [
    ("projections slim", 65), ("projections rank 4", 165),
    ("attention { q rotation; k tied; v tied; out sparse }", 58),
])
def test_projections_in_other_forms(line: str, leaves: int) -> None:
    """One form for all projections, and one block of rows for all heads."""
    given = "attention { q rotation; k slim; v rank 1; out sparse }"
    text = read_spec("nanogpt58").text.replace(given, line)
    levels = Levels(Source("t", text))
    assert levels.compiled.parameters == leaves
    rows = [*carry_chains(10, 10)][:40]
    np.testing.assert_array_equal(levels.decoded(rows), levels.integers(rows))
