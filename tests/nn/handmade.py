"""Structures written by hand for the tests of nn: one that adds, and odd ones to compare."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np

from adderc.format.number import NumberFormat
from adderc.format.prompt import Format, OperandDigits, Symbols
from adderc.weights.expr import (
    Add,
    Arange,
    Concat,
    Cos,
    Expr,
    Leaf,
    MatMul,
    Mul,
    Neg,
    Reshape,
    Scatter,
    Sin,
    Structural,
    Transpose,
)
from adderc.weights.structure import (
    Attention,
    Block,
    FeedForward,
    Head,
    Sinusoid,
    Structure,
)


def plain_format(width: int, base: int = 10) -> Format:
    number = NumberFormat(base, width)
    prompt = (OperandDigits(0, "msd"), Symbols("+"), OperandDigits(1, "msd"), Symbols("="))
    return Format(number, prompt, tokens=(("+", 0), ("=", 0)))


def _rotation(angle: Leaf, row: int) -> Expr:
    cos, sin = Reshape(Cos(angle), (1, 1)), Reshape(Sin(angle), (1, 1))
    turn = Concat((Concat((Neg(cos), sin), 1), Concat((sin, cos), 1)), 0)
    return Scatter(turn, (row, row + 1), (1, 2), (4, 4))


def rotation_adder(width: int, dtype: str = "float32") -> tuple[Structure, dict[str, np.ndarray]]:
    """Four residual slots, two heads that find x and prev, four ReLUs, a parabola; it adds."""
    format = plain_format(width)
    digit = Arange(10)
    lin, quad, read = (Leaf(f"head.{name}", (1, 1)) for name in ("lin", "quad", "read"))
    rows = Leaf("ffn.rows", (2, 4))
    attention = Attention(
        heads=2,
        head_dim=2,
        q=Mul(Leaf("q.scale", ()), Add(_rotation(Leaf("q.x", (1,)), 0),
                                       _rotation(Leaf("q.prev", (1,)), 2))),
        k=MatMul(Leaf("k.weight", (4, 2)), Structural(((0, 1, 1), (1, 2, 1)), (2, 4))),
        v=MatMul(Leaf("v.u", (4, 1)), Leaf("v.v", (1, 4))),
        out=Add(Scatter(Leaf("out.x", (1, 1)), (3,), (0,), (4, 4)),
                Scatter(Leaf("out.prev", (1, 1)), (1,), (2,), (4, 4))),
    )
    pairs = Structural(((0, 0, 1), (1, 0, 1), (2, 1, 1), (3, 1, 1)), (4, 2))
    ffn = FeedForward(
        "relu",
        up=MatMul(pairs, rows),
        up_bias=Leaf("ffn.bias", (4,)),
        down=MatMul(Leaf("ffn.u", (4, 1)), Leaf("ffn.v", (1, 4))),
    )
    structure = Structure(
        number=format.number,
        format=format,
        dtype=dtype,
        d_model=4,
        slots=("digit", "sin", "cos", "sum"),
        embedding=MatMul(Leaf("embed.A", (10, 1)), Leaf("embed.B", (1, 4))),
        position=Sinusoid(
            Fraction(width + 1), (1, 2), ((0, Fraction(128)), (2 * width + 1, Fraction(1)))
        ),
        blocks=(Block(attention, ffn),),
        final_norm=None,
        head=Head(
            MatMul(MatMul(digit, Mul(lin, read)), Structural(((0, 3, 1),), (1, 4))),
            Transpose(Mul(quad, Mul(digit, digit))),
        ),
    )
    return structure, _rotation_values(width)


def _rotation_values(width: int) -> dict[str, np.ndarray]:
    step = 2 * np.pi / (width + 1)
    values = {
        "embed.A": np.arange(10.0)[:, None],
        "embed.B": [[1, 0, 0, 0]],
        "q.scale": 1.0,
        "q.x": [(width - 2) * step],
        "q.prev": [(width - 1) * step],
        "k.weight": [[1, 0], [0, 1], [1, 0], [0, 1]],
        "v.u": [[1], [0], [1], [0]],
        "v.v": [[1, 0, 0, 0]],
        "out.x": [[2]],
        "out.prev": [[2]],
        "ffn.rows": [[-100, 100, 0, 0], [-100, 100, 0, 1000]],
        "ffn.bias": [-400, -500, -9445, -9455],
        "ffn.u": [[0], [0], [0], [1]],
        "ffn.v": [[0.01, -0.01, -1, 1]],
        "head.lin": [[2]],
        "head.quad": [[-1]],
        "head.read": [[1]],
    }
    return {name: np.array(value, dtype=np.float64) for name, value in values.items()}


def plain_structure(attention: Attention | None, dtype: str = "float64", **changes: object
                    ) -> Structure:
    """d_model 6, vocabulary 10, one block with `attention`; leaves called after their use."""
    format = plain_format(3)
    structure = Structure(
        number=format.number,
        format=format,
        dtype=dtype,
        d_model=6,
        slots=tuple("abcdef"),
        embedding=Leaf("embedding", (10, 6)),
        position=None,
        blocks=(Block(attention, None),),
        final_norm=None,
        head=Head(Leaf("head.weight", (10, 6)), Leaf("head.bias", (1, 10))),
    )
    return replace(structure, **changes)  # type: ignore[arg-type]


def plain_attention(**changes: object) -> Attention:
    """Two heads of width 4 on d_model 6."""
    attention = Attention(
        heads=2, head_dim=4, q=Leaf("q", (8, 6)), k=Leaf("k", (8, 6)), v=Leaf("v", (8, 6)),
        out=Leaf("out", (6, 8)),
    )
    return replace(attention, **changes)  # type: ignore[arg-type]


def random_values(structure: Structure, seed: int = 0) -> dict[str, np.ndarray]:
    chance = np.random.default_rng(seed)
    return {leaf.name: chance.normal(size=leaf.shape) for leaf in structure.leaf_shapes()}
