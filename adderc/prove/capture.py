"""The module's own graph, exported once for all lengths or once for each.

Takes: a module, the sequence lengths of greedy decoding. Gives: `capture`, graphs by length.
May import: errors, nn.conditions, nn.greedy, prove.doubt.

The graph is accepted only after the exported program and the module itself gave the same
bits at every length on random tokens, and the module was seen to behave like a function of
its tokens (prove.conduct).
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from adderc.errors import AddercError
from adderc.nn.conditions import assertions, export
from adderc.nn.greedy import last_logits
from adderc.prove.doubt import Doubt, Unsupported

Program = Any  # torch.export.ExportedProgram


@dataclass(frozen=True)
class Captured:
    """An exported program for each sequence length."""

    programs: Mapping[int, Program]
    modules: dict[int, Any] = field(default_factory=dict)

    def program(self, length: int) -> Program:
        return self.programs[length]

    def run(self, length: int) -> Any:
        """The program of a length as a function of tokens."""
        program = self.programs[length]
        if id(program) not in self.modules:
            self.modules[id(program)] = program.module()
        return self.modules[id(program)]


def capture(module: torch.nn.Module, lengths: Sequence[int], sample: Callable[[int], Tensor],
            deadline: float = math.inf) -> Captured:
    """Programs for tokens [1, length]; `sample(length)` makes random tokens of that shape.

    Unsupported where the module cannot be exported or is no function of its tokens; Doubt
    where the time is up before all programs are made.
    """
    if time.monotonic() > deadline:
        raise Doubt("out of budget")
    with _quiet(), torch.no_grad():
        programs = _for_all(module, lengths, sample)
        for length in lengths:
            if time.monotonic() > deadline:
                raise Doubt("out of budget")
            if length not in programs:
                programs[length] = _export(module, sample(length), None)
                if not _agrees(module, programs[length], sample(length)):
                    raise Unsupported(
                        f"the exported graph and the module differ at {length} tokens")
    return Captured(programs)


def _for_all(module: torch.nn.Module, lengths: Sequence[int],
             sample: Callable[[int], Tensor]) -> dict[int, Program]:
    """One program with a symbolic length, at the lengths where it agrees with the module."""
    if len(lengths) == 1:
        return {}
    try:
        program = _export(module, sample(lengths[-1]), ({1: torch.export.Dim.AUTO},))
    except Unsupported:
        return {}
    agreed = {}
    run = program.module()
    for length in lengths:
        with contextlib.suppress(Exception):  # a guard that refuses this length
            if _agrees(module, program, sample(length), run):
                agreed[length] = program
    return agreed


def _export(module: torch.nn.Module, tokens: Tensor, shapes: Any) -> Program:
    try:
        return export(module, tokens, shapes)
    except Exception as error:
        first = str(error).strip().split("\n")[0][:200]
        raise Unsupported(f"torch.export refuses the module: {first}") from error


def decompose(program: Program) -> Program:
    """The same program with composite operations and writes in place taken apart."""
    with _quiet():
        try:
            plain = program.run_decompositions()
        except Exception as error:
            raise Unsupported(f"torch cannot decompose the graph: {error}") from error
    if assertions(plain) != assertions(program):
        raise Unsupported("torch dropped the assertion of a branch")
    return plain


def _agrees(module: torch.nn.Module, program: Program, tokens: Tensor, run: Any = None) -> bool:
    run = program.module() if run is None else run
    with torch.inference_mode():
        try:
            direct = last_logits(module(tokens))
        except AddercError:
            raise
        except Exception as error:
            raise Doubt(f"the module fails on {tokens.shape[1]} tokens: {error}") from error
        try:
            return bool(torch.equal(last_logits(run(tokens)), direct))
        except RuntimeError as error:  # a branch goes another way on these tokens
            raise Unsupported("a branch on the value of a token") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Neither torch's warnings nor its log of a refused export belong to the answer."""
    logger = logging.getLogger("torch")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(
                    io.StringIO()):
                yield
    finally:
        logger.setLevel(before)
