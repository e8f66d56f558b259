"""The independent checker: does a certificate prove what it says of this model?

Takes: a certificate file, a module, its format. Gives: `check_certificate` -> CheckResult.
May import: format, nn.greedy, results, the other files of the checker, the standard library,
numpy, torch.

It shares no code with the prover: graph reader, carry automaton and bounds are its own, and
the bounds are balls with outward rounding. It does not search: the certificate says which
cases are split; a case whose bound does not suffice is split once more, by the token that was
written last. What it does not understand it refuses; a refusal says nothing against the model.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import adderc.prove.checker_composites  # noqa: F401  (fills the table of operations)
from adderc.format.prompt import Format
from adderc.nn.greedy import last_logits
from adderc.prove.checker_balls import FUNCTIONS, Arithmetic
from adderc.prove.checker_digits import Case, Places, Reach
from adderc.prove.checker_reader import NotUnderstood, Reader, Term
from adderc.prove.checker_values import Evaluator
from adderc.results import CheckResult

KEYS = {"kind", "version", "grade", "model", "format", "dtype", "steps", "assumptions", "digest"}

ASSUMPTIONS = (
    "IEEE 754 round-to-nearest in the module's dtype; sums in any order, with or without FMA; "
    "every other operation as the graph has it; no reduced precision (TF32, bfloat16, fast-math)",
    "elementary functions within these units in the last place: " + ", ".join(
        f"{name} {function.ulps}" for name, function in FUNCTIONS.items()),
    "underflow adds at most the smallest normal number",
    "torch.export gives the graph that forward computes; forward keeps no hidden state",
)


def check_certificate(path: str | Path, model: Any, format: Format | None = None,
                      progress: Callable[[str], None] | None = None) -> CheckResult:
    """Accept only what every case's own bound confirms; else a reason."""
    started = time.monotonic()
    form = format or model.format
    try:
        certificate = _load(Path(path), model, form)
        margin, cases = _Check(certificate, model, form, progress or (lambda line: None)).run()
    except NotUnderstood as reason:
        return CheckResult(False, str(reason), seconds=time.monotonic() - started)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, RuntimeError) as error:
        reason_text = f"the checker cannot follow this: {type(error).__name__}: {error}"
        return CheckResult(False, reason_text, seconds=time.monotonic() - started)
    return CheckResult(True, "", "portable", margin, cases, time.monotonic() - started,
                       ASSUMPTIONS)


