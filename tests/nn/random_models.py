"""Random models of every kind that a structure can say: norms, positions, heads, layers.

`random_module(seed)` draws one. With `close` all rows of the head are one row times
1 + close x: at 1e-7 nearly every digit is a matter of rounding, at 1e-5 some are.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
from handmade import plain_format

from adderc.nn.module import AdderModule
from adderc.weights.expr import Leaf
from adderc.weights.structure import (
    Attention,
    Block,
    FeedForward,
    Head,
    Norm,
    PositionTable,
    Rope,
    Sinusoid,
    Structure,
)

D, V = 6, 10


def random_module(seed: int, dtype: str = "float32", close: float = 0.0, width: int = 3
                  ) -> AdderModule:
    chance = np.random.default_rng(seed)
    structure = random_structure(chance, dtype, width)
    values = {leaf.name: chance.normal(size=leaf.shape) / 2 for leaf in structure.leaf_shapes()}
    if chance.random() < 0.3:  # a channel that dwarfs the others, as in front of norms
        values["embedding"][:, 0] = 2.0 ** chance.integers(4, 13)
    if close:
        head = values["head.weight"]
        head[1:] = head[0] * (1 + close * chance.normal(size=(len(head) - 1, 1)))
        if "head.bias" in values:
            values["head.bias"][:] = values["head.bias"][0, 0]
    return AdderModule(structure, values)


def random_structure(chance: np.random.Generator, dtype: str, width: int) -> Structure:
    format = plain_format(width)
    length = format.length
    layers = int(chance.integers(1, 4))
    position = [None, Sinusoid(Fraction(4), (1, 2), ((0, Fraction(3)), (7, Fraction(1)))),
                Sinusoid(Fraction(9, 2), (1, 2), ((0, Fraction(2)),), rounded=dtype, balance=3),
                PositionTable(Leaf("position", (length, D)))][chance.integers(4)]
    return Structure(
        number=format.number, format=format, dtype=dtype, d_model=D, slots=tuple("abcdef"),
        embedding=Leaf("embedding", (V, D)), position=position,
        blocks=tuple(random_block(chance, number, length) for number in range(layers)),
        final_norm=random_norm(chance, "final_norm"),
        head=Head(Leaf("head.weight", (V, D)),
                  Leaf("head.bias", (1, V)) if chance.random() < 0.5 else None))


def random_block(chance: np.random.Generator, number: int, length: int) -> Block:
    place = f"layer{number}"
    attention = random_attention(chance, place, length) if number == 0 or (
        chance.random() < 0.5) else None
    ffn = random_ffn(chance, place) if chance.random() < 0.8 else None
    return Block(attention, ffn, random_norm(chance, f"{place}.before"),
                 random_norm(chance, f"{place}.after"))


def random_norm(chance: np.random.Generator, name: str) -> Norm | None:
    kind = [None, "rms", "layer"][chance.integers(3)]
    if kind is None:
        return None
    weight = Leaf(f"{name}.weight", (1, D)) if chance.random() < 0.6 else None
    bias = Leaf(f"{name}.bias", (1, D)) if chance.random() < 0.3 else None
    return Norm(kind, weight, bias, [1e-6, 1e-2][chance.integers(2)])


def random_attention(chance: np.random.Generator, place: str, length: int) -> Attention:
    heads, size = int(chance.integers(1, 3)), int(chance.integers(1, 5))
    rows = heads * size

    def maybe(name: str, shape: tuple[int, ...]) -> Leaf | None:
        return Leaf(f"{place}.{name}", shape) if chance.random() < 0.3 else None

    attention = Attention(
        heads, size, *(Leaf(f"{place}.{name}", (rows, D)) for name in "qkv"),
        Leaf(f"{place}.out", (D, rows)), maybe("q.bias", (1, rows)), maybe("k.bias", (1, rows)),
        maybe("v.bias", (1, rows)), maybe("out.bias", (1, D)), maybe("scale", ()),
        Rope((Fraction(7),) * (size // 2)) if size > 1 and chance.random() < 0.4 else None,
        maybe("slopes", (heads,)), kind=["softmax", "softmax1"][chance.integers(2)])
    sight = chance.random()
    if sight < 0.2:
        routes = tuple(tuple(sorted(chance.choice(8, 2, replace=False).tolist()))
                       for _ in range(heads))
        return replace(attention, routes=routes)
    if sight < 0.4:
        visible = tuple(tuple(tuple(key for key in range(query + 1) if chance.random() < 0.5)
                              for query in range(length)) for _ in range(heads))
        return replace(attention, visible=visible)
    return attention


def random_ffn(chance: np.random.Generator, place: str) -> FeedForward:
    activation = ["relu", "silu", "gelu", "tanh"][chance.integers(4)]
    gated = chance.random() < 0.4
    name = f"{place}.ffn"
    return FeedForward(
        activation, Leaf(f"{name}.up", (5, D)), Leaf(f"{name}.down", (D, 5)),
        Leaf(f"{name}.up.bias", (1, 5)) if chance.random() < 0.5 else None,
        Leaf(f"{name}.down.bias", (1, D)) if chance.random() < 0.3 else None,
        Leaf(f"{name}.gate", (5, D)) if gated else None,
        Leaf(f"{name}.gate.bias", (1, 5)) if gated and chance.random() < 0.5 else None)
