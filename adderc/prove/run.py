"""`prove` and `falsify`: the verdict on one model.

Takes: a module and its format. Gives: `ProofResult`.
May import: errors, format, results and the rest of prove.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from adderc.errors import AddercError
from adderc.format.prompt import Format
from adderc.prove.certificate import evidence
from adderc.prove.doubt import Doubt
from adderc.prove.exact import margins_in_reals, share_of_rounding
from adderc.prove.functions import FUNCTIONS
from adderc.prove.gaps import Gap
from adderc.prove.session import DTYPES, Progress, Session, silent
from adderc.prove.steps import StepProof
from adderc.results import Failure, ProofResult

FIRST_TRIES, LAST_SECONDS = 256, 3.0
BOUNDS_WORTH = 10.0  # seconds of budget from which on falsify exports and bounds margins


def assumptions() -> tuple[str, ...]:
    """What a portable proof takes for granted, as printed with it."""
    ulps = ", ".join(f"{name} {f.ulps}" for name, f in FUNCTIONS.items())
    return (
        "IEEE 754 round-to-nearest in the module's dtype; sums in any order, with or without "
        "FMA; every other operation as the graph has it, not contracted with another; no reduced "
        "precision (TF32, bfloat16, fast-math)",
        f"elementary functions within these units in the last place: {ulps}, pow of a constant 4",
        "underflow adds at most the smallest normal number",
        "torch.export gives the graph that forward computes; forward keeps no hidden state",
        "float64 elementary functions of the prover's own arithmetic within 2^-47",
    )


def prove(model: Any, format: Format | None = None, *, budget: float | None = None,
          progress: Progress | None = None, seed: int = 0) -> ProofResult:
    """Whether the module adds every operand tuple rightly, greedily, rounding included.

    PROVEN (portable), REFUTED with operands that were run, or UNDECIDED with the reason.
    `budget` is in seconds (default 600). `format` may be left out for a module of adderc.
    """
    session = Session(model, format or model.format, progress or silent, seed)
    return decide(session, 600.0 if budget is None else budget)


def decide(session: Session, budget: float) -> ProofResult:
    """The verdict on a session's model within a budget in seconds."""
    deadline = session.started + budget
    found, reason = _first_tries(session, deadline)
    if found:
        return refuted(session, found)
    if reason:
        return undecided(session, reason, deadline)
    found, reason = _tried(lambda: session.prove(deadline))
    if found:
        return refuted(session, found)
    kernel = ""
    if not reason and not session.complete():
        _, kernel = _tried(lambda: session.prove_on_kernel(deadline))
    if not reason and session.complete():
        return proven(session)
    until = min(deadline, time.monotonic() + LAST_SECONDS)
    found, broken = _searched(lambda: session.search.descend(until, session.progress))
    if found:
        return refuted(session, found)
    result = undecided(session, reason or broken, deadline)
    return replace(result, reason=f"{result.reason}; with the constants that torch computes "
                   f"here: {kernel}") if kernel else result


def _tried(attack: Callable[[], Failure | None]) -> tuple[Failure | None, str]:
    """The failure that an attack confirms, and the reason where it gets stuck."""
    try:
        return attack(), ""
    except AddercError:
        raise
    except Doubt as doubt:
        return None, str(doubt)
    except Exception as error:  # nothing that went wrong may look like a proof
        return None, f"the prover cannot follow the module: {type(error).__name__}: {error}"


def falsify(model: Any, format: Format | None = None, *, seconds: float = 60.0, seed: int = 0,
            progress: Progress | None = None) -> ProofResult:
    """Search for operands that the module adds wrongly: REFUTED, or UNDECIDED after `seconds`.

    It ends before that where every answer step was proven on the way, or all operands run.
    """
    session = Session(model, format or model.format, progress or silent, seed)
    deadline = session.started + seconds
    found, broken = _first_tries(session, deadline)
    if found:
        return refuted(session, found)
    if broken:
        return undecided(session, broken, deadline)
    if seconds >= BOUNDS_WORTH:
        try:
            if found := session.prove(session.started + seconds / 3):
                return refuted(session, found)
        except AddercError:
            raise
        except Exception as error:  # the search goes on without bounds
            session.progress(f"no bounds to search by: {error}")
        if session.complete():
            return undecided(session, "nothing to be found: every answer step was proven on the "
                             "way, so `adderc prove` will say PROVEN", deadline)
    found, broken = _searched(lambda: session.search.descend(deadline, session.progress))
    if found:
        return refuted(session, found)
    tried = session.search.tried
    return undecided(session, broken or f"no failing operands among {tried:,} sums", deadline)


