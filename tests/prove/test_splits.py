"""A proof that needs splits by single tokens: its certificate holds them, and needs them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from modules import Resonant, plain_format

from adderc.prove.certificate import write_certificate
from adderc.prove.checker import check_certificate, seal
from adderc.prove.gaps import margins_of
from adderc.prove.run import prove
from adderc.prove.session import Session
from adderc.prove.steps import level_cases


class Crossed(Resonant):
    """A sum of products that is 0 whatever the digits, which no bound sees before it knows
    one of them."""

    def logits(self, x):
        p, q = x[:, 1, :1], x[:, self.width + 2, :1]
        cross = (p + 1) * q - p * q - q
        return super().logits(x) + 0.05 * cross * torch.arange(10.0)


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    module, form = Crossed(1), plain_format(1)
    path = tmp_path_factory.mktemp("splits") / "c.json"
    result = prove(module, form)
    assert result.verdict == "PROVEN", result.reason
    write_certificate(path, result)
    return module, form, path


def edited(split, target, change):
    module, form, path = split
    data = json.loads(path.read_text())
    change(data["steps"])
    del data["digest"]
    target.write_text(json.dumps(seal(data)))
    return check_certificate(target, module, form)


def test_a_proof_with_splits_is_confirmed(split):
    module, form, path = split
    splits = [row for step in json.loads(path.read_text())["steps"] for row in
              step.get("splits", [])]
    assert len(splits) > 1
    check = check_certificate(path, module, form)
    assert check.accepted, check.reason


def drop_all(steps):
    for step in steps:
        step.pop("splits", None)


def drop_one(steps):
    next(step for step in steps if step.get("splits"))["splits"].pop()


def other_token(steps):
    """A split of a case that no operands fit, in the place of one that there is."""
    row = next(step for step in steps if step.get("splits"))["splits"][-1]
    row[4] = [[row[5], 9 if not row[4] else row[4][0][1] + 1]]


def claim_more(steps):
    next(step for step in steps if step.get("splits"))["margin"] = 50.0


@pytest.mark.parametrize("change", [drop_all, drop_one, other_token, claim_more])
def test_an_edited_split_is_refused(split, tmp_path, change):
    check = edited(split, tmp_path / "c.json", change)
    assert not check.accepted
    assert "bound found" in check.reason or "split" in check.reason


def test_what_is_kept_from_case_to_case_holds_in_every_case():
    """Cases that all know one token, or one case alone, leave nothing behind for others."""
    module = Crossed(1)
    session = Session(module, plain_format(1))
    captured, subject, interpreter, tokens = session.prepare()
    length = session.lengths()[1]
    roots = session._roots(interpreter, captured.program(length), tokens[:length])
    cases, tried = level_cases(subject.automaton, 1, 0, None), 0
    for level in (1, 2):
        cases = level_cases(subject.automaton, 1, level, cases)
        for number in range(0, len(cases), 3):
            alone = cases.choose(np.array([number]))
            found = margins_of(subject, alone, 1, roots)
            assert (found == margins_of(replace(subject, shared={}), alone, 1, roots)).all()
            tried += 1
    assert tried > 10
