"""What only a sample can tell: leaves that no answer depends on; and equal tensors.

Takes: held tensors and a function that gives answers. Gives: notes, labelled as sampled.
May import: results, audit.holders and torch.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from adderc.audit.holders import Held
from adderc.results import AuditNote

Answers = Callable[[int, int], list[object]]  # answers to sums number first … last - 1
FACTORS = (0.5, 2.0)
LADDER = (2, 16, 64)  # most leaves show themselves on the first few sums
ELEMENTS_ONE_BY_ONE = 400


def find_insensitive(
    held: Sequence[Held], answers: Answers, total: int, skip: set[str], seconds: float = 60
) -> list[AuditNote]:
    """Leaves whose halving and doubling changed no answer on `total` sums.

    Element by element in a small model, else tensor by tensor; zeros are not scaled. What
    is left after `seconds` is named as not sampled.
    """
    started = time.monotonic()
    if total == 0:
        return []
    bounds = sorted({0, *(n for n in LADDER if n < total), total})
    steps = list(itertools.pairwise(bounds))
    expected: dict[int, list[object]] = {first: answers(first, last) for first, last in steps}
    small = sum(item.tensor.numel() for item in held) <= ELEMENTS_ONE_BY_ONE
    found = []
    for item in held:
        if item.name in skip:
            continue
        if time.monotonic() - started > seconds:
            found.append(AuditNote(item.name, "not sampled for want of time"))
            continue
        parts = range(item.tensor.numel()) if small else [None]
        quiet = [part for part in parts if not _is_zero(item.tensor, part)
                 and all(_unchanged(item.tensor, part, answers, step, expected[step[0]])
                         for step in steps)]
        if quiet:
            found.append(AuditNote(item.name, _which(item.tensor, quiet, small) + (
                f"scaling by 0.5 and by 2 changed no answer on {total:,} sums "
                "(sampled, no proof)")))
    return found


def _which(tensor: Tensor, quiet: Sequence[int | None], small: bool) -> str:
    if not small or tensor.numel() == 1:
        return ""
    shown = ", ".join(_index(tensor, part) for part in quiet[:6] if part is not None)
    more = ", …" if len(quiet) > 6 else ""
    return f"{len(quiet)} of {tensor.numel()} elements ({shown}{more}): "


def _unchanged(
    tensor: Tensor, part: int | None, answers: Answers, step: tuple[int, int],
    expected: list[object],
) -> bool:
    for factor in FACTORS:
        kept = tensor.detach().clone()
        with torch.no_grad():
            try:
                (tensor if part is None else tensor.view(-1)[part]).mul_(factor)
                same = answers(*step) == expected
            finally:
                tensor.copy_(kept)
        if not same:
            return False
    return True


def _is_zero(tensor: Tensor, part: int | None) -> bool:
    value = tensor if part is None else tensor.reshape(-1)[part]
    return not bool(torch.count_nonzero(value))


def _index(tensor: Tensor, part: int) -> str:
    place = []
    for size in reversed(tensor.shape):
        place.append(str(part % size))
        part //= size
    return "[" + ",".join(reversed(place)) + "]"


def find_duplicates(held: Sequence[Held]) -> list[AuditNote]:
    """Tensors stored twice with equal values, as they are or transposed."""
    found = []
    for number, item in enumerate(held):
        for other in held[:number]:
            mine, its = item.tensor.detach(), other.tensor.detach()
            if mine.numel() == 0:
                continue
            if bool((mine == mine.reshape(-1)[:1]).all()) and abs(float(mine.sum())) in (
                0.0, float(mine.numel())
            ):
                continue  # all zeros or all ones
            if mine.shape == its.shape and torch.equal(mine, its):
                found.append(AuditNote(item.name, f"equal to {other.name}, stored twice"))
                break
            if mine.ndim == 2 and mine.T.shape == its.shape and torch.equal(mine.T, its):
                found.append(AuditNote(item.name, f"the transpose of {other.name}, stored twice"))
                break
    return found
