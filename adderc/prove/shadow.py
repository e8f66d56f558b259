"""Interprets an exported graph over scalar nodes.

Takes: an exported program, the nodes of its tokens. Gives: the nodes of the last logits.
May import: prove.algebra, prove.aten, prove.aten_blocks, prove.aten_complex,
prove.aten_steps, prove.doubt, prove.kernel, prove.scalars, prove.shades.

Every floating-point tensor, and every integer tensor that depends on a token, is a `Shadow`:
an int64 tensor of node numbers of the same shape. Operations that only move numbers run as
torch runs them, on the node numbers, so views, slices and writes in place alias as they do in
the module. Integers and booleans that no token reaches are computed by torch itself.
"""

from __future__ import annotations

import operator
import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import adderc.prove.aten_blocks
import adderc.prove.aten_steps  # noqa: F401  (registers its handlers)
from adderc.prove.algebra import Algebra
from adderc.prove.aten import (
    ARITHMETIC,
    EMPTY,
    INDEX_ARGUMENTS,
    MOVES,
    VALUE_OF_INTEGERS,
)
from adderc.prove.aten_complex import COMPLEX, pairs_of
from adderc.prove.doubt import Doubt, Unsupported
from adderc.prove.kernel import Kernel
from adderc.prove.scalars import Roots
from adderc.prove.shades import Shadow, lifted

_PLAIN = {operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod,
          operator.neg, operator.getitem, operator.eq, operator.ne, operator.lt, operator.le,
          operator.gt, operator.ge, operator.pow, operator.truediv, operator.and_, operator.or_,
          torch.sym_max, torch.sym_min, torch.sym_int, torch.sym_float, torch.sym_not,
          torch.sym_ite}
DEEPEST = 50_000  # nested promises, a few frames for each operation on the way
_IGNORED = {"_assert_tensor_metadata", "_assert_scalar", "sym_constrain_range",
            "sym_constrain_range_for_size"}


