"""Complex numbers, as rotary embeddings use them: pairs of real nodes.

Takes: shadows. Gives: handlers of what makes complex numbers, registered in `ARITHMETIC` on
import; `COMPLEX`, handlers of operations on them; `pairs_of`.
May import: prove.algebra, prove.aten, prove.shades.

A shadow of complex dtype holds numbers of pairs in `Algebra.pairs`, so that what only moves
numbers moves pairs. A product (a + bi)(c + di) is two sums of two products, which a kernel may
fuse: sums of products are bounded in any order, with or without FMA.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from adderc.prove.algebra import Algebra
from adderc.prove.aten import Handler, handles, number, shadow
from adderc.prove.doubt import Unsupported
from adderc.prove.shades import Shadow

COMPLEX: dict[str, Handler] = {}


def _dtype(algebra: Algebra) -> torch.dtype:
    return torch.complex64 if algebra.dtype == torch.float32 else torch.complex128


def pairs_of(algebra: Algebra, real: Tensor, imaginary: Tensor) -> Shadow:
    """The complex shadow with these nodes as parts."""
    real, imaginary = torch.broadcast_tensors(real, imaginary)
    start = len(algebra.pairs)
    algebra.pairs += zip(real.reshape(-1).tolist(), imaginary.reshape(-1).tolist(), strict=True)
    ids = torch.arange(start, len(algebra.pairs), dtype=torch.int64).reshape(real.shape)
    return Shadow(ids, _dtype(algebra))


def _parts(algebra: Algebra, value: Any) -> tuple[Tensor, Tensor]:
    """The nodes of both parts; those of real numbers have 0 for the other."""
    if isinstance(value, Shadow) and value.dtype.is_complex:
        if value.dtype != _dtype(algebra):
            raise Unsupported(f"{value.dtype} numbers in a {algebra.dtype} module")
        flat = [algebra.pairs[i] for i in value.ids.reshape(-1).tolist()]
        both = torch.tensor(flat, dtype=torch.int64).reshape(*value.ids.shape, 2)
        return both[..., 0], both[..., 1]
    if isinstance(value, complex):
        raise Unsupported("a complex number in Python")
    real = number(algebra, value)
    return real, torch.full_like(real, algebra.zero)


# ---------------------------------------------------------------- from real numbers


@handles("view_as_complex")
def _view_as_complex(algebra: Algebra, given: dict[str, Any]) -> Any:
    ids = number(algebra, given["self"])
    return pairs_of(algebra, ids[..., 0], ids[..., 1])


@handles("complex")
def _complex(algebra: Algebra, given: dict[str, Any]) -> Any:
    return pairs_of(algebra, number(algebra, given["real"]), number(algebra, given["imag"]))


@handles("polar")
def _polar(algebra: Algebra, given: dict[str, Any]) -> Any:
    size, angle = number(algebra, given["abs"]), number(algebra, given["angle"])
    return pairs_of(algebra, algebra.binary("mul", size, algebra.unary("cos", angle)),
                    algebra.binary("mul", size, algebra.unary("sin", angle)))


# ---------------------------------------------------------------- on complex numbers


@handles("view_as_real", into=COMPLEX)
def _view_as_real(algebra: Algebra, given: dict[str, Any]) -> Any:
    return shadow(algebra, torch.stack(_parts(algebra, given["self"]), -1))


@handles("real", into=COMPLEX)
def _real(algebra: Algebra, given: dict[str, Any]) -> Any:
    return shadow(algebra, _parts(algebra, given["self"])[0])


@handles("imag", into=COMPLEX)
def _imag(algebra: Algebra, given: dict[str, Any]) -> Any:
    return shadow(algebra, _parts(algebra, given["self"])[1])


@handles("mul", into=COMPLEX)
def _mul(algebra: Algebra, given: dict[str, Any]) -> Any:
    (a, b), (c, d) = _parts(algebra, given["self"]), _parts(algebra, given["other"])
    a, b, c, d = torch.broadcast_tensors(a, b, c, d)
    left, right = torch.stack([a, algebra.unary("neg", b)], -1), torch.stack([c, d], -1)
    cross = torch.stack([b, a], -1)  # a d + b c
    return pairs_of(algebra, _sums(algebra, left, right), _sums(algebra, cross, right))


def _sums(algebra: Algebra, left: Tensor, right: Tensor) -> Tensor:
    """Σ left * right over the last axis."""
    return algebra.matmul(left.unsqueeze(-2), right.unsqueeze(-1))[..., 0, 0]
