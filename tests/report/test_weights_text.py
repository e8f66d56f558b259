"""Formulas and matrices as text."""

from fractions import Fraction

import numpy as np
import pytest

from adderc.report.weights_text import form_name, formula, matrix_rows
from adderc.weights.expr import (
    Add,
    Arange,
    Concat,
    Constant,
    Cos,
    Leaf,
    MatMul,
    Mul,
    Neg,
    Reciprocal,
    Scatter,
    Structural,
    Take,
    Transpose,
)

A, B = Leaf("a", (2, 3)), Leaf("b", (3, 2))
SIGNS = Structural(((0, 1, -1),), (2, 3))


@pytest.mark.parametrize(("expr", "text", "form"), [
    (A, "a", "dense"),
    (MatMul(A, B), "a @ b", "rank 3"),
    (MatMul(A, Add(B, B)), "a @ (b + b)", "formula"),
    (Add(MatMul(A, B), Mul(Take(A, (0, 1), 1), Constant(Fraction(1, 2), 1))),
     "a @ b + a[:, 0,1] * (1/2 pi^1)", "formula"),
    (Mul(A, A), "a^2", "formula"),
    (Neg(Mul(A, SIGNS)), "-(a * signs[2x3])", "formula"),
    (SIGNS, "signs[2x3]", "fixed"),
    (Take(A, (0, 0, 1, 1), 0), "a[0,0,1,1]", "rows shared"),
    (Scatter(A, (0, 1), (0, 1, 2), (4, 4)), "a at [0,1; 0,1,2]", "slim"),
    (Transpose(Mul(Arange(10), Reciprocal(Cos(Leaf("t", (1, 1)))))), "(0..9 * (1 / cos(t)))'",
     "formula"),
    (Concat((A, A), 0), "stack(a, a)", "formula"),
    (Add(Scatter(Take(A, (0,), 0), (0,), (0, 1, 2), (4, 4)), Scatter(B, (0, 1, 2), (0, 1), (4, 4))),
     "a[0] at [0; 0,1,2] + b at [0,1,2; 0,1]", "sparse"),
])
def test_formulas(expr, text, form):
    assert (formula(expr), form_name(expr)) == (text, form)


def test_matrices_are_cut_to_the_width():
    rows = matrix_rows(np.arange(400.0).reshape(20, 20) * 1000.5, 40)
    assert max(map(len, rows)) <= 43
    assert rows[-1] == "… 8 more rows"
    assert matrix_rows(np.array([[1.0, -0.0], [22.5, 3]]), 40) == ["   1  0", "22.5  3"]
