"""Matrix forms: how many leaves a wanted matrix is allowed, and their values.

Takes: a wanted matrix and the form the spec asks for. Gives: `realize_matrix` → a weight
expression and leaf values that reproduce the matrix, or `FormFault`.
May import: weights.expr.

A lowering says which matrix it wants; a form says what is stored of it:

    dense    every entry                    slim     the columns that are not zero
    rank r   left [R, r] times right [r, C] sparse   the entries that are not zero
    shared   rows shared in equal pairs     fixed    nothing: all entries are 0 or ±1
    tied     one block of rows that repeats, as the keys or values of all heads
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from adderc.weights.expr import (
    Add,
    Expr,
    Leaf,
    MatMul,
    Scatter,
    Structural,
    Take,
)

Array = np.ndarray


class FormFault(Exception):
    """The wanted matrix has no such form; the text says what it would take."""


@dataclass(frozen=True)
class Realized:
    """An expression and the values of its leaves, with what each leaf means."""

    expr: Expr
    values: dict[str, Array]
    meanings: dict[str, str]


def dense(name: str, wanted: Array, _: int | None, meaning: str) -> Realized:
    leaf = Leaf(name, wanted.shape)
    return Realized(leaf, {name: wanted}, {name: meaning})


def rank(name: str, wanted: Array, number: int | None, meaning: str) -> Realized:
    """left [R, r] @ right [r, C]; rows of `right` are rows of the wanted matrix, each scaled
    so that its largest entry is 1; spare ranks are zero."""
    size = number or 1
    left, right = factor(wanted)
    if len(right) > size:
        raise FormFault(f"this matrix has rank {len(right)}, the form allows {size}")
    spare = size - len(right)
    left = np.hstack([left, np.zeros((len(left), spare))])
    right = np.vstack([right, np.zeros((spare, wanted.shape[1]))])
    names = (f"{name}.left", f"{name}.right")
    expr = MatMul(Leaf(names[0], left.shape), Leaf(names[1], right.shape))
    return Realized(expr, dict(zip(names, (left, right), strict=True)),
                    {names[0]: f"{meaning}, left factor", names[1]: f"{meaning}, right factor"})


def factor(wanted: Array) -> tuple[Array, Array]:
    """left, right with left @ right = wanted and as few rows of `right` as its rank."""
    scale = np.abs(wanted).max(initial=0.0)
    rest, chosen = wanted.copy(), []
    while scale and np.abs(rest).max() > 1e-9 * scale:
        row = int(np.argmax(np.abs(rest).max(axis=1) > 1e-9 * scale))
        pivot = int(np.argmax(np.abs(rest[row])))
        direction = wanted[row] / wanted[row][np.argmax(np.abs(wanted[row]))]
        chosen.append(direction)
        rest = rest - np.outer(rest[:, pivot] / rest[row, pivot], rest[row])
    if not chosen:
        return np.zeros((wanted.shape[0], 0)), np.zeros((0, wanted.shape[1]))
    right = np.array(chosen)
    if len(chosen) == 1:
        pivot = int(np.argmax(np.abs(right[0])))
        return wanted[:, [pivot]] / right[0, pivot], right
    left = np.linalg.lstsq(right.T, wanted.T, rcond=None)[0].T
    return np.where(np.abs(left - np.rint(left)) < 1e-12, np.rint(left), left), right


def slim(name: str, wanted: Array, _: int | None, meaning: str) -> Realized:
    columns = tuple(int(c) for c in np.flatnonzero(np.any(wanted != 0, axis=0)))
    kept = wanted[:, columns]
    expr = Scatter(Leaf(name, kept.shape), tuple(range(len(wanted))), columns, wanted.shape)
    return Realized(expr, {name: kept}, {name: f"{meaning}, on the dimensions it reads"})


def sparse(name: str, wanted: Array, _: int | None, meaning: str) -> Realized:
    places = [(int(r), int(c)) for r, c in zip(*np.nonzero(wanted), strict=True)]
    if not places:
        raise FormFault("this matrix is zero; a sparse form needs an entry")
    leaf = Leaf(name, (1, len(places)))
    total: Expr | None = None
    for at, (row, column) in enumerate(places):
        entry = Scatter(Take(leaf, (at,), 1), (row,), (column,), wanted.shape)
        total = entry if total is None else Add(total, entry)
    assert total is not None
    values = np.array([[wanted[place] for place in places]])
    return Realized(total, {name: values}, {name: f"{meaning}, entries that are not zero"})


def shared(name: str, wanted: Array, _: int | None, meaning: str) -> Realized:
    if len(wanted) % 2 or not np.array_equal(wanted[::2], wanted[1::2]):
        raise FormFault("rows are not equal in pairs")
    leaf = Leaf(name, (len(wanted) // 2, wanted.shape[1]))
    expr = Take(leaf, tuple(row // 2 for row in range(len(wanted))), 0)
    return Realized(expr, {name: wanted[::2]}, {name: f"{meaning}, rows shared in pairs"})


def tied(name: str, wanted: Array, _: int | None, meaning: str) -> Realized:
    count = len(wanted)
    size = next(r for r in range(1, count + 1) if count % r == 0 and all(
        np.array_equal(wanted[row], wanted[row % r]) for row in range(count)))
    if size == count:
        raise FormFault("no block of rows repeats")
    leaf = Leaf(name, (size, wanted.shape[1]))
    expr = Take(leaf, tuple(row % size for row in range(count)), 0)
    return Realized(expr, {name: wanted[:size]}, {name: f"{meaning}, one block for all"})


def fixed(name: str, wanted: Array, _: int | None, meaning: str) -> Realized:
    if not np.isin(wanted, (-1, 0, 1)).all():
        raise FormFault("a fixed matrix has entries 0, 1 and -1 only")
    entries = tuple((int(r), int(c), int(wanted[r, c]))
                    for r, c in zip(*np.nonzero(wanted), strict=True))
    return Realized(Structural(entries, wanted.shape), {}, {})


Form = Callable[[str, Array, int | None, str], Realized]
FORMS: dict[str, Form] = {
    "dense": dense, "table": dense, "rank": rank, "slim": slim, "sparse": sparse,
    "shared": shared, "shared in pairs": shared, "tied": tied, "fixed": fixed,
}


def realize_matrix(
    form: str, number: int | None, name: str, wanted: Array, meaning: str
) -> Realized:
    """The wanted matrix in the form asked for; KeyError for a form not in FORMS."""
    return FORMS[form](name, np.asarray(wanted, dtype=np.float64), number, meaning)
