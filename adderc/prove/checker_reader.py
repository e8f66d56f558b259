"""The checker's own reading of an exported graph: tensors of terms.

Takes: an exported program, terms for its tokens. Gives: `Reader.read_logits`, the terms of
the last position's logits; `Term`; `Terms`; `NotUnderstood`.
May import: the standard library, numpy, torch; prove.checker_operations fills `OPERATIONS`.

A tensor of floating-point numbers, or of integers that depend on tokens, is `Terms`: an int64
tensor of term numbers. What only moves numbers is run by torch on the term numbers; integers
that no token reaches are computed by torch. Graphs that write in place are first made
functional by torch.export. A number from 2^32 on is a promise: its term is made when the last
logits need it.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree


class NotUnderstood(Exception):
    """The checker cannot follow this; the certificate is refused."""


class Term:
    """One computed number: what is done, with which terms, and a datum.

    `sees` has bit p set where the token at position p matters.
    """

    __slots__ = ("args", "data", "number", "op", "sees")

    def __init__(self, number: int, op: str, args: tuple[Term, ...], data: Any) -> None:
        self.number, self.op, self.args, self.data = number, op, args, data
        self.sees = 1 << data if op == "token" else 0
        for arg in args:
            self.sees |= arg.sees


@dataclass(frozen=True)
class Terms:
    """A tensor: the numbers of its terms, and the type of what they stand for."""

    ids: Tensor
    dtype: torch.dtype


@dataclass(frozen=True)
class Complex:
    """A tensor of complex numbers: both parts."""

    real: Terms
    imaginary: Terms

    @property
    def ids(self) -> Tensor:
        """For its shape; no number here stands for both parts."""
        return self.real.ids

    @property
    def dtype(self) -> torch.dtype:
        return torch.complex64 if self.real.dtype == torch.float32 else torch.complex128


Operation = Callable[["Reader", dict[str, Any]], Any]
OPERATIONS: dict[str, Operation] = {}
MOVES = frozenset((
    "_unsafe_view", "alias", "broadcast_to", "cat", "chunk", "clone", "concat", "concatenate",
    "constant_pad_nd", "contiguous", "copy", "detach", "diagonal", "expand", "expand_as",
    "flatten", "flip", "gather", "hstack", "index", "index_put", "index_select", "lift_fresh",
    "lift_fresh_copy", "mT", "masked_fill", "movedim", "narrow", "numpy_T", "permute",
    "positive", "repeat", "repeat_interleave", "reshape", "roll", "scatter", "select",
    "select_scatter", "slice", "slice_scatter", "split", "split_with_sizes", "squeeze", "stack",
    "swapaxes", "t", "tile", "transpose", "unbind", "unflatten", "unfold", "unsqueeze", "view",
    "vstack", "where",
))
MOVES_OF_ONE = frozenset((
    "alias", "clone", "contiguous", "detach", "expand", "flatten", "permute", "reshape",
    "select", "slice", "squeeze", "t", "transpose", "unflatten", "unsqueeze", "view",
))
PLACES = frozenset(("condition", "index", "indices", "mask", "repeats"))  # where, not what
CREATIONS = frozenset((
    "arange", "empty", "eye", "full", "full_like", "lift_fresh_copy", "masked_fill", "new_full",
    "new_ones", "new_zeros", "one_hot", "ones", "ones_like", "scalar_tensor", "to", "_to_copy",
    "tril", "triu", "where", "zeros", "zeros_like",
))
_PYTHON = {operator.add, operator.sub, operator.mul, operator.floordiv, operator.getitem,
           operator.neg, operator.mod, operator.eq, operator.ne, operator.lt, operator.le,
           operator.gt, operator.ge, operator.and_, operator.or_, operator.pow,
           operator.truediv, torch.sym_float, torch.sym_int, torch.sym_max, torch.sym_min,
           torch.sym_not, torch.sym_ite}
_CHECKS = ("_assert", "sym_constrain")
COMMUTATIVE = frozenset(("add", "max", "mul"))  # equal numbers in either order
SETTLED = frozenset((  # equal arguments give equal numbers, wherever they are computed
    "abs", "add", "constant", "integer", "integers", "inverse of", "look up", "max", "mul",
    "neg", "nonnegative", "relu", "sub", "token", "weight",
))
_PROMISE = 32  # bits of a place within a promise


class Reader:
    """Reads graphs in one dtype. Equal terms are one term, from graph to graph.

    Within a graph, sums and functions that are computed in two places stay two terms: their
    order of summation or their kernel may differ, and so may their rounding.
    """

    def __init__(self, dtype: torch.dtype, tokens_at: Callable[[int], int]) -> None:
        self.dtype, self.tokens_at = dtype, tokens_at
        self.kind = np.float32 if dtype == torch.float32 else np.float64
        self.every: list[Term] = []
        self.kernel: Any = None  # what torch computes for constants, where that is certified
        self._known: dict[Any, Term] = {}
        self._lifted: dict[int, tuple[Tensor, Terms]] = {}
        self._makers: list[Callable[[int], Term]] = []
        self._made: dict[int, Term] = {}
        self._places: dict[Any, int] = {}  # how often a term was made in this graph

    # ------------------------------------------------------------ terms

    def term(self, op: str, args: Sequence[Term] = (), data: Any = None) -> Term:
        if op in COMMUTATIVE:
            args = sorted(args, key=lambda arg: arg.number)
        key: Any = (op, tuple(arg.number for arg in args), data)
        if op not in SETTLED:
            before = self._places.get(key, 0)
            self._places[key] = before + 1
            key = (*key, before)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = Term(len(self.every), op, tuple(args), data)
            self.every.append(found)
        return found

    def constant(self, value: float) -> Term:
        """A number as the module's dtype holds it."""
        return self.term("constant", (), float(self.kind(value)))

    def lift(self, tensor: Tensor) -> Terms:
        """Terms of the numbers of a tensor."""
        numbers = [self.constant(v).number for v in tensor.detach().reshape(-1).tolist()]
        return Terms(torch.tensor(numbers, dtype=torch.int64).reshape(tensor.shape), self.dtype)

    def promise(self, shape: Sequence[int], make: Callable[[int], Term],
                dtype: torch.dtype | None = None) -> Terms:
        """A tensor whose flat place i is the term make(i), made when it is needed."""
        self._makers.append(make)
        first = len(self._makers) << _PROMISE
        count = int(np.prod(shape, dtype=np.int64))
        ids = torch.arange(first, first + count, dtype=torch.int64).reshape(tuple(shape))
        return Terms(ids, dtype or self.dtype)

    def at(self, number: int) -> Term:
        """The term of a number, made now if it is a promise."""
        maker = number >> _PROMISE
        if not maker:
            return self.every[number]
        found = self._made.get(number)
        if found is None:
            found = self._makers[maker - 1](number & ((1 << _PROMISE) - 1))
            self._made[number] = found
        return found

    def numbers(self, value: Any) -> Tensor:
        """The term numbers of a value: floats, or integers as numbers of the dtype."""
        if isinstance(value, Terms):
            if value.dtype == self.dtype:
                return value.ids
            if value.dtype.is_floating_point:
                raise NotUnderstood(f"numbers of {value.dtype}")
            return self.chosen(value, lambda v: self.constant(v)).ids
        if isinstance(value, Tensor):
            if value.is_floating_point() or (value.numel() and int(value.abs().max()) > 2**24):
                raise NotUnderstood("constants whose conversion may round")
            return self.lift(value).ids
        return torch.tensor(self.constant(value).number)

    def whole(self, value: Any) -> Tensor:
        """The term numbers of integers."""
        if isinstance(value, Terms):
            return value.ids
        value = value if isinstance(value, Tensor) else torch.tensor(value)
        numbers = [self.term("integer", (), int(v)).number for v in value.reshape(-1).tolist()]
        return torch.tensor(numbers, dtype=torch.int64).reshape(value.shape)

    def values_of(self, term: Term) -> tuple[Term | None, tuple[int, ...]]:
        """The token an integer depends on (None: none) and its value for each."""
        if term.op == "integer":
            return None, (term.data,)
        if term.op == "integers":
            return term.args[0], term.data
        if term.op != "token":
            raise NotUnderstood("an integer computed from values of several tokens")
        return term, tuple(range(self.tokens_at(term.data)))

    def chosen(self, index: Terms, entry: Callable[[int], Term]) -> Terms:
        """entry(v) for each integer v, as a table by token where it depends on one."""
        flat = index.ids.reshape(-1).tolist()

        def make(i: int) -> Term:
            token, values = self.values_of(self.at(flat[i]))
            entries = [entry(value) for value in values]
            return entries[0] if token is None else self.term("look up", (token, *entries))

        return self.promise(index.ids.shape, make)

    # ------------------------------------------------------------ driving

    def read_logits(self, program: Any, tokens: Sequence[Term]) -> list[Term]:
        env: dict[Any, Any] = {}
        self._makers, self._made, self._places = [], {}, {}
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
                env[node] = self._call(node.target, args, kwargs)
                if self.kernel is not None:
                    env[node] = self.kernel.settled(self, node, (args, kwargs), env[node])
                self._check(node, env[node])
            elif node.op == "output":
                return self._last(torch.fx.node.map_arg(node.args[0], env.__getitem__))
            else:
                raise NotUnderstood(f"a node of kind {node.op}")
        raise NotUnderstood("a graph with no output")

    def _input(self, spec: Any, program: Any, tokens: Sequence[Term]) -> Any:
        if spec.kind.name == "USER_INPUT":
            return Terms(torch.tensor([[term.number for term in tokens]]), torch.int64)
        source = program.state_dict if spec.target in program.state_dict else program.constants
        tensor = source[spec.target]
        if tensor.is_complex():
            parts = [part.contiguous() for part in (tensor.real, tensor.imag)]
            if parts[0].dtype != self.dtype:
                raise NotUnderstood(f"numbers of {tensor.dtype}")
            return Complex(*(self.lift(part) for part in parts))
        if not tensor.is_floating_point():
            return tensor.detach()
        if tensor.dtype != self.dtype:
            raise NotUnderstood(f"numbers of {tensor.dtype}")
        if id(tensor) not in self._lifted:
            self._lifted[id(tensor)] = (tensor, self.lift(tensor))
        return self._lifted[id(tensor)][1]

    def _last(self, outputs: Any) -> list[Term]:
        logits = next(iter(pytree.tree_leaves(outputs)), None)
        if not isinstance(logits, Terms) or logits.dtype != self.dtype or (
                logits.ids.ndim not in (2, 3)):
            raise NotUnderstood("an output that is no logits")
        row = logits.ids[0, -1] if logits.ids.ndim == 3 else logits.ids[0]
        before = sys.getrecursionlimit()
        sys.setrecursionlimit(max(before, 50_000))
        try:
            return [self.at(number) for number in row.tolist()]
        finally:
            sys.setrecursionlimit(before)

    def _check(self, node: Any, value: Any) -> None:
        """Compare type and shape with the export's own record."""
        models = [leaf for leaf in pytree.tree_leaves(node.meta.get("val"))
                  if isinstance(leaf, Tensor)]
        found = [leaf for leaf in pytree.tree_leaves(value)
                 if isinstance(leaf, (Tensor, Terms, Complex))]
        if len(models) != len(found):
            raise NotUnderstood(f"the result of {node.target}")
        for leaf, model in zip(found, models, strict=True):
            shape = leaf.shape if isinstance(leaf, Tensor) else leaf.ids.shape
            if len(shape) != model.ndim or leaf.dtype != model.dtype or any(
                    isinstance(size, int) and size != own
                    for own, size in zip(shape, model.shape, strict=True)):
                raise NotUnderstood(f"the type or shape of {node.target}")

    def _call(self, target: Any, args: Any, kwargs: Any) -> Any:
        leaves = pytree.tree_leaves((args, kwargs))
        dependent = any(isinstance(leaf, (Terms, Complex)) for leaf in leaves)
        if target in _PYTHON:
            if dependent and target is not operator.getitem:
                raise NotUnderstood("Python arithmetic on values of tokens")
            return target(*args)
        if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
            raise NotUnderstood(f"the call {target}")
        name = target._schema.name.split("::")[1]
        if name == "_assert_async" and (dependent or not bool(args[0].all())):
            raise NotUnderstood("a branch or an assertion on values of tokens")
        if name.startswith(_CHECKS):
            return None
        if target._schema.is_mutable or (torch.Tag.nondeterministic_seeded in target.tags and (
                name != "scaled_dot_product_attention" and args[2:3] != (False,))):
            raise NotUnderstood(f"the operation {name}")
        if name.startswith("sym_"):
            sizes = args[0] if isinstance(args[0], Tensor) else args[0].ids
            return sizes.numel() if name == "sym_numel" else sizes.shape[args[1]]
        if not dependent:
            return self._plain(target, name, args, kwargs)
        given = {a.name: a.default_value for a in target._schema.arguments
                 if a.has_default_value()}
        given.update(zip((a.name for a in target._schema.arguments), args, strict=False))
        given.update(kwargs)
        if any(isinstance(leaf, Complex) for leaf in leaves):
            return self._on_complex(target, name, given)
        if name in OPERATIONS:
            found = OPERATIONS[name](self, given)
            if found is not NotImplemented:
                return found
        if name not in MOVES:
            raise NotUnderstood(f"the operation {name}")
        return self._move(target, name, given)

    def _on_complex(self, target: Any, name: str, given: dict[str, Any]) -> Any:
        """Products and parts of complex numbers; what moves them moves both parts."""
        if operation := OPERATIONS.get(f"complex {name}"):
            return operation(self, given)
        value, rest = given["self"], pytree.tree_leaves([v for k, v in given.items()
                                                         if k != "self"])
        if name not in MOVES_OF_ONE or not isinstance(value, Complex) or any(
                isinstance(leaf, (Tensor, Terms, Complex)) for leaf in rest):
            raise NotUnderstood(f"{name} of complex numbers")
        return Complex(*(self._move(target, name, {**given, "self": part})
                         for part in (value.real, value.imaginary)))

    def _plain(self, target: Any, name: str, args: Any, kwargs: Any) -> Any:
        """torch's own value where no token has a part: integers, and floats made exactly."""
        result = target(*args, **kwargs)
        tensors = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
        if not any(tensor.is_floating_point() or tensor.is_complex() for tensor in tensors):
            if name.startswith("empty"):
                raise NotUnderstood("uninitialised integers")
            return result
        exact = name != "arange" or all(float(arg).is_integer() for arg in args)
        if not (name in CREATIONS or name in MOVES) or not exact:
            raise NotUnderstood(f"{name} of constants")
        if name == "empty":
            result = torch.full_like(result, float("nan"))
        return self.lift(result) if tensors[0].dtype == self.dtype else result

    def _move(self, target: Any, name: str, given: dict[str, Any]) -> Any:
        """A movement: run by torch on term numbers."""
        data = {key: value for key, value in given.items() if key not in PLACES}
        if name == "expand_as":
            other = data.pop("other")
            given["other"] = other.ids if isinstance(other, Terms) else other
        dtypes = {leaf.dtype for leaf in pytree.tree_leaves(data) if isinstance(leaf, Terms)}
        if len(dtypes) != 1 or given.get("accumulate") or given.get("reduce"):
            raise NotUnderstood(f"{name} of several types, or with arithmetic in it")
        dtype = dtypes.pop()
        numbers = self.numbers if dtype == self.dtype else self.whole
        scalars = {a.name for a in target._schema.arguments
                   if str(a.type) in ("number", "Optional[number]")}
        for key, value in given.items():
            if key in PLACES:
                if any(isinstance(leaf, Terms) for leaf in pytree.tree_leaves(value)):
                    raise NotUnderstood(f"{name} at places that depend on tokens")
            elif key in data:
                if key in scalars and value is not None:
                    given[key] = int(numbers(value))
                    continue
                given[key] = pytree.tree_map(
                    lambda leaf: numbers(leaf) if isinstance(leaf, (Terms, Tensor)) else leaf,
                    value, is_leaf=lambda leaf: isinstance(leaf, Terms))
        if name in ("view", "_unsafe_view") and "size" in given:  # terms have their own strides
            return Terms(given["self"].reshape(given["size"]), dtype)
        result = target(**given)
        return pytree.tree_map(lambda t: Terms(t, dtype) if isinstance(t, Tensor) else t, result)


__all__ = ["OPERATIONS", "Complex", "NotUnderstood", "Operation", "Reader", "Term", "Terms"]
