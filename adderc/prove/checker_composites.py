"""Composite operations of ATen as arithmetic on terms: products, norms, attention.

Takes: a reader, an operation's arguments by name. Gives: handlers, put into `OPERATIONS`.
May import: prove.checker_operations, prove.checker_reader, the standard library, torch.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from adderc.prove.checker_operations import Given, each, products, reads, reduced
from adderc.prove.checker_reader import OPERATIONS, NotUnderstood, Operation, Reader, Term, Terms


@reads("matmul", "mm", "bmm", "mv", "dot", "__matmul__")
def _matmul(reader: Reader, given: Given) -> Any:
    other = next(given[k] for k in ("other", "mat2", "vec", "tensor") if k in given)
    return products(reader, given["self"], other)


@reads("outer", "ger")
def _outer(reader: Reader, given: Given) -> Any:
    one, two = reader.numbers(given["self"]), reader.numbers(given["vec2"])
    return each(reader, "mul", Terms(one.unsqueeze(-1), reader.dtype),
                Terms(two.unsqueeze(0), reader.dtype))


@reads("linear")
def _linear(reader: Reader, given: Given) -> Any:
    weight = given["weight"]
    return products(reader, given["input"], Terms(weight.ids.T, weight.dtype), given.get("bias"))


@reads("addmm", "baddbmm")
def _addmm(reader: Reader, given: Given) -> Any:
    if given["beta"] != 1 or given["alpha"] != 1:
        raise NotUnderstood("addmm with factors")
    left = given.get("mat1", given.get("batch1"))
    return products(reader, left, given.get("mat2", given.get("batch2")), given["self"])


def _reduction(mean: bool) -> Operation:
    def run(reader: Reader, given: Given) -> Any:
        if given.get("dtype") not in (None, reader.dtype):
            raise NotUnderstood("a sum in another type")
        x = reader.numbers(given["self"])
        return reduced(reader, x, given.get("dim"), bool(given.get("keepdim")), mean)

    return run


OPERATIONS["sum"], OPERATIONS["mean"] = _reduction(False), _reduction(True)


@reads("amax")
def _amax(reader: Reader, given: Given) -> Any:
    """The largest along axes: one term of all of them."""
    x, dims = reader.numbers(given["self"]), given["dim"]
    axes = sorted(d % x.ndim for d in ([dims] if isinstance(dims, int) else dims))
    axes = axes or list(range(x.ndim))
    rest = [d for d in range(x.ndim) if d not in axes]
    rows = x.permute(*rest, *axes).reshape(-1, math.prod(x.shape[d] for d in axes)).numpy()
    shape = [1 if d in axes else n for d, n in enumerate(x.shape)
             if given["keepdim"] or d not in axes]
    return reader.promise(shape, lambda i: reader.term(
        "max", [reader.at(n) for n in rows[i].tolist()]))


@reads("cumsum")
def _cumsum(reader: Reader, given: Given) -> Any:
    if given.get("dtype") not in (None, reader.dtype):
        raise NotUnderstood("a sum in another type")
    x = reader.numbers(given["self"]).movedim(given["dim"], -1)
    one, zero = reader.constant(1.0).number, reader.constant(0.0).number
    upper = torch.ones(x.shape[-1], x.shape[-1], dtype=torch.bool).triu()
    steps = Terms(torch.where(upper, one, zero), reader.dtype)
    found = products(reader, Terms(x, reader.dtype), steps)
    return Terms(found.ids.movedim(-1, given["dim"]), reader.dtype)


@reads("softmax", "_softmax")
def _softmax(reader: Reader, given: Given) -> Any:
    if given.get("dtype") not in (None, reader.dtype) or given.get("half_to_float"):
        raise NotUnderstood("a softmax in another type")
    return weights(reader, reader.numbers(given["self"]), given["dim"])


def weights(reader: Reader, scores: Tensor, dim: int, passes: int = 1) -> Terms:
    moved = scores.movedim(dim, -1)
    keys = moved.shape[-1]
    rows = moved.reshape(-1, keys).numpy()
    made: dict[int, Term] = {}

    def make(i: int) -> Term:
        number, key = divmod(i, keys)
        if number not in made:
            scores = [reader.at(n) for n in rows[number].tolist()]
            made[number] = reader.term("row", scores, passes)
        return reader.term("weight", (made[number],), key)

    found = reader.promise(moved.shape, make)
    return Terms(found.ids.movedim(-1, dim), reader.dtype)


@reads("scaled_dot_product_attention")
def _attention(reader: Reader, given: Given) -> Any:
    """softmax(q kᵀ scale + mask) v; kernels may scale q, k or the scores, and rescale sums."""
    if given.get("dropout_p") or given.get("enable_gqa"):
        raise NotUnderstood("attention with dropout or grouped queries")
    mask, width = given.get("attn_mask"), given["query"].ids.shape[-1]
    scale = 1 / math.sqrt(width) if given.get("scale") is None else float(given["scale"])
    keys = each(reader, "mul", given["key"], scale)
    turned = Terms(keys.ids.transpose(-2, -1), reader.dtype)
    scores = products(reader, given["query"], turned, extra=8)
    hidden = reader.constant(-math.inf).number
    if given.get("is_causal"):
        mask = torch.ones(scores.ids.shape[-2:], dtype=torch.bool).tril()
    if isinstance(mask, Tensor):
        if mask.dtype != torch.bool:
            raise NotUnderstood("an attention mask of integers")
        scores = Terms(torch.where(mask, scores.ids, hidden), reader.dtype)
    elif mask is not None:
        scores = each(reader, "add", scores, mask)
    pattern = weights(reader, scores.ids, -1, passes=4)
    return products(reader, pattern, given["value"], extra=8)


def _affine(reader: Reader, x: Terms, given: Given) -> Any:
    if given.get("weight") is not None:
        x = each(reader, "mul", x, given["weight"])
    return x if given.get("bias") is None else each(reader, "add", x, given["bias"])


def _axes(given: Given) -> list[int]:
    return list(range(-len(given["normalized_shape"]), 0))


@reads("layer_norm")
def _layer_norm(reader: Reader, given: Given) -> Any:
    """(x - mean) / sqrt(variance + eps).

    Variance by two passes, Welford or squares: off by at most 8 (n + 8) u mean(x²). As
    x * r - mean * r with r the inverse root: off by 6 u |x| r and 6 (n + 4) u |mean| r.
    """
    ids, axes = reader.numbers(given["input"]), _axes(given)
    x, count = Terms(ids, reader.dtype), math.prod(given["normalized_shape"])
    mean = reduced(reader, ids, axes, True, True)
    centred = each(reader, "sub", x, mean)
    variance = reduced(reader, each(reader, "mul", centred, centred).ids, axes, True, True)
    squares = reduced(reader, each(reader, "mul", x, x).ids, axes, True, True)
    variance = each(reader, "loosen", variance, squares, data=8 * (count + 8))
    shifted = each(reader, "add", each(reader, "nonnegative", variance), given["eps"])
    centred = each(reader, "loosen", centred, x, data=6)
    centred = each(reader, "loosen", centred, mean, data=6 * (count + 4))
    return _affine(reader, each(reader, "mul", centred, each(reader, "rsqrt", shifted)), given)


@reads("rms_norm")
def _rms_norm(reader: Reader, given: Given) -> Any:
    ids, axes = reader.numbers(given["input"]), _axes(given)
    x, eps = Terms(ids, reader.dtype), given.get("eps")
    eps = torch.finfo(reader.dtype).eps if eps is None else eps
    squares = reduced(reader, each(reader, "mul", x, x).ids, axes, True, True)
    squares = each(reader, "loosen", squares, squares, data=8)
    shifted = each(reader, "add", squares, eps)
    return _affine(reader, each(reader, "mul", x, each(reader, "rsqrt", shifted)), given)


@reads("einsum")
def _einsum(reader: Reader, given: Given) -> Any:
    """One or two operands: axes are put in place, then the products are summed."""
    inputs, _, out = given["equation"].replace(" ", "").partition("->")
    letters = inputs.split(",")
    operands = [reader.numbers(value) for value in given["tensors"]]
    if "->" not in given["equation"] or "." in inputs or len(letters) > 2 or any(
            len(set(word)) < len(word) for word in (*letters, out)):
        raise NotUnderstood(f"einsum of {given['equation']}")
    order = out + "".join(sorted(set(inputs) - {","} - set(out)))
    placed = []
    for word, value in zip(letters, operands, strict=True):
        value = value.permute([word.index(letter) for letter in order if letter in word])
        where = tuple(slice(None) if letter in word else None for letter in order)
        placed.append(value[where])
    placed = list(torch.broadcast_tensors(*placed))
    shape, summed = placed[0].shape[: len(out)], placed[0].shape[len(out) :]
    rows = [value.reshape(-1, 1, math.prod(summed)) for value in placed]
    ones = torch.full_like(rows[0], reader.constant(1.0).number)
    right = rows[1] if len(rows) == 2 else ones
    found = products(reader, Terms(rows[0], reader.dtype),
                     Terms(right.transpose(-2, -1), reader.dtype))
    return Terms(found.ids.reshape(shape), reader.dtype)