@dataclass
class Interpreter:
    """Runs graphs with one algebra; parameters keep their nodes from run to run.

    `kernel`, if any, knows what torch computes at the nodes that depend on no token.
    """

    algebra: Algebra
    kernel: Kernel | None = None

    def __post_init__(self) -> None:
        self._lifted: dict[int, tuple[Tensor, Tensor]] = {}
        self._node: Any = None  # of the graph, whose call is under way

    def run(self, program: Any, tokens: Tensor) -> Roots:
        """Nodes of the last position's logits [V] for the token nodes [1, T]."""
        signature = program.graph_signature
        inputs: list[Any] = []
        states: list[tuple[Any, Tensor]] = []
        for spec in signature.input_specs:
            kind = spec.kind.name
            if kind == "USER_INPUT":
                inputs.append(Shadow(tokens.clone(), torch.int64))
                continue
            if kind in ("PARAMETER", "BUFFER"):
                tensor = program.state_dict[spec.target] if spec.target in program.state_dict \
                    else program.constants[spec.target]
            elif kind == "CONSTANT_TENSOR":
                tensor = program.constants[spec.target]
            else:
                raise Unsupported(f"an input of kind {kind}")
            value = self._state(tensor)
            states.append((value, _copy(value)))
            inputs.append(value)
        if any(spec.kind.name != "USER_OUTPUT" for spec in signature.output_specs):
            raise Unsupported("the module changes its own state")
        before = sys.getrecursionlimit()
        sys.setrecursionlimit(max(before, DEEPEST))
        try:
            row = self._last(self.run_graph(program.graph_module, inputs))
        finally:
            sys.setrecursionlimit(before)
        self.algebra.forget()
        if not all(_same(value, old) for value, old in states):
            raise Unsupported("the module changes its own state")
        return self.algebra.graph.roots(row)

    def _state(self, tensor: Tensor) -> Any:
        if not (tensor.is_floating_point() or tensor.is_complex()):
            return tensor.detach().clone()
        if tensor.is_complex():
            return pairs_of(self.algebra, self._state(tensor.real).ids,
                            self._state(tensor.imag).ids)
        self._check_dtype(tensor.dtype)
        known = self._lifted.get(id(tensor))
        if known is None:
            known = (tensor, self.algebra.lift(tensor))
            self._lifted[id(tensor)] = known
        return Shadow(known[1].clone(), tensor.dtype)

    def _check_dtype(self, dtype: torch.dtype) -> None:
        if dtype.is_complex or (dtype.is_floating_point and dtype != self.algebra.dtype):
            raise Unsupported(f"{dtype} numbers in a {self.algebra.dtype} module")

    def _last(self, outputs: Any) -> list[int]:
        found = pytree.tree_leaves(outputs)
        logits = found[0] if found else None
        if not isinstance(logits, Shadow) or logits.ids.ndim not in (2, 3):
            raise Unsupported("the module returns no logits [1, T, V] that depend on the tokens")
        if logits.dtype != self.algebra.dtype:
            raise Unsupported("the logits are no floating-point numbers of the module's dtype")
        ids = logits.ids[:, -1] if logits.ids.ndim == 3 else logits.ids
        return self.algebra.resolved(ids[0])

    # ------------------------------------------------------------ graphs

    def run_graph(self, graph_module: Any, inputs: list[Any]) -> Any:
        """The outputs of a graph for its placeholders' values."""
        env: dict[Any, Any] = {}
        given = iter(inputs)
        for node in graph_module.graph.nodes:
            if node.op == "placeholder":
                env[node] = next(given)
            elif node.op == "get_attr":
                env[node] = self._attribute(graph_module, node.target)
            elif node.op == "output":
                return _fetch(node.args[0], env)
            else:
                self._node = node
                try:
                    value = self.call(
                        node.target, _fetch(node.args, env), _fetch(node.kwargs, env))
                    _check_like(value, node.meta.get("val"))
                    env[node] = _laid_out(node, value)
                except Doubt as doubt:
                    raise type(doubt)(f"{doubt}, at {node.name}") from None
        raise Unsupported("a graph with no output")

    def _attribute(self, graph_module: Any, target: str) -> Any:
        value = graph_module
        for part in target.split("."):
            value = getattr(value, part)
        return self._state(value) if isinstance(value, Tensor) else value

    def call(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target in _PLAIN:
            if any(isinstance(a, Shadow) for a in args):
                raise Unsupported("control flow or Python arithmetic on values of tokens")
            return target(*args)
        if isinstance(target, torch._ops.HigherOrderOperator):
            return self._higher_order(str(target), args, kwargs)
        if not isinstance(target, torch._ops.OpOverload):
            raise Unsupported(f"a call of {target}")
        name = target._schema.name.split("::")[-1]
        if name in _IGNORED:
            return None
        if name == "_assert_async":
            if isinstance(args[0], Shadow) or not bool(args[0].all()):
                raise Unsupported("a branch or an assertion on values of tokens")
            return None
        if name in ("sym_size", "sym_numel", "sym_stride"):
            value = args[0].ids if isinstance(args[0], Shadow) else args[0]
            return {"sym_size": lambda: value.shape[args[1]],
                    "sym_numel": lambda: value.numel(),
                    "sym_stride": lambda: value.stride(args[1])}[name]()
        if torch.Tag.nondeterministic_seeded in target.tags and not _calm(name, args):
            raise Unsupported(f"the random operation {name}")
        return self._aten(target, name, args, kwargs)

    def _higher_order(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if "wrap_with_set_grad_enabled" in name:
            return self.run_graph(args[1], list(args[2:]))
        raise Unsupported(f"control flow or a region of kind {name}")

    def _aten(self, target: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        in_place = name.endswith("_") and not name.endswith("__") and target._schema.is_mutable
        plain = name[:-1] if in_place else name
        leaves = pytree.tree_leaves((args, kwargs))
        shadowed = any(isinstance(leaf, Shadow) for leaf in leaves)
        if any(isinstance(leaf, Shadow) and leaf.dtype.is_complex for leaf in leaves):
            return self._complex(target, name, args, kwargs)
        if plain in ARITHMETIC and (shadowed or plain not in VALUE_OF_INTEGERS):
            result = ARITHMETIC[plain](self.algebra, target, args, kwargs)
            if self.kernel is not None and isinstance(result, Shadow) and (
                    not result.dtype.is_complex):
                result = Shadow(self.kernel.settled(
                    self.algebra, self._node, plain, (args, kwargs), result.ids), result.dtype)
            return self._write(args[0], result) if in_place else result
        if plain in MOVES and shadowed:
            return self._move(target, plain, in_place, args, kwargs)
        if shadowed:
            raise Unsupported(f"the operation {name} on values of tokens")
        if in_place or any(arg.alias_info is not None and arg.alias_info.is_write
                           for arg in target._schema.arguments):
            if name not in ("copy_", "detach_", "fill_", "zero_", "masked_fill_", "index_put_",
                            "add_", "mul_", "sub_"):
                raise Unsupported(f"the operation {name}")
            return target(*args, **kwargs)
        return self._concrete(target, name, args, kwargs)

    def _complex(self, target: Any, name: str, args: tuple[Any, ...],
                 kwargs: dict[str, Any]) -> Any:
        """Products and parts of complex numbers, and movements of nothing else."""
        if name in COMPLEX:
            return COMPLEX[name](self.algebra, target, args, kwargs)
        numbers = {arg.name for arg in target._schema.arguments if str(arg.type) == "number"}
        given = dict(zip((arg.name for arg in target._schema.arguments), args, strict=False))
        given.update(kwargs)
        places = [given.pop(key) for key in INDEX_ARGUMENTS & given.keys()]
        if name not in MOVES or numbers or any(
                isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(given)) or any(
                isinstance(leaf, Shadow) for leaf in pytree.tree_leaves(places)):
            raise Unsupported(f"the operation {name} on complex numbers")
        return self._move(target, name, False, args, kwargs)

    def _concrete(self, target: Any, name: str, args: Any, kwargs: Any) -> Any:
        """torch's own value of integers and booleans; floats only where they are exact."""
        result = target(*args, **kwargs)
        leaves = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
        if name in EMPTY:
            if not result.is_floating_point():
                raise Unsupported("uninitialised integers")
            self._check_dtype(result.dtype)
            return Shadow(self.algebra.lift(torch.full_like(result, float("nan"))), result.dtype)
        if any(leaf.is_floating_point() or leaf.is_complex() for leaf in leaves):
            if name not in VALUE_OF_INTEGERS:
                raise Unsupported(f"{name} of constants")
            return lifted(result, self.algebra, self._check_dtype)
        return result

    def _move(self, target: Any, name: str, in_place: bool, args: Any, kwargs: Any) -> Any:
        """A movement, run on node numbers: data as nodes, indices as they are."""
        given = dict(zip((arg.name for arg in target._schema.arguments), args, strict=False))
        given.update(kwargs)
        if given.get("accumulate") or "reduce" in given or given.get("train"):
            raise Unsupported(f"the operation {name} with arithmetic in it")
        if name == "index" and isinstance(given["indices"][0], Shadow):
            return self._look_up(given["self"], given["indices"])
        data = {key: value for key, value in given.items() if key not in INDEX_ARGUMENTS}
        dtypes = {leaf.dtype for leaf in pytree.tree_leaves(data) if isinstance(leaf, Shadow)}
        if len(dtypes) != 1:
            raise Unsupported(f"{name} of an index or of several types that depend on tokens")
        dtype = dtypes.pop()
        scalars = {arg.name for arg in target._schema.arguments if str(arg.type) == "number"}
        for key, value in given.items():
            if key in INDEX_ARGUMENTS:
                if any(isinstance(leaf, Shadow) for leaf in pytree.tree_leaves(value)):
                    raise Unsupported(f"{name} at places that depend on tokens")
                continue
            if key in scalars and value is not None:
                value = self.algebra.constant(value)
            given[key] = pytree.tree_map(lambda leaf: self._data(leaf, dtype), value,
                                         is_leaf=_is_shadow)
        result = target(**given)
        if in_place:
            return args[0]
        return pytree.tree_map(lambda t: Shadow(t, dtype) if isinstance(t, Tensor) else t, result)

    def _data(self, leaf: Any, dtype: torch.dtype) -> Any:
        if isinstance(leaf, Shadow):
            return leaf.ids
        if isinstance(leaf, Tensor):
            if leaf.is_floating_point() or (leaf.dtype == torch.bool) != (dtype == torch.bool):
                raise Unsupported("constants of another type among values of tokens")
            return self.algebra.lift(leaf)
        return leaf

    def _look_up(self, table: Any, indices: Any) -> Any:
        """table[tokens]: rows of a table of constants."""
        if len(indices) != 1 or not isinstance(table, Shadow) or table.ids.ndim not in (1, 2):
            raise Unsupported("an index of several tokens")
        if indices[0].dtype == torch.bool:
            raise Unsupported("a mask that depends on tokens")
        columns = table.ids.reshape(table.ids.shape[0], -1).T.tolist()
        rows = [[self.algebra.pick(token, column) for column in columns]
                for token in indices[0].ids.reshape(-1).tolist()]
        shape = (*indices[0].ids.shape, *table.ids.shape[1:])
        return Shadow(torch.tensor(rows, dtype=torch.int64).reshape(shape), table.dtype)

    def _write(self, target: Any, result: Any) -> Any:
        if not isinstance(target, Shadow):
            raise Unsupported("values of tokens written into a constant tensor")
        if not isinstance(result, Shadow) or result.dtype != target.dtype:
            raise Unsupported("a write that changes the type")
        target.ids.copy_(result.ids)
        return target


def _check_like(value: Any, expected: Any) -> None:
    """Unsupported unless every tensor has the dtype, and where known the shape, of the export."""
    wanted = [leaf for leaf in pytree.tree_leaves(expected) if isinstance(leaf, Tensor)]
    found = [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, (Tensor, Shadow))]
    if len(wanted) != len(found):
        raise Unsupported("a result of another kind than exported")
    for leaf, model in zip(found, wanted, strict=True):
        shape = leaf.ids.shape if isinstance(leaf, Shadow) else leaf.shape
        same = len(shape) == model.ndim and all(
            not isinstance(size, int) or size == own
            for own, size in zip(shape, model.shape, strict=True))
        if leaf.dtype != model.dtype or not same:
            raise Unsupported(f"{model.dtype} numbers where {leaf.dtype} are modelled")


def _laid_out(node: Any, value: Any) -> Any:
    """A new tensor with its axes in memory as in the module, so that views of it are possible."""
    model = node.meta.get("val")
    if not isinstance(value, Shadow) or not isinstance(model, Tensor) or not isinstance(
            node.target, torch._ops.OpOverload) or any(
            output.alias_info is not None for output in node.target._schema.returns):
        return value
    strides = [getattr(getattr(stride, "node", None), "hint", stride) for stride in model.stride()]
    order = sorted(range(model.ndim), key=lambda axis: -strides[axis])  # stable
    if order == list(range(model.ndim)):
        return value
    back = sorted(range(model.ndim), key=order.__getitem__)
    return Shadow(value.ids.permute(order).contiguous().permute(back), value.dtype)


def _calm(name: str, args: tuple[Any, ...]) -> bool:
    """Whether a random operation is switched off: dropout outside training."""
    if name == "dropout":
        return len(args) > 2 and args[2] is False
    return name == "scaled_dot_product_attention"


def _is_shadow(value: Any) -> bool:
    return isinstance(value, Shadow)


def _fetch(value: Any, env: dict[Any, Any]) -> Any:
    return torch.fx.node.map_arg(value, lambda node: env[node])


def _copy(value: Any) -> Any:
    return value.ids.clone() if isinstance(value, Shadow) else value.clone()


def _same(value: Any, before: Tensor) -> bool:
    return bool(torch.equal(value.ids if isinstance(value, Shadow) else value, before))
