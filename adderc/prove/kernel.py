"""The numbers that torch really computes here, where no token has a part in them.

Takes: a module, its exported programs, prompts. Gives: `Kernel`.
May import: format, nn.build, nn.greedy, prove.algebra, prove.doubt, prove.kernel_runs,
prove.shades, torch.

A node of the scalar graph that depends on no token has one value, and bounds on its rounding
are wider than that value. Here the graph is run, operation by operation, on real prompts, at
batch 1 and under inference_mode, as the greedy loop runs the module; what comes out at such
a node takes the place of its bounds. This holds for this build, processor and number of
threads, and is taken only where

- every number that the graph computes is one that the module's own run computed: by the same
  operation, from tensors of the same shapes and strides, with the same bits;
- the value has the same bits for every prompt that was run, and with parameters that lie
  elsewhere in memory;
- it is a function of constants alone, all of whose tensors are constant throughout (then the
  same call is made in every run), or an entry of a sum, of a softmax row or of a norm whose
  own terms are all constant: there the order of operations is taken to follow from shapes
  and strides, and not from the numbers beside it. A function of a tensor that holds both
  stays bounded: a kernel may choose another formula for a whole vector by one of its entries;
- at batch 3 the module does the same operations on the same constants.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from adderc.format.prompt import Format
from adderc.nn.build import Build, torch_build
from adderc.nn.greedy import last_logits
from adderc.prove.algebra import Algebra
from adderc.prove.doubt import Unsupported
from adderc.prove.kernel_runs import (
    Record,
    constants,
    digest,
    own_tensors,
    recorded,
    walk,
)
from adderc.prove.shades import Shadow

SUMS = frozenset((
    "__matmul__", "addmm", "baddbmm", "bmm", "cumsum", "dot", "einsum", "inner", "linear",
    "matmul", "mean", "mm", "mv", "sum"))
ROWS = frozenset(("_softmax", "layer_norm", "rms_norm", "softmax"))
FUNCTIONS = frozenset((
    "cos", "div", "divide", "erf", "exp", "gelu", "pow", "reciprocal", "rsqrt", "sigmoid",
    "silu", "sin", "sqrt", "square", "tanh", "true_divide"))
TAKEN = SUMS | ROWS | FUNCTIONS


@dataclass
class Kernel:
    """Values of constant nodes, for one program after the other.

    `digests` say what torch computed at each length where no prompt mattered.
    """

    module: Any
    format: Format
    build: Build = field(default_factory=torch_build)
    digests: dict[int, str] = field(default_factory=dict)
    values: dict[Any, list[Tensor]] = field(default_factory=dict)

    # ------------------------------------------------------------ running

    def open(self, program: Any, length: int) -> None:
        """Run the program at a length; Unsupported where it and the module differ."""
        prompts = canonical(self.format, length)
        runs: list[dict[Any, Tensor]] = []
        own: list[list[Record]] = []
        for tokens in prompts:
            values: dict[Any, Tensor] = {}
            moved: dict[Any, Tensor] = {}
            logits, records = recorded(self.module, tokens)
            through, graph = recorded(lambda t, v=values: walk(program, t, v), tokens)  # type: ignore[misc]
            held = own_tensors(program, 4 * len(runs) + 1)
            with torch.inference_mode():
                plain = last_logits(self.module(tokens))
                walk(program, tokens, moved, held)
            if not all(torch.equal(last_logits(other), plain) for other in (logits, through)):
                raise Unsupported("the graph and the module differ in their last bits")
            known = {record.key for record in records}
            if missing := next((r.name for r in graph if r.key not in known), None):
                raise Unsupported(f"the module does not compute the graph's {missing} as it is")
            runs += [values, moved]
            own.append(records)
        self._batched(prompts, own)
        self.digests[length] = digest(own)
        self.values = {node: [run[node] for run in runs] for node in runs[0]
                       if all(node in run for run in runs)}

    def _batched(self, prompts: Sequence[Tensor], own: list[list[Record]]) -> None:
        """Unsupported unless a batch of the prompts goes the same way, constants included."""
        try:
            _, together = recorded(self.module, torch.cat(list(prompts)))
        except Exception as error:
            raise Unsupported(f"the module fails at batch {len(prompts)}: {error}") from None
        if [r.name for r in together] != [r.name for r in own[0]] or any(
                r.numbers != one.numbers for r, one in zip(together, own[0], strict=True)):
            raise Unsupported("the module does other operations at another batch size")
        for number, (record, one) in enumerate(zip(together, own[0], strict=True)):
            if not constants([run[number] for run in own]).all():
                continue
            copies = max(1, record.value.numel() // max(1, one.value.numel()))
            if copies not in (1, len(prompts)) or not torch.equal(
                    record.value.reshape(copies, -1), one.value.reshape(1, -1).expand(copies, -1)):
                raise Unsupported(f"constants ({one.name}) depend on the batch size")

    # ------------------------------------------------------------ what is said of it

    def premises(self) -> tuple[str, ...]:
        """What a proof of grade kernel takes for granted besides."""
        return (
            "numbers that depend on no token are what torch computed here when the module was "
            "run; they are the same in every run at batch 1 under inference_mode, one sequence "
            "at a time: batched decoding is not covered",
            "the order of operations in a sum, a softmax row or a norm follows from shapes and "
            "strides, not from the numbers beside it",
        )

    def named(self, dtype: torch.dtype) -> str:
        """The build and the shapes that the values hold for, in words."""
        lengths = sorted(self.digests)
        tokens = str(lengths[0]) if len(lengths) == 1 else f"{lengths[0]} to {lengths[-1]}"
        build = self.build
        return (f"torch {build['torch']} on {build['processor']}, threads {build['threads']}, "
                f"{str(dtype).removeprefix('torch.')}, batch 1 of {tokens} tokens")

    def evidence(self) -> dict[str, Any]:
        """The build and a digest of the values at each length, as plain JSON data."""
        return {"build": dict(self.build), "batch": 1,
                "values": {str(length): found for length, found in sorted(self.digests.items())}}

    # ------------------------------------------------------------ what the interpreter asks

    def settled(self, algebra: Algebra, node: Any, name: str, given: tuple[Any, ...],
                ids: Tensor) -> Tensor:
        """The nodes of one result, those that depend on no token at their values.

        `given` are the positional arguments and the others of the call.
        """
        found = self.values.get(node)
        if name not in TAKEN or found is None or found[0].shape != ids.shape:
            return ids
        alone = name in FUNCTIONS or (name.endswith("softmax") and not _by_rows(given, ids))
        if alone and not _constant(algebra, given):
            return ids
        flat, columns = ids.reshape(-1).tolist(), [v.reshape(-1).tolist() for v in found]

        def make(i: int) -> int:
            number, graph = algebra.resolve(flat[i]), algebra.graph
            if graph.depends[number] or graph.op[number] in ("constant", "kernel"):
                return number
            values = {column[i] + 0.0 for column in columns}
            if len(values) > 1:
                raise Unsupported(f"{name} of constants gives other bits for other tokens")
            value = values.pop()
            return graph.node("kernel", (number,), value) if math.isfinite(value) else number

        return algebra.promise(ids.shape, make)


def _by_rows(given: tuple[Any, ...], ids: Tensor) -> bool:
    """Whether a softmax goes along the last axis."""
    args, named = given
    return (args[1] if len(args) > 1 else named.get("dim")) in (-1, ids.ndim - 1)


def _constant(algebra: Algebra, given: tuple[Any, ...]) -> bool:
    """Whether no entry of any argument depends on a token."""
    shadows = [leaf for leaf in pytree.tree_leaves(
        given, is_leaf=lambda v: isinstance(v, Shadow)) if isinstance(leaf, Shadow)]
    return all(algebra.graph.depends[algebra.resolve(number)] == 0
               for value in shadows for number in value.ids.reshape(-1).tolist())


def canonical(form: Format, length: int) -> list[Tensor]:
    """The prompts that a kernel is run on: [1, length] each."""
    number, found = form.number, []
    for part in (0, 1, 2):
        operands = [number.maximum * part * (i + 2) // (i + 2 + part)
                    for i in range(number.operands)]
        operands = [min(value, number.maximum) for value in operands]
        tokens = [*form.encode([operands])[0].tolist(), *form.expected(operands)]
        found.append(torch.tensor([tokens[:length]], dtype=torch.int64))
    return found

