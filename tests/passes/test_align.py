"""Alignment: the period of each known format, and refusals that name the position."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from adderc.errors import NOWHERE, Refusal, Source
from adderc.format.number import NumberFormat
from adderc.format.prompt import Format, OperandDigits, PromptSegment, Symbols
from adderc.ir.ops import Fetch, Node, Target
from adderc.passes.align import Alignment, Layout, Ring, align, distances

ZERO = (("+", 0), ("=", 0), ("z", 0))
TWO = Fraction(2)


def fetch(name: str, *targets: tuple[str, int] | tuple[str, int, int]) -> Node:
    return Node(name, Fetch(tuple(Target(t[0], t[1], Fraction(t[2] if len(t) > 2 else 1))
                                  for t in targets)))


X, PREV = fetch("x", ("a", 0), ("b", 0)), fetch("prev", ("a", -1), ("b", -1))


def prompt(width: int, *segments: PromptSegment, order: str = "lsd", base: int = 10) -> Format:
    return Format(NumberFormat(base, width), segments, order, tokens=ZERO)


def usual(width: int) -> Format:
    """msd(a) "+" msd(b) "="."""
    return prompt(width, OperandDigits(0, "msd"), Symbols("+"), OperandDigits(1, "msd"),
                  Symbols("="))


def aligned(form: Format, *fetches: Node, ring: Ring | None = None) -> Alignment:
    return align(fetches, form, ring or Ring(low_from=form.prompt_length - 1), Source("t", ""),
                 NOWHERE)


def assert_resonates(
    found: Alignment, form: Format, *fetches: Node, low_from: int | None = None
) -> None:
    """At a high scale, every head reads its digits with the weights asked for, and no others."""
    layout = Layout(form)
    for node in fetches:
        head, scale = found.head(node.name), 60 / found.gap
        keys = np.ones(form.prompt_length + form.steps - 1)
        if low_from is not None:
            keys[low_from:] = 0.25
        positions = np.arange(len(keys))
        seen = positions[None, :] <= np.arange(form.steps)[:, None] + layout.first_query
        score = scale * keys * np.cos(
            distances(head, layout, found.period, head.shift(found.period, scale)))
        weights = np.exp(np.where(seen, score, -np.inf) - score.max())
        weights /= weights.sum(axis=1, keepdims=True)
        wrong = np.abs(weights * float(head.total) - layout.wanted(node.op.targets))
        assert (wrong * (layout.values() > 0)).max() < 1e-3


# ---------------------------------------------------------------- found


@pytest.mark.parametrize("width", [1, 2, 10, 64])
def test_the_usual_format_has_period_width_plus_one(width: int) -> None:
    found = aligned(usual(width), X, PREV)
    assert found.period == width + 1
    # the next digit is one position away, or an answer's own, at a quarter of the gain
    assert found.gap == pytest.approx(min(0.75, 1 - math.cos(2 * math.pi / (width + 1))))
    assert [head.direction for head in found.heads] == [-1, -1]
    assert all(head.spread == 0 for head in found.heads)
    assert_resonates(found, usual(width), X, PREV, low_from=2 * width + 1)


@pytest.mark.parametrize("width", [2, 3, 5, 10])
def test_weights_one_to_two_take_half_a_phase_each(width: int) -> None:
    node = fetch("x", ("a", 0), ("b", 0, 2))
    found = aligned(usual(width), node)
    head = found.head("x")
    assert (found.period, head.spread) == (width + Fraction(3, 2), Fraction(1, 2))
    assert math.exp(abs(head.log_ratio)) == pytest.approx(2)
    assert head.total == 3
    assert_resonates(found, usual(width), node, low_from=2 * width + 1)


def four_digits(width: int) -> tuple[Format, Node]:
    """0 lsd(a) 0…0 lsd(b) 0, and one head that reads both places with weights base : 1."""
    form = prompt(width, Symbols("z"), OperandDigits(0, "lsd"), Symbols("z", width - 1),
                  OperandDigits(1, "lsd"), Symbols("z"))
    return form, fetch("x", ("a", 0, 10), ("b", 0, 10), ("a", -1), ("b", -1))


@pytest.mark.parametrize("width", [3, 5, 10, 40])
def test_two_places_with_weights_base_to_one_take_period_two_width_minus_one(width: int) -> None:
    form, node = four_digits(width)
    found = aligned(form, node, ring=Ring())
    assert (found.period, found.head("x").spread) == (2 * width - 1, 1)
    assert found.head("x").direction == 1
    assert math.exp(abs(found.head("x").log_ratio)) == pytest.approx(10)
    assert_resonates(found, form, node)


def test_a_period_that_the_spec_names_is_kept() -> None:
    form = usual(4)
    found = aligned(form, X, ring=Ring(Fraction(5), form.prompt_length - 1))
    assert found.period == 5
    assert_resonates(found, form, X, low_from=9)


@pytest.mark.parametrize("base", [2, 36])
def test_the_base_does_not_matter(base: int) -> None:
    form = Format(NumberFormat(base, 6), usual(6).prompt, tokens=ZERO)
    assert aligned(form, X, PREV).period == aligned(usual(6), X, PREV).period


# ---------------------------------------------------------------- refused


def refusal(form: Format, *fetches: Node, ring: Ring | None = None) -> str:
    with pytest.raises(Refusal) as caught:
        aligned(form, *fetches, ring=ring)
    assert caught.value.kind == "positions collide"
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize("period", [2, 3, 4])
def test_a_period_too_short_names_the_position_that_is_read_too(period: int) -> None:
    form = usual(4)
    text = refusal(form, X, ring=Ring(Fraction(period), form.prompt_length - 1))
    assert f"period {period}: " in text
    assert "position " in text
    assert "by x" in text or "x weighs" in text or "where x looks" in text or "x needs" in text


def test_operands_without_a_symbol_between_collide() -> None:
    form = prompt(4, OperandDigits(0, "msd"), OperandDigits(1, "msd"), Symbols("="))
    assert "position" in refusal(form, X, PREV)


def test_digits_of_both_directions_need_two_heads() -> None:
    form = prompt(4, OperandDigits(0, "msd"), Symbols("+"), OperandDigits(1, "lsd"), Symbols("="))
    assert "x reads digits of both directions" in refusal(form, X)
    one, two = fetch("a", ("a", 0)), fetch("b", ("b", 0))
    apart = prompt(4, OperandDigits(0, "msd"), Symbols("+"), OperandDigits(1, "lsd"),
                   Symbols("=", 5))
    found = aligned(apart, one, two)
    assert {head.fetch: head.direction for head in found.heads} == {"a": -1, "b": 1}
    assert_resonates(found, apart, one, two, low_from=apart.prompt_length - 1)


def test_two_places_collide_at_width_two() -> None:
    assert "position" in refusal(*four_digits(2), ring=Ring())
    assert "step 1 position 7 is read too by x" in refusal(*four_digits(2),
                                                           ring=Ring(Fraction(3)))


def test_three_different_weights_are_one_too_many() -> None:
    form = usual(4)
    node = fetch("x", ("a", 0), ("b", 0, 2), ("a", -1, 3))
    text = refusal(form, node, ring=Ring(Fraction(97), form.prompt_length - 1))
    assert "x needs 3 phases, a head has two at most" in text


# ---------------------------------------------------------------- layout


def test_where_digits_stand() -> None:
    layout = Layout(usual(3))
    assert [layout.position("a", place) for place in (0, 2, 3, -1)] == [2, 0, None, None]
    assert [layout.position("b", place) for place in (0, 2)] == [6, 4]
    assert [layout.position("s", place) for place in (0, 3, 4)] == [8, 11, None]
    assert (layout.direction("a"), layout.direction("s")) == (-1, 1)
    wanted = layout.wanted((Target("a", 0), Target("b", -1, TWO)))
    assert wanted.shape == (4, 11)
    assert {(int(r), int(c), float(wanted[r, c])) for r, c in np.argwhere(wanted)} == {
        (0, 2, 1.0), (1, 1, 1.0), (1, 6, 2.0), (2, 0, 1.0), (2, 5, 2.0), (3, 4, 2.0)}
