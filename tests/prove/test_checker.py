"""The checker's own parts: its automaton, its bounds, what it accepts and what it refuses."""

import itertools
import json
import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
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
from adderc.prove.checker_lines import function_line
from adderc.prove.checker_steps import Step, ordered

# ---------------------------------------------------------------- claims of a forger


def claim(module, form, margin=1e-9, steps=None):
    """A certificate that anyone could write: no case is split, the margins are small."""
    tensors = [*module.parameters(), *module.buffers()]
    dtypes = [t.dtype for t in tensors if t.is_floating_point()] or [torch.float32]
    steps = steps or [{"margin": margin, "near": [], "tuples": []} for _ in range(form.steps)]
    return seal({"kind": "adderc certificate", "version": 1, "grade": "portable",
                 "model": model_identity(module), "format": repr(form),
                 "dtype": str(dtypes[0]), "steps": steps, "assumptions": []})


def answer(module, form, path, steps=None):
    path.write_text(json.dumps(claim(module, form, steps=steps)))
    return check_certificate(path, module, form)


MSD, PAIRS = msd_format(2, 10), pair_format(2, 3)
RIGHT = {
    "by content": (lambda: Resonant(2, leak=0.5), plain_format(2)),
    "by content, float64": (lambda: Resonant(1, leak=2.0, dtype=torch.float64), plain_format(1)),
    "in place": (lambda: InPlace(1), plain_format(1)),
    "fused": (lambda: Fused(1), plain_format(1)),
    "einsum": (lambda: Summed(1), plain_format(1)),
    "layer norm": (lambda: Normed(1, "layer"), plain_format(1)),
    "rms norm": (lambda: Normed(1, "rms"), plain_format(1)),
    "written out": (lambda: PlaceValue(place_value_format(2, 3, 3)), place_value_format(2, 3, 3)),
    "states": (lambda: StateMachine(3, 4), state_format(3, 4)),
    "learned, rms": (lambda: Learned(2), plain_format(2)),
    "learned, layer": (lambda: Learned(2, "layer"), plain_format(2)),
    "softmax1": (lambda: PrefixSum(MSD), MSD),
    "anchored": (lambda: PrefixSum(MSD, "anchored"), MSD),
    "torch's attention": (lambda: Machine(2, 3), PAIRS),
}
WRONG = {
    "one total": (lambda: RarelyWrong(2), plain_format(2)),
    "threshold high": (lambda: Resonant(2, threshold=8.95), plain_format(2)),
    "threshold low": (lambda: Resonant(2, threshold=-0.5), plain_format(2)),
    "overflow": (lambda: Overflows(2), plain_format(2)),
    "random": (lambda: Noisy(2), plain_format(2)),
    "a branch": (lambda: LooksAtTokens(2), plain_format(2)),
}


SPOILED = {
    "learned, rms": lambda m: m.norm.weight[0].mul_(1.1),
    "learned, layer": lambda m: m.queries[7, 1].mul_(-1),
    "softmax1": lambda m: m.slope.mul_(1.05),
    "anchored": lambda m: m.table[9, 0].sub_(0.2),
    "torch's attention": lambda m: m.attention.in_proj_weight[8, 0].mul_(0.6),
    "by content": lambda m: m.embedding.weight[9, 0].sub_(0.6),
    "states": lambda m: m.sums[6].add_(0.6),
}


def spoil(module, form, change, folder):
    """One changed weight is refused: by identity with the old certificate, by the bounds with
    a forged one."""
    (folder / "old.json").write_text(json.dumps(claim(module, form)))
    with torch.no_grad():
        change(module)
    old = check_certificate(folder / "old.json", module, form)
    assert not old.accepted
    assert "other weights" in old.reason
    forged = answer(module, form, folder / "new.json")
    assert not forged.accepted
    assert "the bound found" in forged.reason


LONG = ("in place", "written out", "learned, layer", "by content, float64")


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in RIGHT])
def test_right_modules_need_no_search(name, read_once, tmp_path):
    make, form = RIGHT[name]
    module = make()
    check = answer(module, form, tmp_path / "c.json")
    assert check.accepted, check.reason
    assert check.margin > 1e-4
    assert any("exp 4" in line for line in check.assumptions)
    if name in SPOILED:
        spoil(module, form, SPOILED[name], tmp_path)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_modules_pass_with_no_claim(name, tmp_path):
    make, form = WRONG[name]
    check = answer(make(), form, tmp_path / "c.json")
    assert not check.accepted
    assert "\n" not in check.reason


def test_what_is_not_finite_is_refused(read_once, tmp_path):
    module, form = Resonant(1), plain_format(1)
    weight = module.embedding.weight
    for value in (math.nan, math.inf, -math.inf, 1e38):
        with torch.no_grad():
            weight[3, 0] = value
        check = answer(module, form, tmp_path / "c.json")
        assert not check.accepted
        assert "infinity" in check.reason or "overflow or NaN" in check.reason, check.reason


class Twice(Resonant):
    """Right where equal sums round equally, which no order of summation is bound to do."""

    def logits(self, x):
        once, again = self.read(x, 1), self.read(x, 1)
        return super().logits(x) + (once - again) * torch.arange(10.0) * 1e6


