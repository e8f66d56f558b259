"""The operations of ATen that the checker reads as arithmetic on terms.

Takes: a reader, an operation's arguments by name. Gives: handlers, put into `OPERATIONS`.
May import: prove.checker_reader, the standard library, torch.

A kernel may evaluate a norm or attention by another formula than the plain one: "loosen"
adds what the usual formulas may differ by, in units of u times a magnitude. A "sum" is of
products of its arguments two by two, in any order, with `data` roundings more.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from adderc.prove.checker_reader import (
    OPERATIONS,
    NotUnderstood,
    Operation,
    Reader,
    Term,
    Terms,
)

Given = dict[str, Any]


def reads(*names: str) -> Callable[[Operation], Operation]:
    def register(function: Operation) -> Operation:
        OPERATIONS.update(dict.fromkeys(names, function))
        return function

    return register


def _is_float(value: Any) -> bool:
    return isinstance(value, float) or (
        isinstance(value, Terms) and value.dtype.is_floating_point)


def each(reader: Reader, op: str, *values: Any, data: Any = None) -> Terms:
    """An operation element by element, with broadcasting."""
    arrays = torch.broadcast_tensors(*(reader.numbers(value) for value in values))
    flat = [array.reshape(-1).numpy() for array in arrays]
    return reader.promise(arrays[0].shape, lambda i: reader.term(
        op, [reader.at(int(numbers[i])) for numbers in flat], data))


def products(reader: Reader, left: Any, right: Any, bias: Any = None, extra: int = 0) -> Terms:
    """left [..., I, K] times right [..., K, J], and a bias that broadcasts to the result."""
    x, y = reader.numbers(left), reader.numbers(right)
    row, column = x.ndim == 1, y.ndim == 1
    x, y = x[None] if row else x, y[:, None] if column else y
    batch = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    shape = (*batch, x.shape[-2], y.shape[-1])
    lines = x.expand(*batch, *x.shape[-2:]).reshape(-1, x.shape[-1]).numpy()
    stands = y.expand(*batch, *y.shape[-2:]).transpose(-2, -1).reshape(-1, y.shape[-2]).numpy()
    across, size = shape[-1], shape[-2] * shape[-1]
    added = None if bias is None else reader.numbers(bias).expand(shape).reshape(-1).numpy()
    one = reader.constant(1.0)

    def make(i: int) -> Term:
        pairs = zip(lines[i // across].tolist(),
                    stands[i // size * across + i % across].tolist(), strict=True)
        args = [reader.at(number) for number in itertools.chain.from_iterable(pairs)]
        return reader.term("sum", args if added is None else [
            *args, reader.at(int(added[i])), one], extra)

    found = reader.promise(shape, make).ids
    found = found.squeeze(-2) if row else found
    return Terms(found.squeeze(-1) if column else found, reader.dtype)


def reduced(reader: Reader, x: Tensor, dims: Any, keep: bool, mean: bool = False) -> Terms:
    """Sum or mean over axes; no axes means all."""
    axes = [dims] if isinstance(dims, int) else list(dims or range(x.ndim))
    axes = sorted(d % x.ndim for d in axes)
    rest = [d for d in range(x.ndim) if d not in axes]
    count = math.prod(x.shape[d] for d in axes)
    rows = x.permute(*rest, *axes).reshape(-1, count).numpy()
    factor = reader.term("inverse of", (), count) if mean else reader.constant(1.0)

    def make(i: int) -> Term:
        args = itertools.chain.from_iterable((reader.at(n), factor) for n in rows[i].tolist())
        return reader.term("sum", tuple(args), 3 if mean else 0)

    shape = [1 if d in axes else n for d, n in enumerate(x.shape) if keep or d not in axes]
    return reader.promise(shape, make)


# ---------------------------------------------------------------- element by element


def _unary(op: str) -> Operation:
    return lambda reader, given: each(reader, op, given["self"])


for _name in ("neg", "relu", "exp", "sin", "cos", "tanh", "sigmoid", "silu", "rsqrt", "sqrt",
              "reciprocal", "erf", "abs"):
    OPERATIONS[_name] = _unary(_name)


@reads("gelu")
def _gelu(reader: Reader, given: Given) -> Any:
    if given.get("approximate", "none") != "none":
        raise NotUnderstood("the tanh form of GELU")
    return each(reader, "gelu", given["self"])


@reads("pow")
def _pow(reader: Reader, given: Given) -> Any:
    x, exponent = given["self"], given["exponent"]
    if isinstance(exponent, Terms) and isinstance(x, (int, float)) and 0 < x < math.inf:
        return _exponential(reader, float(reader.kind(x)), exponent)
    if not _is_float(x) or exponent not in (2, 0.5, -0.5, -1):
        raise NotUnderstood("a power other than a square, a root or their inverses")
    if exponent == 2:
        return each(reader, "mul", x, x)
    return each(reader, {0.5: "sqrt", -0.5: "rsqrt", -1: "reciprocal"}[exponent], x)


def _exponential(reader: Reader, base: float, exponent: Terms) -> Terms:
    """base ** x as exp(x log(base)): 2u for log(base), u for the product, and one to spare."""
    flat, log = exponent.ids.reshape(-1).tolist(), reader.constant(math.log(base))

    def make(i: int) -> Term:
        term = reader.at(flat[i])
        upper = term.args[0] if term.op == "div" and term.args[1].op == "constant" and (
            term.args[1].data != 0) else term
        if upper.op == "constant" and upper.data == 0:
            return reader.constant(1.0)
        scaled = reader.term("mul", (term, log))
        return reader.term("exp", (reader.term("loosen", (scaled, scaled), 4),))

    return reader.promise(exponent.ids.shape, make)


OPERATIONS["square"] = lambda reader, given: each(reader, "mul", given["self"], given["self"])
_INTEGER: dict[str, Callable[[int, int], int]] = {
    "add": lambda p, q: p + q, "sub": lambda p, q: p - q, "mul": lambda p, q: p * q,
    "rsub": lambda p, q: q - p, "floor_divide": lambda p, q: p // q,
    "remainder": lambda p, q: p % q, "maximum": max, "minimum": min,
    "eq": lambda p, q: int(p == q), "ne": lambda p, q: int(p != q),
    "lt": lambda p, q: int(p < q), "le": lambda p, q: int(p <= q),
    "gt": lambda p, q: int(p > q), "ge": lambda p, q: int(p >= q),
    "__and__": lambda p, q: p & q, "bitwise_and": lambda p, q: p & q,
    "logical_and": lambda p, q: int(bool(p and q)), "__or__": lambda p, q: p | q,
    "bitwise_or": lambda p, q: p | q, "logical_or": lambda p, q: int(bool(p or q)),
}
_BOOLEAN = {"eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or"}


def _binary(name: str) -> Operation:
    def run(reader: Reader, given: Given) -> Any:
        x, y, alpha = given["self"], given["other"], given.get("alpha", 1)
        if not (_is_float(x) or _is_float(y)):
            if alpha != 1:
                raise NotUnderstood("a scaled addition of integers")
            return _whole(reader, name, x, y)
        if name in ("eq", "ne", "lt", "le", "gt", "ge"):
            return _compared(reader, name, x, y)
        if name not in ("add", "sub", "rsub", "mul", "maximum", "minimum"):
            raise NotUnderstood(f"{name} of floating-point numbers")
        if name == "minimum":
            return each(reader, "neg", each(
                reader, "max", each(reader, "neg", x), each(reader, "neg", y)))
        x, y = (y, x) if name == "rsub" else (x, y)
        y = y if alpha == 1 else each(reader, "mul", y, float(alpha))
        return each(reader, {"rsub": "sub", "maximum": "max"}.get(name, name), x, y)

    return run


def _compared(reader: Reader, name: str, x: Any, y: Any) -> Terms:
    """A comparison of constants."""
    one, two = torch.broadcast_tensors(reader.numbers(x), reader.numbers(y))
    left, right = one.reshape(-1).tolist(), two.reshape(-1).tolist()

    def make(i: int) -> Term:
        p, q = reader.at(left[i]), reader.at(right[i])
        if not p.op == q.op == "constant":
            raise NotUnderstood(f"{name} of floating-point numbers")
        return reader.term("integer", (), _INTEGER[name](p.data, q.data))

    return reader.promise(one.shape, make, torch.bool)


def _whole(reader: Reader, name: str, x: Any, y: Any) -> Terms:
    """Arithmetic on integers of one token at most."""
    boolean = name in _BOOLEAN or all(
        isinstance(v, (Terms, Tensor)) and v.dtype == torch.bool for v in (x, y))
    one, two = torch.broadcast_tensors(reader.whole(x), reader.whole(y))
    left, right = one.reshape(-1).tolist(), two.reshape(-1).tolist()

    def make(i: int) -> Term:
        (first, p), (second, q) = (reader.values_of(reader.at(n[i])) for n in (left, right))
        if first is not None and second is not None and first is not second:
            raise NotUnderstood("an integer computed from several tokens")
        count = max(len(p), len(q))
        p, q = (v * count if len(v) == 1 else v for v in (p, q))
        values = tuple(_INTEGER[name](a, b) for a, b in zip(p, q, strict=True))
        token = second if first is None else first
        return (reader.term("integer", (), values[0]) if token is None
                else reader.term("integers", (token,), values))

    return reader.promise(one.shape, make, torch.bool if boolean else torch.int64)


for _name in _INTEGER:
    OPERATIONS[_name] = _binary(_name)


@reads("bitwise_not", "logical_not")
def _not(reader: Reader, given: Given) -> Any:
    if given["self"].dtype != torch.bool:
        raise NotUnderstood("the complement of integers")
    return _whole(reader, "eq", given["self"], 0)


@reads("div")
def _div(reader: Reader, given: Given) -> Any:
    if not (_is_float(given["self"]) or _is_float(given["other"])):
        if given.get("rounding_mode") != "floor":
            raise NotUnderstood("a division of integers")
        return _whole(reader, "floor_divide", given["self"], given["other"])
    if given.get("rounding_mode") is not None:
        raise NotUnderstood("a rounded division")
    return each(reader, "div", given["self"], given["other"])


@reads("clamp", "clamp_min", "clamp_max", "hardtanh")
def _clamp(reader: Reader, given: Given) -> Any:
    value = given["self"]
    least, most = (given.get(k, given.get(f"{k}_val")) for k in ("min", "max"))
    if not _is_float(value):
        raise NotUnderstood("clamped integers")
    value = value if least is None else each(reader, "max", value, least)
    return value if most is None else _binary("minimum")(
        reader, {"self": value, "other": most})


# ---------------------------------------------------------------- choice and conversion


def _filled(value: float | None) -> Operation:
    def run(reader: Reader, given: Given) -> Any:
        dtype, number = given.get("dtype") or given["self"].dtype, value
        number = given["fill_value"] if number is None else number
        shape = given.get("size", given["self"].ids.shape)
        if not dtype.is_floating_point:
            return torch.full(tuple(shape), int(number), dtype=dtype)
        if dtype != reader.dtype:
            raise NotUnderstood(f"numbers of {dtype}")
        at = reader.constant(number).number
        return Terms(torch.full(tuple(shape), at, dtype=torch.int64), dtype)

    return run


for _name, _value in {"zeros": 0.0, "ones": 1.0, "full": None}.items():
    OPERATIONS[f"new_{_name}"] = OPERATIONS[f"{_name}_like"] = _filled(_value)
OPERATIONS["empty_like"] = OPERATIONS["new_empty"] = _filled(math.nan)


@reads("fill")
def _fill(reader: Reader, given: Given) -> Any:
    target = given["self"]
    if target.dtype != reader.dtype:
        raise NotUnderstood("integers of tokens written over")
    return Terms(reader.numbers(given["value"]).expand(target.ids.shape), reader.dtype)


@reads("where", "masked_fill")
def _where(reader: Reader, given: Given) -> Any:
    filled = "mask" in given
    mask = given["mask" if filled else "condition"]
    if not isinstance(mask, Terms):
        return NotImplemented
    yes, no = (given["value"], given["self"]) if filled else (given["self"], given["other"])
    condition, one, two = torch.broadcast_tensors(
        mask.ids, reader.numbers(yes), reader.numbers(no))
    flat = [t.reshape(-1).tolist() for t in (condition, one, two)]

    def make(i: int) -> Term:
        token, values = reader.values_of(reader.at(flat[0][i]))
        sides = [reader.at(flat[2][i]), reader.at(flat[1][i])]
        entries = [sides[bool(value)] for value in values]
        return entries[0] if token is None else reader.term("look up", (token, *entries))

    return reader.promise(condition.shape, make)


@reads("to", "_to_copy", "type_as")
def _to(reader: Reader, given: Given) -> Any:
    value, other = given["self"], given.get("other")
    dtype = given.get("dtype") or (None if other is None else other.dtype)
    if dtype is None or dtype == value.dtype:
        return value
    if dtype == reader.dtype:
        return Terms(reader.numbers(value), dtype)
    if not dtype.is_floating_point and not value.dtype.is_floating_point:
        return (_whole(reader, "ne", value, 0) if dtype == torch.bool
                else Terms(value.ids, dtype))
    raise NotUnderstood(f"a conversion to {dtype}")


@reads("embedding", "index")
def _look_up(reader: Reader, given: Given) -> Any:
    """Rows of a table, by integers that depend on tokens."""
    table, where = given.get("weight", given.get("self")), given["indices"]
    where = where[0] if isinstance(where, (list, tuple)) and len(where) == 1 else where
    if not isinstance(where, Terms) or where.dtype == torch.bool:
        if "weight" in given:
            return Terms(given["weight"].ids[where], given["weight"].dtype)
        return NotImplemented
    if not isinstance(table, Terms) or table.dtype != reader.dtype:
        raise NotUnderstood("a table of integers")
    rows, width = table.ids.reshape(len(table.ids), -1).numpy(), table.ids[0].numel()
    index = where.ids.reshape(-1).tolist()

    def make(i: int) -> Term:
        token, values = reader.values_of(reader.at(index[i // width]))
        if not all(0 <= value < len(rows) for value in values):
            raise NotUnderstood("a token outside its table")
        entries = [reader.at(int(rows[value, i % width])) for value in values]
        return entries[0] if token is None else reader.term("look up", (token, *entries))

    return reader.promise((*where.ids.shape, *table.ids.shape[1:]), make)


@reads("one_hot")
def _one_hot(reader: Reader, given: Given) -> Any:
    if given["num_classes"] <= 0:
        raise NotUnderstood("one_hot with no number of classes")
    ids = Terms(given["self"].ids.unsqueeze(-1), torch.int64)
    found = _whole(reader, "eq", ids, torch.arange(given["num_classes"]))
    return Terms(found.ids, torch.int64)


def _triangle(keep: Callable[..., Tensor]) -> Operation:
    def run(reader: Reader, given: Given) -> Any:
        ids = reader.numbers(given["self"])
        inside = keep(torch.ones(ids.shape, dtype=torch.bool), given["diagonal"])
        return Terms(torch.where(inside, ids, reader.constant(0.0).number), reader.dtype)

    return run


OPERATIONS["tril"], OPERATIONS["triu"] = _triangle(torch.tril), _triangle(torch.triu)
OPERATIONS["dropout"] = lambda reader, given: given["input"]


@reads("pad")
def _pad(reader: Reader, given: Given) -> Any:
    if given.get("mode", "constant") != "constant":
        raise NotUnderstood("a padding that is not constant")
    value = reader.constant(given.get("value") or 0.0).number
    return Terms(torch.constant_pad_nd(reader.numbers(given["self"]), given["pad"], value),
                 reader.dtype)


__all__ = ["Given", "each", "products", "reads", "reduced"]
