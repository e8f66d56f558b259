"""Batches of integers of any size as arrays, and their digits.

Takes: `NumberFormat`, `Format`, arrays. Gives: `integer_type`, `values_of`, `digits_of`,
`sums_of`, `checked_batch`, `prompts_of`, `sums_written`.
May import: format.number, format.prompt.

A batch of N operand tuples is an array [N, operands]: int64 where the sums fit, otherwise
Python integers (dtype object). Digits stand least significant first on the last axis.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np

from adderc.format.number import NumberFormat
from adderc.format.prompt import Format

INT64_LIMIT = 2**63


def integer_type(number: NumberFormat) -> np.dtype:
    """int64 where every sum and every power of the base up to it fits, else object."""
    fits = number.base**number.answer_digits < INT64_LIMIT
    return np.dtype(np.int64) if fits else np.dtype(object)


def chunk_places(base: int) -> int:
    """How many digits one int64 holds with room for a factor of the base."""
    places = 1
    while base ** (places + 2) < INT64_LIMIT:
        places += 1
    return places


def values_of(digits: np.ndarray, base: int, dtype: np.dtype) -> np.ndarray:
    """Integers [...] of digits [..., places]; exact at any size where dtype is object."""
    places, step = digits.shape[-1], chunk_places(base)
    powers = base ** np.arange(step, dtype=np.int64)
    values = np.zeros(digits.shape[:-1], dtype=dtype)
    for start in reversed(range(0, places, step)):
        chunk = digits[..., start : start + step].astype(np.int64)
        part = chunk @ powers[: chunk.shape[-1]]
        values = values * base ** chunk.shape[-1] + part.astype(dtype)
    return values


def digits_of(values: np.ndarray, base: int, places: int) -> np.ndarray:
    """Digits [..., places] int64 of integers [...]; digits beyond `places` are dropped."""
    step, rest = chunk_places(base), values
    digits = np.empty((*values.shape, places), dtype=np.int64)
    for start in range(0, places, step):
        count = min(step, places - start)
        modulus = base**count
        part = (rest % modulus).astype(np.int64)
        rest = rest // modulus
        for place in range(start, start + count):
            part, digits[..., place] = np.divmod(part, base)
    return digits


def sums_of(batch: np.ndarray) -> np.ndarray:
    """The exact sums [N] of a batch [N, operands]."""
    return batch.sum(axis=1)


def checked_batch(number: NumberFormat, rows: Sequence[Sequence[int]]) -> np.ndarray:
    """Operand tuples as a batch [N, operands]; InputError for one that is not in range."""
    dtype = integer_type(number)
    if dtype == np.int64:
        with contextlib.suppress(ValueError, OverflowError):
            batch = np.array(rows)
            whole = batch.dtype == np.int64 and batch.shape == (len(rows), number.operands)
            if whole and batch.min() >= 0 and batch.max() <= number.maximum:
                return batch
    for row in rows:
        number.check_operands(row)
    return np.array(rows, dtype=dtype).reshape(len(rows), number.operands)


def prompts_of(format: Format, batch: np.ndarray) -> np.ndarray:
    """Prompts [N, prompt_length] of a batch [N, operands] that is in range."""
    return format.encode_digits(digits_of(batch, format.number.base, format.number.width))


def sums_written(format: Format, tokens: np.ndarray) -> list[int | None]:
    """What N rows of answer tokens [N, steps] write, as `Format.decode`: None for no number."""
    number = format.number
    states = format.answer_kind == "states"
    limit = number.base * number.operands if states else number.base
    tokens = tokens - (format.first_state if states else 0)
    sound = np.asarray(((tokens >= 0) & (tokens < limit)).all(axis=1))
    digits = tokens[:, [format.answer_place(place) for place in range(format.steps)]]
    if states:
        digits = np.concatenate([digits % number.base, digits[:, -1:] // number.base], axis=1)
    dtype = integer_type(number)
    values = values_of(np.where(sound[:, None], digits, 0), number.base, dtype)
    written: list[int | None] = values.tolist()
    for row in np.flatnonzero(~sound).tolist():
        written[row] = None
    return written
