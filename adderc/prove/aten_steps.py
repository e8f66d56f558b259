"""Operations of ATen that choose or jump: extremes, comparisons, whole numbers.

Takes: shadows. Gives: handlers, registered in `ARITHMETIC` on import.
May import: prove.algebra, prove.aten, prove.doubt, prove.shades.

None of these rounds, but for the product in a leaky slope. A truth value that several tokens
decide is a node that is 0 or 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from adderc.prove.algebra import Algebra
from adderc.prove.aten import handles, integral, known, number, shadow
from adderc.prove.doubt import Unsupported
from adderc.prove.shades import Shadow

# ---------------------------------------------------------------- extremes


def _extreme(sign: float) -> Callable[[Algebra, dict[str, Any]], Any]:
    def run(algebra: Algebra, given: dict[str, Any]) -> Any:
        if integral(given["self"]):
            raise Unsupported("the largest of integers of tokens")
        ids = number(algebra, given["self"])
        if "other" in given:
            other = number(algebra, given["other"])
            return shadow(algebra, algebra.binary("max", ids, other) if sign > 0
                          else algebra.least(ids, other))
        dims = given.get("dim", [])
        dims = [dims] if isinstance(dims, int) else list(dims or range(ids.ndim))
        found = _fold(algebra, ids, dims, bool(given.get("keepdim")), sign)
        if "dim" in given and isinstance(given["dim"], int):  # values and indices
            nowhere = torch.full(found.shape, algebra.graph.constant(math.nan))
            return shadow(algebra, found), Shadow(nowhere, torch.int64)
        return shadow(algebra, found)

    return run


def _fold(algebra: Algebra, ids: Tensor, dims: list[int], keepdim: bool, sign: float) -> Tensor:
    """The largest (or least) over axes, by halves."""
    for dim in sorted((d % ids.ndim for d in dims), reverse=True):
        rows = list(ids.unbind(dim))
        while len(rows) > 1:
            pairs = [rows[i : i + 2] for i in range(0, len(rows), 2)]
            rows = [pair[0] if len(pair) == 1 else algebra.binary("max", *pair) if sign > 0
                    else algebra.least(*pair) for pair in pairs]
        ids = rows[0].unsqueeze(dim) if keepdim else rows[0]
    return ids


handles("max")(_extreme(1.0))
handles("min")(_extreme(-1.0))


@handles("amax")
def _amax(algebra: Algebra, given: dict[str, Any]) -> Any:
    return _extreme(1.0)(algebra, {**given, "dim": list(given.get("dim") or [])})


@handles("amin")
def _amin(algebra: Algebra, given: dict[str, Any]) -> Any:
    return _extreme(-1.0)(algebra, {**given, "dim": list(given.get("dim") or [])})


# ---------------------------------------------------------------- truth values


@handles("logical_not", "bitwise_not")
def _not(algebra: Algebra, given: dict[str, Any]) -> Any:
    value = given["self"]
    if not isinstance(value, Shadow) or value.dtype != torch.bool:
        raise Unsupported("a negation of numbers that depend on tokens")
    return Shadow(algebra.truth("not", value.ids, torch.tensor(algebra.one)), torch.bool)


def _junction(op: str) -> Callable[[Algebra, dict[str, Any]], Any]:
    def run(algebra: Algebra, given: dict[str, Any]) -> Any:
        pair = [value.ids if isinstance(value, Shadow) else algebra.lift(value)
                for value in (given["self"], given["other"])]
        if any(value.dtype != torch.bool for value in (given["self"], given["other"])):
            raise Unsupported(f"{op} of numbers that depend on tokens")
        return Shadow(algebra.truth(op, *pair), torch.bool)

    return run


handles("logical_and", "bitwise_and", "__and__")(_junction("and"))
handles("logical_or", "bitwise_or", "__or__")(_junction("or"))


# ---------------------------------------------------------------- whole numbers


def _whole(name: str) -> Callable[[Algebra, dict[str, Any]], Any]:
    def run(algebra: Algebra, given: dict[str, Any]) -> Any:
        if given.get("decimals"):
            raise Unsupported("rounding to decimals")
        return shadow(algebra, algebra.unary("whole", number(algebra, given["self"]), name))

    return run


for _name in ("floor", "ceil", "round", "trunc", "sign"):
    handles(_name)(_whole(_name))


@handles("heaviside")
def _heaviside(algebra: Algebra, given: dict[str, Any]) -> Any:
    x, at_zero = number(algebra, given["self"]), number(algebra, given["values"])
    zero, one = torch.tensor(algebra.zero), torch.tensor(algebra.one)
    above, there = algebra.binary("gt", x, zero), algebra.binary("eq", x, zero)
    return shadow(algebra, algebra.choose(above, one, algebra.choose(there, at_zero, zero)))


@handles("leaky_relu")
def _leaky(algebra: Algebra, given: dict[str, Any]) -> Any:
    slope = algebra.round_to(float(known(given["negative_slope"], "a slope")))
    if not 0 <= slope <= 1:
        raise Unsupported("a leaky slope outside 0 to 1")
    return shadow(algebra, algebra.unary("leaky", number(algebra, given["self"]), slope))


@handles("hardtanh", "relu6")
def _hardtanh(algebra: Algebra, given: dict[str, Any]) -> Any:
    ends = [algebra.constant(float(given.get(name, default)))
            for name, default in (("min_val", 0.0), ("max_val", 6.0))]
    ids = algebra.binary("max", number(algebra, given["self"]), torch.tensor(ends[0]))
    return shadow(algebra, algebra.least(ids, torch.tensor(ends[1])))
