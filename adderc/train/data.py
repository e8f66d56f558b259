"""Sums to train on, drawn and written as tokens without a loop over sums.

Takes: `Format`, how sums are to be drawn. Gives: `Draw`, and `draw_tokens` → tokens
[steps, length, batch] of one chunk of steps. May import: format.

Digits stand least significant first on the first axis, sums on the last. A chunk of steps is
drawn from the run's seed and its own number alone, so that a run can go on at any chunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from adderc.format.prompt import Format

Array = np.ndarray
SMALL = np.uint8
CHAIN = 3  # digits of the small number that sets off a chain
DATA, STARTS = 0, 1  # which of a run's streams of chance


@dataclass(frozen=True)
class Draw:
    """How one step's sums are drawn.

    Operands have at most `most` digits; with `mixed` each sum has a length of its own from 1
    to `most`, else digits are drawn evenly. A share of `carry` sums carries a lot; then a
    share of `calm` sums is changed so that no place carries.
    """

    most: int
    mixed: bool = False
    carry: float = 0.0
    calm: float = 0.0


def stream(seed: int, kind: int, number: int) -> np.random.Generator:
    """The chance of chunk `number` of a run."""
    return np.random.Generator(np.random.Philox(key=[seed, kind], counter=[0, 0, 0, number]))


def draw_tokens(form: Format, draws: list[Draw], batch: int, seed: int, chunk: int) -> Array:
    """Tokens [steps, length, batch] uint8, one step for each of `draws`."""
    rng = stream(seed, DATA, chunk)
    drawn = draw_digits(form, draws, batch, rng)
    tokens = tokens_of(form, drawn)
    whole = tokens.reshape(len(tokens), len(draws), batch)
    return np.ascontiguousarray(whole.transpose(1, 0, 2))


def draw_digits(form: Format, draws: list[Draw], batch: int, rng: np.random.Generator) -> Array:
    """Operand digits [operands, width, sums]."""
    number = form.number
    count = len(draws) * batch
    shape = (number.operands, number.width, count)
    digits = rng.integers(0, number.base, shape, dtype=SMALL)
    most = np.repeat(np.array([draw.most for draw in draws], dtype=SMALL), batch)
    lengths = rng.integers(1, most + 1, dtype=SMALL)
    mixed = np.repeat(np.array([draw.mixed for draw in draws]), batch)
    limit = np.where(mixed, lengths, most)
    digits *= np.arange(number.width, dtype=SMALL)[:, None] < limit
    shares = np.repeat(np.array([draw.carry for draw in draws]), batch)
    if number.operands == 2 and shares.any():
        chosen = rng.random(count, dtype=np.float32) < shares
        digits = np.where(chosen, carrying(number.base, number.width, most, rng), digits)
    shares = np.repeat(np.array([draw.calm for draw in draws]), batch)
    if shares.any():
        chosen = rng.random(count, dtype=np.float32) < shares
        digits = np.where(chosen, calmed(digits, number.base), digits)
    return digits if number.limit is None else within(digits, number.base, number.maximum)


def carrying(base: int, width: int, most: Array, rng: np.random.Generator) -> Array:
    """Digits [2, width, sums] of sums that carry, of four kinds in turn.

    single    one place carries for certain, no other does
    chain     99…9 plus a small number
    place     any number plus one digit in one place
    boundary  just below a power of the base plus a small number
    """
    found = np.empty((2, width, len(most)), dtype=SMALL)
    places, half = np.arange(width, dtype=SMALL)[:, None], (base + 1) // 2

    def lengths(kind: int) -> Array:
        return rng.integers(1, most[kind::4] + 1, dtype=SMALL)

    def digits(low: int, high: int, *shape: int) -> Array:
        return rng.integers(low, high, shape, dtype=SMALL)

    size = lengths(0)
    one = places == rng.integers(0, size, dtype=SMALL)
    low, high = digits(0, base - half, 2, width, len(size)), digits(half, base, 2, 1, len(size))
    found[..., 0::4] = np.where(one, high, low) * (places < size)
    size = lengths(1)
    found[0, :, 1::4] = (places < size) * SMALL(base - 1)
    found[1, :, 1::4] = digits(0, base, width, len(size)) * (places < np.minimum(size, CHAIN))
    size = lengths(2)
    one = places == rng.integers(0, size, dtype=SMALL)
    found[0, :, 2::4] = digits(0, base, width, len(size)) * (places < size)
    found[1, :, 2::4] = one * digits(1, base, len(size))
    size = lengths(3)
    found[0, :, 3::4] = (places < size) * SMALL(base - 1)
    found[0, 0, 3::4] -= digits(0, base, len(size))
    found[1, :, 3::4] = (places == 0) * digits(0, base, len(size))
    found[1, 1 % width, 3::4] += (width > 1) * digits(0, 2, len(size))
    return found


def calmed(digits: Array, base: int) -> Array:
    """The same digits [operands, width, sums], later operands scaled down to the room that
    the earlier ones leave in each place: digit * room div base, so that no place carries."""
    found = digits.astype(np.int64)
    for number in range(1, len(found)):
        found[number] = found[number] * (base - found[:number].sum(axis=0)) // base
    return found.astype(SMALL)


def within(digits: Array, base: int, maximum: int) -> Array:
    """Operands beyond the number format's maximum lose their highest digit that is not 0,
    until they are not: the rest is as it was drawn."""
    width = digits.shape[1]
    bound = [maximum // base**place % base for place in range(width)]
    over = np.ones(digits.shape[::2], dtype=bool)
    while over.any():
        over = np.zeros(digits.shape[::2], dtype=bool)
        for place in range(width):
            here = digits[:, place]
            over = (here > bound[place]) | ((here == bound[place]) & over)
        top = width - 1 - np.argmax(digits[:, ::-1] > 0, axis=1)
        operand, sums = np.nonzero(over)
        digits[operand, top[operand, sums], sums] = 0
    return digits


def tokens_of(form: Format, digits: Array) -> Array:
    """Prompt and right answer as tokens [length, sums] of operand digits [k, width, sums]."""
    number = form.number
    weights = (number.base ** np.arange(number.operands - 1, -1, -1)).astype(np.int64)
    tokens = np.empty((form.length, digits.shape[2]), dtype=SMALL)
    for at, cell in enumerate(form.cells):
        if cell.kind == "symbol":
            tokens[at] = form.ids[cell.text]
        elif cell.kind == "digit":
            tokens[at] = digits[cell.operand, cell.place]
        else:
            tokens[at] = np.tensordot(weights, digits[:, cell.place].astype(np.int64), 1)
    first, carry = form.prompt_length, np.zeros(digits.shape[2], dtype=SMALL)
    states = form.answer_kind == "states"
    for place in range(form.steps):
        total = carry + (digits[:, place].sum(axis=0, dtype=SMALL)
                         if place < number.width else SMALL(0))
        step = form.answer_place(place)  # the order is its own inverse
        carry = total // SMALL(number.base)
        digit = total if states else total - carry * SMALL(number.base)
        tokens[first + step] = digit + SMALL(form.first_state if states else 0)
    if form.answer_end is not None:
        tokens[-1] = form.ids[form.answer_end]
    return tokens
