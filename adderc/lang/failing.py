"""The smallest sum an algorithm gets wrong, and sums that no such rule can tell apart.

Takes: an `Explorer`. Gives: `smallest_failing` and `ambiguous` operand tuples.
May import: errors, format, lang.

Every state keeps the least operands that lead to it, compared by (sum, operands). That
order is kept when the same higher digits are put in front of both sides, so the least
operands through a state are found from the least operands to it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from adderc.lang.checked import Contexts
from adderc.lang.explore import Explorer, Window
from adderc.lang.states import read_part

Key = tuple[int, tuple[int, ...]]
State = tuple[int, ...]


def smallest_failing(explorer: Explorer) -> tuple[int, ...] | None:
    """The operands of the least wrong sum (by sum, then operands); None if all are right."""
    best: list[Key] = []
    for contexts, keys in _levels(explorer, best):
        wrong = np.flatnonzero(contexts.right != contexts.emitted)
        best[:] = sorted([*best, *(keys[row] for row in wrong)])[:1]
    return best[0][1] if best else None


def ambiguous(explorer: Explorer) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Two operand tuples between which no rule on the same digits can tell.

    In one step both show the same sums of operand digits and the same earlier answer
    digits (those of the right answer), yet another digit is right.
    """
    seen: dict[State, tuple[int, Key]] = {}
    for contexts, keys in _levels(explorer):
        sums = contexts.digits.sum(axis=1)
        parts = [read_part(name, explorer.number.base, column)
                 for name in explorer.algorithm.answer_parts for column in contexts.answers.T]
        for row, key in enumerate(keys):
            view = (*map(int, sums[row]), *(int(part[row]) for part in parts))
            digit = int(contexts.right[row])
            other = seen.setdefault(view, (digit, key))
            if other[0] != digit:
                return other[1][1], key[1]
        if np.any(contexts.right != contexts.emitted):
            break
    return None


def _levels(
    explorer: Explorer, best: list[Key] | None = None
) -> Iterator[tuple[Contexts, list[Key]]]:
    """Per step: its contexts, and for each row the least operands that reach it.

    States that no operands below `best[0]` reach are left out once there is one.
    """
    number, window = explorer.number, Window.of(explorer.algorithm)
    states = explorer.start()
    keys = [_start_key(explorer, row) for row in states]
    for step in range(explorer.steps):
        choices = explorer.choices(step)
        contexts, images, kept = explorer.expand(states, choices, step)
        power = number.base ** (step + window.high)
        fresh = [tuple(int(d) * power for d in row) for row in choices]
        row_keys: list[Key] = []
        for total, operands in keys:
            for added in fresh:
                row_keys.append((total + sum(added),
                                 tuple(x + y for x, y in zip(operands, added, strict=True))))
        row_keys = [row_keys[row] for row in kept]
        yield contexts, row_keys
        least: dict[State, Key] = {}
        for image, key in zip(map(tuple, images.tolist()), row_keys, strict=True):
            if image not in least or key < least[image]:
                least[image] = key
        if best:
            least = {state: key for state, key in least.items() if key < best[0]}
        if not least:
            return
        states = np.array(sorted(least), dtype=np.int64)
        keys = [least[tuple(row)] for row in states.tolist()]


def _start_key(explorer: Explorer, row: np.ndarray) -> Key:
    """Operands whose lowest digits are those a start state already shows (look-ahead)."""
    number, window = explorer.number, Window.of(explorer.algorithm)
    operands = [0] * number.operands
    for slot, offset in enumerate(range(window.low, window.high)):
        for operand in range(number.operands):
            digit = int(row[slot * number.operands + operand])
            operands[operand] += digit * number.base**offset if offset >= 0 else 0
    return sum(operands), tuple(operands)

