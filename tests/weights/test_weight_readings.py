"""The readings of a weight expression agree, and each does what it says."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import sympy
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
    leaves_of,
    validate,
)
from adderc.weights.interval import enclose
from adderc.weights.numeric import evaluate_numpy
from adderc.weights.symbolic import entry_leaves, symbol, to_sympy
from adderc.weights.torch_reading import WeightProgram, evaluate

SIZES = st.integers(1, 3)
LEAVES = {(r, c): Leaf(f"block.w{r}{c}", (r, c)) for r in range(1, 4) for c in range(1, 4)}
SCALAR = Leaf("scale", ())
ONE = Structural(((0, 0, 1),), (1, 1))


@st.composite
def matrices(draw: st.DrawFn, rows: int, columns: int, depth: int) -> Expr:
    """An expression of shape [rows, columns], a reciprocal only of numbers from 1 up."""
    if depth == 0:
        kind = draw(st.sampled_from(["leaf", "leaf", "structural", "arange"]))
        if kind == "arange" and columns == 1:
            return Arange(rows)
        if kind == "structural":
            cell = st.tuples(st.integers(0, rows - 1), st.integers(0, columns - 1))
            cells = draw(st.lists(cell, unique=True, max_size=4))
            return Structural(tuple((r, c, draw(st.sampled_from([1, -1]))) for r, c in cells),
                              (rows, columns))
        return LEAVES[rows, columns]

    def inner(r: int, c: int) -> Expr:
        return draw(matrices(r, c, depth - 1))

    match draw(st.integers(0, 11)):
        case 0:
            k = draw(SIZES)
            return MatMul(inner(rows, k), inner(k, columns))
        case 1:
            return Add(inner(rows, columns), inner(1, columns))
        case 2:
            return Mul(inner(rows, 1), inner(rows, columns))
        case 3:
            constant = Constant(draw(st.fractions(-2, 2, max_denominator=9)),
                                draw(st.integers(-1, 1)))
            factor: Expr = constant if draw(st.booleans()) else SCALAR
            return Mul(factor, inner(rows, columns))
        case 4:
            return Neg(inner(rows, columns))
        case 5:
            part = inner(rows, columns)
            return Reciprocal(Add(Mul(part, part), ONE))
        case 6:
            return Transpose(inner(columns, rows))
        case 7:
            angle = inner(rows, columns)
            return Cos(angle) if draw(st.booleans()) else Sin(angle)
        case 8:
            return Reshape(inner(columns, rows), (rows, columns))
        case 9 if rows > 1:
            return Concat((inner(1, columns), inner(rows - 1, columns)), 0)
        case 10:
            width = draw(SIZES)
            indices = draw(st.lists(st.integers(0, width - 1), min_size=columns,
                                    max_size=columns))
            return Take(inner(rows, width), tuple(indices), 1)
        case _:
            return Scatter(inner(1, 1), (rows - 1,), (0,), (rows, columns))


@st.composite
def cases(draw: st.DrawFn) -> tuple[Expr, dict[str, np.ndarray]]:
    expr = draw(matrices(draw(SIZES), draw(SIZES), draw(st.integers(0, 4))))
    chance = np.random.default_rng(draw(st.integers(0, 10**6)))
    return expr, {leaf.name: chance.uniform(-1, 1, leaf.shape) for leaf in leaves_of(expr)}


@settings(max_examples=150, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.too_slow])
@given(cases())
def test_the_readings_agree(case: tuple[Expr, dict[str, np.ndarray]]) -> None:
    expr, leaves = case
    validate(expr)
    balls: Any = enclose(expr, leaves)
    exact = {
        symbol(name, index): sympy.Rational(*float(array[index]).as_integer_ratio())
        for name, array in leaves.items()
        for index in np.ndindex(array.shape)
    }
    formulas = to_sympy(expr)
    tensors = {name: torch.from_numpy(array) for name, array in leaves.items()}
    torched = evaluate(expr, tensors, torch.float64).numpy()
    numbers = evaluate_numpy(expr, leaves)
    needed = entry_leaves(expr)
    assert formulas.shape == expr.shape == torched.shape == numbers.shape == needed.shape
    for index in np.ndindex(expr.shape):
        value = formulas[index].xreplace(exact).evalf(45)
        ball = balls[index]
        assert ball.rad() < 1e-25 * (1 + abs(ball))
        assert abs(float(ball.mid()) - float(value)) <= 1e-12 * (1 + abs(float(value)))
        assert float(numbers[index]) == pytest.approx(float(value), rel=1e-11, abs=1e-11)
        assert float(torched[index]) == pytest.approx(float(value), rel=1e-11, abs=1e-11)
        named = {symbol(name, place) for name, place in needed[index]}
        assert formulas[index].free_symbols <= named


def test_an_enclosure_is_rigorous_and_reads_leaves_as_exact_binary() -> None:
    tenth = Leaf("x", (1,))
    ball: Any = enclose(Mul(tenth, Constant(Fraction(10))), {"x": np.array([0.1])})[0]
    assert ball > 1  # 0.1 in binary lies above a tenth
    third: Any = enclose(Reciprocal(Constant(Fraction(3))), {})[()]
    assert third.rad() > 0
    assert (third * 3).contains(1)
    single = enclose(tenth, {"x": np.array([0.1], dtype=np.float32)})[0]
    assert single == float(np.float32(0.1))
    wide = enclose(Reciprocal(Add(Cos(tenth), Neg(Cos(tenth)))), {"x": np.array([0.5])})[0]
    assert not wide.is_finite()


def test_more_precision_gives_a_narrower_enclosure() -> None:
    angle = Mul(Constant(Fraction(16, 11), 1), ONE)
    low, high = (enclose(Cos(angle), {}, bits)[0, 0].rad() for bits in (64, 256))
    assert 0 < high < low * 1e-40


def test_symbols_are_named_after_leaf_elements() -> None:
    rows, scale = Leaf("ffn.rows", (2, 4)), Leaf("scale", ())
    assert str(to_sympy(rows)[0, 3]) == "ffn.rows[0,3]"
    assert to_sympy(scale) == sympy.Symbol("scale", real=True)
    assert to_sympy(Leaf("bias", (3,))).shape == (1, 3)
    assert to_sympy(Constant(Fraction(16, 11), 1)) == sympy.Rational(16, 11) * sympy.pi
    product = to_sympy(MatMul(Leaf("a", (2, 1)), Leaf("b", (1, 2))))
    assert product[1, 0] == symbol("a", (1, 0)) * symbol("b", (0, 0))


def test_entries_name_only_the_leaves_that_can_matter() -> None:
    a, b = Leaf("a", (2, 1)), Leaf("b", (1, 2))
    pick = Structural(((0, 1, -1),), (2, 2))
    found = entry_leaves(MatMul(MatMul(a, b), pick))
    assert found[0, 0] == frozenset()
    assert found[1, 1] == {("a", (1, 0)), ("b", (0, 0))}
    digits = entry_leaves(MatMul(Arange(2), b))
    assert digits[0, 0] == frozenset()
    assert digits[1, 0] == {("b", (0, 0))}
    assert entry_leaves(Cos(Leaf("angle", ())))[()] == {("angle", ())}


def test_torch_reading_is_differentiable_and_shares_equal_parts() -> None:
    leaf = torch.tensor([[0.3, -0.2]], dtype=torch.float64, requires_grad=True)
    w = Leaf("w", (1, 2))
    expr = Scatter(Take(Mul(Cos(w), Cos(Leaf("w", (1, 2)))), (1, 0), 1), (1,), (0, 2), (2, 3))
    assert torch.autograd.gradcheck(
        lambda x: evaluate(expr, {"w": x}, torch.float64), (leaf,))
    calls = []

    class Counted(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            calls.append(func.name())
            return func(*args, **(kwargs or {}))

    program = WeightProgram({"m": expr}, torch.float64)
    with torch.no_grad(), Counted():
        program.run({"w": leaf.detach()})
    assert calls.count("aten::cos") == 1


def test_leaf_free_parts_are_computed_once() -> None:
    squares = Mul(Arange(4), Arange(4))
    program = WeightProgram({"s": squares, "c": Mul(Leaf("c", ()), squares)}, torch.float32)
    one = {"c": torch.tensor(1.0)}
    first, second = program.run(one), program.run(one)
    assert first["s"] is second["s"]
    assert first["c"].flatten().tolist() == [0, 1, 4, 9]
    program.move(torch.float64, "cpu")
    assert program.run({"c": torch.tensor(1.0).double()})["c"].dtype == torch.float64


def test_deep_sharing_does_not_blow_up() -> None:
    expr: Expr = Leaf("x", ())
    for _ in range(200):
        expr = Add(expr, expr)
    leaves = {"x": np.array(2.0**-200)}
    tensors = {"x": torch.tensor(2.0**-200, dtype=torch.float64)}
    # results first: a failing assertion would print the whole expression
    ball: Any = enclose(expr, leaves)[()]
    results = [float(evaluate_numpy(expr, leaves)), float(ball.mid()),
               evaluate(expr, tensors, torch.float64).item()]
    needed = entry_leaves(expr)[()]
    assert results == [1.0, 1.0, 1.0]
    assert needed == {("x", ())}


def test_a_leaf_of_another_shape_is_a_bug() -> None:
    with pytest.raises(ShapeError):
        evaluate_numpy(Leaf("x", (2, 3)), {"x": np.zeros((3, 2))})
