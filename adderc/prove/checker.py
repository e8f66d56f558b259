"""The independent checker: does a certificate prove what it says of this model?

Takes: a certificate file, a module, its format. Gives: `check_certificate` -> CheckResult.
May import: format, nn.conditions, nn.greedy, results, the other files of the checker, the
standard library, numpy, torch.

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
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import adderc.prove.checker_complex
import adderc.prove.checker_composites  # noqa: F401  (fills the table of operations)
from adderc.format.prompt import Format
from adderc.nn.conditions import assertions, export
from adderc.nn.greedy import last_logits
from adderc.prove.checker_balls import FUNCTIONS, Arithmetic
from adderc.prove.checker_digits import Places
from adderc.prove.checker_kernel import Observed
from adderc.prove.checker_reader import NotUnderstood, Reader
from adderc.prove.checker_steps import Step
from adderc.results import CheckResult

KEYS = {"kind", "version", "grade", "model", "format", "dtype", "steps", "assumptions", "digest"}

ASSUMPTIONS = (
    "IEEE 754 round-to-nearest in the module's dtype; sums in any order, with or without FMA; "
    "every other operation as the graph has it; no reduced precision (TF32, bfloat16, fast-math)",
    "elementary functions within these units in the last place: " + ", ".join(
        f"{name} {function.ulps}" for name, function in FUNCTIONS.items()) + (
            ", pow of a constant 4"),
    "underflow adds at most the smallest normal number",
    "torch.export gives the graph that forward computes; forward keeps no hidden state",
)
ON_KERNEL = (
    "numbers that depend on no token are what torch computed here when the module was run; they "
    "are the same in every run at batch 1 under inference_mode, one sequence at a time: batched "
    "decoding is not covered",
    "the order of operations in a sum, a softmax row or a norm follows from shapes and strides, "
    "not from the numbers beside it",
)


def check_certificate(path: str | Path, model: Any, format: Format | None = None,
                      progress: Callable[[str], None] | None = None) -> CheckResult:
    """Accept only what every case's own bound confirms; else a reason."""
    started = time.monotonic()
    form = format or model.format
    try:
        certificate = _load(Path(path), model, form)
        check = _Check(certificate, model, form, progress or (lambda line: None))
        margin, cases = check.run()
    except NotUnderstood as reason:
        return CheckResult(False, str(reason), seconds=time.monotonic() - started)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, RuntimeError) as error:
        reason_text = f"the checker cannot follow this: {type(error).__name__}: {error}"
        return CheckResult(False, reason_text, seconds=time.monotonic() - started)
    seconds = time.monotonic() - started
    if check.kernel is None:
        return CheckResult(True, "", "portable", margin, cases, seconds, ASSUMPTIONS)
    return CheckResult(True, "", "kernel", margin, cases, seconds,
                       (*ASSUMPTIONS, *ON_KERNEL), check.kernel.named(check.reader.dtype))


def model_identity(model: Any) -> str:
    """A digest of every parameter and buffer, and of what the model is made of."""
    digest = hashlib.sha256()
    for name, tensor in sorted([*model.named_parameters(), *model.named_buffers()]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    for name, part in model.named_modules():
        digest.update(f"{name} {type(part).__qualname__}\n".encode())
    structure = getattr(model, "structure", None)
    if is_dataclass(structure):
        digest.update(repr(structure).encode())
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
    kernel = isinstance(certificate, dict) and certificate.get("grade") == "kernel"
    if not isinstance(certificate, dict) or certificate.keys() != (
            KEYS | {"kernel"} if kernel else KEYS):
        raise NotUnderstood("this is no certificate")
    body = {key: value for key, value in certificate.items() if key != "digest"}
    if seal(body) != certificate:
        raise NotUnderstood("the certificate was edited: its digest is wrong")
    if (certificate["kind"], certificate["version"], certificate["grade"]) != (
            "adderc certificate", 1, "kernel" if kernel else "portable"):
        raise NotUnderstood("a certificate of another kind or version")
    if certificate["model"] != model_identity(model):
        raise NotUnderstood("the certificate is for other weights or another structure")
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
        self.kernel = (Observed(model, form, certificate["kernel"])
                       if certificate["grade"] == "kernel" else None)

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
        claims = [Step(self, number, claim) for number, claim in enumerate(steps)]
        program = self._export()
        for number, step in enumerate(claims):
            length = self.form.prompt_length + number
            exported = program(length)
            self.reader.kernel = None
            if self.kernel is not None and self.kernel.covers(length):
                self.kernel.look(exported, length)
                self.reader.kernel = self.kernel
            logits = self.reader.read_logits(exported, self.tokens[:length])
            margin, cases = step.settle(logits)
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

        def program_at(length: int, shapes: Any = None) -> Any:
            with _quiet(), torch.no_grad():
                try:
                    return _plain(export(self.model, prompts[length], shapes))
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
                whole = program_at(max(prompts), ({1: torch.export.Dim.AUTO},))
                agree(whole, list(prompts))
                return lambda length: whole
            except Exception:
                pass

        def single(length: int) -> Any:
            program = program_at(length)
            agree(program, [length])
            return program

        return single


def _plain(program: Any) -> Any:
    """The program with no writes in place and no regions, through torch.export."""
    targets = [node.target for node in program.graph.nodes]
    writes = any(isinstance(t, torch._ops.OpOverload) and t._schema.is_mutable for t in targets)
    regions = any(isinstance(t, torch._ops.HigherOrderOperator) for t in targets)
    if not (writes or regions):
        return program
    plain = program.run_decompositions({})
    if assertions(plain) != assertions(program):
        raise NotUnderstood("torch dropped the assertion of a branch")
    return plain


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


__all__ = ["check_certificate", "model_identity", "seal"]
