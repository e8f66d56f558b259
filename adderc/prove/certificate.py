"""Certificates: what a proof leaves behind for others to check.

Takes: the proofs of all steps, a module, its format. Gives: `evidence`, `write_certificate`.
May import: errors, format, results, prove.carry, prove.kernel, prove.steps.

A certificate is JSON: the model's identity (a digest of its parameters, its buffers and its
parts), the format, and for each answer step which cases were split, and a margin. The cases
of a step are all carries and digit sums at its place; those under "near" are split by the
total at the place of the current token, those under "tuples" (-1 for no total) by digit
tuple, and those under "splits", where there are any, by the token at one more position.
A certificate of grade kernel names the build of torch under "kernel", and for each length
whose constants are taken from it a digest of what it computes there.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from adderc.errors import InputError
from adderc.format.prompt import Format
from adderc.prove.carry import Cases
from adderc.prove.kernel import Kernel
from adderc.prove.steps import StepProof
from adderc.results import ProofResult

CLAIMED = 0.25  # the share of the prover's margin that a certificate claims


def evidence(proofs: list[StepProof], model: Any, form: Format, dtype: str,
             assumptions: tuple[str, ...], kernel: Kernel | None = None) -> dict[str, Any]:
    """The certificate of a proven model, as plain JSON data."""
    body = {
        "kind": "adderc certificate", "version": 1,
        "grade": "portable" if kernel is None else "kernel",
        "model": _identity(model), "format": repr(form), "dtype": dtype,
        "steps": [_step(proof) for proof in proofs], "assumptions": list(assumptions),
    }
    if kernel is not None:
        body["kernel"] = kernel.evidence()
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return {**body, "digest": hashlib.sha256(text.encode()).hexdigest()}


def _identity(model: Any) -> str:
    """A digest of every parameter and buffer by name, type and content, and of the parts."""
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


def _step(proof: StepProof) -> dict[str, Any]:
    near: set[tuple[int, int]] = set()
    tuples: set[tuple[int, int, int]] = set()
    for _, cases in proof.leaves:
        carry, sums = cases.carry.tolist(), cases.sums.tolist()
        totals = [-1] * len(carry) if cases.near is None else cases.near.tolist()
        if cases.near is not None:
            near |= set(zip(carry, sums, strict=True))
        if cases.tuples is not None:
            tuples |= set(zip(carry, sums, totals, strict=True))
    margin = proof.worst.margin if proof.worst else 0.0
    found = {"margin": margin * CLAIMED, "near": sorted(map(list, near)),
             "tuples": sorted(map(list, tuples))}
    if proof.splits:
        found["splits"] = [row for position, cases in proof.splits
                           for row in _split_rows(position, cases)]
    return found


def _split_rows(position: int, cases: Cases) -> list[list[Any]]:
    """[carry, digit sum, total or -1, tuple or -1, [[position, token], …], position] each."""
    none = [-1] * len(cases)
    near = none if cases.near is None else cases.near.tolist()
    tuples = none if cases.tuples is None else cases.tuples.tolist()
    pins = [[[where, int(held[row])] for where, held in cases.pins] for row in range(len(cases))]
    return [[carry, total, *rest, position] for carry, total, *rest in zip(
        cases.carry.tolist(), cases.sums.tolist(), near, tuples, pins, strict=True)]


def write_certificate(path: str | Path, result: ProofResult) -> None:
    """Write the certificate of a PROVEN result; InputError for another or a bad path."""
    if result.verdict != "PROVEN" or result.evidence is None:
        raise InputError(f"only a proof has a certificate, this is {result.verdict}")
    target = Path(path)
    try:
        target.write_text(json.dumps(result.evidence, sort_keys=True, indent=1) + "\n",
                          encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror}") from error
