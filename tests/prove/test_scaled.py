"""A factor that all logits share: bounds of margins hold, and are not those of single logits."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from enclosed import check, totals
from styles import Anything, msd_format

from adderc.nn.greedy import last_logits
from adderc.prove import checker
from adderc.prove.checker_scaled import Scaled as CheckerScaled
from adderc.prove.checker_scaled import least_margins
from adderc.prove.checker_steps import Step, ordered
from adderc.prove.evaluate import Evaluator
from adderc.prove.gaps import margins
from adderc.prove.session import Session
from adderc.prove.steps import level_cases

FORM = msd_format(2, 4)
ROWS = list(itertools.product(range(16), repeat=2))
KINDS = ("rms", "layer", "divided")


class Final(Anything):
    """Attention by content, then a norm, an affine map, one more matrix and the head."""

    def __init__(self, name, seed=0, dtype=torch.float32):
        super().__init__(name, seed, dtype, spread=0.5)
        with torch.no_grad():
            self.table *= 0.5
            self.places *= 2  # what is divided by is not near 0

    def forward(self, tokens):
        x = self.table[tokens] + self.places[: tokens.shape[1]]
        scores = (x[:, -1:] @ self.q) @ (x @ self.k).transpose(-2, -1)
        y = x[:, -1:] + torch.softmax(scores / 2, -1) @ (x @ self.v)
        return (self.norm(y) @ self.up) @ self.head

    def norm(self, y):
        match self.name:
            case "rms":
                return F.rms_norm(y, (4,), self.q[0])
            case "layer":
                return F.layer_norm(y, (4,), self.q[0], self.q[1])
        centred = y - y.mean(-1, keepdim=True)
        return centred / torch.sqrt((centred * centred).mean(-1, keepdim=True) + 0.1)


def seen_gaps(module, step, place, expected_of):
    """For each case (carry, digit sum) the least gaps [V] over all operand pairs."""
    prompts, answers = FORM.encode(ROWS), np.array([FORM.expected(row) for row in ROWS])
    whole = np.concatenate([prompts, answers[:, :step]], 1)
    with torch.inference_mode():
        logits = last_logits(module(torch.from_numpy(whole))).double().numpy()
    found = {}
    for row, values in zip(ROWS, logits, strict=True):
        case = totals(row, place, FORM.number.base)
        gaps = values[expected_of(case)] - values
        found[case] = np.minimum(found.get(case, np.inf), gaps)
    return found


def cases_of(module, step):
    session = Session(module, FORM)
    captured, subject, interpreter, tokens = session.prepare()
    length = session.lengths()[step]
    roots = session._roots(interpreter, captured.program(length), tokens[:length])
    cases = level_cases(subject.automaton, step, 0, None)
    evaluator = Evaluator(subject.graph, subject.automaton, subject.dtype, cases, length, {})
    forms = evaluator.run(roots)
    expected = subject.automaton.expected(step, cases.carry, cases.sums)
    return evaluator, forms, expected, cases


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_margins_hold_and_gain_by_the_factor(kind, dtype):
    module = Final(kind, seed=3, dtype=dtype)
    evaluator, forms, expected, cases = cases_of(module, 2)
    assert evaluator.common is not None
    bounds, _ = margins(evaluator.ranges, forms, expected, evaluator.common)
    plain, _ = margins(evaluator.ranges, forms, expected)
    seen = seen_gaps(module, 2, cases.place, lambda case: sum(case) % 4)
    others = np.isfinite(bounds)
    for number, case in enumerate(zip(cases.carry.tolist(), cases.sums.tolist(), strict=True)):
        assert (bounds[number][others[number]] <= seen[case][others[number]]).all()
    assert np.mean(bounds[others] - plain[others]) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_logits_with_a_factor_lie_inside(kind):
    found = check(Final(kind, seed=3), FORM, ROWS, 0, steps=(0, 2))
    assert found.tried == 2 * 256 * 5
    assert found.outside == 0
    assert min(found.ratios) >= 1


def claimed(module):
    steps = [{"margin": 1e-9, "near": [], "tuples": []} for _ in range(FORM.steps)]
    return {"steps": steps, "dtype": str(module.head.dtype), "grade": "portable"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_checkers_margins_hold_and_gain_by_the_factor(kind):
    module = Final(kind, seed=3)
    whole = checker._Check(claimed(module), module, FORM, print)
    step, length = Step(whole, 2, claimed(module)["steps"][2]), FORM.prompt_length + 2
    logits = whole.reader.read_logits(whole._export()(length), whole.tokens[:length])
    order, uses = ordered(logits)
    seen = seen_gaps(module, 2, step.place, lambda case: sum(case) % 4)
    gain = []
    for key, group in step.groups(step.cases()).items():
        evaluator = step.evaluator(key, group, uses)
        evaluator.run(order)
        right = [(case.carry + case.digit_sum) % 4 for case in group]
        values = [evaluator.value(term) for term in logits]
        assert all(isinstance(value, CheckerScaled) for value in values)
        bounds = least_margins(evaluator, values, right)
        plain = evaluator.ranges.gaps([evaluator.plain(value) for value in values], right)
        for case, token, bound, row in zip(group, right, bounds, plain, strict=True):
            true = np.delete(seen[case.carry, case.digit_sum], token).min()
            assert float(bound) <= true
            gain.append(float(bound) - min(float(ball) for ball in row))
    assert np.mean(gain) > 0
