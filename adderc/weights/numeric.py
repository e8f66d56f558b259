"""The float64 reading of a weight expression, without torch: the compiler's own arithmetic.

Takes: an expression and leaf values. Gives: a float64 array.
May import: weights.expr, weights.reading.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from adderc.weights.expr import Constant, Expr, Leaf
from adderc.weights.reading import Arithmetic, read


def evaluate_numpy(expr: Expr, leaves: Mapping[str, np.ndarray]) -> np.ndarray:
    """`expr` in float64, shape `expr.shape`; a leaf that is missing is a KeyError."""

    def leaf(node: Leaf) -> np.ndarray:
        return np.asarray(leaves[node.name], dtype=np.float64)

    arithmetic = Arithmetic(
        dtype=np.float64,
        leaf=leaf,
        integer=float,
        constant=Constant.value,
        cos=np.cos,
        sin=np.sin,
        reciprocal=np.reciprocal,
    )
    return read(expr, arithmetic)
