"""The matrices of several models at once, from one stack of leaf vectors.

Takes: a `Structure`. Gives: `Leaves`, which lays all leaves of a model into one flat vector,
and `EnsembleProgram`, which turns vectors [S, P] into matrices [S, rows, columns].
May import: weights.

S models are trained side by side: one step for all of them costs little more than one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

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
    Sin,
    Structural,
    Take,
    Transpose,
)
from adderc.weights.reading import structural_matrix
from adderc.weights.structure import Structure


@dataclass(frozen=True)
class Leaves:
    """Where each leaf lies in the flat vector."""

    shapes: tuple[Leaf, ...]

    @classmethod
    def of(cls, structure: Structure) -> Leaves:
        return cls(structure.leaf_shapes())

    @cached_property
    def places(self) -> dict[str, slice]:
        found, at = {}, 0
        for leaf in self.shapes:
            size = math.prod(leaf.shape)
            found[leaf.name] = slice(at, at + size)
            at += size
        return found

    @property
    def size(self) -> int:
        return sum(math.prod(leaf.shape) for leaf in self.shapes)

    def flat(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """One vector of all leaves."""
        return np.concatenate([np.asarray(values[leaf.name]).reshape(-1) for leaf in self.shapes])

    def split(self, vector: np.ndarray) -> dict[str, np.ndarray]:
        """The leaves of one vector, by name."""
        return {leaf.name: vector[self.places[leaf.name]].reshape(leaf.shape)
                for leaf in self.shapes}


@dataclass(frozen=True)
class EnsembleProgram:
    """Weight expressions read for a stack of models; differentiable in the vectors."""

    expressions: Mapping[str, Expr]
    leaves: Leaves
    dtype: torch.dtype

    def run(self, vectors: Tensor) -> dict[str, Tensor]:
        """Every named expression [S, rows, columns] of vectors [S, P]."""
        seen: dict[Expr, Tensor] = {}
        return {name: self.read(expr, vectors, seen) for name, expr in self.expressions.items()}

    def read(self, expr: Expr, vectors: Tensor, seen: dict[Expr, Tensor]) -> Tensor:
        if expr not in seen:
            seen[expr] = self.compute(expr, vectors, seen)
        return seen[expr]

    def compute(self, expr: Expr, vectors: Tensor, seen: dict[Expr, Tensor]) -> Tensor:
        def of(part: Expr) -> Tensor:
            return self.read(part, vectors, seen)

        match expr:
            case Leaf(name, shape):
                return vectors[:, self.leaves.places[name]].reshape(-1, *shape)
            case Constant() | Structural() | Arange():
                return self.constant(expr)
            case MatMul(left, right):
                return of(left) @ of(right)
            case Add(left, right):
                return of(left) + of(right)
            case Mul(left, right):
                return of(left) * of(right)
            case Neg(operand):
                return -of(operand)
            case Reciprocal(operand):
                return torch.reciprocal(of(operand))
            case Cos(operand):
                return torch.cos(of(operand))
            case Sin(operand):
                return torch.sin(of(operand))
        return self.arrange(expr, of, len(vectors))

    def arrange(self, expr: Expr, of: object, count: int) -> Tensor:
        """Expressions that only move entries."""
        assert callable(of)
        match expr:
            case Transpose(operand):
                return of(operand).transpose(-2, -1)
            case Reshape(operand, shape):
                return of(operand).expand(count, *operand.shape).reshape(count, *shape)
            case Concat(parts, axis):
                whole = [of(part).expand(count, *part.shape) for part in parts]
                return torch.cat(whole, dim=axis + 1)
            case Take(operand, indices, axis):
                return self.select(len(indices), operand.shape[axis], indices, of(operand), axis)
            case Scatter(operand, rows, columns, shape):
                put = self.place(rows, shape[0]) @ of(operand)
                return put @ self.place(columns, shape[1]).t()
        raise TypeError(f"no reading for {type(expr).__name__}")

    def select(
        self, count: int, size: int, indices: tuple[int, ...], value: Tensor, axis: int
    ) -> Tensor:
        """Rows or columns of a matrix; a slice where they follow one another."""
        first = indices[0]
        if indices == tuple(range(first, first + count)):
            return value.narrow(axis - 2, first, count)
        chosen = self.place(indices, size).t()
        return chosen @ value if axis == 0 else value @ chosen.t()

    def place(self, indices: tuple[int, ...], size: int) -> Tensor:
        """The matrix [size, n] that puts entry k at indices[k]."""
        return torch.from_numpy(np.eye(size)[:, list(indices)]).to(self.dtype)

    def constant(self, expr: Constant | Structural | Arange) -> Tensor:
        match expr:
            case Constant():
                return torch.tensor(expr.value(), dtype=self.dtype)
            case Arange(length):
                return torch.arange(length, dtype=self.dtype).reshape(-1, 1)
        return torch.tensor(structural_matrix(expr).tolist(), dtype=self.dtype).reshape(expr.shape)
