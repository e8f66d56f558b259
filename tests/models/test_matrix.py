"""Every realization with every format: a sampled matrix of specs, fixed by a seed.

What compiles must be right, exhaustively at a small width and adversarially at its own; a
refusal must name one of the known reasons, and rarely that something is not built. A dozen
by default, 300 in the slow run.
"""

from __future__ import annotations

import collections
import random

import pytest
from combos import Combo, combo

from adderc.errors import Refusal, Source
from adderc.nn.module import AdderModule
from adderc.pipeline import Settings, compile_spec
from adderc.verify.run import verify
from adderc.verify.suites import Suite, adversarial, exhaustive

SEED = 101
KINDS = ("positions collide", "dtype bound", "algorithm impossible", "not implemented")


def draw(number: int) -> Combo:
    return combo(random.Random(f"{SEED}/{number}"))


def compiled(drawn: Combo, width: int | None = None) -> AdderModule | str:
    """The module, or the kind of the refusal."""
    try:
        result = compile_spec(Source("drawn", drawn.text), Settings(width=width))
    except Refusal as refusal:
        return refusal.kind
    return AdderModule(result.structure, result.values)


def assert_right(module: AdderModule, suite: Suite, drawn: Combo) -> None:
    result = verify(module, module.format, suite)
    assert result.passed == result.total, f"{drawn}: {result.failures[:2]}"


def small_width(module: AdderModule) -> int:
    """The largest width whose sums all fit a short exhaustive run."""
    number = module.number
    width = 1
    while number.base ** ((width + 1) * number.operands) <= 3000:
        width += 1
    return min(width, number.width)


@pytest.mark.parametrize("number", range(12))
def test_a_sample_is_right_or_refused_with_a_reason(number: int) -> None:
    drawn = draw(number)
    module = compiled(drawn)
    if isinstance(module, str):
        assert module in KINDS, drawn
        return
    assert_right(module, adversarial(module.number, samples=40, seed=number), drawn)


def test_most_of_the_sample_compiles() -> None:
    kinds = collections.Counter(
        kind if isinstance(kind := compiled(draw(number), width=2), str) else "compiled"
        for number in range(12, 22))
    assert kinds["compiled"] >= 0.85 * kinds.total(), kinds
    assert set(kinds) <= {"compiled", *KINDS}
    assert kinds["not implemented"] <= 0.1 * kinds.total()


@pytest.mark.slow
def test_three_hundred() -> None:
    kinds: collections.Counter[str] = collections.Counter()
    for number in range(300):
        drawn = draw(number)
        module = compiled(drawn)
        if isinstance(module, str):
            kinds[module] += 1
            continue
        kinds["compiled"] += 1
        assert_right(module, adversarial(module.number, samples=1000, seed=number), drawn)
        small = compiled(drawn, small_width(module))
        assert isinstance(small, AdderModule), f"{drawn}: narrower, yet refused"
        if small.number.base ** (small.number.width * small.number.operands) <= 2_000_000:
            assert_right(small, exhaustive(small.number), drawn)
    assert kinds["compiled"] >= 0.85 * 300, kinds
    assert set(kinds) <= {"compiled", *KINDS}, kinds
    assert kinds["not implemented"] <= 0.05 * 300, kinds
