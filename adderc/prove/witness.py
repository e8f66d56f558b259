"""Operands that make a sum of token tables as large as possible, or nearly so.

Takes: an automaton, one case, a table. Gives: `witness`, digits of the operands, and
`candidates`, several of them.
May import: prove.carry.

The same dynamic programme as the ranges, written for one table with its choices kept.
"""

from __future__ import annotations

import numpy as np

from adderc.prove.carry import NEVER, Automaton, Cases

Array = np.ndarray


BLURS = (0.03, 0.3, 3.0)  # noise on a table, as a share of its largest entry


def candidates(automaton: Automaton, case: Cases, table: Array, count: int,
               draw: np.random.Generator) -> list[Array]:
    """Digits of operands at the top of the table, in the case and anywhere, and `count` of
    the case that would be at the top if the table were slightly or quite another."""
    size = float(np.abs(table).max()) or 1.0
    tables = [table + BLURS[number % len(BLURS)] * size * draw.standard_normal(table.shape)
              for number in range(count)]
    found = [witness(automaton, case, table), witness(automaton, None, table)]
    found += [witness(automaton, case, blurred) for blurred in tables]
    return [digits for digits in found if digits is not None]


def witness(automaton: Automaton, case: Cases | None, table: Array) -> Array | None:
    """Digits [k, width], least significant first; None where no operands fit the case.

    `table` [P, D] covers the first P positions; `case` None leaves the operands free.
    """
    auto, positions = automaton, len(table)
    best = np.full(auto.k, NEVER)
    best[0] = 0.0
    choices: list[tuple[Array, Array]] = []
    for place in range(auto.places):
        value = best[:, None] + _place_values(auto, case, table, place, positions)
        out = (auto.tuple_sum + np.arange(auto.k)[:, None]) // auto.base
        following, source = np.full(auto.k, NEVER), np.zeros((2, auto.k), int)
        for carry in range(auto.k):
            masked = np.where(out == carry, value, NEVER)
            at = int(masked.argmax())
            following[carry] = masked.flat[at]
            source[:, carry] = np.unravel_index(at, masked.shape)
        choices.append((source, following))
        best = following
    if best[0] == NEVER:
        return None
    digits = np.zeros((auto.k, auto.width), dtype=np.int64)
    carry = 0
    for place in range(auto.places - 1, -1, -1):
        source, _ = choices[place]
        carry, chosen_tuple = int(source[0, carry]), int(source[1, carry])
        if place < auto.width:
            digits[:, place] = auto.digits[chosen_tuple]
    return digits


def _place_values(auto: Automaton, case: Cases | None, table: Array, place: int,
                  positions: int) -> Array:
    """[k, Q]: the tables of a place by carry in and digit tuple, -inf where not allowed."""
    totals = auto.tuple_sum + np.arange(auto.k)[:, None]
    value = np.zeros(totals.shape)
    for position in range(positions):
        if auto.holders[position].place == place:
            value = value + table[position, _token_at(auto, position, totals)]
    allowed = np.ones(totals.shape, dtype=bool)
    if place >= auto.width:
        allowed &= auto.tuple_sum == 0
    if case is not None and place == case.place:
        allowed &= auto.tuple_sum == case.sums[0]
        allowed &= np.arange(auto.k)[:, None] == case.carry[0]
        if case.tuples is not None:
            allowed &= np.arange(len(auto.digits)) == case.tuples[0]
    if case is not None and case.near is not None and place == case.near_place:
        allowed &= totals == case.near[0]
    for position, held in case.pins if case is not None else ():
        if auto.holders[position].place == place:
            allowed &= _token_at(auto, position, totals) == held[0]
    return np.where(allowed, value, NEVER)


def _token_at(auto: Automaton, position: int, totals: Array) -> Array:
    """The token at a position by carry in and digit tuple of its place, [k, Q] or [Q]."""
    holder = auto.holders[position]
    if holder.kind == "digit":
        found: Array = auto.digits[:, holder.operand]
        return found
    return auto.tuple_token if holder.kind == "tuple" else auto.token_of_total(position, totals)
