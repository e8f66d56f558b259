"""What attention can see at one answer step: which tokens may stand where, and the contexts.

Takes: number, format, contexts as plain arrays. Gives: `Table`, `Sight`, `sights`.
May import: format, numpy.

At a step the places that the algorithm looks at hold the digits of a context, written as any
tuple of operand digits that the algorithm cannot tell from the context's own; answer tokens
it looks at are the context's; every other position may hold any token of its kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from adderc.format.prompt import Format

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Table:
    """The truth table: R rows with places from offset `low`.

    `tuples` [L, operands] are all digits of one place, `alike` [L] the number of each
    tuple's kind, `kinds` [R, places] the kind that stands in each place of a row.
    """

    low: int
    tuples: Array
    alike: Array
    kinds: Array
    answers: Array  # [R, back], tokens
    start: Array  # [R, back]: whether an answer is that of the start
    index: Array  # [R]
    carry: Array  # [R]
    right: Array  # [R], tokens

    def __len__(self) -> int:
        return len(self.right)


@dataclass(frozen=True, eq=False)
class Sight:
    """One step: `rows` of the table that it can meet, and what they see.

    `allowed` [P, V]: which tokens a position may hold at all; `known` maps a position to the
    one token of each row [N]; `places` are groups of positions with the tokens they hold
    together [kinds, most, positions], `real` of them [kinds, most], and the kind of each row.
    """

    step: int
    rows: Array
    allowed: Array
    known: dict[int, Array]
    groups: tuple[tuple[tuple[int, ...], Array, Array, Array], ...]


def sights(form: Format, table: Table) -> Iterator[Sight]:
    """Every answer step with the rows that can occur there."""
    for step in range(form.steps):
        yield sight(form, table, step)


def sight(form: Format, table: Table, step: int) -> Sight:
    rows = _rows(form, table, step)
    known = {}
    back = table.answers.shape[1]
    for at in range(back):
        if step - back + at >= 0:
            known[form.prompt_length + step - back + at] = table.answers[rows, at]
    groups = []
    for at in range(table.kinds.shape[1]):
        place = step + table.low + at
        cells = tuple(p for p, cell in enumerate(form.cells)
                      if cell.kind != "symbol" and cell.place == place)
        if cells:
            tokens, real = _together(form, table, cells)
            groups.append((cells, tokens, real, table.kinds[rows, at]))
    return Sight(step, rows, _allowed(form, step), known, tuple(groups))


def _rows(form: Format, table: Table, step: int) -> Array:
    """Rows that may occur: nothing but zeros outside the number, the start before it."""
    fits = (table.index == step) | (table.index < 0)
    zero = table.alike[(table.tuples == 0).all(axis=1)][0]
    for at in range(table.kinds.shape[1]):
        if not 0 <= step + table.low + at < form.number.width:
            fits &= table.kinds[:, at] == zero
    back = table.answers.shape[1]
    for at in range(back):
        if step - back + at < 0:
            fits &= table.start[:, at]
    if step == 0:
        fits &= table.carry == 0
    return np.flatnonzero(fits)


def _together(form: Format, table: Table, cells: tuple[int, ...]) -> tuple[Array, Array]:
    """The tokens [kinds, most, positions] that the cells of one place may hold together."""
    weights = form.number.base ** np.arange(form.number.operands - 1, -1, -1)
    columns = [table.tuples @ weights if form.cells[p].kind == "tuple"
               else table.tuples[:, form.cells[p].operand] for p in cells]
    tokens = np.stack(columns, axis=1)
    kinds = int(table.alike.max()) + 1
    most = int(np.bincount(table.alike).max())
    found, real = np.zeros((kinds, most, len(cells)), dtype=np.int64), np.zeros((kinds, most), bool)
    for kind in range(kinds):
        own = tokens[table.alike == kind]
        found[kind, : len(own)], real[kind, : len(own)] = own, True
    return found, real


def _allowed(form: Format, step: int) -> Array:
    """Which tokens each position up to the query may hold [P, V]."""
    number, ids = form.number, np.arange(form.vocabulary)
    digits, tuples = ids < number.base, ids < number.base**number.operands
    rows = []
    for cell in form.cells:
        if cell.kind == "symbol":
            rows.append(ids == form.ids[cell.text])
        else:
            rows.append(digits if cell.kind == "digit" else tuples)
    states = (ids >= form.first_state) & (ids < form.first_state + number.base * number.operands)
    rows += [states if form.answer_kind == "states" else digits] * step
    return np.stack(rows)