def _first_tries(session: Session, deadline: float) -> tuple[Failure | None, str]:
    rows = session.search.structured(FIRST_TRIES)
    return _searched(lambda: session.search.replay(rows, deadline))


def _searched(search: Callable[[], Failure | None]) -> tuple[Failure | None, str]:
    """What a search finds, and a reason where the module itself breaks down."""
    try:
        return search(), ""
    except AddercError:
        raise
    except Exception as error:  # other people's code may raise anything
        first = (str(error).strip().splitlines() or [""])[0]
        return None, f"the module fails when it is run: {type(error).__name__}: {first}"


# ---------------------------------------------------------------- results


def refuted(session: Session, failure: Failure) -> ProofResult:
    """The verdict on a model that was seen to add wrongly."""
    expected = session.format.expected(failure.operands)
    answers = session.search.answer_of(failure.operands)
    pairs = zip(expected, answers, strict=True)
    wrong = next((step for step, (a, b) in enumerate(pairs) if a != b), None)
    return ProofResult("REFUTED", counterexample=failure, step=wrong, cases=session.cases(),
                       seconds=session.seconds(),
                       reason="these operands were run and come out wrong")


def proven(session: Session) -> ProofResult:
    """The verdict on a model all whose steps are proven, with its certificate."""
    margins = [(proof.worst, proof) for proof in session.proofs if proof.worst is not None]
    gap, proof = min(margins, key=lambda pair: pair[0].margin)
    result = _with_gap(session, "PROVEN", gap, proof)
    said = assumptions() if session.kernel is None else (*assumptions(), *session.kernel.premises())
    data = evidence(session.proofs, session.module, session.format, str(session.dtype()),
                    said, session.kernel)
    if session.kernel is None:
        return replace(result, grade="portable", evidence=data)
    return replace(result, grade="kernel", assumptions=said, evidence=data,
                   holds_for=session.kernel.named(session.dtype()))


def undecided(session: Session, reason: str, deadline: float) -> ProofResult:
    """The verdict where neither could be shown: the worst open margin, and why."""
    left = [proof for proof in session.proofs if not proof.proven]
    gaps = [(proof.open[0], proof) for proof in left if proof.open]
    if not reason:
        reason = next((proof.doubt for proof in left if proof.doubt), "")
    if not gaps:
        step = left[0].step if left else len(session.proofs)
        return ProofResult("UNDECIDED", reason=reason, step=step, cases=session.cases(),
                           seconds=session.seconds(), assumptions=assumptions())
    gap, proof = min(gaps, key=lambda pair: pair[0].margin)
    result = _with_gap(session, "UNDECIDED", gap, proof)
    return replace(result, reason=reason or _why_open(
        session, left, deadline, result.rounding_share))


def _why_open(session: Session, left: list[StepProof], deadline: float, share: float | None
              ) -> str:
    """Whether it is rounding that keeps the margins of the open cases from being positive."""
    try:
        least = min(margins_in_reals(
            session.subjects[proof.step], proof, session.roots[proof.step], deadline)
                    for proof in left)
    except Doubt:
        least = -np.inf
    if least > 0:
        return ("holds in exact arithmetic only: there every margin is at least "
                f"{least:.4g} logits, which rounding may use up")
    if share is not None:
        return (f"in the worst case rounding may use up {share:.3g} times the margin that is "
                "there in exact arithmetic, and no failing operands were found")
    return ("the bound on the margin is not positive, even without rounding, and no failing "
            "operands were found")


def _with_gap(session: Session, verdict: str, gap: Gap, proof: StepProof) -> ProofResult:
    dtype = DTYPES[session.dtype()]
    unit = np.spacing(np.asarray(max(gap.largest, 1e-30), dtype=dtype))
    share = share_of_rounding(
        session.subjects[proof.step], proof.step, session.roots[proof.step], gap)
    return ProofResult(
        verdict, margin=gap.margin, margin_ulp=gap.margin / float(unit),
        rounding_share=share, step=proof.step, case=describe(gap), competing_token=gap.rival,
        cases=session.cases(), seconds=session.seconds(), assumptions=assumptions())


def describe(gap: Gap) -> str:
    """A case in words."""
    case = gap.case
    words = [f"place {case.place}", f"digit sum {int(case.sums[0])}",
             f"carry in {int(case.carry[0])}", f"right token {gap.expected}"]
    if case.near is not None:
        words.append(f"total {int(case.near[0])} at place {case.near_place}")
    if case.tuples is not None:
        words.append(f"digit tuple number {int(case.tuples[0])}")
    words += [f"token {int(held[0])} at position {position}" for position, held in case.pins]
    return ", ".join(words)