def model_identity(model: Any) -> str:
    """A digest of every parameter and buffer by name, type and content."""
    digest = hashlib.sha256()
    for name, tensor in sorted([*model.named_parameters(), *model.named_buffers()]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def seal(body: dict[str, Any]) -> dict[str, Any]:
    """A certificate's contents with the digest that belongs to them."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return {**body, "digest": hashlib.sha256(text.encode()).hexdigest()}


def _load(path: Path, model: Any, form: Format) -> dict[str, Any]:
    try:
        certificate = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NotUnderstood(f"the certificate cannot be read: {error}") from None
    if not isinstance(certificate, dict) or certificate.keys() != KEYS:
        raise NotUnderstood("this is no certificate")
    body = {key: value for key, value in certificate.items() if key != "digest"}
    if seal(body) != certificate:
        raise NotUnderstood("the certificate was edited: its digest is wrong")
    if (certificate["kind"], certificate["version"], certificate["grade"]) != (
            "adderc certificate", 1, "portable"):
        raise NotUnderstood("a certificate of another kind or version")
    if certificate["model"] != model_identity(model):
        raise NotUnderstood("the certificate is for other weights")
    if certificate["format"] != repr(form):
        raise NotUnderstood("the certificate is for another format")
    return certificate


class _Check:
    def __init__(self, certificate: dict[str, Any], model: Any, form: Format,
                 progress: Callable[[str], None]) -> None:
        self.certificate, self.model, self.form = certificate, model, form
        self.progress = progress
        if str(self._dtype()) != certificate["dtype"]:
            raise NotUnderstood("numbers of another type than certified")
        self.places = Places(form)
        self.reader = Reader(self._dtype(), self.places.tokens)
        self.arithmetic = Arithmetic(self.reader.kind)
        self.tokens = [
            self.reader.term("integer", (), self.places.known[p]) if p in self.places.known
            else self.reader.term("token", (), p)
            for p in range(form.prompt_length + form.steps)]
        self.kept: dict[int, Any] = {}

    def _dtype(self) -> torch.dtype:
        """The one floating-point type of the module."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        found = {t.dtype for t in tensors if t.is_floating_point()}
        if not found:
            with torch.no_grad():
                found = {last_logits(self.model(self._prompt(0))).dtype}
        if len(found) != 1 or not found <= {torch.float32, torch.float64}:
            raise NotUnderstood("numbers of several types, or of a type that is not followed")
        return found.pop()

    # ------------------------------------------------------------ driving

    def run(self) -> tuple[float, int]:
        steps = self.certificate["steps"]
        if not isinstance(steps, list) or len(steps) != self.form.steps:
            raise NotUnderstood("the certificate does not cover every answer step")
        least, count = np.inf, 0
        program = self._export()
        for number, claim in enumerate(steps):
            length = self.form.prompt_length + number
            logits = self.reader.read_logits(program(length), self.tokens[:length])
            if not isinstance(claim["margin"], float) or not claim["margin"] > 0:
                raise NotUnderstood(f"step {number + 1}: a certificate with no margin")
            margin, cases = _Step(self, number, claim).settle(logits)
            least, count = min(least, margin), count + cases
            self.progress(f"step {number + 1} of {len(steps)}: margin {margin:.4g}")
        return float(least), count

    def _prompt(self, step: int) -> torch.Tensor:
        """Tokens of some sum up to an answer step."""
        number = self.form.number
        operands = [number.maximum * (i + 2) // (i + 3) for i in range(number.operands)]
        tokens = [*self.form.encode([operands])[0].tolist(), *self.form.expected(operands)]
        return torch.tensor([tokens[: self.form.prompt_length + step]], dtype=torch.int64)

    def _export(self) -> Callable[[int], Any]:
        """Programs by length; one with a symbolic length where its guards take every length."""
        prompts = {self.form.prompt_length + n: self._prompt(n) for n in range(self.form.steps)}

        def export(length: int, shapes: Any = None) -> Any:
            with _quiet(), torch.no_grad():
                try:
                    program = torch.export.export(
                        self.model, (prompts[length],), dynamic_shapes=shapes)
                    return _plain(program)
                except Exception as error:
                    first = str(error).strip().split("\n")[0][:200]
                    raise NotUnderstood(f"torch.export refuses the module: {first}") from None

        def agree(program: Any, lengths: Sequence[int]) -> None:
            run = program.module()
            with torch.inference_mode():
                for length in lengths:
                    own = last_logits(self.model(prompts[length]))
                    if not torch.equal(last_logits(run(prompts[length])), own):
                        raise NotUnderstood("the exported graph and the module differ")

        if len(prompts) > 1:
            try:
                whole = export(max(prompts), ({1: torch.export.Dim.AUTO},))
                agree(whole, list(prompts))
                return lambda length: whole
            except Exception:
                pass

        def single(length: int) -> Any:
            program = export(length)
            agree(program, [length])
            return program

        return single


def _plain(program: Any) -> Any:
    """The program with no writes in place and no regions, through torch.export."""
    targets = [node.target for node in program.graph.nodes]
    writes = any(isinstance(t, torch._ops.OpOverload) and t._schema.is_mutable for t in targets)
    regions = any(isinstance(t, torch._ops.HigherOrderOperator) for t in targets)
    return program.run_decompositions({}) if writes or regions else program


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch prints graphs that it cannot export; they are no answer."""
    logger = logging.getLogger("torch")
    before, sink = logger.level, io.StringIO()
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sink), (
                contextlib.redirect_stderr(sink)):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


class _Step:
    """One answer step: its cases, settled group by group."""

    def __init__(self, check: _Check, number: int, claim: dict[str, Any]) -> None:
        if claim.keys() != {"margin", "near", "tuples"}:
            raise NotUnderstood("a step of another kind")
        self.check, self.number, self.claim = check, number, claim
        places, form = check.places, check.form
        self.last = form.prompt_length + number - 1
        self.place = form.answer_place(number)
        near = places.place_of[self.last] if self.last in places.written else None
        self.near_place = near if near is not None and abs(near - self.place) == 1 else None

    def _cases(self) -> list[Case]:
        """The cases that the certificate's splits leave; together they cover everything."""
        near = {tuple(row) for row in self.claim["near"]}
        tuples = {tuple(row) for row in self.claim["tuples"]}
        cases: list[Case] = []
        for case in self.check.places.all_cases():
            split = (case.carry, case.digit_sum) in near and self.near_place is not None
            for part in self._by_total(case) if split else [case]:
                total = -1 if part.near is None else part.near
                if (case.carry, case.digit_sum, total) in tuples:
                    cases += [replace(part, digits=digits) for digits in self.check.places.tuples
                              if sum(digits) == case.digit_sum]
                else:
                    cases.append(part)
        return self._possible(cases)

    def _by_total(self, case: Case) -> list[Case]:
        return [replace(case, near=total) for total in range(self.check.places.totals)]

    def _possible(self, cases: list[Case]) -> list[Case]:
        fits = Reach(self.check.places, self.place, self.near_place, cases).possible()
        return [case for case, possible in zip(cases, fits, strict=True) if possible]

    def settle(self, logits: list[Term]) -> tuple[float, int]:
        """The smallest margin over all cases, and how many there are."""
        order, uses = _ordered(logits)
        groups: dict[int | None, list[Case]] = {}
        for case in self._cases():
            groups.setdefault(self._token(case), []).append(case)
        margins: list[float] = []
        if None in groups:
            found, left = self._first(groups.pop(None), order, uses, logits)
            margins += found
            for case in self._possible([part for old in left for part in self._by_total(old)]):
                groups.setdefault(self._token(case), []).append(case)
        for token, cases in groups.items():
            margins += self._group(token, cases, order, uses, logits)
        worst = min(margins)
        if not worst >= self.claim["margin"]:
            raise NotUnderstood(
                f"step {self.number + 1}: the bound found is {worst:.4g}, the certificate says "
                f"{self.claim['margin']}")
        return worst, len(margins)

    def _token(self, case: Case) -> int | None:
        return None if case.near is None else self.check.places.token(case.near)

    def _first(self, cases: list[Case], order: list[Term], uses: dict[int, int],
               logits: list[Term]) -> tuple[list[float], list[Case]]:
        """Margins of the cases that need no split, and the other cases."""
        if self.near_place is None:
            return self._group(None, cases, order, uses, logits), []
        try:
            margins = self._group(None, cases, order, uses, logits)
        except NotUnderstood:
            return [], cases
        good = [margin >= self.claim["margin"] for margin in margins]
        return ([m for m, fine in zip(margins, good, strict=True) if fine],
                [case for case, fine in zip(cases, good, strict=True) if not fine])

    def _group(self, token: int | None, cases: list[Case], order: list[Term],
               uses: dict[int, int], logits: list[Term]) -> list[float]:
        """The margin of each case; all of them know the token written last, or none does."""
        evaluator = self._evaluator(token, cases, uses)
        evaluator.run(order)
        right = [self.check.places.token(case.carry + case.digit_sum) for case in cases]
        if max(right) >= len(logits):
            raise NotUnderstood(f"there is no logit for token {max(right)}")
        forms = [evaluator.form(term) for term in logits]
        return [_downward(margin) for margin in evaluator.ranges.least(forms, right)]

    def _evaluator(self, token: int | None, cases: list[Case], uses: dict[int, int]
                   ) -> Evaluator:
        check = self.check
        reach = Reach(check.places, self.place, self.near_place, cases)
        known = {} if token is None else {self.last: token}
        return Evaluator(check.arithmetic, check.places, reach, known, check.kept, uses)


def _ordered(roots: list[Term]) -> tuple[list[Term], dict[int, int]]:
    """Every term the roots are computed from, arguments first, and how often each is read."""
    found, todo = {root.number: root for root in roots}, list(roots)
    while todo:
        for arg in todo.pop().args:
            if arg.number not in found:
                found[arg.number] = arg
                todo.append(arg)
    uses = dict.fromkeys(found, 0)
    for term in [*roots, *(arg for other in found.values() for arg in other.args)]:
        uses[term.number] += 1
    return [found[number] for number in sorted(found)], uses


def _downward(value: Any) -> float:
    """A float no larger than the ball; -inf for NaN."""
    if not value.is_finite():
        return -np.inf
    near = float(value.lower().mid())
    while not value.lower() >= near:
        near = float(np.nextafter(near, -np.inf))
    return near


__all__ = ["check_certificate", "model_identity"]
