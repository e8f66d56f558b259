"""A module runs what the spec says, right or wrong: 60 algorithms that do not add.

Of every second one a fixed random part at width 3; with -m slow of all of them, and every pair.
"""

from __future__ import annotations

import numpy as np
import pytest
from levels import Levels
from wrong_algorithms import COMPILES, KINDS, REFUSED

from adderc.errors import Refusal, Source, WrongAlgorithm
from adderc.pipeline import check_spec
from specs import spec_text

BATCH = 20_000
PART = 1000
LARGE = "(a[i]*b[i]) mod base"  # a circuit of a hundred steps


def compiled(algorithm: str, width: int) -> Levels:
    text = spec_text(algorithm, f"base 10 width {width}")
    return Levels(Source("wrong.adder", text), unchecked=True)


def all_pairs(width: int) -> list[tuple[int, int]]:
    return [(a, b) for a in range(10**width) for b in range(10**width)]


def assert_faithful(levels: Levels, pairs: list[tuple[int, int]]) -> None:
    for first in range(0, len(pairs), BATCH):
        part = pairs[first : first + BATCH]
        np.testing.assert_array_equal(levels.decoded(part), levels.reference(part))


def some_pairs(width: int) -> list[tuple[int, int]]:
    rng = np.random.default_rng(width)
    return [(int(a), int(b)) for a, b in rng.integers(0, 10**width, (PART, 2))]


def test_there_are_enough() -> None:
    assert len(COMPILES) >= 50


@pytest.mark.parametrize("name", COMPILES)
def test_it_does_not_add(name: str) -> None:
    with pytest.raises(WrongAlgorithm) as caught:
        check_spec(Source("t", spec_text(COMPILES[name], "base 10 width 4")))
    assert caught.value.exit_code == 1
    assert "<- wrong" in caught.value.report


@pytest.mark.parametrize("name", [
    name if at % 2 else pytest.param(name, marks=pytest.mark.slow)
    for at, name in enumerate(COMPILES)])
def test_the_module_is_the_reference(name: str) -> None:
    assert_faithful(compiled(COMPILES[name], 3), some_pairs(3))


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.slow) if name == LARGE else name for name in REFUSED])
def test_what_cannot_be_compiled_is_refused_with_a_reason(name: str) -> None:
    reason = ""
    try:
        levels = compiled(REFUSED[name], 2)
    except Refusal as refusal:
        reason = f"{refusal.kind}: {refusal.faults[0].message}"
    if reason:
        assert reason.split(": ")[0] in KINDS
        assert reason.split(": ")[1]
    else:
        assert_faithful(levels, some_pairs(2))


def test_a_wrong_module_is_told_from_a_right_one() -> None:
    """The comparison can fail: another wrong algorithm's module differs."""
    levels, other = (compiled(COMPILES[name], 2) for name in ("carry by >=", "x mod base"))
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(levels.decoded(some_pairs(2)), other.reference(some_pairs(2)))


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPILES)
def test_every_pair(name: str) -> None:
    for width in (2, 3):
        assert_faithful(compiled(COMPILES[name], width), all_pairs(width))
