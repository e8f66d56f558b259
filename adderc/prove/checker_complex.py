"""The checker's complex numbers, for rotary embeddings written with them.

Takes: a reader, an operation's arguments by name. Gives: handlers, put into `OPERATIONS`.
May import: prove.checker_operations, prove.checker_reader, torch.

A product's parts are sums of two products each, in any order, with or without FMA.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from adderc.prove.checker_operations import Given, each, products, reads
from adderc.prove.checker_reader import Complex, NotUnderstood, Reader, Terms


@reads("view_as_complex")
def _view_as_complex(reader: Reader, given: Given) -> Any:
    ids = reader.numbers(given["self"])
    return Complex(Terms(ids[..., 0], reader.dtype), Terms(ids[..., 1], reader.dtype))


@reads("complex")
def _complex(reader: Reader, given: Given) -> Any:
    return Complex(*(Terms(reader.numbers(given[key]), reader.dtype) for key in ("real", "imag")))


@reads("polar")
def _polar(reader: Reader, given: Given) -> Any:
    return Complex(*(each(reader, "mul", given["abs"], each(reader, name, given["angle"]))
                     for name in ("cos", "sin")))


@reads("complex view_as_real")
def _view_as_real(reader: Reader, given: Given) -> Any:
    value = given["self"]
    return Terms(torch.stack([value.real.ids, value.imaginary.ids], -1), reader.dtype)


@reads("complex real")
def _real(reader: Reader, given: Given) -> Any:
    return given["self"].real


@reads("complex imag")
def _imag(reader: Reader, given: Given) -> Any:
    return given["self"].imaginary


@reads("complex mul")
def _product(reader: Reader, given: Given) -> Any:
    """(a + bi)(c + di) = (a c - b d) + (b c + a d) i"""
    parts = [*_parts(reader, given["self"]), *_parts(reader, given["other"])]
    a, b, c, d = torch.broadcast_tensors(*parts)
    minus = each(reader, "neg", Terms(b, reader.dtype)).ids
    right = Terms(torch.stack([c, d], -1).unsqueeze(-1), reader.dtype)

    def sums(first: Tensor, second: Tensor) -> Terms:
        left = Terms(torch.stack([first, second], -1).unsqueeze(-2), reader.dtype)
        return Terms(products(reader, left, right).ids[..., 0, 0], reader.dtype)

    return Complex(sums(a, minus), sums(b, a))


def _parts(reader: Reader, value: Any) -> tuple[Tensor, Tensor]:
    if isinstance(value, Complex):
        return value.real.ids, value.imaginary.ids
    if isinstance(value, complex):
        raise NotUnderstood("a complex number in Python")
    real = reader.numbers(value)
    return real, torch.full_like(real, reader.constant(0.0).number)
