"""Run a model on a suite and count the right answers.

Takes: a module, its `Format`, a `Suite`. Gives: `verify` and its `VerifyResult`.
May import: errors, results, format, nn, verify.*.

The model is judged as it decodes: greedily, one token after the other. Where that is slow
(a long answer of a module that cannot continue a sequence cheaply), a module of ours, known
to be causal, reads prompt and expected answer in one pass. That says the same thing, by
induction: as long as every earlier token was right, the
greedy text so far *is* the expected one, hence the pair is right just when every position
predicts the next expected token. One doubt remains: a pass of another length may round the
last bit differently. So whatever the pass calls wrong is decoded greedily before it counts,
and a random subset of what it calls right as well; the result names the method.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from adderc.format.batches import digits_of, sums_of
from adderc.format.prompt import Format
from adderc.results import Failure, VerifyResult
from adderc.verify.suites import Suite

KEPT_FAILURES = 10
CONFIRMATIONS = 64
DECODED_TOGETHER = 64
LONG_ANSWER = 64  # answer steps up to which decoding is always quick
LONG_SCORES = 64  # scores a token may need at once, beside which decoding is slow
MEMORY = 256 * 2**20  # bytes that one batch's scores and logits may take
LARGEST_BATCH = 4096
LONG_BATCH = 1024

Decode = Callable[[np.ndarray], np.ndarray]  # prompts [N, P] -> answer tokens [N, steps]
Progress = Callable[[int, int], None]  # tuples done, tuples planned


class Module(Protocol):
    """What is judged: tokens [B, T] -> logits [B, T, V]."""

    def __call__(self, tokens: Any) -> Any: ...


@dataclass
class _Tally:
    """Counts while a run goes on; at most `keep` failures are kept."""

    keep: int
    total: int = 0
    passed: int = 0
    failures: list[Failure] = field(default_factory=list)


def verify(
    module: Module,
    format: Format,
    suite: Suite,
    *,
    method: str = "auto",
    keep: int = KEPT_FAILURES,
    confirmations: int = CONFIRMATIONS,
    seed: int = 0,
    progress: Progress | None = None,
    decode: Decode | None = None,
) -> VerifyResult:
    """Put every tuple of `suite` to `module`; a failure never stops the run.

    `method` is "greedy", "forced" (only for a module known to be causal) or "auto", which
    is greedy unless that is slow. `decode` stands in for greedy decoding in tests.
    An interrupt (Ctrl-C) gives the result so far, marked `interrupted`.
    """
    started, tally = time.perf_counter(), _Tally(keep)
    greedy = _Greedy(format, decode or _decoder(module, format), tally)
    judge: _Greedy | _Forced = greedy
    rows = LARGEST_BATCH if format.steps <= LONG_ANSWER else LONG_BATCH
    if method == "forced" or (method == "auto" and is_slow(module, format)):
        rows = batch_size(module, format)
        chosen = np.random.default_rng(seed).choice(
            suite.total, min(confirmations, suite.total), replace=False
        )
        judge = _Forced(module, format, greedy, frozenset(chosen.tolist()))
    interrupted = False
    try:
        for batch in _slices(suite.batches(), rows):
            judge.take(batch)
            if progress is not None:
                progress(tally.total, suite.total)
        judge.finish()
    except KeyboardInterrupt:
        interrupted = True
    return VerifyResult(
        suite.name, suite.total, tally.total, tally.passed, tuple(tally.failures),
        time.perf_counter() - started, judge.method, interrupted,
    )


def is_slow(module: Module, format: Format) -> bool:
    """Whether decoding needs the whole table of scores [T, T] at once for a long answer.

    False for a module of others: that it is causal is not known.
    """
    peak = getattr(module, "peak_scores", None)
    if peak is None or format.steps <= LONG_ANSWER:
        return False
    return peak(format.length) > format.length * LONG_SCORES


def batch_size(module: Module, format: Format) -> int:
    """Rows whose scores [H, T, T] (three copies) and logits [T, V] fit into MEMORY."""
    structure = getattr(module, "structure", None)
    blocks = structure.blocks if structure is not None else ()
    heads = max((b.attention.heads for b in blocks if b.attention is not None), default=8)
    length = format.length
    row = 8 * length * (3 * heads * length + 2 * format.vocabulary + 64)
    return max(1, min(LARGEST_BATCH, MEMORY // row))


def expected_tokens(format: Format, batch: np.ndarray) -> np.ndarray:
    """Answer tokens [N, steps] of a batch [N, operands], from the exact integers."""
    base, steps = format.number.base, format.steps
    order = [format.answer_place(step) for step in range(steps)]
    if format.answer_kind == "digits":
        return digits_of(sums_of(batch), base, steps)[:, order]
    digits = digits_of(batch, base, steps).sum(axis=1)
    carry = np.zeros(len(batch), dtype=np.int64)
    states = np.empty_like(digits)
    for place in range(steps):
        states[:, place] = digits[:, place] + carry
        carry = states[:, place] // base
    return states[:, order] + format.first_state


def right_sums(format: Format, batch: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Which rows of answer tokens [N, steps] write the sum of their operands: bool [N].

    A state counts by the digit it writes; only the last place's carry is part of the sum.
    """
    expected = expected_tokens(format, batch)
    if format.answer_kind == "digits":
        return (tokens == expected).all(axis=1)
    number = format.number
    tokens, expected = tokens - format.first_state, expected - format.first_state
    sound = ((tokens >= 0) & (tokens < number.base * number.operands)).all(axis=1)
    last = format.answer_place(format.steps - 1)
    same = (tokens % number.base == expected % number.base).all(axis=1)
    return sound & same & (tokens[:, last] == expected[:, last])


