"""One model under proof: its graphs, its steps, and the search for failing operands.

Takes: a module, its format. Gives: `Session`, what `prove` and `falsify` drive.
May import: errors, format, nn, results and the rest of prove.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adderc.format.prompt import Format
from adderc.nn.greedy import last_logits
from adderc.prove.algebra import Algebra
from adderc.prove.capture import Captured, capture, decompose
from adderc.prove.carry import Automaton
from adderc.prove.conduct import check_conduct, fingerprint
from adderc.prove.doubt import Doubt, Unsupported
from adderc.prove.gaps import Subject
from adderc.prove.kernel import Kernel
from adderc.prove.refine import refine
from adderc.prove.scalars import Roots, ScalarGraph
from adderc.prove.search import Search
from adderc.prove.shadow import Interpreter
from adderc.prove.steps import StepProof, prove_step
from adderc.prove.witness import candidates
from adderc.results import Failure

Progress = Callable[[str], None]
Array = np.ndarray
DTYPES: dict[torch.dtype, np.dtype[Any]] = {
    torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}
NEAR_A_GAP = 12  # operand tuples tried for each open gap
ATTACK_SECONDS = 1.0  # for each open step, after the tuples that its gaps name


def silent(line: str) -> None:
    """No progress."""


@dataclass
class Session:
    """One model under proof. `captured` may be handed over where graphs are known already."""

    module: Any
    format: Format
    progress: Progress = silent
    seed: int = 0
    captured: Captured | None = None
    refine_seconds: float = math.inf  # at most, for each step that the levels leave open
    started: float = field(default_factory=time.monotonic)
    proofs: list[StepProof] = field(default_factory=list)
    decomposed: dict[int, Any] = field(default_factory=dict)
    subjects: list[Subject] = field(default_factory=list)  # of each step
    roots: list[Roots] = field(default_factory=list)
    kernel: Kernel | None = None  # whose values the proof rests on

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
                found = {last_logits(self.module(self.sample(self.lengths()[0]))).dtype}
        if len(found) != 1 or not found <= DTYPES.keys():
            raise Unsupported(f"numbers of {', '.join(sorted(map(str, found)))}")
        return found.pop()

    def prepare(self, deadline: float = math.inf
                ) -> tuple[Captured, Subject, Interpreter, list[int]]:
        """Graphs that were checked against the module, and the empty scalar graph."""
        lengths = self.lengths()
        with torch.no_grad():
            for length in lengths:
                self.module(self.sample(length))
        before = fingerprint(self.module)
        automaton, dtype = Automaton(self.format), self.dtype()
        if self.captured is None:
            self.captured = capture(self.module, lengths, self.sample, deadline)
        for length in (lengths[0], lengths[-1]):
            check_conduct(self.module, self.captured.run(length), [self.sample(length)])
        if fingerprint(self.module) != before:
            raise Unsupported("the module keeps state between calls")
        return self.captured, *_empty(automaton, dtype, None)

    # ------------------------------------------------------------ steps

    def prove(self, deadline: float) -> Failure | None:
        """Prove step by step; a failure as soon as one is confirmed. Doubt if hopeless."""
        captured, subject, interpreter, tokens = self.prepare(deadline)
        for step, length in enumerate(self.lengths()):
            self.subjects.append(subject)
            self.roots.append(self._roots(interpreter, captured.program(length), tokens[:length]))
            proof = self._prove_step(subject, step, deadline)
            self.proofs.append(proof)
            self.progress(_progress_line(proof, self.format.steps))
            if proof.failure is not None:
                return proof.failure
            if time.monotonic() > deadline:
                raise Doubt("out of budget")
        return None

    def _prove_step(self, subject: Subject, step: int, deadline: float) -> StepProof:
        """The levels, then splits, then a search near what stayed open."""
        before, roots = self.proofs[-1] if self.proofs else None, self.roots[step]
        first = 1 if before is not None and before.proven and all(
            level for level, _ in before.leaves) else 0

        def attack(proof: StepProof) -> Failure | None:
            return self.search.replay(self._named_by(subject, proof), deadline)

        proof = prove_step(subject, step, roots, deadline, first, attack)
        if proof.failure is None and proof.open:
            refine(subject, roots, proof, self._until(step, deadline))
            if not proof.proven:
                proof.failure = attack(proof) or self.search.close_in(
                    step, self._named_by(subject, proof),
                    min(deadline, time.monotonic() + ATTACK_SECONDS))
        return proof

    def prove_on_kernel(self, deadline: float) -> None:
        """Prove the open steps with constants as torch computes them here, all or none.

        Doubt where that cannot be, or does not help; nothing where there are none to take.
        """
        assert self.captured is not None
        kernel, before = Kernel(self.module, self.format), fingerprint(self.module)
        subject, interpreter, tokens = _empty(
            self.subjects[0].automaton, self.dtype(), kernel)
        steps = [proof.step for proof in self.proofs if not proof.proven]
        found: list[tuple[Roots, StepProof]] = []
        for step in steps:
            length = self.lengths()[step]
            roots = self._roots(interpreter, self.captured.program(length), tokens[:length])
            if not any(subject.graph.op[node] == "kernel"
                       for node in subject.graph.reachable(roots)):
                return
            proof = prove_step(subject, step, roots, deadline)
            refine(subject, roots, proof, self._until(step, deadline))
            self.progress(_progress_line(proof, self.format.steps))
            if not proof.proven:
                raise Doubt(proof.doubt or f"step {step + 1} stays open")
            found.append((roots, proof))
        if fingerprint(self.module) != before:
            raise Unsupported("the module keeps state between calls")
        for step, (roots, proof) in zip(steps, found, strict=True):
            self.subjects[step], self.roots[step], self.proofs[step] = subject, roots, proof
        self.kernel = kernel

    def _until(self, step: int, deadline: float) -> float:
        """When to leave a step's open cases: each step to come gets as much of what is left.

        The first time round half of that, so that some is left for the kernel's constants.
        """
        now = time.monotonic()
        share = (deadline - now) / (self.format.steps - step) / 2
        return now + min(self.refine_seconds, share)

    def _roots(self, interpreter: Interpreter, program: Any, tokens: list[int]) -> Roots:
        """Nodes of the last logits; composite operations that are unknown are taken apart."""
        ids = torch.tensor([tokens], dtype=torch.int64)
        program = self.decomposed.get(id(program), program)
        if interpreter.kernel is not None:  # only programs that could be read come here
            interpreter.kernel.open(program, len(tokens))
            return interpreter.run(program, ids)
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

    def _named_by(self, subject: Subject, proof: StepProof) -> list[tuple[int, ...]]:
        """The operands behind the worst gaps of a step, and some near them."""
        rows, draw = [], np.random.default_rng((self.seed, proof.step))
        for gap in proof.open:
            if gap.table is not None and gap.margin <= 0:
                found = candidates(subject.automaton, gap.case, gap.table, NEAR_A_GAP, draw)
                rows += [self.search.from_digits(digits) for digits in found]
        return rows

    # ------------------------------------------------------------ results

    def seconds(self) -> float:
        return time.monotonic() - self.started

    def complete(self) -> bool:
        """Whether every answer step was proven."""
        steps = [proof.step for proof in self.proofs if proof.proven]
        return steps == list(range(self.format.steps))

    def cases(self) -> int:
        return sum(proof.cases for proof in self.proofs)


def _empty(automaton: Automaton, dtype: torch.dtype, kernel: Kernel | None
           ) -> tuple[Subject, Interpreter, list[int]]:
    """An empty scalar graph, what builds it, and the nodes of all tokens."""
    graph = ScalarGraph()
    tokens = [
        graph.constant(float(holder.token)) if holder.kind == "symbol"
        else graph.node("token", (), position)
        for position, holder in enumerate(automaton.holders)
    ]
    interpreter = Interpreter(Algebra(graph, dtype, automaton.domain), kernel)
    return Subject(graph, automaton, DTYPES[dtype], {}), interpreter, tokens


def _progress_line(proof: StepProof, steps: int) -> str:
    state = "proven" if proof.proven else "open"
    margin = f", margin {proof.worst.margin:.4g}" if proof.worst else ""
    return f"step {proof.step + 1} of {steps}: {state}, {proof.cases} cases{margin}"
