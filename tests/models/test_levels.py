"""The same sums through every level: integers, reference, circuit, its text, module."""

from __future__ import annotations

import numpy as np
import pytest
from levels import Levels, carry_chains, random_rows

from adderc.pipeline import Settings, read_spec

CASES = [(base, width) for base in (2, 3, 10, 16, 36) for width in (1, 2, 3, 7)]


@pytest.mark.parametrize(("base", "width"), CASES)
def test_every_level_says_the_same(base: int, width: int) -> None:
    levels = Levels(read_spec("nanogpt58"), Settings(width=width, base=base))
    rows = [*carry_chains(base, width), *random_rows(base, width, 40)]
    right = levels.integers(rows)
    for level in (levels.reference, levels.circuit, levels.circuit_text, levels.decoded):
        np.testing.assert_array_equal(level(rows), right, err_msg=level.__name__)
    few = rows[:: max(1, len(rows) // 12)]
    np.testing.assert_array_equal(levels.decoded(few, incremental=False), levels.integers(few))


def test_the_lowered_algorithm_with_nested_steps_agrees_too() -> None:
    """Before flattening, a carry stands inside the wrap: two levels of steps."""
    from adderc.ir.evaluate import run
    from adderc.ir.graph import depths
    from adderc.lang.check import check_spec
    from adderc.lang.parse import parse
    from adderc.passes.fetches import Grouping
    from adderc.passes.lower import lower

    checked = check_spec(parse(read_spec("nanogpt58")))
    circuit = lower(checked, Grouping())
    assert max(depths(circuit).values()) == 2
    for row in carry_chains(10, 10):
        digits = run(circuit, checked.number, row)
        assert sum(d * 10**at for at, d in enumerate(digits)) == sum(row)
