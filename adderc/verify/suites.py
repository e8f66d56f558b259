"""The suites of sums that `verify` puts to a model.

Takes: `NumberFormat`, a number of samples, a seed. Gives: `Suite` (a name, how many tuples,
and batches of them) from `adderboard`, `adversarial`,
`evenly`, `exhaustive`.
May import: errors, format, verify.families.

A suite streams: batches are arrays [N, operands] (see format.batches), made as they are
asked for, and the same for the same seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from adderc.errors import InputError
from adderc.format.batches import integer_type
from adderc.format.number import NumberFormat
from adderc.verify.families import FAMILIES, Shape, draw_uniform, significant_places

EXHAUSTIVE_LIMIT = 10**7
DEFAULT_SAMPLES = 20_000
BATCH = 4096

ADDERBOARD_MAXIMUM = 9_999_999_999
ADDERBOARD_SEED = 2025
ADDERBOARD_RANDOM = 10_000
ADDERBOARD_EDGES = (
    (0, 0),
    (0, 1),
    (9999999999, 0),
    (9999999999, 1),
    (9999999999, 9999999999),
    (9999999999, 9999999999),
    (5000000000, 5000000000),
    (1111111111, 8888888889),
    (1234567890, 9876543210),
    (1, 9999999999),
)


@dataclass(frozen=True)
class Suite:
    """`total` operand tuples under a name; `batches()` starts from the first one again."""

    name: str
    total: int
    batches: Callable[[], Iterator[np.ndarray]]


def space(number: NumberFormat) -> int:
    """How many operand tuples there are."""
    return (number.maximum + 1) ** number.operands


def adderboard(number: NumberFormat) -> Suite:
    """The public protocol: 10 edge cases and 10,000 random pairs of ten decimal digits.

    InputError where the model does not add two operands up to 9,999,999,999.
    """
    if number.operands != 2 or number.maximum < ADDERBOARD_MAXIMUM:
        raise InputError(
            f"the adderboard suite adds two operands up to {ADDERBOARD_MAXIMUM}; this model "
            f"adds {number.operands} of {number.width} digits in base {number.base}",
            "use --suite adversarial",
        )

    def batches() -> Iterator[np.ndarray]:
        rng = random.Random(ADDERBOARD_SEED)
        pairs = list(ADDERBOARD_EDGES)
        for _ in range(ADDERBOARD_RANDOM):
            a = rng.randint(0, ADDERBOARD_MAXIMUM)
            pairs.append((a, rng.randint(0, ADDERBOARD_MAXIMUM)))
        for start in range(0, len(pairs), BATCH):
            yield np.array(pairs[start : start + BATCH], dtype=integer_type(number))

    return Suite("adderboard", len(ADDERBOARD_EDGES) + ADDERBOARD_RANDOM, batches)


def exhaustive(number: NumberFormat) -> Suite:
    """Every operand tuple, the last operand running fastest; InputError beyond 10^7."""
    total = space(number)
    if total > EXHAUSTIVE_LIMIT:
        size = total.bit_length() * 30103 // 100000
        shown = f"{total:,}" if size < 30 else f"about 10^{size}"
        raise InputError(
            f"the exhaustive suite would run {shown} sums; its limit is {EXHAUSTIVE_LIMIT:,}",
            "use --suite adversarial",
        )
    return Suite("exhaustive", total, _all_tuples(number))


def adversarial(number: NumberFormat, samples: int = DEFAULT_SAMPLES, seed: int = 0) -> Suite:
    """`samples` distinct operand tuples from the families of verify.families.

    Where the range holds no more than `samples` tuples, these are all of them.
    """
    if samples < 1:
        raise InputError(f"{samples} samples: at least 1 is needed")
    total = min(samples, space(number))
    if total == space(number):
        return Suite("adversarial", total, _all_tuples(number))
    return Suite("adversarial", total, lambda: _adversarial_batches(number, total, seed))


def evenly(number: NumberFormat, samples: int = DEFAULT_SAMPLES, seed: int = 0) -> Suite:
    """The suite "random": `samples` operand tuples, each drawn evenly from the whole range."""
    if samples < 1:
        raise InputError(f"{samples} samples: at least 1 is needed")
    shape = Shape(number, significant_places(number))

    def batches() -> Iterator[np.ndarray]:
        rng = np.random.default_rng(seed)
        for start in range(0, samples, BATCH):
            yield draw_uniform(shape, rng, min(BATCH, samples - start), 0)

    return Suite("random", samples, batches)


def _all_tuples(number: NumberFormat) -> Callable[[], Iterator[np.ndarray]]:
    total = space(number)

    def batches() -> Iterator[np.ndarray]:
        for start in range(0, total, BATCH):
            yield _tuples_at(np.arange(start, min(start + BATCH, total)), number)

    return batches


def _tuples_at(indices: np.ndarray, number: NumberFormat) -> np.ndarray:
    """Tuples [N, operands] of these numbers in the exhaustive order."""
    columns = []
    for _ in range(number.operands):
        indices, column = np.divmod(indices, number.maximum + 1)
        columns.append(column)
    return np.stack(columns[::-1], axis=1).astype(integer_type(number))


@dataclass
class _Distinct:
    """Lets every tuple through once."""

    number: NumberFormat
    left: int
    seen: set[tuple[int, ...]]

    def take(self, values: np.ndarray) -> np.ndarray:
        """The rows in range that were not seen before, at most `left` of them."""
        kept: list[tuple[int, ...]] = []
        for row in values.tolist():
            key = tuple(row)
            if max(key) <= self.number.maximum and key not in self.seen and len(kept) < self.left:
                self.seen.add(key)
                kept.append(key)
        self.left -= len(kept)
        return np.array(kept, dtype=integer_type(self.number)).reshape(-1, self.number.operands)


def _adversarial_batches(number: NumberFormat, total: int, seed: int) -> Iterator[np.ndarray]:
    """Rounds through all families, each at its share, until `total` distinct ones are out."""
    rng = np.random.default_rng(seed)
    places = significant_places(number)
    distinct = _Distinct(number, total, set())
    limited = number.maximum + 1 < number.base**places and places > 1
    drawn = dict.fromkeys((name for name, _, _ in FAMILIES), 0)
    round_size, turn = min(total, BATCH), 0
    while distinct.left:
        before = distinct.left
        # below a limit, every second round leaves out the top place, so that it stays in range
        shape = Shape(number, places - 1 if limited and turn % 2 else places)
        taken = []
        for name, share, draw in FAMILIES:
            count = max(1, round_size * share // 100)
            taken.append(distinct.take(draw(shape, rng, count, drawn[name])))
            drawn[name] += count
        yield np.concatenate(taken)
        turn += 1
        if distinct.left and before - distinct.left < round_size // 2:
            yield from _fill(distinct, rng, Shape(number, places))


def _fill(distinct: _Distinct, rng: np.random.Generator, shape: Shape) -> Iterator[np.ndarray]:
    """Once the families repeat themselves: uniform tuples, or a shuffle of a small range."""
    number = distinct.number
    size = space(number)
    if size <= EXHAUSTIVE_LIMIT and size < 4 * (len(distinct.seen) + distinct.left):
        order = rng.permutation(size)
        for start in range(0, size, BATCH):
            batch = distinct.take(_tuples_at(order[start : start + BATCH], number))
            if len(batch):
                yield batch
        return
    batch = distinct.take(draw_uniform(shape, rng, min(distinct.left, BATCH), 0))
    if len(batch):
        yield batch
