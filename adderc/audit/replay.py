"""Whether an `add` only writes down what the model chose.

Takes: recorded outputs, answers. Gives: `spelled`, `poisoned`.
May import: torch.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

BASES = (10, 2, 16)
MOST_STOPS = 2  # tokens at the end that write no digit
Rows = Sequence[Sequence[Sequence[Tensor]]]  # sums, calls, outputs of a call


def spelled(outputs: Rows, answers: Sequence[Any]) -> bool:
    """Whether every answer is spelled by the tokens with the largest logits.

    One way of reading must do for all sums: which output, which position, which order, which
    base, a fixed digit for each token.
    """
    if not answers or not all(isinstance(a, int) and a >= 0 for a in answers):
        return False
    if min(len(calls) for calls in outputs) == 0:
        return False
    kinds = min(len(call) for calls in outputs for call in calls)
    for number in range(kinds):
        for texts in _readings([[call[number] for call in calls] for calls in outputs]):
            if _spell(texts, answers):
                return True
    return False


def _readings(outputs: Sequence[Sequence[Tensor]]) -> Iterator[list[list[int]]]:
    """The token texts of all sums, for each place at which a token may be read."""
    chosen = [[_choices(tensor) for tensor in calls] for calls in outputs]
    if any(row is None for calls in chosen for row in calls):
        return
    rows = [[row for row in calls if row is not None] for calls in chosen]
    yield [[row[-1] for row in calls] for calls in rows]
    length = min(len(row) for calls in rows for row in calls)
    longest = max(len(calls) for calls in rows)
    if len({len(row) for calls in rows for row in calls}) == 1:
        for start in range(length - longest + 1):
            yield [[row[start + n] for n, row in enumerate(calls)] for calls in rows]
    if all(len(calls) == 1 for calls in rows):
        for start in range(length):
            yield [calls[0][start:] for calls in rows]


def _choices(tensor: Tensor) -> list[int] | None:
    """The chosen token at each position of the first sequence of a batch."""
    if not tensor.is_floating_point():
        whole = tensor.reshape(-1, tensor.shape[-1])[0] if tensor.ndim else tensor[None]
        return [int(v) for v in whole.tolist()]
    if tensor.ndim == 0 or tensor.shape[-1] < 2:
        return None
    rows = tensor.argmax(-1)
    rows = rows.reshape(-1, rows.shape[-1])[0] if rows.ndim else rows[None]
    return [int(v) for v in rows.tolist()]


def _spell(texts: Sequence[Sequence[int]], answers: Sequence[int]) -> bool:
    for base in BASES:
        for stops in range(MOST_STOPS + 1):
            for step in (1, -1):
                digit: dict[int, int] = {}
                if all(_reads(text[: len(text) - stops][::step], answer, base, digit)
                       for text, answer in zip(texts, answers, strict=True)):
                    return True
    return False


def _reads(text: Sequence[int], answer: int, base: int, digit: dict[int, int]) -> bool:
    """`text`, most significant first, is `answer`; `digit` is extended by what it needs."""
    if not text or answer >= base ** len(text):
        return False
    places = [answer // base**n % base for n in reversed(range(len(text)))]
    return all(digit.setdefault(token, value) == value
               for token, value in zip(text, places, strict=True))


@contextlib.contextmanager
def poisoned(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Tensors of a model without their values: what still works does not read them."""
    kept = [(t, t.detach().clone()) for t in tensors if t.is_floating_point()]
    try:
        for tensor, _ in kept:
            _write(tensor, None)
        yield
    finally:
        for tensor, before in kept:
            _write(tensor, before)


def _write(tensor: Tensor, values: Tensor | None) -> None:
    with torch.no_grad(), contextlib.suppress(RuntimeError):  # an expanded one has no own place
        if values is None:
            tensor.detach().fill_(math.nan)
        else:
            tensor.detach().copy_(values)
