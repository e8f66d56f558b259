"""Families of hard sums, each drawn as the profile of its digit sums, place by place.

Takes: the shape of the numbers and a random generator. Gives: `Shape` and `FAMILIES`, the
drawing functions with their shares.
May import: format.

Whether a sum is hard is decided by the digit sums t of its places (all operands' digits at
one place): t >= base generates a carry, t = base - 1 passes a carry on, less kills it; with
k operands carries of every height 1 … k - 1 do the same at h * (base - 1). So most families
draw t [N, places] and split it into operand digits at random or as unevenly as possible.
What each family attacks:

- chains: one carry that starts at a place, runs through an exact number of places and dies;
  every length, every start, every end. Attacks models that look only a few places back.
- propagation: places that mostly pass a carry on (digit sum base - 1), with and without a
  carry to pass. Attacks thresholds on the previous place that lack a unit of slack.
- heights: digit sums one below, at and one above each multiple h * (base - 1) and h * base.
  Attacks carry heights and the wrap of a digit; with two operands the 9 | 10 boundary.
- tails: sums m * base^j + d, d in -3 … 3: tails of 0s, of base-1s, and near ones. Attacks
  models that hold the sum as one real number and round it.
- boundary: operand digits only 0, 1, base/2, base-2, base-1. Attacks embeddings and decoders.
- lonely: one operand is 0, or only one or two digits anywhere are not 0. Attacks leaks
  from positions that attention ought to ignore.
- maximal: operands at or just under the largest. Attacks the top digit and overflow.
- mixed: every operand has a random number of digits. Attacks alignment.
- uniform: no structure; the sample that other suites draw.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from adderc.format.batches import integer_type, values_of
from adderc.format.number import NumberFormat


@dataclass(frozen=True)
class Shape:
    """Numbers of `places` digits, the most that the range leaves room for."""

    number: NumberFormat
    places: int

    @property
    def base(self) -> int:
        return self.number.base

    @property
    def operands(self) -> int:
        return self.number.operands

    @property
    def largest_digit_sum(self) -> int:
        return self.operands * (self.base - 1)


# n tuples, the `first` of which is number `first` of its family: values [n, operands]
Draw = Callable[[Shape, np.random.Generator, int, int], np.ndarray]


def significant_places(number: NumberFormat) -> int:
    """Digits of the largest operand."""
    places = 1
    while number.base**places <= number.maximum:
        places += 1
    return places


def split(profile: np.ndarray, shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Operands [n, k] whose digits at each place add up to `profile` [n, places].

    A third of the rows give each operand in turn as much as it can hold (9 + 0 rather than
    5 + 4); which operand comes first is random per row.
    """
    n, k, top = len(profile), shape.operands, shape.base - 1
    digits = np.empty((n, k, profile.shape[1]), dtype=np.int64)
    greedy = rng.random((n, 1)) < 1 / 3
    rest = profile.astype(np.int64)
    for operand in range(k):
        most = np.minimum(rest, top)
        least = np.maximum(rest - (k - 1 - operand) * top, 0)
        digits[:, operand] = np.where(greedy, most, rng.integers(least, most + 1))
        rest = rest - digits[:, operand]
    order = rng.permuted(np.tile(np.arange(k), (n, 1)), axis=1)
    digits = np.take_along_axis(digits, order[:, :, None], axis=1)
    return values_of(digits, shape.base, integer_type(shape.number))


def chain_plan(shape: Shape, rng: np.random.Generator, n: int, first: int) -> np.ndarray:
    """Starts and lengths [n, 2]: in turn every length, every start and every end comes by."""
    plan = np.empty((n, 2), dtype=np.int64)
    for row in range(n):
        turn, kind = divmod(first + row, 3)
        pick = turn % shape.places
        if kind == 0:  # this length, anywhere
            start, length = int(rng.integers(shape.places - pick)), pick
        elif kind == 1:  # this start, any length
            start, length = pick, int(rng.integers(shape.places - pick))
        else:  # this last place, any start
            start = int(rng.integers(pick + 1))
            length = pick - start
        plan[row] = start, length
    return plan


