"""The interpreter against the same algorithms written in Python."""

from __future__ import annotations

import itertools

import pytest

from adderc.errors import Source
from adderc.lang.check import check_spec
from adderc.lang.parse import parse
from adderc.pipeline import read_spec
from adderc.reference import Reference
from specs import RIPPLE, spec_text


def reference(algorithm: str, number: str = "base 3 width 2") -> Reference:
    return Reference(check_spec(parse(Source("t", spec_text(algorithm, number)))))


IN_PYTHON = {
    "(a[i] - b[i]) mod base": lambda a, b, s, i: (a[0] - b[0]) % 3,
    "(a[i] - 2*b[i]) div 2 mod base": lambda a, b, s, i: ((a[0] - 2 * b[0]) // 2) % 3,
    "(-a[i]) mod base": lambda a, b, s, i: -a[0] % 3,
    "a[i-1]": lambda a, b, s, i: a[-1],
    "a[i+1]": lambda a, b, s, i: a[1],
    "(a[i] + s[i-1] + s[i-2]) mod base": lambda a, b, s, i: (a[0] + s[-1] + s[-2]) % 3,
    "if a[i] > b[i] then 2 else i mod base": lambda a, b, s, i: 2 if a[0] > b[0] else i % 3,
    "min(a[i], b[i], 1)": lambda a, b, s, i: min(a[0], b[0], 1),
    "max(a[i], b[i-1])": lambda a, b, s, i: max(a[0], b[-1]),
    "abs(a[i] - b[i])": lambda a, b, s, i: abs(a[0] - b[0]),
    "not (a[i] and b[i])": lambda a, b, s, i: int(not (a[0] and b[0])),
    "(2*a[i] and 1) + (0 or b[i])": lambda a, b, s, i: bool(a[0]) + bool(b[0]),
    "(a[i] == b[i]) + (a[i] != 0)": lambda a, b, s, i: (a[0] == b[0]) + (a[0] != 0),
    "(a[i] <= b[i]) + (a[i] < 1)": lambda a, b, s, i: (a[0] <= b[0]) + (a[0] < 1),
    "(a[i]^3 + base^2 + width * operands) mod base": lambda a, b, s, i: (a[0] ** 3 + 13) % 3,
    "(i == width) * 2": lambda a, b, s, i: 2 * (i == 2),
    "(a[i]*b[i]) mod base": lambda a, b, s, i: (a[0] * b[0]) % 3,
}


class Row:
    """Digits relative to the step; 0 beyond the ends."""

    def __init__(self, digits: list[int], step: int):
        self.digits, self.step = digits, step

    def __getitem__(self, offset: int) -> int:
        at = self.step + offset
        return self.digits[at] if 0 <= at < len(self.digits) else 0


@pytest.mark.parametrize("emit", IN_PYTHON)
def test_every_operation(emit: str) -> None:
    found = reference(f"emit {emit}")
    for a, b in itertools.product(range(9), repeat=2):
        rows, written = ([a % 3, a // 3], [b % 3, b // 3]), []
        for step in range(3):
            written.append(int(IN_PYTHON[emit](
                *(Row(row, step) for row in rows), Row(written, step), step)))
        assert found.digits((a, b)) == written


def test_it_adds_and_shows_its_work() -> None:
    found = reference(RIPPLE, "base 10 width 3")
    assert found.add(905, 95) == 1000
    steps = found.work((905, 95))
    assert [step.place for step in steps] == [0, 1, 2, 3]
    assert [dict(step.quantities)["carry"] for step in steps] == [0, 1, 1, 1]
    assert steps[1].quantities == (("x", 9), ("prev", 10), ("carry", 1))
    assert [step.emitted for step in steps] == [0, 0, 0, 1]


def test_quantities_may_be_written_in_any_order() -> None:
    assert reference("carry = prev > s[i-1]\nx = a[i] + b[i]\nprev = a[i-1] + b[i-1]\n"
                     "emit (x + carry) mod base", "base 10 width 3").add(999, 1) == 1000


def test_long_operands() -> None:
    checked = check_spec(parse(read_spec("nanogpt58")), {"width": 500})
    assert Reference(checked).add(10**500 - 1, 1) == 10**500


def test_operands_of_another_number_are_refused() -> None:
    with pytest.raises(ValueError, match="argument"):
        reference(RIPPLE).add(1, 2, 3)
