"""What the margins would be without the module's rounding.

Takes: a step's scalar nodes, its open cases or one gap. Gives: `margins_in_reals`,
`share_of_rounding`.
May import: prove.doubt, prove.gaps, prove.scalars, prove.steps.

The module's numbers are kept as they are; its operations are carried out in float64 with no
rounding added. For a float32 module that is exact arithmetic for all that matters, for a
float64 module an estimate. No verdict PROVEN rests on it.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from adderc.prove.doubt import Doubt
from adderc.prove.gaps import Gap, Subject, margins_of
from adderc.prove.scalars import Roots
from adderc.prove.steps import StepProof

CASES_AT_ONCE = 1_000


def margins_in_reals(subject: Subject, proof: StepProof, roots: Roots, deadline: float
                     ) -> float:
    """The smallest margin of the cases that a step left open; Doubt where there is none."""
    exact = replace(subject, exact=True, shared={})
    if proof.left is None or proof.doubt:
        raise Doubt(proof.doubt or "no case is open")
    least = np.inf
    for start in range(0, len(proof.left), CASES_AT_ONCE):
        if time.monotonic() > deadline:
            raise Doubt("out of budget")
        stop = min(start + CASES_AT_ONCE, len(proof.left))
        cases = proof.left.choose(np.arange(start, stop))
        least = min(least, float(margins_of(exact, cases, proof.step, roots, deadline).min()))
    return least


def share_of_rounding(subject: Subject, step: int, roots: Roots, gap: Gap
                      ) -> float | None:
    """The part of the exact margin of one gap that rounding may use up, from 0 on.

    Above 1 it uses up more than there is; None where the exact margin is not positive.
    """
    exact = replace(subject, exact=True, shared={})
    try:
        margin = float(margins_of(exact, gap.case, step, roots)[0, gap.rival])
    except Doubt:
        return None
    return max(0.0, (margin - gap.margin) / margin) if margin > 0 else None
