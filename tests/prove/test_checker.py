"""The checker's own parts: its automaton, its bounds, what it accepts and what it refuses."""

import itertools
import json
import random

import numpy as np
import pytest
import torch
from flint import arb
from modules import (
    Fused,
    InPlace,
    LooksAtTokens,
    Noisy,
    Normed,
    Overflows,
    PlaceValue,
    RarelyWrong,
    Resonant,
    StateMachine,
    Summed,
    place_value_format,
    plain_format,
    state_format,
)
from styles import (
    CHANGES,
    Anything,
    Learned,
    Machine,
    PrefixSum,
    msd_format,
    pair_format,
)

from adderc.format.number import NumberFormat
from adderc.format.prompt import Format, OperandDigits, Symbols
from adderc.nn.greedy import last_logits
from adderc.prove import checker
from adderc.prove.checker import check_certificate, model_identity, seal
from adderc.prove.checker_balls import FUNCTIONS, over
from adderc.prove.checker_digits import NEVER, Case, Places, Reach

# ---------------------------------------------------------------- claims of a forger


def claim(module, form, margin=1e-9):
    """A certificate that anyone could write: no case is split, the margins are small."""
    tensors = [*module.parameters(), *module.buffers()]
    dtypes = [t.dtype for t in tensors if t.is_floating_point()] or [torch.float32]
    steps = [{"margin": margin, "near": [], "tuples": []} for _ in range(form.steps)]
    return seal({"kind": "adderc certificate", "version": 1, "grade": "portable",
                 "model": model_identity(module), "format": repr(form),
                 "dtype": str(dtypes[0]), "steps": steps, "assumptions": []})


def answer(module, form, path):
    path.write_text(json.dumps(claim(module, form)))
    return check_certificate(path, module, form)


