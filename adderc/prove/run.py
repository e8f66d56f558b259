"""`prove` and `falsify`: the verdict on one model.

Takes: a module and its format. Gives: `ProofResult`.
May import: errors, format, nn, results and the rest of prove.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adderc.errors import AddercError
from adderc.format.prompt import Format
from adderc.prove.algebra import Algebra
from adderc.prove.capture import Captured, capture, decompose
from adderc.prove.carry import Automaton
from adderc.prove.certificate import evidence
from adderc.prove.conduct import check_conduct, fingerprint
from adderc.prove.doubt import Doubt, Unsupported
from adderc.prove.functions import FUNCTIONS
from adderc.prove.scalars import ScalarGraph
from adderc.prove.search import Search
from adderc.prove.shadow import Interpreter
from adderc.prove.steps import Gap, StepProof, Subject, prove_step
from adderc.prove.witness import witness
from adderc.results import Failure, ProofResult

Progress = Callable[[str], None]
FIRST_TRIES, LAST_SECONDS = 256, 3.0
DTYPES: dict[torch.dtype, np.dtype[Any]] = {
    torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}


def _silent(line: str) -> None:
    """No progress."""


def assumptions() -> tuple[str, ...]:
    """What a portable proof takes for granted, as printed with it."""
    ulps = ", ".join(f"{name} {f.ulps}" for name, f in FUNCTIONS.items())
    return (
        "IEEE 754 round-to-nearest in the module's dtype; sums in any order, with or without "
        "FMA; every other operation as the graph has it, not contracted with another; no reduced "
        "precision (TF32, bfloat16, fast-math)",
        f"elementary functions within these units in the last place: {ulps}",
        "underflow adds at most the smallest normal number",
        "torch.export gives the graph that forward computes; forward keeps no hidden state",
        "float64 elementary functions of the prover's own arithmetic within 2^-47",
    )


@dataclass
class Session:
    """One model under proof."""

    module: Any
    format: Format
    progress: Progress = _silent
    seed: int = 0
    started: float = field(default_factory=time.monotonic)
    proofs: list[StepProof] = field(default_factory=list)
    decomposed: dict[int, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.search = Search(self.module, self.format, self.seed)
        self.generator = torch.Generator().manual_seed(self.seed)

    # ------------------------------------------------------------ preparation

    def sample(self, length: int) -> Tensor:
        """A random prompt with its right answer tokens so far, [1, length]."""
        number = self.format.number
        digits = torch.randint(0, number.base, (1, number.operands, number.width),
                               generator=self.generator).numpy()
        operands = [min(v, number.maximum) for v in self.search.from_digits(digits[0])]
        tokens = [*self.format.encode([operands])[0].tolist(), *self.format.expected(operands)]
        return torch.tensor([tokens[:length]], dtype=torch.int64)

    def lengths(self) -> list[int]:
        return [self.format.prompt_length + step for step in range(self.format.steps)]

    def dtype(self) -> torch.dtype:
        """The one floating-point dtype of the module; Unsupported for others or several."""
        tensors = [*self.module.parameters(), *self.module.buffers()]
        found = {t.dtype for t in tensors if t.is_floating_point()}
        if any(t.device.type != "cpu" for t in tensors):
            raise Unsupported("a module that is not on the CPU")
        if not found:
            with torch.no_grad():
                found = {_logits(self.module(self.sample(self.lengths()[0]))).dtype}
        if len(found) != 1 or not found <= DTYPES.keys():
            raise Unsupported(f"numbers of {', '.join(sorted(map(str, found)))}")
        return found.pop()

    def prepare(self) -> tuple[Captured, Subject, Interpreter, list[int]]:
        """Graphs that were checked against the module, and the empty scalar graph."""
        lengths = self.lengths()
        with torch.no_grad():
            for length in lengths:
                self.module(self.sample(length))
        before = fingerprint(self.module)
        automaton, dtype = Automaton(self.format), self.dtype()
        captured = capture(self.module, lengths, self.sample)
        runs = {id(p): p.module() for p in captured.programs.values()}
        for length in (lengths[0], lengths[-1]):
            run = runs[id(captured.program(length))]
            check_conduct(self.module, run, [self.sample(length)])
        if fingerprint(self.module) != before:
            raise Unsupported("the module keeps state between calls")
        graph = ScalarGraph()
        algebra = Algebra(graph, dtype, automaton.domain)
        tokens = [
            graph.constant(float(holder.token)) if holder.kind == "symbol"
            else graph.node("token", (), position)
            for position, holder in enumerate(automaton.holders)
        ]
        return (captured, Subject(graph, automaton, DTYPES[dtype], {}), Interpreter(algebra),
                tokens)

    # ------------------------------------------------------------ steps

    def prove(self, deadline: float) -> Failure | None:
        """Prove step by step; a failure as soon as one is confirmed. Doubt if hopeless."""
        captured, subject, interpreter, tokens = self.prepare()
        for step, length in enumerate(self.lengths()):
            roots = self._roots(interpreter, captured.program(length), tokens[:length])
            proof = prove_step(subject, step, roots, deadline)
            self.proofs.append(proof)
            self.progress(_progress_line(proof, self.format.steps))
            if not proof.proven and (found := self._attack(subject, proof)):
                return found
            if time.monotonic() > deadline:
                raise Doubt("out of budget")
        return None

    def _roots(self, interpreter: Interpreter, program: Any, tokens: list[int]) -> list[int]:
        """Nodes of the last logits; composite operations that are unknown are taken apart."""
        ids = torch.tensor([tokens], dtype=torch.int64)
        if id(program) not in self.decomposed:
            try:
                return interpreter.run(program, ids)
            except Unsupported as first:
                parts = decompose(program)
                try:
                    roots = interpreter.run(parts, ids)
                except Unsupported:
                    raise first from None
                self.decomposed[id(program)] = parts
                return roots
        return interpreter.run(self.decomposed[id(program)], ids)

    def _attack(self, subject: Subject, proof: StepProof) -> Failure | None:
        """Replay the operands behind the worst gaps, and some near them."""
        rows = []
        for gap in proof.open:
            if gap.table is not None:
                for case in (gap.case, None):
                    digits = witness(subject.automaton, case, gap.table)
                    if digits is not None:
                        rows.append(self.search.from_digits(digits))
        rows += [near for row in rows[:8] for near in self.search.around(row, 16)]
        return self.search.replay(rows)

    # ------------------------------------------------------------ results

    def seconds(self) -> float:
        return time.monotonic() - self.started

    def complete(self) -> bool:
        """Whether every answer step was proven."""
        steps = [proof.step for proof in self.proofs if proof.proven]
        return steps == list(range(self.format.steps))

    def refuted(self, failure: Failure) -> ProofResult:
        wrong = self._wrong_step(failure)
        return ProofResult("REFUTED", counterexample=failure, step=wrong, cases=self._cases(),
                           seconds=self.seconds(), reason="these operands were run and come out "
                           "wrong")

    def _wrong_step(self, failure: Failure) -> int | None:
        expected = self.format.expected(failure.operands)
        answers = self.search.answer_of(failure.operands)
        return next((i for i, (a, b) in enumerate(zip(expected, answers, strict=True)) if a != b),
                    None)

    def _cases(self) -> int:
        return sum(proof.cases for proof in self.proofs)

    def undecided(self, reason: str) -> ProofResult:
        open_steps = [proof for proof in self.proofs if not proof.proven]
        gaps = [proof.open[0] for proof in open_steps if proof.open]
        gap = min(gaps, key=lambda g: g.margin, default=None)
        step = next((p.step for p in open_steps if gap is None or gap in p.open),
                    len(self.proofs) if not open_steps else None)
        return self._with_gap("UNDECIDED", None, gap, step, reason)

    def proven(self) -> ProofResult:
        worst = min((p for p in self.proofs if p.worst), key=lambda p: p.worst.margin)  # type: ignore[union-attr]
        result = self._with_gap("PROVEN", "portable", worst.worst, worst.step, "")
        proof = evidence(self.proofs, self.module, self.format, str(self.dtype()), assumptions())
        return replace(result, evidence=proof)

    def _with_gap(self, verdict: str, grade: str | None, gap: Gap | None, step: int | None,
                  reason: str) -> ProofResult:
        common = {"reason": reason, "cases": self._cases(), "seconds": self.seconds(),
                  "assumptions": assumptions(), "step": step, "grade": grade}
        if gap is None:
            return ProofResult(verdict, **common)  # type: ignore[arg-type]
        unit = np.spacing(np.asarray(max(gap.largest, 1e-30), dtype=self._numpy_dtype()))
        return ProofResult(verdict, margin=gap.margin, margin_ulp=gap.margin / float(unit),
                           case=describe(gap, self.format), competing_token=gap.rival,
                           **common)  # type: ignore[arg-type]

    def _numpy_dtype(self) -> Any:
        return DTYPES[self.dtype()]


def describe(gap: Gap, format: Format) -> str:
    """A case in words."""
    case = gap.case
    words = [f"place {case.place}", f"digit sum {int(case.sums[0])}",
             f"carry in {int(case.carry[0])}", f"right token {gap.expected}"]
    if case.near is not None:
        words.append(f"total {int(case.near[0])} at place {case.near_place}")
    if case.tuples is not None:
        words.append(f"digit tuple number {int(case.tuples[0])}")
    return ", ".join(words)


def _progress_line(proof: StepProof, steps: int) -> str:
    state = "proven" if proof.proven else "open"
    margin = f", margin {proof.worst.margin:.4g}" if proof.worst else ""
    return f"step {proof.step + 1} of {steps}: {state}, {proof.cases} cases{margin}"


def _logits(output: Any) -> Tensor:
    from adderc.nn.greedy import last_logits

    return last_logits(output)


def prove(model: Any, format: Format | None = None, *, budget: float | None = None,
          progress: Progress | None = None, seed: int = 0) -> ProofResult:
    """Whether the module adds every operand tuple rightly, greedily, rounding included.

    PROVEN (portable), REFUTED with operands that were run, or UNDECIDED with the reason.
    `budget` is in seconds (default 600). `format` may be left out for a module of adderc.
    """
    session = Session(model, format or model.format, progress or _silent, seed)
    deadline = session.started + (600.0 if budget is None else budget)
    if found := session.search.replay(session.search.structured(FIRST_TRIES)):
        return session.refuted(found)
    reason = ""
    try:
        if found := session.prove(deadline):
            return session.refuted(found)
    except AddercError:
        raise
    except Doubt as doubt:
        reason = str(doubt)
    except Exception as error:  # nothing that went wrong may look like a proof
        reason = f"the prover cannot follow the module: {type(error).__name__}: {error}"
    if not reason and session.complete():
        return session.proven()
    until = min(deadline, time.monotonic() + LAST_SECONDS)
    if found := session.search.descend(until, session.progress):
        return session.refuted(found)
    if not reason:
        reason = next((p.doubt for p in session.proofs if p.doubt), "") or (
            "the bound on the margin is not positive, and no failing operands were found")
    return session.undecided(reason)


def falsify(model: Any, format: Format | None = None, *, seconds: float = 60.0, seed: int = 0,
            progress: Progress | None = None) -> ProofResult:
    """Search for operands that the module adds wrongly: REFUTED, or UNDECIDED after `seconds`."""
    session = Session(model, format or model.format, progress or _silent, seed)
    deadline = session.started + seconds
    if found := session.search.replay(session.search.structured(FIRST_TRIES)):
        return session.refuted(found)
    try:
        if found := session.prove(session.started + seconds / 3):
            return session.refuted(found)
    except AddercError:
        raise
    except Exception as error:  # the search goes on without bounds
        session.progress(f"no bounds to search by: {error}")
    if found := session.search.descend(deadline, session.progress):
        return session.refuted(found)
    return session.undecided(f"no failing operands among {session.search.tried} sums")
