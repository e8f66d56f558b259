"""Composite operations of ATen: norms, attention, einsum, cumulative sums.

Takes: shadows. Gives: handlers, registered in `ARITHMETIC` on import.
May import: prove.algebra, prove.aten, prove.doubt.

A kernel may evaluate a composite by another formula than the plain one; "loosen" adds what
any of the usual formulas may differ by, as a multiple of u times a magnitude.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from adderc.prove.algebra import Algebra
from adderc.prove.aten import handles, number, shadow
from adderc.prove.doubt import Unsupported


def _axes(shape: Any) -> list[int]:
    return list(range(-len(shape), 0))


def _affine(algebra: Algebra, x: Tensor, given: dict[str, Any]) -> Any:
    if given.get("weight") is not None:
        x = algebra.binary("mul", x, number(algebra, given["weight"]))
    if given.get("bias") is not None:
        x = algebra.binary("add", x, number(algebra, given["bias"]))
    return shadow(algebra, x)


@handles("layer_norm")
def _layer_norm(algebra: Algebra, given: dict[str, Any]) -> Any:
    """Mean and variance by two passes, Welford or squares; (x - mean) scaled early or late."""
    x, axes = number(algebra, given["input"]), _axes(given["normalized_shape"])
    count = math.prod(given["normalized_shape"])
    mean = algebra.reduce(x, axes, True, True)
    centred = algebra.binary("sub", x, mean)
    variance = algebra.reduce(algebra.binary("mul", centred, centred), axes, True, True)
    squares = algebra.reduce(algebra.binary("mul", x, x), axes, True, True)
    variance = algebra.loosened(variance, squares, 8 * (count + 8))
    variance = algebra.unary("nonnegative", variance)
    centred = algebra.loosened(algebra.loosened(centred, x, 6), mean, 6 * (count + 4))
    shifted = algebra.binary("add", variance, number(algebra, given["eps"]))
    return _affine(algebra, algebra.binary("mul", centred, algebra.unary("rsqrt", shifted)), given)


@handles("rms_norm")
def _rms_norm(algebra: Algebra, given: dict[str, Any]) -> Any:
    x, axes = number(algebra, given["input"]), _axes(given["normalized_shape"])
    eps = given.get("eps")
    eps = torch.finfo(algebra.dtype).eps if eps is None else eps
    squares = algebra.reduce(algebra.binary("mul", x, x), axes, True, True)
    squares = algebra.loosened(squares, squares, 8)
    shifted = algebra.binary("add", squares, number(algebra, eps))
    return _affine(algebra, algebra.binary("mul", x, algebra.unary("rsqrt", shifted)), given)


@handles("scaled_dot_product_attention")
def _attention(algebra: Algebra, given: dict[str, Any]) -> Any:
    """softmax(q kᵀ scale + mask) v; kernels may scale q, k or the scores, and rescale sums."""
    if given.get("dropout_p") or given.get("enable_gqa"):
        raise Unsupported("attention with dropout or grouped queries")
    q, k = number(algebra, given["query"]), number(algebra, given["key"])
    v, mask = number(algebra, given["value"]), given.get("attn_mask")
    scale = given.get("scale")
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else float(scale)
    scaled = algebra.binary("mul", k, torch.tensor(algebra.constant(scale)))
    scores = algebra.matmul(q, scaled.transpose(-2, -1), extra=8)
    hidden = torch.tensor(algebra.constant(-math.inf))
    if given.get("is_causal"):
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        scores = torch.where(seen, scores, hidden)
    elif isinstance(mask, Tensor):
        if mask.dtype != torch.bool:
            raise Unsupported("an attention mask of integers")
        scores = torch.where(mask, scores, hidden)
    elif mask is not None:
        scores = algebra.binary("add", scores, number(algebra, mask))
    return shadow(algebra, algebra.matmul(algebra.softmax(scores, -1, passes=6), v, extra=8))


@handles("cumsum")
def _cumsum(algebra: Algebra, given: dict[str, Any]) -> Any:
    if given.get("dtype") not in (None, algebra.dtype):
        raise Unsupported("a sum in another dtype")
    x = number(algebra, given["self"]).movedim(given["dim"], -1)
    length = x.shape[-1]
    steps = torch.full((length, length), algebra.zero).masked_fill(
        torch.ones(length, length, dtype=torch.bool).triu(), algebra.one)
    return shadow(algebra, algebra.matmul(x, steps).movedim(-1, given["dim"]))


@handles("einsum")
def _einsum(algebra: Algebra, given: dict[str, Any]) -> Any:
    """One or two operands; every output entry is one sum of products."""
    equation = given["equation"].replace(" ", "")
    operands = [number(algebra, value) for value in given["tensors"]]
    terms, _, out = equation.partition("->")
    inputs = terms.split(",")
    plain = "->" in equation and "." not in equation and 1 <= len(operands) <= 2
    if not plain or any(len(set(letters)) < len(letters) for letters in (*inputs, out)):
        raise Unsupported(f"einsum of {equation}")
    sizes = {letter: size for letters, value in zip(inputs, operands, strict=True)
             for letter, size in zip(letters, value.shape, strict=True)}
    order = out + "".join(sorted(set(sizes) - set(out)))
    shape = [sizes[letter] for letter in order]
    spread = [_spread(value, letters, order, shape)
              for letters, value in zip(inputs, operands, strict=True)]
    count = math.prod(shape[len(out) :])
    rows = [value.reshape(-1, count).tolist() for value in spread]
    if len(rows) == 1:
        rows.append([[algebra.one] * count] * len(rows[0]))

    def make(i: int) -> int:
        left, right = ([algebra.resolve(n) for n in side[i]] for side in rows)
        return algebra.dot(left, right)

    return shadow(algebra, algebra.promise(shape[: len(out)], make))


def _spread(value: Tensor, letters: str, order: str, shape: list[int]) -> Tensor:
    """An operand with one axis for every letter of `order`, expanded."""
    present = [letter for letter in order if letter in letters]
    value = value.permute([letters.index(letter) for letter in present])
    for axis, letter in enumerate(order):
        if letter not in letters:
            value = value.unsqueeze(axis)
    return value.expand(shape)
