"""Every real logit lies inside what the prover says of its case."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from enclosed import check, totals
from modules import Resonant, plain_format
from styles import Anything, msd_format

from adderc.prove.carry import Automaton
from adderc.prove.ranges import Ranges
from adderc.prove.search import Search
from adderc.prove.steps import level_cases

JUMPS = ("larger", "extremes", "comparisons", "whole", "remainder", "leaky")


def logits_of(module, form, count, level):
    return check(module, form, Search(module, form).structured(count), level)


@pytest.mark.parametrize("level", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_compiled_logits_lie_inside(small, level):
    found = logits_of(small, small.format, 100, level)
    assert found.tried == 3 * 100 * 10
    assert found.outside == 0


@pytest.mark.parametrize("leak", [3.0, pytest.param(0.5, marks=pytest.mark.slow)])
def test_logits_of_attention_by_content_lie_inside(leak):
    found = logits_of(Resonant(2, leak), plain_format(2), 60, 0)
    assert found.tried == 3 * 60 * 10
    assert found.outside == 0


class Jumping(Anything):
    """A block with random weights and steps, choices, whole numbers in the middle."""

    def change(self, u):
        if self.name == "all":
            return sum(self.jump(u, name) for name in JUMPS) / 4
        return self.jump(u, self.name)

    def jump(self, u, name):
        left, right = u[..., :2], u[..., 2:]
        match name:
            case "larger":
                return torch.cat([torch.maximum(left, right), left.clamp(-0.5, 0.5)], -1)
            case "extremes":
                return torch.cat([u.max(-1, keepdim=True).values + left, u.amin(-1, True) * right],
                                 -1)
            case "comparisons":
                chosen = torch.where((left > right) & ~(right > 0.5), left, right * 2)
                return torch.cat([chosen, (left <= 0.25).to(u.dtype)], -1)
            case "whole":
                return torch.cat([left.floor() + left.round(), right.trunc() - right.sign()], -1)
            case "remainder":
                return torch.cat([left % 0.75, torch.div(right, 0.75, rounding_mode="floor")], -1)
        return torch.nn.functional.leaky_relu(u, 0.1) + torch.nn.functional.hardtanh(u)


@pytest.mark.parametrize(("name", "level"), [
    ("all", 0), *(pytest.param(name, level, marks=pytest.mark.slow)
                  for name in JUMPS for level in (0, 2))])
def test_logits_after_jumps_lie_inside(name, level):
    form = msd_format(2, 4)
    every = [(a, b) for a in range(16) for b in range(16)]
    found = check(Jumping(name, spread=0.7), form, every, level, steps=(0, 2))
    assert found.tried == 2 * 256 * 5
    assert found.outside == 0
    assert min(found.ratios) >= 1


def test_ranges_are_the_exact_extremes():
    """The dynamic programme against all operand pairs, random tables."""
    form = plain_format(2, base=3)
    automaton = Automaton(form)
    step, positions = 2, form.prompt_length + 2
    rng = np.random.default_rng(0)
    table = rng.normal(size=(1, positions, 3))
    table[0, [p for p, h in enumerate(automaton.holders[:positions]) if h.place < 0]] = 0
    cases = level_cases(automaton, step, 0, None)
    rows = np.zeros(len(cases), dtype=int)
    top = Ranges(automaton, cases, positions).largest(table.transpose(2, 1, 0), rows)
    best = np.full(len(cases), -np.inf)
    for a in range(9):
        for b in range(9):
            sequence = [*form.encode([(a, b)])[0], *form.expected((a, b))][:positions]
            value = sum(table[0, p, t] for p, t in enumerate(sequence)
                        if automaton.holders[p].place >= 0)
            carry, digit_sum = totals((a, b), form.answer_place(step), 3)
            fits = (cases.carry == carry) & (cases.sums == digit_sum)
            best[fits] = np.maximum(best[fits], value)
    assert np.allclose(top, best)


def test_sums_of_tables_are_as_exact_as_their_error_says():
    """Tables that grow by place, as place values do, against sums of fractions."""
    form = plain_format(2, base=3)
    automaton = Automaton(form)
    step, positions = 1, form.prompt_length + 1
    rng = np.random.default_rng(1)
    cases = level_cases(automaton, step, 0, None)
    ranges = Ranges(automaton, cases, positions)
    places = np.array([h.place for h in automaton.holders[:positions]])
    rounded = 0
    for _ in range(20):
        tables = rng.normal(size=(3, positions, 1)) * 1000.0 ** places[:, None]
        tables[:, places < 0] = 0
        top = ranges.largest(tables, np.zeros(len(cases), dtype=int))
        best = [None] * len(cases)
        for a, b in itertools.product(range(9), repeat=2):
            sequence = [*form.encode([(a, b)])[0], *form.expected((a, b))][:positions]
            value = sum(Fraction(tables[t, p, 0]) for p, t in enumerate(sequence) if places[p] >= 0)
            carry, digit_sum = totals((a, b), cases.place, 3)
            for case in np.flatnonzero((cases.carry == carry) & (cases.sums == digit_sum)):
                best[case] = value if best[case] is None else max(best[case], value)
        error = float(ranges.error(np.abs(tables).max(axis=0))[0])
        off = [abs(float(Fraction(t) - b)) for t, b in zip(top, best, strict=True)]
        assert max(off) <= error
        rounded += max(off) > 0
    assert rounded > 0