MSD, PAIRS = msd_format(2, 10), pair_format(3, 4)
RIGHT = {
    "by content": (lambda: Resonant(2, leak=0.5), plain_format(2)),
    "by content, float64": (lambda: Resonant(2, leak=2.0, dtype=torch.float64), plain_format(2)),
    "in place": (lambda: InPlace(2), plain_format(2)),
    "fused": (lambda: Fused(2), plain_format(2)),
    "einsum": (lambda: Summed(2), plain_format(2)),
    "layer norm": (lambda: Normed(2, "layer"), plain_format(2)),
    "rms norm": (lambda: Normed(2, "rms"), plain_format(2)),
    "written out": (lambda: PlaceValue(place_value_format(3, 3, 3)), place_value_format(3, 3, 3)),
    "states": (lambda: StateMachine(3, 4), state_format(3, 4)),
    "learned, rms": (lambda: Learned(2), plain_format(2)),
    "learned, layer": (lambda: Learned(2, "layer"), plain_format(2)),
    "softmax1": (lambda: PrefixSum(MSD), MSD),
    "anchored": (lambda: PrefixSum(MSD, "anchored"), MSD),
    "torch's attention": (lambda: Machine(3, 4), PAIRS),
}
WRONG = {
    "one total": (lambda: RarelyWrong(2), plain_format(2)),
    "threshold high": (lambda: Resonant(2, threshold=8.95), plain_format(2)),
    "threshold low": (lambda: Resonant(2, threshold=-0.5), plain_format(2)),
    "overflow": (lambda: Overflows(2), plain_format(2)),
    "random": (lambda: Noisy(2), plain_format(2)),
    "a branch": (lambda: LooksAtTokens(2), plain_format(2)),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_modules_need_no_search(name, tmp_path):
    make, form = RIGHT[name]
    check = answer(make(), form, tmp_path / "c.json")
    assert check.accepted, check.reason
    assert check.margin > 1e-4
    assert any("exp 4" in line for line in check.assumptions)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_modules_pass_with_no_claim(name, tmp_path):
    make, form = WRONG[name]
    check = answer(make(), form, tmp_path / "c.json")
    assert not check.accepted
    assert "\n" not in check.reason


SPOILED = {
    "learned, rms": lambda m: m.norm.weight[0].mul_(1.1),
    "learned, layer": lambda m: m.queries[7, 1].mul_(-1),
    "softmax1": lambda m: m.slope.mul_(1.05),
    "anchored": lambda m: m.table[9, 0].sub_(0.2),
    "torch's attention": lambda m: m.attention.in_proj_weight[8, 0].mul_(0.8),
    "by content": lambda m: m.embedding.weight[9, 0].sub_(0.6),
    "states": lambda m: m.sums[6].add_(0.6),
}


@pytest.mark.parametrize("name", SPOILED)
def test_one_spoiled_weight_is_refused(name, tmp_path):
    """By identity with the old certificate, by the bounds with a forged one."""
    make, form = RIGHT[name]
    module = make()
    (tmp_path / "old.json").write_text(json.dumps(claim(module, form)))
    with torch.no_grad():
        SPOILED[name](module)
    old = check_certificate(tmp_path / "old.json", module, form)
    assert not old.accepted
    assert "other weights" in old.reason
    forged = answer(module, form, tmp_path / "new.json")
    assert not forged.accepted
    assert "the bound found" in forged.reason


# ---------------------------------------------------------------- bounds

SMALL = Format(NumberFormat(3, 2, 2),
               (OperandDigits(0, "lsd"), Symbols("+"), OperandDigits(1, "lsd"), Symbols("=")),
               tokens=(("+", 3), ("=", 4)))


def totals(operands, place, base):
    """Carry into a place and digit sum at it."""
    below = sum(v % base**place for v in operands)
    return below // base**place, sum(v // base**place % base for v in operands)


def bounds(module, form, split):
    """For each step its cases and the bounds of every logit in each of them."""
    check = checker._Check(claim(module, form), module, form, print)
    program = check._export()
    for number in range(form.steps):
        length = form.prompt_length + number
        logits = check.reader.read_logits(program(length), check.tokens[:length])
        step = checker._Step(check, number, {"margin": 1e-9, "near": [], "tuples": []})
        cases = step._cases()
        if split and step.near_place is not None:
            cases = step._possible([part for case in cases for part in step._by_total(case)])
        order, uses = checker._ordered(logits)
        groups = {}
        for case in cases:
            groups.setdefault(step._token(case), []).append(case)
        for token, group in groups.items():
            evaluator = step._evaluator(token, group, uses)
            evaluator.run(order)
            yield step, group, [evaluator.ranges.of(evaluator.form(t)) for t in logits]


def outside(module, form, split):
    """Real logits outside their bounds over all operand pairs, all tried, and the largest
    ratio of a bound's width to the width that is really reached."""
    rows = list(itertools.product(range(form.number.maximum + 1), repeat=2))
    prompts, answers = form.encode(rows), np.array([form.expected(row) for row in rows])
    bad = tried = 0
    ratios = []
    for step, group, ranges in bounds(module, form, split):
        whole = np.concatenate([prompts, answers[:, : step.number]], 1)
        with torch.no_grad():
            real = last_logits(module(torch.from_numpy(whole))).double().numpy()
        low, high = (np.array([[float(b) for b in side[i]] for side in ranges]) for i in (0, 1))
        for index, case in enumerate(group):
            fits = [totals(row, step.place, form.number.base) == (case.carry, case.digit_sum)
                    and (case.near is None
                         or sum(totals(row, step.near_place, form.number.base)) == case.near)
                    for row in rows]
            values = real[fits]
            bad += int(((values < low[:, index]) | (values > high[:, index])).sum())
            tried += values.size
            reached = values.max(0) - values.min(0)
            ratios.append(((high - low)[:, index] / np.maximum(reached, 1e-3)).max())
    return bad, tried, max(ratios)


@pytest.mark.parametrize("name", CHANGES)
def test_every_logit_lies_inside_its_bounds(name):
    module = Anything(name, seed=len(name), spread=0.5)
    for split in (False, True):
        bad, tried, _ = outside(module, SMALL, split)
        assert bad == 0
        assert tried >= 81 * 5 * SMALL.steps


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("spread", [0.2, 1.0, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_logits_of_many_random_blocks_lie_inside(name, spread, dtype):
    for seed in range(6):
        for split in (False, True):
            try:
                bad, _, _ = outside(Anything(name, seed, dtype, spread), SMALL, split)
            except checker.NotUnderstood as reason:
                assert "denominator" in str(reason)  # noqa: PT017
                continue
            assert bad == 0


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_lie_in_their_balls_and_near_their_lines(name):
    function, draw = FUNCTIONS[name], random.Random(name)
    for _ in range(60):
        low = draw.uniform(0.01, 9) if function.positive else draw.uniform(-9, 9)
        high = low + draw.choice([1e-3, 0.1, 1.0, 5.0])
        middle, half = arb((low + high) / 2), arb(high) - arb((low + high) / 2)
        whole = over(function, arb(low), arb(high))
        near = arb(0) if low <= 0 <= high else min(abs(arb(low)), abs(arb(high)))
        rest = function.bend(arb(low), arb(high), near) * half * half / 2
        for part in range(21):
            x = arb(low + (high - low) * part / 20)
            assert whole.contains(function.value(x).mid())
            line = function.value(middle) + function.slope(middle) * (x - middle)
            assert abs(function.value(x) - line) <= rest * arb("1.0000001") + arb("1e-9")
        assert whole.rad() <= half * 20 * arb(high).abs_upper().exp() + 1


# ---------------------------------------------------------------- the automaton


def test_reach_is_the_exact_extreme():
    """Against all operand pairs."""
    form = plain_format(2, base=3)
    places = Places(form)
    positions = [p for p in places.place_of if p < form.prompt_length + 2]
    draw = np.random.default_rng(0)
    tables = {p: draw.integers(-50, 50, (1, places.tokens(p))).astype(float) for p in positions}
    best = {}
    for a, b in itertools.product(range(9), repeat=2):
        tokens = [*form.encode([(a, b)])[0], *form.expected((a, b))]
        value = sum(tables[p][0, tokens[p]] for p in positions)
        for near in (None, sum(totals((a, b), 1, 3))):
            for digits in (None, (0, 0)):
                key = (*totals((a, b), 2, 3), near, digits)
                best[key] = max(best.get(key, NEVER), value)
    cases = [Case(*key) for key in best] + [Case(1, 0, 2), Case(0, 1)]
    reach = Reach(places, form.answer_place(2), 1, cases)
    found = reach.largest(tables, 1, np.zeros(len(cases), dtype=int))
    assert found.tolist() == [*best.values(), NEVER, NEVER]
    assert reach.possible() == [True] * len(best) + [False, False]


def test_several_rows_of_tables_at_once():
    form = msd_format(2, 4)
    places = Places(form)
    draw = np.random.default_rng(1)
    tables = {p: draw.normal(size=(3, places.tokens(p)))
              for p in places.place_of if p < form.prompt_length + 1}
    cases = [Case(c, x, near) for c in range(2) for x in range(7) for near in range(2)]
    reach = Reach(places, form.answer_place(1), form.answer_place(0), cases)
    rows = draw.integers(0, 3, (len(cases), 2))
    both = reach.largest(tables, 3, rows)
    for column in range(2):
        for row in range(3):
            one = reach.largest({p: t[row : row + 1] for p, t in tables.items()}, 1,
                                np.zeros(len(cases), dtype=int))
            chosen = rows[:, column] == row
            assert np.array_equal(both[chosen, column], one[chosen])