def prompts_of(format: Format, batch: np.ndarray) -> np.ndarray:
    """Prompts [N, prompt_length] of a batch [N, operands] that is in range."""
    return format.encode_digits(digits_of(batch, format.number.base, format.number.width))


@dataclass
class _Greedy:
    """Decodes every tuple and counts it."""

    format: Format
    decode: Decode
    tally: _Tally
    method: str = "greedy"

    def take(self, batch: np.ndarray) -> None:
        tokens = np.asarray(self.decode(prompts_of(self.format, batch)))
        right = right_sums(self.format, batch, tokens)
        tally = self.tally
        tally.total += len(batch)
        tally.passed += int(right.sum())
        for row in np.flatnonzero(~right)[: max(0, tally.keep - len(tally.failures))]:
            tally.failures.append(_failure(self.format, batch[row], tokens[row]))

    def finish(self) -> None:
        """Nothing is left over."""


@dataclass
class _Forced:
    """One pass over prompt and expected answer; what it calls wrong, and the tuples whose
    numbers are in `chosen`, wait until there are enough of them to be decoded together."""

    module: Module
    format: Format
    greedy: _Greedy
    chosen: frozenset[int]
    position: int = 0
    confirmed: int = 0
    waiting: list[np.ndarray] = field(default_factory=list)

    @property
    def method(self) -> str:
        return f"teacher-forced, {self.confirmed} confirmed greedily"

    def take(self, batch: np.ndarray) -> None:
        rows = range(self.position, self.position + len(batch))
        self.position += len(batch)
        picked = np.array([row in self.chosen for row in rows])
        settled = self.predicted(batch) & ~picked
        self.greedy.tally.total += int(settled.sum())
        self.greedy.tally.passed += int(settled.sum())
        self.confirmed += int(picked.sum())
        self.waiting.append(batch[~settled])
        if sum(map(len, self.waiting)) >= DECODED_TOGETHER:
            self.finish()

    def finish(self) -> None:
        """Decode what waits."""
        waiting, self.waiting = self.waiting, []
        if sum(map(len, waiting)):
            self.greedy.take(np.concatenate(waiting))

    def predicted(self, batch: np.ndarray) -> np.ndarray:
        """Which rows predict every expected token from those before it: bool [N]."""
        import torch

        from adderc.nn.greedy import choose_token

        expected = expected_tokens(self.format, batch)
        tokens = np.concatenate([prompts_of(self.format, batch), expected[:, :-1]], axis=1)
        with torch.inference_mode():
            logits = self.module(torch.from_numpy(tokens).to(_device(self.module)))
            answers = choose_token(logits[:, self.format.prompt_length - 1 :])
        return (answers.cpu().numpy() == expected).all(axis=1)


def _failure(format: Format, operands: np.ndarray, tokens: np.ndarray) -> Failure:
    """The record of a wrong sum, worked again in Python's own integers."""
    values = tuple(int(value) for value in operands)
    got = format.decode([int(token) for token in tokens])
    assert got != sum(values), "a right sum was counted as wrong"
    return Failure(values, sum(values), got)


def _slices(batches: Iterator[np.ndarray], rows: int) -> Iterator[np.ndarray]:
    for batch in batches:
        for start in range(0, len(batch), rows):
            yield batch[start : start + rows]


def _decoder(module: Module, format: Format) -> Decode:
    """Greedy decoding by the module's own room."""
    from adderc.nn.greedy import decode_greedy

    return lambda prompts: decode_greedy(module, format, prompts)


def _device(module: Any) -> Any:
    """Where the module's parameters are; the CPU where it has none."""
    parameter = next(iter(module.parameters()), None) if hasattr(module, "parameters") else None
    return "cpu" if parameter is None else parameter.device
