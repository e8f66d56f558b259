"""The checker's own reading of an exported graph: arrays of terms.

Takes: an exported program, terms for its tokens. Gives: `read_logits`, the terms of the last
position's logits; `Term`; `NotUnderstood`.
May import: the standard library, numpy, torch.

Floating-point tensors are numpy object arrays of terms, integers and booleans plain numpy
arrays. Only operations without writes in place are read; anything else is refused.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

Array = np.ndarray


class NotUnderstood(Exception):
    """The checker cannot follow this; the certificate is refused."""


class Term:
    """One computed number: what is done, with which terms, and a datum."""

    __slots__ = ("args", "data", "number", "op")
    counter = itertools.count()

    def __init__(self, op: str, args: tuple[Term, ...] = (), data: Any = None) -> None:
        self.op, self.args, self.data, self.number = op, args, data, next(Term.counter)


class Reader:
    """Reads graphs in one dtype; constants become terms when they are first seen."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype, self._kept = dtype, {}  # type: ignore[var-annotated]
        self.kind = np.float32 if dtype == torch.float32 else np.float64

    # ------------------------------------------------------------ driving

    def read_logits(self, program: Any, tokens: Sequence[Term]) -> list[Term]:
        env: dict[Any, Any] = {}
        values = iter([self._input(spec, program, tokens)
                       for spec in program.graph_signature.input_specs])
        if any(spec.kind.name != "USER_OUTPUT" for spec in program.graph_signature.output_specs):
            raise NotUnderstood("a module that changes its state")
        for node in program.graph_module.graph.nodes:
            if node.op == "placeholder":
                env[node] = next(values)
            elif node.op == "call_function":
                args = torch.fx.node.map_arg(node.args, env.__getitem__)
                kwargs = torch.fx.node.map_arg(node.kwargs, env.__getitem__)
                env[node] = self._checked(node, self._call(node.target, args, kwargs))
            elif node.op == "output":
                return self._last(torch.fx.node.map_arg(node.args[0], env.__getitem__))
            else:
                raise NotUnderstood(f"a node of kind {node.op}")
        raise NotUnderstood("a graph with no output")

    def _input(self, spec: Any, program: Any, tokens: Sequence[Term]) -> Any:
        if spec.kind.name == "USER_INPUT":
            row = np.empty((1, len(tokens)), dtype=object)
            row[0, :] = list(tokens)
            return row
        source = program.state_dict if spec.target in program.state_dict else program.constants
        tensor = source[spec.target].detach()
        if not tensor.is_floating_point():
            return tensor.numpy()
        if tensor.dtype != self.dtype:
            raise NotUnderstood(f"numbers of {tensor.dtype}")
        if spec.target not in self._kept:
            self._kept[spec.target] = self.lift(tensor.numpy())
        return self._kept[spec.target]

    def lift(self, numbers: Array) -> Array:
        """Terms of the numbers of an array, as the module's dtype holds them."""
        terms = np.empty(numbers.shape, dtype=object)
        for index in np.ndindex(numbers.shape):
            terms[index] = Term("constant", (), float(self.kind(numbers[index])))
        return terms

    def _last(self, outputs: Any) -> list[Term]:
        logits = outputs[0] if isinstance(outputs, (tuple, list)) else outputs
        if not _is_float(logits) or logits.ndim not in (2, 3):
            raise NotUnderstood("an output that is no logits")
        row = logits[0, -1] if logits.ndim == 3 else logits[0]
        return list(row)

    def _checked(self, node: Any, value: Any) -> Any:
        """The value, after comparing type and shape with the export's own record."""
        model = node.meta.get("val")
        if isinstance(model, torch.Tensor):
            if not isinstance(value, np.ndarray) or model.ndim != value.ndim:
                raise NotUnderstood(f"the result of {node.target}")
            if model.dtype.is_floating_point != _is_float(value) or (
                    model.dtype.is_floating_point and model.dtype != self.dtype):
                raise NotUnderstood(f"a result of type {model.dtype}")
            for size, own in zip(model.shape, value.shape, strict=True):
                if isinstance(size, int) and size != own:
                    raise NotUnderstood(f"the shape of {node.target}")
        return value

    def _call(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target in _PYTHON:
            return target(*args)
        if not isinstance(target, torch._ops.OpOverload):
            raise NotUnderstood(f"the call {target}")
        name = str(target)
        if name.startswith("aten._assert") or name.startswith("aten.sym_constrain"):
            return None
        known = OPERATIONS.get(name.split(".")[1] if name.startswith("aten.") else name)
        if known is None or (target._schema.is_mutable):
            raise NotUnderstood(f"the operation {name}")
        names = [argument.name for argument in target._schema.arguments]
        given = {a.name: a.default_value for a in target._schema.arguments
                 if a.has_default_value()}
        given.update(zip(names, args, strict=False))
        return known(self, {**given, **kwargs})

    # ------------------------------------------------------------ numbers

    def terms(self, value: Any) -> Array:
        """A value as terms: numbers and integer arrays become constants of the dtype."""
        if _is_float(value):
            return np.asarray(value)
        return self.lift(np.asarray(value))

    def each(self, op: str, *values: Any) -> Array:
        """An operation element by element, with broadcasting."""
        arrays = np.broadcast_arrays(*(self.terms(value) for value in values))
        found = np.empty(arrays[0].shape, dtype=object)
        for index in np.ndindex(found.shape):
            chosen: tuple[Any, ...] = tuple(array[index] for array in arrays)
            found[index] = Term(op, chosen)
        return found

    def products(self, left: Array, right: Array) -> Array:
        """left [..., I, K] times right [..., K, J]."""
        vector_left, vector_right = left.ndim == 1, right.ndim == 1
        left = left[None] if vector_left else left
        right = right[:, None] if vector_right else right
        batch = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
        left = np.broadcast_to(left, (*batch, *left.shape[-2:]))
        right = np.broadcast_to(right, (*batch, *right.shape[-2:]))
        found = np.empty((*batch, left.shape[-2], right.shape[-1]), dtype=object)
        for index in np.ndindex(found.shape):
            *where, row, column = index
            x, y = left[(*where, row)], right[(*where, slice(None), column)]
            found[index] = Term("sum", tuple(itertools.chain.from_iterable(
                zip(x, y, strict=True))))
        found = found[..., 0, :] if vector_left else found
        return found[..., 0] if vector_right else found


def _is_float(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == object


_PYTHON = {operator.add, operator.sub, operator.mul, operator.floordiv, operator.getitem,
           operator.neg, operator.mod, operator.eq, operator.ne, operator.lt, operator.le,
           operator.gt, operator.ge, operator.and_}
Operation = Callable[[Reader, dict[str, Any]], Any]
OPERATIONS: dict[str, Operation] = {}


def reads(*names: str) -> Callable[[Operation], Operation]:
    def register(function: Operation) -> Operation:
        for name in names:
            OPERATIONS[name] = function
        return function

    return register


# ---------------------------------------------------------------- shapes


@reads("sym_size")
def _size(reader: Reader, given: dict[str, Any]) -> Any:
    return given["self"].shape[given["dim"]]


@reads("alias", "clone", "contiguous", "detach", "lift_fresh_copy", "lift_fresh", "positive")
def _same(reader: Reader, given: dict[str, Any]) -> Any:
    return given["self"]


@reads("view", "reshape", "_unsafe_view")
def _reshape(reader: Reader, given: dict[str, Any]) -> Any:
    return given["self"].reshape(given.get("size", given.get("shape")))


@reads("flatten")
def _flatten(reader: Reader, given: dict[str, Any]) -> Any:
    x = given["self"]
    first, last = given["start_dim"] % x.ndim, given["end_dim"] % x.ndim
    return x.reshape(*x.shape[:first], -1, *x.shape[last + 1 :])


@reads("unflatten")
def _unflatten(reader: Reader, given: dict[str, Any]) -> Any:
    x, dim = given["self"], given["dim"] % given["self"].ndim
    return x.reshape(*x.shape[:dim], *given["sizes"], *x.shape[dim + 1 :])


@reads("transpose")
def _transpose(reader: Reader, given: dict[str, Any]) -> Any:
    return np.swapaxes(given["self"], given["dim0"], given["dim1"])


@reads("t", "numpy_T")
def _turned(reader: Reader, given: dict[str, Any]) -> Any:
    return given["self"].T


@reads("permute")
def _permute(reader: Reader, given: dict[str, Any]) -> Any:
    return np.transpose(given["self"], given["dims"])


@reads("unsqueeze")
def _unsqueeze(reader: Reader, given: dict[str, Any]) -> Any:
    return np.expand_dims(given["self"], given["dim"])


@reads("expand")
def _expand(reader: Reader, given: dict[str, Any]) -> Any:
    x, size = given["self"], list(given["size"])
    lead = len(size) - x.ndim
    shape = [x.shape[i - lead] if s == -1 else s for i, s in enumerate(size)]
    return np.broadcast_to(x, shape)


@reads("slice")
def _slice(reader: Reader, given: dict[str, Any]) -> Any:
    where = [slice(None)] * given["self"].ndim
    where[given["dim"]] = slice(given["start"], given["end"], given["step"])
    return given["self"][tuple(where)]


@reads("select")
def _select(reader: Reader, given: dict[str, Any]) -> Any:
    found = np.take(given["self"], [given["index"]], axis=given["dim"])
    return np.squeeze(found, axis=given["dim"])


@reads("unbind")
def _unbind(reader: Reader, given: dict[str, Any]) -> Any:
    x, dim = given["self"], given["dim"]
    return [_select(reader, {"self": x, "dim": dim, "index": i}) for i in range(x.shape[dim])]




def _joined(join: Callable[..., Array]) -> Operation:
    def run(reader: Reader, given: dict[str, Any]) -> Any:
        if len({_is_float(x) for x in given["tensors"]}) != 1:
            raise NotUnderstood("a join of several types")
        return join(given["tensors"], axis=given["dim"])

    return run


OPERATIONS["cat"], OPERATIONS["stack"] = _joined(np.concatenate), _joined(np.stack)


@reads("index_select")
def _index_select(reader: Reader, given: dict[str, Any]) -> Any:
    _known(given["index"])
    return np.take(given["self"], given["index"], axis=given["dim"])


@reads("index_put")
def _index_put(reader: Reader, given: dict[str, Any]) -> Any:
    if given.get("accumulate") or not _is_float(given["values"]) or not _is_float(given["self"]):
        raise NotUnderstood("a write that adds up")
    for index in given["indices"]:
        _known(index)
    result = given["self"].copy()
    result[tuple(given["indices"])] = given["values"]
    return result


def _known(value: Any) -> Any:
    if not isinstance(value, np.ndarray) or value.dtype == object:
        raise NotUnderstood("places or masks that depend on tokens")
    return value


# ---------------------------------------------------------------- creation and choice




def _filled(value: float | None) -> Operation:
    def run(reader: Reader, given: dict[str, Any]) -> Any:
        shape = given["size"] if "size" in given else given["self"].shape
        number = given["fill_value"] if value is None else value
        dtype = given.get("dtype")
        like = given.get("self")
        floating = (dtype.is_floating_point if dtype is not None else
                    _is_float(like) if like is not None else isinstance(number, float))
        if not floating:
            return np.full(shape, int(number))
        return np.full(shape, Term("constant", (), float(reader.kind(number))), dtype=object)

    return run


for _name, _value in {"zeros": 0.0, "ones": 1.0, "full": None, "zeros_like": 0.0,
                      "ones_like": 1.0, "full_like": None}.items():
    OPERATIONS[_name] = _filled(_value)


@reads("arange")
def _arange(reader: Reader, given: dict[str, Any]) -> Any:
    bounds = (given.get("start", 0), given["end"], given.get("step", 1))
    if not all(isinstance(bound, int) for bound in bounds):
        raise NotUnderstood("a range of fractions")
    numbers = np.arange(*bounds)
    dtype = given.get("dtype")
    return reader.lift(numbers) if dtype is not None and dtype.is_floating_point else numbers


@reads("embedding")
def _embedding(reader: Reader, given: dict[str, Any]) -> Any:
    table, tokens = given["weight"], given["indices"]
    found = np.empty((*tokens.shape, table.shape[1]), dtype=object)
    for index in np.ndindex(tokens.shape):
        token = tokens[index]
        if not isinstance(token, Term) or token.op not in ("token", "known token"):
            raise NotUnderstood("an index computed from tokens")
        for column in range(table.shape[1]):
            found[(*index, column)] = Term("look up", (token, *table[:, column]))
    return found


@reads("masked_fill")
def _masked_fill(reader: Reader, given: dict[str, Any]) -> Any:
    return np.where(_known(given["mask"]), reader.terms(given["value"]), given["self"])


@reads("where")
def _where(reader: Reader, given: dict[str, Any]) -> Any:
    return np.where(_known(given["condition"]), reader.terms(given["self"]),
                    reader.terms(given["other"]))


@reads("to", "_to_copy")
def _to(reader: Reader, given: dict[str, Any]) -> Any:
    dtype, value = given.get("dtype"), given["self"]
    if dtype is None or (dtype == reader.dtype and _is_float(value)):
        return value
    if dtype == reader.dtype:
        return reader.lift(value)
    if not _is_float(value) and not dtype.is_floating_point:
        return value.astype(bool) if dtype == torch.bool else value.astype(np.int64)
    raise NotUnderstood(f"a conversion to {dtype}")


# ---------------------------------------------------------------- arithmetic


_INTEGER = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "ge": np.greater_equal,
            "gt": np.greater, "le": np.less_equal, "lt": np.less, "eq": np.equal,
            "ne": np.not_equal, "bitwise_and": np.bitwise_and, "bitwise_or": np.bitwise_or,
            "logical_and": np.logical_and, "logical_or": np.logical_or, "rsub": None}


def _binary(name: str) -> Operation:
    def run(reader: Reader, given: dict[str, Any]) -> Any:
        x, y = given["self"], given["other"]
        if given.get("alpha", 1) != 1:
            raise NotUnderstood("a scaled addition")
        if name == "rsub":
            x, y = y, x
        if not any(_is_float(v) or isinstance(v, float) for v in (x, y)):
            function = _INTEGER["sub" if name == "rsub" else name]
            assert function is not None
            return function(x, y)
        if name not in ("add", "sub", "rsub", "mul"):
            raise NotUnderstood(f"{name} of floating-point numbers")
        return reader.each("sub" if name == "rsub" else name, x, y)

    return run


for _name in _INTEGER:
    OPERATIONS[_name] = _binary(_name)


@reads("bitwise_not", "logical_not")
def _not(reader: Reader, given: dict[str, Any]) -> Any:
    value = _known(given["self"])
    if value.dtype != bool:
        raise NotUnderstood("the complement of integers")
    return ~value


@reads("div")
def _div(reader: Reader, given: dict[str, Any]) -> Any:
    if given.get("rounding_mode") is not None:
        raise NotUnderstood("a rounded division")
    return reader.each("div", given["self"], given["other"])


@reads("pow")
def _pow(reader: Reader, given: dict[str, Any]) -> Any:
    if given["exponent"] != 2 or not _is_float(given["self"]):
        raise NotUnderstood("a power other than the square")
    return reader.each("mul", given["self"], given["self"])


def _unary(name: str) -> Operation:
    return lambda reader, given: reader.each(name, given["self"])


for _name in ("neg", "relu", "exp", "sin", "cos", "tanh", "sigmoid", "silu", "gelu", "rsqrt",
              "sqrt", "reciprocal", "erf", "abs"):
    OPERATIONS[_name] = _unary(_name)


@reads("matmul", "mm", "bmm", "mv")
def _matmul(reader: Reader, given: dict[str, Any]) -> Any:
    other = next(given[k] for k in ("other", "mat2", "vec") if k in given)
    if not _is_float(given["self"]) or not _is_float(other):
        raise NotUnderstood("a product of integers")
    return reader.products(given["self"], other)


@reads("linear")
def _linear(reader: Reader, given: dict[str, Any]) -> Any:
    product = reader.products(given["input"], given["weight"].T)
    bias = given.get("bias")
    if bias is None:
        return product
    one = Term("constant", (), 1.0)
    bias = np.broadcast_to(bias, product.shape)
    found = np.empty(product.shape, dtype=object)
    for index in np.ndindex(found.shape):
        term: Any = product[index]
        addend: Any = bias[index]
        found[index] = Term("sum", (*term.args, addend, one))
    return found




def _reduced(mean: bool) -> Operation:
    def run(reader: Reader, given: dict[str, Any]) -> Any:
        x, dims = given["self"], given.get("dim")
        if not _is_float(x) or given.get("dtype") not in (None, reader.dtype):
            raise NotUnderstood("a sum in another type")
        axes = [d % x.ndim for d in ([dims] if isinstance(dims, int) else dims or range(x.ndim))]
        moved = np.moveaxis(x, axes, range(-len(axes), 0))
        moved = moved.reshape(*moved.shape[: x.ndim - len(axes)], -1)
        count = moved.shape[-1]
        factor = Term("mean of", (), count) if mean else Term("constant", (), 1.0)
        found = np.empty(moved.shape[:-1], dtype=object)
        for index in np.ndindex(found.shape):
            pairs = itertools.chain.from_iterable((term, factor) for term in moved[index])
            found[index] = Term("sum", tuple(pairs))
        return np.expand_dims(found, tuple(axes)) if given.get("keepdim") else found

    return run


OPERATIONS["sum"], OPERATIONS["mean"] = _reduced(False), _reduced(True)


@reads("softmax", "_softmax")
def _softmax(reader: Reader, given: dict[str, Any]) -> Any:
    if given.get("dtype") not in (None, reader.dtype) or given.get("half_to_float"):
        raise NotUnderstood("a softmax in another type")
    moved = np.moveaxis(given["self"], given["dim"], -1)
    found = np.empty(moved.shape, dtype=object)
    for index in np.ndindex(moved.shape[:-1]):
        row = Term("row", tuple(moved[index]))
        for key in range(moved.shape[-1]):
            found[(*index, key)] = Term("weight", (row,), key)
    return np.moveaxis(found, -1, given["dim"])