def test_sums_that_are_computed_twice_may_differ(tmp_path):
    form, path = plain_format(1), tmp_path / "c.json"
    check = answer(Twice(1), form, path)
    assert not check.accepted
    assert "the bound found" in check.reason
    path.write_text(json.dumps(claim(Resonant(1), form)))  # the same weights, other code
    assert "another structure" in check_certificate(path, Twice(1), form).reason


# ---------------------------------------------------------------- splits


class Crossed(Resonant):
    """A sum of products that is 0 whatever the digits, which no bound sees before it knows
    one of them; `slip` is where it is not."""

    def __init__(self, width, slip=0.0):
        super().__init__(width)
        self.slip = slip

    def logits(self, x):
        p, q = x[:, 1, :1], x[:, self.width + 2, :1]
        cross = (p + 1) * q - p * q - q
        bump = F.relu(1 - (p - 7).abs()) * F.relu(1 - (q - 7).abs()) * self.slip
        return super().logits(x) + (0.05 * cross + bump) * torch.arange(10.0)


def splits():
    """Both steps split as far as `Crossed` needs it."""
    totals = [(0, total) for total in range(10)] + [(1, total) for total in range(10, 19)]
    return [
        {"margin": 0.5, "near": [], "tuples": [[0, total, -1] for total in range(19)]},
        {"margin": 0.5, "near": [[0, 0], [1, 0]], "tuples": [],
         "splits": [[carry, 0, total, -1, [], 1] for carry, total in totals]},
    ]


def test_splits_close_what_is_open_without_them(read_once, tmp_path):
    module, form, path = Crossed(1), plain_format(1), tmp_path / "c.json"
    check = answer(module, form, path, splits())
    assert check.accepted, check.reason
    assert check.cases == 100 + 100
    fewer = splits()
    fewer[1]["splits"].pop(9)
    assert "the bound found is -" in answer(module, form, path, fewer).reason


def test_no_split_hides_what_is_wrong(tmp_path):
    """One digit pair is wrong; every digit of every case is held."""
    steps = splits()
    steps[1]["splits"] += [
        [carry, 0, total, -1, [[1, digit]], 3]
        for carry, _, total, *_ in steps[1]["splits"] for digit in range(10)
        if 0 <= total - digit < 10]
    wrong = answer(Crossed(1, slip=1.2), plain_format(1), tmp_path / "c.json", steps)
    assert not wrong.accepted
    assert "the bound found is -0.2" in wrong.reason


CASE = [1, 0, 14, -1]
BAD_SPLITS = {
    "twice": [[*CASE, [], 1]] * 2,
    "two ways": [[*CASE, [], 1], [*CASE, [], 3]],
    "a symbol": [[*CASE, [], 2]],
    "no position": [[*CASE, [], 99]],
    "before all": [[*CASE, [], -1]],
    "the same again": [[*CASE, [], 1], [*CASE, [[1, 7]], 1]],
    "no such case": [[0, 0, 14, -1, [], 1]],
    "not held": [[*CASE, [[1, 7]], 3]],
    "a fraction": [[1.0, 0, 14, -1, [], 1]],
    "true": [[True, 0, 14, -1, [], 1]],
    "short": [CASE],
    "text": "all",
}


@pytest.mark.parametrize("name", BAD_SPLITS)
def test_splits_of_nothing_are_refused(name):
    form, claimed = plain_format(1), splits()[1]
    check = SimpleNamespace(places=Places(form), form=form)
    assert len(Step(check, 1, claimed).cases()) == 100
    kept = [row for row in claimed["splits"] if row[2] != 14]
    bad = BAD_SPLITS[name]
    claimed["splits"] = kept + bad if isinstance(bad, list) else bad
    with pytest.raises(checker.NotUnderstood, match="split"):
        Step(check, 1, claimed).cases()


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
        step = Step(check, number, {"margin": 1e-9, "near": [], "tuples": []})
        cases = step.cases()
        if split and step.near_place is not None:
            cases = step.possible([part for case in cases for part in step.by_total(case)])
        order, uses = ordered(logits)
        for key, group in step.groups(cases).items():
            evaluator = step.evaluator(key, group, uses)
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


class Mixed(Anything):
    """A curve of its own for each channel."""

    def change(self, u):
        curves = self.name.split()
        return torch.cat([CURVES[curve](u[..., i : i + 1]) for i, curve in enumerate(curves)], -1)


CURVES = {"gelu": F.gelu, "silu": F.silu, "tanh": torch.tanh, "sigmoid": torch.sigmoid,
          "erf": torch.erf, "sin": torch.sin, "cos": torch.cos, "abs": torch.abs}
FIRST = ("layer norm", "rms norm", "gated", "quotient", "choice", "root",
         "gelu silu tanh sigmoid", "erf sin cos abs")


@pytest.mark.parametrize("name", FIRST)
def test_every_logit_lies_inside_its_bounds(name, read_once):
    module = (Anything if name in CHANGES else Mixed)(name, seed=len(name), spread=0.5)
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
        slope, base, off = function_line(function, arb(low), arb(high), whole)
        points = [arb(low + (high - low) * part / 40) for part in range(41)]
        assert all(abs(function.value(x) - slope * x - base) <= off + arb("1e-12")
                   for x in points)
        assert off <= rest.min(whole.rad()) * arb("1.001") + arb("1e-9")


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
