"""The interval reading: rigorous enclosures of the exact real value of every entry.

Takes: a weight expression and leaf values, read as exact binary numbers. Gives: arb balls.
May import: weights.expr, weights.reading.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flint
import numpy as np

from adderc.weights.expr import Constant, Expr, Leaf
from adderc.weights.reading import Arithmetic, object_array, read


def enclose(expr: Expr, leaves: Mapping[str, np.ndarray], precision: int = 128) -> np.ndarray:
    """Balls that contain the exact value of `expr`: an object array of `flint.arb`.

    `precision` is the working precision in bits. A reciprocal of a ball that contains 0
    is the whole line or NaN, never a wrong bound.
    """

    def leaf(node: Leaf) -> np.ndarray:
        values = np.asarray(leaves[node.name])
        return object_array([flint.arb(float(value)) for value in values.flat], values.shape)

    arithmetic = Arithmetic(
        dtype=object,
        leaf=leaf,
        integer=flint.arb,
        constant=_constant,
        cos=flint.arb.cos,
        sin=flint.arb.sin,
        reciprocal=lambda ball: 1 / ball,
    )
    with flint.ctx.workprec(precision):
        return read(expr, arithmetic)


def _constant(node: Constant) -> Any:
    rational = flint.fmpq(node.rational.numerator, node.rational.denominator)
    return flint.arb(rational) * flint.arb.pi() ** node.pi_power
