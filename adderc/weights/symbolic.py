"""The symbolic readings: every entry of a matrix as a formula in leaf elements.

Takes: a weight expression. Gives: sympy matrices, and which leaf elements an entry needs.
May import: weights.expr, weights.reading.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy

from adderc.weights.expr import Constant, Expr, Leaf
from adderc.weights.reading import Arithmetic, object_array, read

Element = tuple[str, tuple[int, ...]]  # leaf name, index in the leaf


def symbol(name: str, index: tuple[int, ...]) -> sympy.Symbol:
    """The real symbol of one leaf element: `ffn.rows[0,3]`, the bare name for shape ()."""
    suffix = f"[{','.join(map(str, index))}]" if index else ""
    return sympy.Symbol(name + suffix, real=True)


def symbol_array(expr: Expr) -> np.ndarray:
    """sympy expressions, an object array in `expr.shape`; exact, nothing is rounded."""

    def leaf(node: Leaf) -> np.ndarray:
        symbols = [symbol(node.name, index) for index in np.ndindex(node.shape)]
        return object_array(symbols, node.shape)

    arithmetic = Arithmetic(
        dtype=object,
        leaf=leaf,
        integer=sympy.Integer,
        constant=_constant,
        cos=sympy.cos,
        sin=sympy.sin,
        reciprocal=lambda value: 1 / value,
    )
    return read(expr, arithmetic)


def to_sympy(expr: Expr) -> Any:
    """A sympy expression for shape (), else a Matrix; shape [n] becomes one row [1, n]."""
    array = symbol_array(expr)
    if array.ndim == 0:
        return array[()]
    if array.ndim == 1:
        array = array.reshape(1, -1)
    return sympy.Matrix(array.shape[0], array.shape[1], list(array.flat))


def _constant(node: Constant) -> Any:
    rational = sympy.Rational(node.rational.numerator, node.rational.denominator)
    return rational * sympy.pi**node.pi_power


# ---------------------------------------------------------------- dependence


@dataclass(frozen=True)
class _Trace:
    """Which leaf elements a value needs; `zero` is a value that is 0 whatever they are."""

    elements: frozenset[Element] = frozenset()
    zero: bool = False

    def __add__(self, other: _Trace) -> _Trace:
        return _Trace(self.elements | other.elements, self.zero and other.zero)

    def __mul__(self, other: _Trace) -> _Trace:
        if self.zero or other.zero:
            return _Trace(zero=True)
        return _Trace(self.elements | other.elements)

    def __neg__(self) -> _Trace:
        return self


def entry_leaves(expr: Expr) -> np.ndarray:
    """For each entry of `expr` the frozenset of (leaf name, index) that it depends on.

    An object array in `expr.shape`. What a structural 0 multiplies does not count, nor
    what the digit 0 of an arange multiplies; cancellation is not looked for.
    """

    def leaf(node: Leaf) -> np.ndarray:
        traces = [_Trace(frozenset({(node.name, index)})) for index in np.ndindex(node.shape)]
        return object_array(traces, node.shape)

    arithmetic = Arithmetic(
        dtype=object,
        leaf=leaf,
        integer=lambda number: _Trace(zero=number == 0),
        constant=lambda node: _Trace(zero=node.rational == 0),
        cos=lambda trace: _Trace(trace.elements),
        sin=lambda trace: trace,
        reciprocal=lambda trace: _Trace(trace.elements),
    )
    traces = read(expr, arithmetic)
    return object_array([trace.elements for trace in traces.flat], traces.shape)
