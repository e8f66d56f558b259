"""The search for operands that a model adds wrongly.

Takes: a module, a format. Gives: `Search`: candidates in, confirmed failures out.
May import: errors, format, nn.greedy, results.

A failure counts only when the one-at-a-time loop through the module's own forward gave it.
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from adderc.errors import AddercError
from adderc.format.number import from_digits, to_digits
from adderc.format.prompt import Format
from adderc.nn.greedy import decode_greedy, decode_one, last_logits
from adderc.results import Failure

Array = np.ndarray
Operands = tuple[int, ...]
BATCH = 512
EXHAUSTIBLE = 20_000  # operand tuples up to which all are tried, in order
KEPT, NEIGHBOURS, ROUNDS = 8, 16, 12  # of the local search


class Search:
    """Runs operand tuples through the module; `failure` is the first confirmed one."""

    def __init__(self, module: Any, format: Format, seed: int = 0) -> None:
        self.module, self.format, self.random = module, format, random.Random(seed)
        self.number, self.tried, self.batch = format.number, 0, BATCH
        self.space = (self.number.maximum + 1) ** self.number.operands

    def replay(self, operands: Iterable[Operands], deadline: float = math.inf) -> Failure | None:
        """The first of these tuples that the module gets wrong; tuples out of range are left."""
        fit = iter(dict.fromkeys(self._in_range(operands)))
        while batch := list(itertools.islice(fit, self.batch)):
            self.tried += len(batch)
            for row, answer in zip(batch, self._answers(batch), strict=True):
                if answer != self.format.expected(row) and (found := self.confirm(row)):
                    return found
            if time.monotonic() > deadline:
                return None
        return None

    def _answers(self, batch: Sequence[Operands]) -> list[list[int]]:
        """Answer tokens; one sequence at a time where the module takes no batches."""
        prompts = self.format.encode(batch)
        try:
            found: list[list[int]] = decode_greedy(self.module, self.format, prompts).tolist()
            return found
        except AddercError:
            raise
        except Exception:
            if len(batch) == 1:
                raise
            self.batch = 1
            return [self._answers([row])[0] for row in batch]

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
        kind = pick.randrange(6)
        columns = []
        for place in range(number.width):
            digits = [pick.randrange(number.base) for _ in range(number.operands)]
            if (kind == 1 and pick.random() < 0.8) or (kind == 2 and place):
                self._sum_to(digits, top)  # a carry runs through
            elif kind == 3:
                digits = [pick.choice((0, 1, top)) for _ in digits]
            elif kind == 4 and pick.random() < 0.7:
                digits = [pick.choice((0, top))] * number.operands
            elif kind == 5:  # round numbers
                digits = [digit if pick.random() < 0.15 else 0 for digit in digits]
            columns.append(digits)
        if kind == 2:
            columns[0] = [top] * number.operands
        rows = zip(*columns, strict=True)
        return tuple(self._within(from_digits(row, number.base)) for row in rows)

    def _within(self, value: int) -> int:
        """The value without as many leading digits as bring it into range, or the largest."""
        number, place = self.number, self.number.width
        if value > number.maximum and self.random.random() < 0.1:
            return number.maximum
        while value > number.maximum:
            place -= 1
            value %= number.base**place
        return value

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

    def margins(self, operands: Sequence[Operands], steps: Iterable[int],
                deadline: float = math.inf) -> Array:
        """For each tuple the least logit gap of the right token over answer steps, [N].

        Every step is run as its own sequence of the right earlier tokens. A NaN counts as
        the smallest gap; steps after the deadline are left out.
        """
        prompts = self.format.encode(operands)
        answers = np.array([self.format.expected(row) for row in operands])
        least = np.full(len(operands), np.inf)
        for step in steps:
            tokens = np.concatenate([prompts, answers[:, :step]], axis=1)
            gap = self._gaps(tokens, answers[:, step])
            least = np.minimum(least, np.where(np.isnan(gap), -np.inf, gap))
            if time.monotonic() > deadline:
                break
        return least

    def _gaps(self, tokens: Array, expected: Array) -> Array:
        """logit[expected] less the largest other logit after each sequence, [N]."""
        found = []
        with torch.inference_mode():
            for start in range(0, len(tokens), self.batch):
                part = torch.from_numpy(tokens[start : start + self.batch])
                found.append(last_logits(self.module(part)).double().numpy())
        logits, rows = np.concatenate(found), np.arange(len(tokens))
        right = logits[rows, expected]
        logits[rows, expected] = -np.inf
        gap: Array = right - logits.max(axis=1)
        return gap

    def close_in(self, step: int, rows: Sequence[Operands], deadline: float) -> Failure | None:
        """Local search from these tuples for a gap at one step that is not positive."""
        found, _ = self._improve(self._in_range(rows), [step], deadline)
        return found

    def _improve(self, pool: Sequence[Operands], steps: Sequence[int], deadline: float
                 ) -> tuple[Failure | None, float]:
        """The tuples with the smallest gaps and their neighbours, until nothing is gained."""
        best, least = list(dict.fromkeys(pool)), math.inf
        for _ in range(ROUNDS):
            if not best or time.monotonic() > deadline:
                break
            gaps = self.margins(best, steps, deadline)
            order = np.argsort(gaps)[:KEPT]
            best = [best[i] for i in order]
            if gaps[order[0]] <= 0 and (found := self.replay(best)):
                return found, 0.0
            if gaps[order[0]] >= least:
                break
            least = float(gaps[order[0]])
            near = (n for row in best for n in self.around(row, NEIGHBOURS))
            best = list(dict.fromkeys([*best, *self._in_range(near)]))
        return None, least

    def descend(self, deadline: float, progress: Callable[[str], None]) -> Failure | None:
        """All operands where they are few, else random ones and those near small gaps."""
        if self.space <= EXHAUSTIBLE:
            every = range(self.number.maximum + 1)
            return self.replay(itertools.product(every, repeat=self.number.operands), deadline)
        while time.monotonic() < deadline:
            pool = self._in_range(self.structured(BATCH))
            if found := self.replay(pool, deadline):
                return found
            found, least = self._improve(pool, range(self.format.steps), deadline)
            if found:
                return found
            progress(f"searched {self.tried} sums, smallest gap {least:.4g}")
        return None

    def _in_range(self, rows: Iterable[Operands]) -> list[Operands]:
        return [row for row in rows if all(0 <= v <= self.number.maximum for v in row)]
