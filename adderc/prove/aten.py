"""The operations of ATen that the prover knows.

Takes: shadows and constants. Gives: `MOVES` (names that only move numbers),
`INDEX_ARGUMENTS` (of theirs), `EMPTY`, `VALUE_OF_INTEGERS` (exact on integers) and
`ARITHMETIC`, handlers by name.
May import: prove.algebra, prove.doubt, prove.shades.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from adderc.prove.algebra import Algebra
from adderc.prove.doubt import Unsupported
from adderc.prove.shades import Shadow

MOVES = frozenset((
    "view", "reshape", "permute", "transpose", "t", "numpy_T", "mT", "adjoint", "expand",
    "expand_as", "unsqueeze", "squeeze", "slice", "select", "narrow", "cat", "concat",
    "concatenate", "stack", "split", "split_with_sizes", "chunk", "unbind", "flatten",
    "unflatten", "alias", "clone", "contiguous", "detach", "index", "index_select",
    "gather", "scatter", "index_put", "repeat", "tile", "roll", "flip", "movedim",
    "moveaxis", "swapaxes", "swapdims", "diagonal", "take_along_dim", "select_scatter",
    "slice_scatter", "copy", "view_as", "reshape_as", "_unsafe_view", "_reshape_alias",
    "positive", "lift_fresh", "lift_fresh_copy", "hstack", "vstack", "unfold",
    "broadcast_to", "repeat_interleave", "dropout", "lift", "ravel", "tensor_split",
    "atleast_1d", "atleast_2d", "squeeze_copy", "expand_copy", "meshgrid", "masked_select",
    "index_copy", "detach_copy", "alias_copy", "numpy_T_copy", "narrow_copy",
    "feature_dropout",
))
EMPTY = frozenset((
    "empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "empty_permuted",
))
INDEX_ARGUMENTS = frozenset(("index", "indices", "mask", "repeats", "indices_or_sections"))
VALUE_OF_INTEGERS = frozenset((
    "zeros", "ones", "full", "zeros_like", "ones_like", "full_like", "new_zeros",
    "new_ones", "new_full", "scalar_tensor", "arange", "to", "_to_copy", "type_as", "eye",
    "one_hot", "where", "masked_fill", "tril", "triu", "lift_fresh_copy", "add", "sub",
    "mul", "rsub", "eq", "ne", "lt", "le", "gt", "ge", "neg", "abs", "bitwise_not",
    "logical_not", "logical_and", "logical_or", "floor_divide", "remainder", "minimum",
    "maximum", "clamp", "clamp_min", "clamp_max", "cat", "stack", "sum", "view", "reshape",
    "expand", "slice", "select", "unsqueeze", "squeeze", "clone", "max", "min", "amax", "amin",
    "bitwise_and", "bitwise_or", "__and__", "__or__", "sign", "floor", "ceil", "round", "trunc",
))

Handler = Callable[[Algebra, Any, tuple[Any, ...], dict[str, Any]], Any]
ARITHMETIC: dict[str, Handler] = {}


def handles(*names: str, into: dict[str, Handler] = ARITHMETIC
            ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a function of (algebra, *args by name in the schema) for ATen names."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        def handler(algebra: Algebra, target: Any, args: tuple[Any, ...],
                    kwargs: dict[str, Any]) -> Any:
            named = {argument.name: argument.default_value
                     for argument in target._schema.arguments
                     if argument.has_default_value()}
            names_of = [argument.name for argument in target._schema.arguments]
            named.update(zip(names_of, args, strict=False))
            return function(algebra, {**named, **kwargs})

        for name in names:
            into[name] = handler
        return function

    return register


def shadow(algebra: Algebra, ids: Tensor) -> Shadow:
    return Shadow(ids, algebra.dtype)


def number(algebra: Algebra, value: Any) -> Tensor:
    """The nodes of a float shadow, a Python number, or integers as numbers of the dtype."""
    if isinstance(value, Shadow):
        if value.dtype == algebra.dtype:
            return value.ids
        if value.dtype.is_floating_point:
            raise Unsupported(f"{value.dtype} numbers in a {algebra.dtype} module")
        return algebra.as_float(value.ids)
    if isinstance(value, Tensor):
        if value.is_floating_point() or value.is_complex():
            raise Unsupported("an unread floating-point constant")
        return algebra.as_float(algebra.lift(value))
    return torch.tensor(algebra.constant(float(value)))


def integral(*values: Any) -> bool:
    """Whether no operand is a floating-point number."""
    return not any(
        isinstance(v, float) or (isinstance(v, Shadow) and v.dtype.is_floating_point)
        or (isinstance(v, Tensor) and v.is_floating_point()) for v in values)


def integer_ids(algebra: Algebra, value: Any) -> Tensor:
    if isinstance(value, Shadow):
        return value.ids
    if isinstance(value, Tensor):
        return algebra.lift(value)
    return torch.tensor(algebra.graph.constant(float(int(value))))


def known(value: Any, what: str) -> Any:
    """A tensor of integers or booleans that no token reaches."""
    if isinstance(value, Shadow):
        raise Unsupported(f"{what} that depends on tokens")
    return value


# ---------------------------------------------------------------- elementwise

_INTEGER: dict[str, Callable[[int, int], int]] = {
    "add": lambda p, q: p + q, "sub": lambda p, q: p - q, "mul": lambda p, q: p * q,
    "eq": lambda p, q: int(p == q), "ne": lambda p, q: int(p != q),
    "lt": lambda p, q: int(p < q), "le": lambda p, q: int(p <= q),
    "gt": lambda p, q: int(p > q), "ge": lambda p, q: int(p >= q),
    "floor_divide": lambda p, q: p // q, "remainder": lambda p, q: p % q,
    "max": max,
}


def _arithmetic(op: str) -> Callable[[Algebra, dict[str, Any]], Any]:
    def run(algebra: Algebra, given: dict[str, Any]) -> Any:
        x, y = given["self"], given["other"]
        if integral(x, y):
            return _integers(algebra, op, x, y, given.get("alpha", 1))
        one, two = number(algebra, x), number(algebra, y)
        alpha = given.get("alpha", 1)
        if alpha != 1:
            two = algebra.binary("mul", two, torch.tensor(algebra.constant(float(alpha))))
        return shadow(algebra, algebra.binary(op, one, two))

    return run


def _integers(algebra: Algebra, op: str, x: Any, y: Any, alpha: Any = 1) -> Any:
    if alpha != 1:
        raise Unsupported("alpha in integer arithmetic on tokens")
    ids = algebra.integers(integer_ids(algebra, x), integer_ids(algebra, y), _INTEGER[op])
    return Shadow(ids, torch.bool if op in ("eq", "ne", "lt", "le", "gt", "ge") else torch.int64)


for _op in ("add", "sub", "mul"):
    handles(_op)(_arithmetic(_op))
handles("maximum")(_arithmetic("max"))


def _comparison(op: str) -> Handler:
    def run(algebra: Algebra, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if integral(*args[:2]):
            return _integers(algebra, op, args[0], args[1])
        ids = algebra.binary(op, number(algebra, args[0]), number(algebra, args[1]))
        return Shadow(ids, torch.bool)

    return run


for _op in ("eq", "ne", "lt", "le", "gt", "ge"):
    ARITHMETIC[_op] = _comparison(_op)


def _modular(op: str, name: str) -> Callable[[Algebra, dict[str, Any]], Any]:
    def run(algebra: Algebra, given: dict[str, Any]) -> Any:
        if integral(given["self"], given["other"]):
            return _integers(algebra, op, given["self"], given["other"])
        return modulus(algebra, given, name)

    return run


def modulus(algebra: Algebra, given: dict[str, Any], name: str) -> Any:
    """The "fraction" or whole "quotient" of a division by a positive constant."""
    by = given["other"]
    if not isinstance(by, (int, float)) or by <= 0:
        raise Unsupported(f"the {name} of a division by anything but a positive constant")
    by = algebra.round_to(float(by))
    return shadow(algebra, algebra.unary(name, number(algebra, given["self"]), by))


handles("remainder")(_modular("remainder", "fraction"))
handles("floor_divide")(_modular("floor_divide", "quotient"))


@handles("rsub")
def _rsub(algebra: Algebra, given: dict[str, Any]) -> Any:
    return _arithmetic("sub")(
        algebra, {**given, "self": given["other"], "other": given["self"]})


@handles("div", "true_divide", "divide")
def _div(algebra: Algebra, given: dict[str, Any]) -> Any:
    if given.get("rounding_mode") is not None:
        if given["rounding_mode"] == "floor":
            return _modular("floor_divide", "quotient")(algebra, given)
        raise Unsupported("a division rounded towards zero")
    one, two = number(algebra, given["self"]), number(algebra, given["other"])
    quotient = algebra.binary("div", one, two)
    other = given["other"]
    if isinstance(other, (int, float)) and math.frexp(other)[0] not in (-0.5, 0.5):
        quotient = algebra.loosened(quotient, quotient, 3)  # may be a product with 1 / other
    return shadow(algebra, quotient)


@handles("minimum")
def _minimum(algebra: Algebra, given: dict[str, Any]) -> Any:
    one, two = number(algebra, given["self"]), number(algebra, given["other"])
    return shadow(algebra, algebra.least(one, two))


@handles("clamp", "clip")
def _clamp(algebra: Algebra, given: dict[str, Any]) -> Any:
    ids = number(algebra, given["self"])
    if given.get("min") is not None:
        ids = algebra.binary("max", ids, number(algebra, given["min"]))
    if given.get("max") is not None:
        ids = algebra.least(ids, number(algebra, given["max"]))
    return shadow(algebra, ids)


@handles("clamp_min")
def _clamp_min(algebra: Algebra, given: dict[str, Any]) -> Any:
    return _clamp(algebra, {"self": given["self"], "min": given["min"]})


@handles("clamp_max")
def _clamp_max(algebra: Algebra, given: dict[str, Any]) -> Any:
    return _clamp(algebra, {"self": given["self"], "max": given["max"]})


def _unary(op: str) -> Callable[[Algebra, dict[str, Any]], Any]:
    return lambda algebra, given: shadow(
        algebra, algebra.unary(op, number(algebra, given["self"])))


for _op in ("neg", "relu", "exp", "sin", "cos", "sqrt", "rsqrt", "tanh", "sigmoid", "silu",
            "erf", "abs"):
    handles(_op)(_unary(_op))


@handles("gelu")
def _gelu(algebra: Algebra, given: dict[str, Any]) -> Any:
    if given.get("approximate", "none") != "none":
        raise Unsupported("the tanh form of GELU")
    return _unary("gelu")(algebra, given)


@handles("reciprocal")
def _reciprocal(algebra: Algebra, given: dict[str, Any]) -> Any:
    return shadow(algebra, algebra.power(number(algebra, given["self"]), -1))


@handles("square")
def _square(algebra: Algebra, given: dict[str, Any]) -> Any:
    return shadow(algebra, algebra.power(number(algebra, given["self"]), 2))


@handles("pow")
def _pow(algebra: Algebra, given: dict[str, Any]) -> Any:
    exponent = given["exponent"]
    if isinstance(exponent, (int, float)):
        return shadow(algebra, algebra.power(number(algebra, given["self"]), float(exponent)))
    bases = {algebra.resolve(node) for node in number(algebra, given["self"]).reshape(-1).tolist()}
    base = bases.pop()
    if bases or algebra.graph.op[base] != "constant" or not 0 < algebra.graph.data[base] < math.inf:
        raise Unsupported("a power whose base is not one positive constant")
    return shadow(algebra, algebra.exponential(
        algebra.graph.data[base], number(algebra, exponent)))


@handles("addcmul")
def _addcmul(algebra: Algebra, given: dict[str, Any]) -> Any:
    if given.get("value", 1) != 1:
        raise Unsupported("addcmul with a factor")
    product = algebra.binary("mul", number(algebra, given["tensor1"]),
                             number(algebra, given["tensor2"]))
    product = algebra.loosened(product, product, 1)  # may be fused
    return shadow(algebra, algebra.binary("add", number(algebra, given["self"]), product))


# ---------------------------------------------------------------- creation, choice, conversion


def _filler(value: float | None) -> Handler:
    def run(algebra: Algebra, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        source = args[0]
        shape = (list(args[1]) if target._schema.name.split("::")[-1].startswith("new_")
                 else (source.ids if isinstance(source, Shadow) else source).shape)
        dtype = kwargs.get("dtype") or source.dtype
        at = value if value is not None else kwargs.get("fill_value", args[-1])
        if isinstance(at, (Tensor, Shadow)):
            raise Unsupported("a fill with a tensor")
        if not dtype.is_floating_point:
            if isinstance(source, Shadow) and target._schema.is_mutable:
                raise Unsupported("integers written over tokens")
            return torch.full(shape, at, dtype=dtype)
        if dtype != algebra.dtype:
            raise Unsupported(f"{dtype} numbers in a {algebra.dtype} module")
        return shadow(algebra, torch.full(tuple(shape), algebra.constant(at), dtype=torch.int64))

    return run


for _name, _value in {"zeros_like": 0.0, "new_zeros": 0.0, "zero": 0.0, "ones_like": 1.0,
                      "new_ones": 1.0, "full_like": None, "new_full": None, "fill": None,
                      "empty_like": math.nan, "new_empty": math.nan}.items():
    ARITHMETIC[_name] = _filler(_value)


@handles("where")
def _where(algebra: Algebra, given: dict[str, Any]) -> Any:
    condition, yes, no = given["condition"], given.get("self"), given.get("other")
    if integral(yes, no):
        raise Unsupported("a choice between integers of tokens")
    yes, no = number(algebra, yes), number(algebra, no)
    if not isinstance(condition, Shadow):
        return shadow(algebra, torch.where(condition, yes, no))
    return shadow(algebra, algebra.choose(condition.ids, yes, no))


@handles("masked_fill")
def _masked_fill(algebra: Algebra, given: dict[str, Any]) -> Any:
    return _where(algebra, {"condition": given["mask"], "self": given["value"],
                            "other": given["self"]})


def _triangle(function: Any) -> Callable[[Algebra, dict[str, Any]], Any]:
    def run(algebra: Algebra, given: dict[str, Any]) -> Any:
        ids = number(algebra, given["self"])
        keep = function(torch.ones(ids.shape, dtype=torch.bool), given.get("diagonal", 0))
        return shadow(algebra, torch.where(keep, ids, algebra.zero))

    return run


handles("tril")(_triangle(torch.tril))
handles("triu")(_triangle(torch.triu))


@handles("constant_pad_nd", "pad")
def _pad(algebra: Algebra, given: dict[str, Any]) -> Any:
    if given.get("mode", "constant") != "constant":
        raise Unsupported("a padding that is not constant")
    value = algebra.constant(given.get("value") or 0.0)
    return shadow(algebra, torch.constant_pad_nd(
        number(algebra, given["self"]), list(given["pad"]), value))


@handles("to", "_to_copy", "type_as")
def _to(algebra: Algebra, given: dict[str, Any]) -> Any:
    source = given["self"]
    other = given.get("other")
    dtype = given.get("dtype") or (other.dtype if other is not None else None)
    if not isinstance(source, Shadow) or dtype is None or dtype == source.dtype:
        return Shadow(source.ids.clone() if given.get("copy") else source.ids, source.dtype)
    if dtype == algebra.dtype and not source.dtype.is_floating_point:
        return shadow(algebra, algebra.as_float(source.ids))
    if not dtype.is_floating_point and not source.dtype.is_floating_point:
        if dtype in (torch.int64, torch.int32) and source.dtype == torch.bool:
            return Shadow(source.ids, dtype)
        if dtype == torch.int64 or (source.dtype == torch.int64 and dtype == torch.int32):
            return Shadow(source.ids, dtype)
    raise Unsupported(f"a conversion from {source.dtype} to {dtype}")


@handles("embedding")
def _embedding(algebra: Algebra, given: dict[str, Any]) -> Any:
    weight, indices = number(algebra, given["weight"]), given["indices"]
    if not isinstance(indices, Shadow):
        return shadow(algebra, weight[indices])
    columns = weight.T.tolist()
    rows = [[algebra.pick(token, column) for column in columns]
            for token in indices.ids.reshape(-1).tolist()]
    return shadow(algebra, torch.tensor(rows).reshape(*indices.ids.shape, len(columns)))


@handles("one_hot")
def _one_hot(algebra: Algebra, given: dict[str, Any]) -> Any:
    classes = given.get("num_classes", -1)
    if not isinstance(given["self"], Shadow) or classes <= 0:
        raise Unsupported("one_hot with no number of classes")
    ids = given["self"].ids.unsqueeze(-1)
    numbers = algebra.lift(torch.arange(classes))
    return Shadow(algebra.integers(ids, numbers, _INTEGER["eq"]), torch.int64)


# ---------------------------------------------------------------- sums


@handles("matmul", "mm", "bmm", "mv", "dot", "inner", "__matmul__")
def _matmul(algebra: Algebra, given: dict[str, Any]) -> Any:
    x = number(algebra, given["self"])
    y = given.get("other", given.get("mat2", given.get("vec", given.get("tensor"))))
    return shadow(algebra, algebra.matmul(x, number(algebra, y)))


@handles("outer", "ger")
def _outer(algebra: Algebra, given: dict[str, Any]) -> Any:
    one, two = number(algebra, given["self"]), number(algebra, given["vec2"])
    return shadow(algebra, algebra.binary("mul", one.unsqueeze(-1), two.unsqueeze(0)))


@handles("linear")
def _linear(algebra: Algebra, given: dict[str, Any]) -> Any:
    bias = given.get("bias")
    weight = number(algebra, given["weight"])
    return shadow(algebra, algebra.matmul(
        number(algebra, given["input"]), weight.transpose(0, 1) if weight.ndim == 2 else weight,
        None if bias is None else number(algebra, bias)))


@handles("addmm", "baddbmm")
def _addmm(algebra: Algebra, given: dict[str, Any]) -> Any:
    if given.get("beta", 1) != 1 or given.get("alpha", 1) != 1:
        raise Unsupported("addmm with factors")
    x = number(algebra, given.get("mat1", given.get("batch1")))
    y = number(algebra, given.get("mat2", given.get("batch2")))
    return shadow(algebra, algebra.matmul(x, y, number(algebra, given["self"])))


def _reduction(mean: bool) -> Callable[[Algebra, dict[str, Any]], Any]:
    def run(algebra: Algebra, given: dict[str, Any]) -> Any:
        if given.get("dtype") not in (None, algebra.dtype):
            raise Unsupported("a sum in another dtype")
        dims = given.get("dim")
        dims = [] if dims is None else [dims] if isinstance(dims, int) else list(dims)
        ids = number(algebra, given["self"])
        return shadow(algebra, algebra.reduce(ids, dims, bool(given.get("keepdim")), mean))

    return run


handles("sum")(_reduction(False))
handles("mean")(_reduction(True))


@handles("softmax", "_softmax")
def _softmax(algebra: Algebra, given: dict[str, Any]) -> Any:
    if given.get("half_to_float") or given.get("dtype") not in (None, algebra.dtype):
        raise Unsupported("a softmax in another dtype")
    return shadow(algebra, algebra.softmax(number(algebra, given["self"]), given["dim"]))
