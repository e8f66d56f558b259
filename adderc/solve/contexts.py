"""The truth table that must be met: contexts, and which operand digits each stands for.

Takes: a checked spec. Gives: `truth_table` → `Table`, for the recheck; `reads_tokens`.
May import: lang, solve.cases, solve.sight.

Contexts name one representative of the operand digits that the algorithm cannot tell apart.
Digits of one place are alike where every linear form of the algorithm gives them one value.
"""

from __future__ import annotations

import math

import numpy as np

from adderc.lang.checked import CheckedSpec, Contexts
from adderc.lang.explore import Window, every_digit
from adderc.lang.linear import digit_forms
from adderc.solve.cases import right_tokens
from adderc.solve.sight import Table

Array = np.ndarray


def truth_table(checked: CheckedSpec, contexts: Contexts, every: bool) -> Table:
    """`contexts` as tokens; with `every`, no two tuples of digits count as alike."""
    assert checked.algorithm is not None
    tuples = every_digit(checked.number)
    alike = np.arange(len(tuples)) if every else _kinds(checked, tuples)
    base = checked.number.base ** np.arange(checked.number.operands - 1, -1, -1)
    number_of = np.zeros(checked.number.base**checked.number.operands, dtype=np.int64)
    number_of[tuples @ base] = alike
    kinds = number_of[np.einsum("rop,o->rp", contexts.digits, base)]
    form = checked.format
    return Table(
        Window.of(checked.algorithm).low, tuples, alike, kinds,
        right_tokens(form, contexts.answers), contexts.answers == 0, contexts.index,
        contexts.carry, right_tokens(form, contexts.right))


def _kinds(checked: CheckedSpec, tuples: Array) -> Array:
    """Numbers 0, 1, … of the kinds of tuples that all forms of the algorithm agree on."""
    algorithm, names = checked.algorithm, checked.number.names
    assert algorithm is not None
    forms = {(1,) * len(names)}
    for root in (algorithm.emit, *algorithm.quantities.values()):
        for rows in digit_forms(algorithm.definitions, root, names).values():
            for row in rows:
                scale = math.lcm(*(c.denominator for c in row))
                forms.add(tuple(int(c * scale) for c in row))
    values = tuples @ np.array(sorted(forms), dtype=np.int64).T
    return np.unique(values, axis=0, return_inverse=True)[1].reshape(-1)
