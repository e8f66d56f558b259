"""The search for operands that a model adds wrongly.

Takes: a module, a format. Gives: `Search`: candidates in, confirmed failures out.
May import: errors, format, nn.greedy, results.

A failure counts only when the one-at-a-time loop through the module's own forward gave it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from adderc.format.number import from_digits, to_digits
from adderc.format.prompt import Format
from adderc.nn.greedy import decode_greedy, decode_one, last_logits
from adderc.results import Failure

Array = np.ndarray
Operands = tuple[int, ...]
BATCH = 512


class Search:
    """Runs operand tuples through the module; `failure` is the first confirmed one."""

    def __init__(self, module: Any, format: Format, seed: int = 0) -> None:
        self.module, self.format, self.random = module, format, random.Random(seed)
        self.number, self.tried = format.number, 0

    def replay(self, operands: Sequence[Operands]) -> Failure | None:
        """The first of these tuples that the module gets wrong; tuples out of range are left."""
        fit = [row for row in dict.fromkeys(operands)
               if all(0 <= value <= self.number.maximum for value in row)]
        for start in range(0, len(fit), BATCH):
            batch = fit[start : start + BATCH]
            self.tried += len(batch)
            answers = decode_greedy(self.module, self.format, self.format.encode(batch))
            for row, answer in zip(batch, answers.tolist(), strict=True):
                if answer != self.format.expected(row) and (found := self.confirm(row)):
                    return found
        return None

    def confirm(self, operands: Operands) -> Failure | None:
        got = decode_one(self.module, self.format, operands)
        return None if got == sum(operands) else Failure(operands, sum(operands), got)

    def answer_of(self, operands: Operands) -> list[int]:
        """The answer tokens of the one-at-a-time loop."""
        prompts = self.format.encode([operands])
        found: list[int] = decode_greedy(
            self.module, self.format, prompts, incremental=False)[0].tolist()
        return found

    def from_digits(self, digits: Array) -> Operands:
        """Digits [k, width], least significant first, as operands."""
        return tuple(from_digits(row.tolist(), self.number.base) for row in digits)

    # ------------------------------------------------------------ candidates

    def structured(self, count: int) -> list[Operands]:
        """Sums full of long carries, edges, zeros and random digits."""
        return [self._one() for _ in range(count)]

    def _one(self) -> Operands:
        number, pick = self.number, self.random
        top = number.base - 1
        kind = pick.randrange(5)
        columns = []
        for place in range(number.width):
            digits = [pick.randrange(number.base) for _ in range(number.operands)]
            if (kind == 1 and pick.random() < 0.8) or (kind == 2 and place):
                self._sum_to(digits, top)  # a carry runs through
            elif kind == 3:
                digits = [pick.choice((0, 1, top)) for _ in digits]
            elif kind == 4 and pick.random() < 0.7:
                digits = [pick.choice((0, top))] * number.operands
            columns.append(digits)
        if kind == 2:
            columns[0] = [top] * number.operands
        rows = zip(*columns, strict=True)
        return tuple(min(from_digits(row, number.base), number.maximum) for row in rows)

    def _sum_to(self, digits: list[int], total: int) -> None:
        rest = total
        for index in range(len(digits) - 1):
            digits[index] = self.random.randint(0, rest)
            rest -= digits[index]
        digits[-1] = rest

    def around(self, operands: Operands, count: int) -> list[Operands]:
        """Tuples that differ from one in a few digits."""
        found = []
        for _ in range(count):
            rows = [to_digits(v, self.number.base, self.number.width) for v in operands]
            for _ in range(self.random.randint(1, 3)):
                row = self.random.choice(rows)
                row[self.random.randrange(len(row))] = self.random.randrange(self.number.base)
            found.append(tuple(from_digits(row, self.number.base) for row in rows))
        return found

    # ------------------------------------------------------------ margins

    def margins(self, operands: Sequence[Operands]) -> Array:
        """For each tuple the least logit gap of the right token over all answer steps, [N].

        Every step is run as its own sequence of the right earlier tokens.
        """
        prompts = self.format.encode(operands)
        answers = np.array([self.format.expected(row) for row in operands])
        least = np.full(len(operands), np.inf)
        with torch.inference_mode():
            for step in range(self.format.steps):
                tokens = np.concatenate([prompts, answers[:, :step]], axis=1)
                logits = last_logits(self.module(torch.from_numpy(tokens))).double().numpy()
                right = logits[np.arange(len(answers)), answers[:, step]]
                logits[np.arange(len(answers)), answers[:, step]] = -np.inf
                gap = right - logits.max(axis=1)
                least = np.minimum(least, np.where(np.isnan(gap), -np.inf, gap))
        return least

    def descend(self, deadline: float, progress: Callable[[str], None]) -> Failure | None:
        """Local search for the smallest margin until the deadline."""
        while time.monotonic() < deadline:
            pool = self._in_range(self.structured(BATCH))
            if found := self.replay(pool):
                return found
            gaps = self.margins(pool)
            best = [pool[i] for i in np.argsort(gaps)[:8]]
            for _ in range(12):
                if time.monotonic() > deadline:
                    return None
                near = self._in_range([n for row in best for n in self.around(row, 16)])
                near = list(dict.fromkeys(near + best))
                gaps = self.margins(near)
                order = np.argsort(gaps)
                best = [near[i] for i in order[:8]]
                if gaps[order[0]] <= 0 and (found := self.replay(best)):
                    return found
            progress(f"searched {self.tried} sums, smallest gap {gaps.min():.4g}")
        return None

    def _in_range(self, rows: Sequence[Operands]) -> list[Operands]:
        return [row for row in rows if all(0 <= v <= self.number.maximum for v in row)]