def draw_chains(shape: Shape, rng: np.random.Generator, n: int, first: int) -> np.ndarray:
    """A carry of height h starts at one place and runs through exactly `length` more."""
    base, top = shape.base, shape.largest_digit_sum
    start, length = chain_plan(shape, rng, n, first).T[:, :, None]
    height = 1 + (np.arange(first, first + n)[:, None] // 3) % max(1, top // base)
    place = np.arange(shape.places)[None, :]
    low = rng.integers(0, base, (n, shape.places))  # up to base - 1: no carry of its own
    ignite = rng.integers(height * base, np.minimum(height * base + base, top + 1))
    high = rng.integers(0, top + 1, (n, shape.places)) * (rng.random((n, 1)) < 0.5)
    kill = rng.integers(0, np.maximum(base - height, 1))
    end = start + length + 1
    profile = np.select(
        [place < start, place == start, place < end, place == end],
        [low, np.broadcast_to(ignite, low.shape),
         np.broadcast_to(height * (base - 1), low.shape), np.broadcast_to(kill, low.shape)],
        default=high,
    )
    return split(profile, shape, rng)


def draw_propagation(shape: Shape, rng: np.random.Generator, n: int, first: int) -> np.ndarray:
    """Places pass a carry on with a chance of 50 to 97%; the others generate or kill one."""
    size = (n, shape.places)
    chance = rng.uniform(0.5, 0.97, (n, 1))
    other = rng.integers(0, shape.largest_digit_sum + 1, size)
    passing = np.full(size, shape.base - 1)
    return split(np.where(rng.random(size) < chance, passing, other), shape, rng)


def draw_heights(shape: Shape, rng: np.random.Generator, n: int, first: int) -> np.ndarray:
    """Digit sums within one of h * (base - 1) or h * base, h from 0 to the operand count."""
    size = (n, shape.places)
    height = rng.integers(0, shape.operands + 1, size)
    unit = rng.integers(shape.base - 1, shape.base + 1, size)
    near = height * unit + rng.integers(-1, 2, size)
    return split(np.clip(near, 0, shape.largest_digit_sum), shape, rng)


def draw_tails(shape: Shape, rng: np.random.Generator, n: int, first: int) -> np.ndarray:
    """Sums m * base^j + d with d in -3 … 3, j and d going through all their values."""
    number, rows = shape.number, list[list[int]]()
    largest = number.operands * number.maximum
    while len(rows) < n:
        turn, place = divmod(first + len(rows), shape.places + 1)
        power = number.base**place
        multiples = largest // power
        if rng.random() < 0.5:  # a short multiple: all places above are 0
            multiples = min(multiples, number.base**2)
        offset = turn % 7 - 3
        least = 1 if offset < 0 and multiples else 0
        goal = (least + below(multiples + 1 - least, rng)) * power + offset
        rows.append(share_out(min(max(goal, 0), largest), number, rng))
    return np.array(rows, dtype=integer_type(number)).reshape(n, number.operands)


def share_out(total: int, number: NumberFormat, rng: np.random.Generator) -> list[int]:
    """Operands in range that add up to `total`; now and then as unevenly as possible."""
    uneven, parts = rng.random() < 0.3, []
    for left in reversed(range(number.operands)):
        least = max(0, total - left * number.maximum)
        most = min(total, number.maximum)
        part = most if uneven else least + below(most - least + 1, rng)
        parts.append(part)
        total -= part
    return [parts[index] for index in rng.permutation(len(parts))]


def below(limit: int, rng: np.random.Generator) -> int:
    """A random integer from 0 to limit - 1, of any size."""
    size = limit.bit_length() // 8 + 9
    return int.from_bytes(rng.bytes(size), "little") % limit


def draw_boundary(shape: Shape, rng: np.random.Generator, n: int, first: int) -> np.ndarray:
    """Every operand digit is one of 0, 1, base/2, base-2, base-1."""
    base = shape.base
    choice = np.array(sorted({0, 1, base // 2, max(base - 2, 0), base - 1}), dtype=np.int64)
    digits = rng.choice(choice, (n, shape.operands, shape.places))
    return values_of(digits, base, integer_type(shape.number))


def draw_lonely(shape: Shape, rng: np.random.Generator, n: int, first: int) -> np.ndarray:
    """Odd rows: one operand is random, the others 0; even rows: one or two digits not 0."""
    k, places, base = shape.operands, shape.places, shape.base
    digits = np.zeros((n, k, places), dtype=np.int64)
    row = np.arange(n)
    for _ in range(2):
        nonzero = np.where(rng.random(n) < 0.5, base - 1, rng.integers(1, base, n))
        digits[row, rng.integers(k, size=n), rng.integers(places, size=n)] = nonzero
    odd = row[1::2]
    digits[odd] = 0
    kept = np.arange(places) < rng.integers(1, places + 1, (len(odd), 1))
    digits[odd, rng.integers(k, size=len(odd))] = rng.integers(0, base, (len(odd), places)) * kept
    return values_of(digits, base, integer_type(shape.number))


def draw_maximal(shape: Shape, rng: np.random.Generator, n: int, first: int) -> np.ndarray:
    """Operands at most 3 under the largest; in half the rows one of them is random instead."""
    number = shape.number
    under = rng.integers(0, min(4, number.maximum + 1), (n, number.operands))
    values = number.maximum - under.astype(integer_type(number))
    other = draw_mixed(shape, rng, n, first)
    replaced = (rng.random((n, 1)) < 0.5) & (
        np.arange(number.operands)[None, :] == rng.integers(number.operands, size=(n, 1))
    )
    return np.where(replaced, other, values)


def draw_mixed(shape: Shape, rng: np.random.Generator, n: int, first: int) -> np.ndarray:
    """Random operands, each with a random number of digits."""
    size = (n, shape.operands, shape.places)
    lengths = rng.integers(0, shape.places + 1, (n, shape.operands, 1))
    digits = rng.integers(0, shape.base, size) * (np.arange(shape.places) < lengths)
    return values_of(digits, shape.base, integer_type(shape.number))


def draw_uniform(shape: Shape, rng: np.random.Generator, n: int, first: int) -> np.ndarray:
    """Operands uniform from 0 to the largest."""
    number = shape.number
    if number.maximum + 1 < number.base**shape.places:
        values = [[below(number.maximum + 1, rng) for _ in number.names] for _ in range(n)]
        return np.array(values, dtype=integer_type(number)).reshape(n, number.operands)
    digits = rng.integers(0, shape.base, (n, shape.operands, shape.places))
    return values_of(digits, shape.base, integer_type(number))


# name, share of the samples in percent, drawing function
FAMILIES: tuple[tuple[str, int, Draw], ...] = (
    ("chains", 25, draw_chains),
    ("propagation", 15, draw_propagation),
    ("heights", 10, draw_heights),
    ("tails", 15, draw_tails),
    ("boundary", 10, draw_boundary),
    ("lonely", 10, draw_lonely),
    ("maximal", 5, draw_maximal),
    ("mixed", 5, draw_mixed),
    ("uniform", 5, draw_uniform),
)
