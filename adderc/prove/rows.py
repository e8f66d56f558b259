"""Rows: classes of cases that share a value, so that equal work is done once.

Takes: case indices. Gives: `Rows`, `ONE`, `meet`.
May import: the standard library, numpy.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray


class Rows:
    """`index` [C] says which of `count` rows each case uses; None: all use the only one.

    `first` [R] is one case of each row. Rows are compared by identity.
    """

    def __init__(self, index: Array | None, count: int = 1, first: Array | None = None) -> None:
        self.index, self.count = index, count
        self.first = np.zeros(1, dtype=np.int64) if first is None else first
        self._met: dict[int, tuple[Rows, Rows]] = {}

    def of(self, cases: int) -> Array:
        """The row of each of C cases."""
        return np.zeros(cases, dtype=np.int64) if self.index is None else self.index

    def take(self, array: Array, target: Rows) -> Array:
        """An array [R, …] on rows that are finer, [R', …]; one row [1, …] stays as it is."""
        if self.index is None or target is self or len(array) == 1:
            return array
        return array[self.index[target.first]]

    def take_last(self, array: Array, target: Rows) -> Array:
        """The same for arrays whose rows come last, [..., R]."""
        if self.index is None or target is self or array.shape[-1] == 1:
            return array
        return array[..., self.index[target.first]]

    def worst(self, values: Array) -> Array:
        """The largest of values [C] in each row, [R]."""
        if self.index is None:
            return values.max(keepdims=True)
        found = np.full(self.count, -np.inf)
        np.maximum.at(found, self.index, values)
        return found


ONE = Rows(None)


def rows_by(keys: Array) -> Rows:
    """One row for each distinct key among keys [C]."""
    _, first, index = np.unique(keys, return_index=True, return_inverse=True)
    if len(first) == 1:
        return ONE
    return Rows(index.reshape(-1), len(first), first)


def meet(left: Rows, right: Rows) -> Rows:
    """The coarsest rows that are at least as fine as both."""
    if left is right or right.index is None:
        return left
    if left.index is None:
        return right
    known = left._met.get(id(right))
    if known is None:
        known = (rows_by(left.index * right.count + right.index), right)
        left._met[id(right)] = known
    return known[0]
