"""The one walk that every numpy-shaped reading of a weight expression shares.

Takes: an expression and the arithmetic of its scalars. Gives: an array of those scalars.
May import: weights.expr.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from adderc.weights.expr import (
    Add,
    Arange,
    Concat,
    Constant,
    Cos,
    Expr,
    Leaf,
    MatMul,
    Mul,
    Neg,
    Reciprocal,
    Reshape,
    Scatter,
    ShapeError,
    Sin,
    Structural,
    Take,
    Transpose,
    children,
)

Array = np.ndarray


@dataclass(frozen=True)
class Arithmetic:
    """How one reading computes: its scalars beside +, -, * and @, which numpy lends it.

    `leaf` gives a leaf's array in the leaf's shape, `integer` and `constant` one scalar;
    `cos`, `sin` and `reciprocal` work on a scalar, or on a whole array where `dtype` is a
    number type of numpy.
    """

    dtype: type
    leaf: Callable[[Leaf], Array]
    integer: Callable[[int], Any]
    constant: Callable[[Constant], Any]
    cos: Callable[[Any], Any]
    sin: Callable[[Any], Any]
    reciprocal: Callable[[Any], Any]


def read(expr: Expr, arithmetic: Arithmetic) -> Array:
    """The array `expr` stands for, in `expr.shape`; a shared part is computed once."""
    return _read(expr, arithmetic, {})


def scalar_array(value: Any, dtype: type) -> Array:
    """A 0-dimensional array that holds `value` as it is."""
    array: Array = np.empty((), dtype=dtype)
    array[()] = value
    return array


def object_array(values: list[Any], shape: tuple[int, ...]) -> Array:
    """`values` in row order as an array of objects, none of them looked into."""
    array = np.empty(len(values), dtype=object)
    for position, value in enumerate(values):
        array[position] = value
    return array.reshape(shape)


def _read(expr: Expr, arithmetic: Arithmetic, known: dict[int, Array]) -> Array:
    if (found := known.get(id(expr))) is not None:
        return found
    inputs = [_read(child, arithmetic, known) for child in children(expr)]
    value = _apply(expr, inputs, arithmetic)
    if not isinstance(value, np.ndarray):
        value = scalar_array(value, arithmetic.dtype)
    if isinstance(expr, Leaf) and value.shape != expr.shape:
        raise ShapeError(f"leaf {expr.name} has shape {expr.shape}, its value {value.shape}")
    known[id(expr)] = value
    return value


def _apply(expr: Expr, inputs: list[Array], arithmetic: Arithmetic) -> Any:
    match expr:
        case Leaf():
            return arithmetic.leaf(expr)
        case Constant():
            return scalar_array(arithmetic.constant(expr), arithmetic.dtype)
        case Structural() | Arange():
            return _integers(expr, arithmetic)
        case MatMul():
            return inputs[0] @ inputs[1]
        case Add():
            return inputs[0] + inputs[1]
        case Mul():
            return inputs[0] * inputs[1]
        case Neg():
            return -inputs[0]
        case Reciprocal():
            return _each(arithmetic.reciprocal, inputs[0])
        case Cos():
            return _each(arithmetic.cos, inputs[0])
        case Sin():
            return _each(arithmetic.sin, inputs[0])
        case _:
            return _rearrange(expr, inputs, arithmetic)


def _rearrange(expr: Expr, inputs: list[Array], arithmetic: Arithmetic) -> Array:
    match expr:
        case Transpose():
            return inputs[0].T
        case Reshape(_, shape):
            return inputs[0].reshape(shape)
        case Concat(_, axis):
            return np.concatenate(inputs, axis=axis)
        case Take(_, indices, axis):
            return np.take(inputs[0], indices, axis=axis)
        case Scatter(_, rows, columns, shape):
            whole: Array = np.full(shape, arithmetic.integer(0), dtype=arithmetic.dtype)
            whole[np.ix_(rows, columns)] = inputs[0]
            return whole
    raise TypeError(f"no reading for {type(expr).__name__}")


def structural_matrix(expr: Structural) -> Array:
    """The 0 and ±1 of a structural matrix as int64."""
    matrix = np.zeros(expr.shape, dtype=np.int64)
    for row, column, sign in expr.entries:
        matrix[row, column] = sign
    return matrix


def _integers(expr: Structural | Arange, arithmetic: Arithmetic) -> Array:
    if isinstance(expr, Structural):
        matrix = structural_matrix(expr)
    else:
        matrix = np.arange(expr.length).reshape(-1, 1)
    if arithmetic.dtype is not object:
        return matrix.astype(arithmetic.dtype)
    return object_array([arithmetic.integer(int(n)) for n in matrix.flat], matrix.shape)


def _each(function: Callable[[Any], Any], array: Array) -> Any:
    if array.dtype != object:
        return function(array)
    return object_array([function(value) for value in array.flat], array.shape)
