"""Weight expressions, matrices and leaves as text.

Takes: expressions, arrays. Gives: `formula`, `form_name`, `matrix_rows`, `number_text`.
May import: weights, report.tracing.
"""

from __future__ import annotations

import numpy as np

from adderc.report.tracing import number_text
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
    walk,
)

MOST_ROWS, MOST_COLUMNS = 12, 12


def formula(expr: Expr) -> str:
    """An expression as mathematics over leaf names: `embed.left @ embed.right`."""
    return _formula(expr)[0]


def _formula(expr: Expr) -> tuple[str, int]:
    def part(child: Expr, binds: int) -> str:
        text, inner = _formula(child)
        return f"({text})" if inner < binds else text

    match expr:
        case Leaf(name):
            return name, 3
        case Constant(rational, power):
            return str(rational) + (f" pi^{power}" if power else ""), 1 if power else 3
        case Structural(_, shape):
            return f"signs[{'x'.join(map(str, shape))}]", 3
        case Arange(length):
            return f"0..{length - 1}", 3
        case MatMul(left, right):
            return f"{part(left, 1)} @ {part(right, 2)}", 1
        case Mul(left, right) if left == right:
            return f"{part(left, 3)}^2", 3
        case Mul(left, right):
            return f"{part(left, 1)} * {part(right, 2)}", 1
        case Add(left, right):
            return f"{part(left, 0)} + {part(right, 1)}", 0
        case Neg(operand):
            return f"-{part(operand, 3)}", 2
        case Reciprocal(operand):
            return f"1 / {part(operand, 3)}", 1
        case Cos(operand) | Sin(operand):
            return f"{type(expr).__name__.lower()}({_formula(operand)[0]})", 3
        case Concat(parts, axis):
            word = "stack" if axis == 0 else "beside"
            return f"{word}({', '.join(_formula(p)[0] for p in parts)})", 3
        case Transpose(operand):
            return f"{part(operand, 3)}'", 3
        case Reshape(operand):
            return _formula(operand)
        case Take(operand, indices, axis):
            return f"{part(operand, 3)}[{':, ' if axis else ''}{_indices(indices)}]", 3
        case Scatter(operand, rows, columns):
            return f"{part(operand, 3)} at [{_indices(rows)}; {_indices(columns)}]", 2
    raise TypeError(f"no formula for {type(expr).__name__}")


def _indices(indices: tuple[int, ...]) -> str:
    if len(indices) > 3 and indices == tuple(range(indices[0], indices[0] + len(indices))):
        return f"{indices[0]}..{indices[-1]}"
    return ",".join(map(str, indices))


def form_name(expr: Expr) -> str:
    """The form of a matrix in a word or two."""
    match expr:
        case Leaf():
            return "dense"
        case Structural():
            return "fixed"
        case MatMul(Leaf() as left, Leaf()):
            return f"rank {left.shape[1]}"
        case Take(Leaf(), indices, _) if len(set(indices)) < len(indices):
            return "rows shared"
        case Scatter(Leaf(), _, _):
            return "slim"
        case Add() if all(isinstance(node, Add | Scatter | Take | Leaf) for node in walk(expr)):
            return "sparse"
    return "formula" if any(isinstance(node, Leaf) for node in walk(expr)) else "constant"


def matrix_rows(matrix: np.ndarray, width: int) -> list[str]:
    """A matrix in aligned columns, or its corner where it is large."""
    matrix = np.atleast_2d(matrix)
    rows, columns = matrix.shape
    keep = min(rows, MOST_ROWS)
    texts = [[number_text(float(v)) for v in row[:MOST_COLUMNS]] for row in matrix[:keep]]
    widths = [max(len(row[at]) for row in texts) for at in range(len(texts[0]))]
    while len(widths) > 1 and sum(widths) + 2 * len(widths) + 1 > width:
        widths.pop()
    lines = ["  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=False)) +
             ("  …" if len(widths) < columns else "") for row in texts]
    if rows > keep:
        lines.append(f"… {rows - keep} more rows")
    return lines
