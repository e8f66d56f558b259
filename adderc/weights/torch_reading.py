"""The torch reading: the matrices a module computes with, differentiable in the leaves.

Takes: weight expressions and leaf tensors. Gives: tensors in one dtype on one device.
May import: weights.expr, weights.reading.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

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
    children,
)
from adderc.weights.reading import structural_matrix

_CHILD_FIELDS = ("left", "right", "operand", "parts")


@dataclass(frozen=True)
class _Step:
    """One node; `inputs` are the numbers of the steps it reads."""

    node: Expr
    inputs: tuple[int, ...]
    fixed: bool  # needs no leaf, so it is computed once


class WeightProgram:
    """Expressions flattened to steps, equal parts once; leaf-free parts are kept computed.

    `move` sets dtype and device (constants are rounded to the dtype from their exact
    values), `run` turns leaf tensors into the named matrices.
    """

    def __init__(self, expressions: Mapping[str, Expr], dtype: torch.dtype,
                 device: torch.device | str = "cpu") -> None:
        self._steps: list[_Step] = []
        seen: dict[int, int] = {}
        equal: dict[tuple[Any, ...], int] = {}
        self._outputs = {
            name: self._enter(expr, seen, equal) for name, expr in expressions.items()
        }
        self.move(dtype, device)

    def _enter(self, expr: Expr, seen: dict[int, int], equal: dict[tuple[Any, ...], int]) -> int:
        if id(expr) in seen:
            return seen[id(expr)]
        inputs = tuple(self._enter(child, seen, equal) for child in children(expr))
        own = tuple(getattr(expr, f.name) for f in fields(expr) if f.name not in _CHILD_FIELDS)
        key = (type(expr), own, inputs)
        if key not in equal:
            fixed = not isinstance(expr, Leaf) and all(self._steps[n].fixed for n in inputs)
            equal[key] = len(self._steps)
            self._steps.append(_Step(expr, inputs, fixed))
        seen[id(expr)] = equal[key]
        return equal[key]

    def move(self, dtype: torch.dtype, device: torch.device | str) -> None:
        """Compute the leaf-free parts for `dtype` on `device`."""
        self._dtype, self._device = dtype, torch.device(device)
        self._fixed: list[Tensor | None] = [None] * len(self._steps)
        self._indices: list[tuple[Tensor, ...]] = []
        with torch.inference_mode(False), torch.no_grad():
            for step in self._steps:
                self._indices.append(self._index_tensors(step.node))
            for number, step in enumerate(self._steps):
                if step.fixed:
                    self._fixed[number] = self._apply(number, self._fixed)

    def run(self, leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Every named expression; `leaves` are in the program's dtype, on its device."""
        values = list(self._fixed)
        for number, step in enumerate(self._steps):
            if isinstance(step.node, Leaf):
                values[number] = leaves[step.node.name]
            elif not step.fixed:
                values[number] = self._apply(number, values)
        return {name: values[number] for name, number in self._outputs.items()}  # type: ignore[misc]

    def _index_tensors(self, node: Expr) -> tuple[Tensor, ...]:
        match node:
            case Take(_, indices, _):
                return (torch.tensor(indices, dtype=torch.int64, device=self._device),)
            case Scatter(_, rows, columns, _):
                return (
                    torch.tensor(rows, dtype=torch.int64, device=self._device).reshape(-1, 1),
                    torch.tensor(columns, dtype=torch.int64, device=self._device).reshape(1, -1),
                )
        return ()

    def _apply(self, number: int, values: list[Tensor | None]) -> Tensor:
        step = self._steps[number]
        inputs: list[Tensor] = [values[n] for n in step.inputs]  # type: ignore[misc]
        match step.node:
            case Constant() | Structural() | Arange():
                return self._constant(step.node)
            case MatMul():
                return inputs[0] @ inputs[1]
            case Add():
                return inputs[0] + inputs[1]
            case Mul():
                return inputs[0] * inputs[1]
            case Neg():
                return -inputs[0]
            case Reciprocal():
                return torch.reciprocal(inputs[0])
            case Cos():
                return torch.cos(inputs[0])
            case Sin():
                return torch.sin(inputs[0])
        return self._rearrange(step.node, inputs, self._indices[number])

    def _rearrange(self, node: Expr, inputs: list[Tensor], indices: tuple[Tensor, ...]) -> Tensor:
        match node:
            case Transpose():
                return inputs[0].t()
            case Reshape(_, shape):
                return inputs[0].reshape(shape)
            case Concat(_, axis):
                return torch.cat(inputs, dim=axis)
            case Take(_, _, axis):
                return torch.index_select(inputs[0], axis, indices[0])
            case Scatter(_, _, _, shape):
                zeros = torch.zeros(shape, dtype=self._dtype, device=self._device)
                return zeros.index_put(indices, inputs[0])
        raise TypeError(f"no torch reading for {type(node).__name__}")

    def _constant(self, node: Constant | Structural | Arange) -> Tensor:
        match node:
            case Constant():
                return torch.tensor(node.value(), dtype=self._dtype, device=self._device)
            case Arange(length):
                numbers = torch.arange(length, dtype=self._dtype, device=self._device)
                return numbers.reshape(-1, 1)
        matrix = torch.tensor(structural_matrix(node).tolist(), dtype=self._dtype)
        return matrix.reshape(node.shape).to(self._device)


def evaluate(
    expr: Expr,
    leaves: Mapping[str, Tensor],
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
) -> Tensor:
    """`expr` as a tensor in `expr.shape`, differentiable in `leaves`; all steps in `dtype`."""
    program = WeightProgram({"value": expr}, dtype, device)
    cast = {name: leaf.to(device=device, dtype=dtype) for name, leaf in leaves.items()}
    return program.run(cast)["value"]
