"""Names, the file's name and the order of lines mean nothing; another carry rule adds as well."""

from __future__ import annotations

import re

import numpy as np
import pytest
from levels import Levels, carry_chains, random_rows

from adderc.errors import Source, SpecError
from adderc.pipeline import Settings, read_spec

SPECS = ("nanogpt58", pytest.param("nanogpt130", marks=pytest.mark.slow),
         pytest.param("nanogpt58-seed", marks=pytest.mark.slow))


def body(name: str, part: str) -> list[str]:
    """The lines of a part of a packaged spec, comments left out."""
    text = re.sub(r"(?m)#.*$", "", read_spec(name).text)
    inside = re.search(rf"\n{part} \{{\n(.*?)\n\}}", text, re.S)
    assert inside is not None
    return [line for line in inside[1].splitlines() if line.strip()]


def reorder(name: str, part: str, order: list[int]) -> str:
    lines = body(name, part)
    text = re.sub(r"(?m)#.*$", "", read_spec(name).text)
    old = "\n".join(lines)
    squeezed = "\n".join(line for line in text.splitlines() if line.strip())
    assert old in squeezed
    return squeezed.replace(old, "\n".join(lines[at] for at in order))


def rename(text: str, names: dict[str, str]) -> str:
    for old, new in names.items():
        text = re.sub(rf"\b{old}\b(?!\s*\()", new, text)
    return text


def assert_same(text: str, spec: str, name: str = "other.adder") -> None:
    """The same leaves with the same values, bit for bit, and the same answers."""
    original, variant = Levels(read_spec(spec)), Levels(Source(name, text))
    assert list(variant.compiled.values) == list(original.compiled.values)
    for leaf, value in original.compiled.values.items():
        np.testing.assert_array_equal(variant.compiled.values[leaf], value, err_msg=leaf)
    rows = [*carry_chains(10, 10), *random_rows(10, 10, 50)]
    np.testing.assert_array_equal(variant.decoded(rows), original.decoded(rows))


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("names", [
    {"x": "here", "prev": "before", "carry": "wrapped"},
    {"x": "prev", "prev": "x"} | {"carry": "c1"},
    {"x": "zz", "prev": "a0", "carry": "digit"},
    {"x": "step", "prev": "digit", "carry": "sum1"},
    {"x": "index", "prev": "decode", "carry": "fetch"},
    {"x": "unused1", "prev": "wave2", "carry": "constant"},
])
def test_names_of_quantities(spec: str, names: dict[str, str]) -> None:
    text = read_spec(spec).text
    text = rename(text, {old: f"_{number}_" for number, old in enumerate(names)})
    text = rename(text, {f"_{number}_": new for number, new in enumerate(names.values())})
    assert text != read_spec(spec).text
    assert_same(text, spec)


@pytest.mark.parametrize("spec", SPECS)
def test_names_of_the_file_and_the_adder(spec: str) -> None:
    text = read_spec(spec).text
    assert_same(text, spec, "something/else.txt")
    assert_same(text.replace(f"adder {spec}\n", "adder q-7\n"), spec)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("order", [[2, 0, 1], [1, 0, 2], [2, 1, 0]])
def test_order_of_definitions(spec: str, order: list[int]) -> None:
    assert_same(reorder(spec, "algorithm", [*order, 3]), spec)


@pytest.mark.parametrize("spec", SPECS)
def test_order_of_the_model_and_the_format(spec: str) -> None:
    lines = len(body(spec, "model"))
    assert_same(reorder(spec, "model", list(reversed(range(lines)))), spec)
    assert_same(reorder(spec, "format", [2, 1, 0]), spec)


def test_order_of_settings_and_weights() -> None:
    text = read_spec("nanogpt58").text
    text = text.replace("base 10  width 10  operands 2", "operands 2\nwidth 10; base 10")
    text = text.replace("derive attention, ffn, decode", "derive decode, ffn; derive attention")
    assert_same(text, "nanogpt58")


@pytest.mark.parametrize("name", ["token", "sin", "cos", "out"])
def test_names_of_residual_signals_are_kept_for_them(name: str) -> None:
    with pytest.raises(SpecError, match=f"'{name}' cannot be redefined"):
        Levels(Source("t", rename(read_spec("nanogpt58").text, {"carry": name})))


SAME_CIRCUIT = ["(prev - s[i-1] + 1) div base", "prev >= s[i-1] + 1", "not (prev <= s[i-1])",
                "(a[i-1] + b[i-1]) > s[i-1]", "min(1, (prev - s[i-1] + 1) div base)",
    "s[i-1] < prev", "if s[i-1] >= prev then 0 else 1",
]
# 1 - step: the 1 takes a hidden unit of its own, so that rows are not shared in pairs


@pytest.mark.parametrize("rule", SAME_CIRCUIT)
@pytest.mark.parametrize(("base", "width"), [(10, 10), (3, 4), (16, 2)])
def test_other_ways_to_write_the_carry(rule: str, base: int, width: int) -> None:
    text = read_spec("nanogpt58").text.replace("prev > s[i-1]  ", rule)
    assert rule in text
    levels = Levels(Source("t", text), Settings(width=width, base=base))
    rows = [*carry_chains(base, width), *random_rows(base, width, 60)]
    np.testing.assert_array_equal(levels.decoded(rows), levels.integers(rows))
    assert levels.compiled.parameters == 58 - 10 + base
