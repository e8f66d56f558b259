"""The checker's own look at what torch computes where no token has a part.

Takes: a module, its format, what a certificate says of its kernel. Gives: `Observed`.
May import: format, nn.build, nn.greedy, prove.checker_reader, the standard library, torch.

A certificate of grade kernel is for one build of torch, one number of threads and batch 1. The
checker runs the module here itself, compares what it computes with the certificate's digests,
and runs its own graph on the same prompts. A term on which no token has an influence becomes
a term "kernel": the value that was seen, which its bounds must contain. Taken are entries of
sums, and of softmax rows and norms along the last axis, whose terms are all constant; and
functions of tensors that are constant throughout.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from adderc.format.prompt import Format
from adderc.nn.build import differing, torch_build
from adderc.nn.greedy import last_logits
from adderc.prove.checker_reader import MOVES, NotUnderstood, Reader, Term, Terms

ENTRIES = frozenset((
    "matmul", "mm", "bmm", "mv", "dot", "__matmul__", "linear", "addmm", "baddbmm", "sum",
    "mean", "cumsum", "einsum", "layer_norm", "rms_norm"))
ALONG_LAST = frozenset(("softmax", "_softmax"))
WHOLE = frozenset(("cos", "sin", "exp", "tanh", "sigmoid", "silu", "gelu", "erf", "rsqrt",
                   "sqrt", "reciprocal", "div", "pow", "square"))
MOVING = frozenset(("_to_copy", "alias", "clone", "contiguous", "copy", "detach", "detach_",
                    "empty", "empty_like", "lift_fresh_copy", "new_empty"))
WRITING = MOVES | {"fill", "zero", "zeros_like"}  # otherwise done in a graph without writes
Shape = tuple[int, ...]


class Observed:
    """What torch computes for some prompts, here; refused where the certificate differs."""

    def __init__(self, model: Any, form: Format, claim: Any) -> None:
        if not isinstance(claim, dict) or claim.keys() != {"build", "batch", "values"} or (
                claim["batch"] != 1 or not all(isinstance(claim[k], dict)
                                               for k in ("build", "values"))):
            raise NotUnderstood("a kernel of another kind")
        lengths = {str(form.prompt_length + step) for step in range(form.steps)}
        if not claim["values"] or not claim["values"].keys() <= lengths:
            raise NotUnderstood("values of a kernel at no length that there is")
        here = torch_build()
        if names := differing(here, claim["build"]):
            told = "; ".join(f"{name}: {claim['build'].get(name)} there, {here.get(name)} here"
                             for name in names)
            raise NotUnderstood(f"the certificate is for another build of torch or another "
                                f"number of threads ({told}), where constants may round otherwise")
        self.model, self.form, self.values = model, form, claim["values"]
        self.seen: dict[Any, list[Tensor]] = {}
        self._matters: dict[int, bool] = {}

    def covers(self, length: int) -> bool:
        return str(length) in self.values

    def named(self, dtype: torch.dtype) -> str:
        """The build and the shapes, in words."""
        build, lengths = torch_build(), sorted(map(int, self.values))
        tokens = " to ".join(str(length) for length in dict.fromkeys((lengths[0], lengths[-1])))
        return (f"torch {build['torch']} on {build['processor']}, threads {build['threads']}, "
                f"{str(dtype).split('.')[-1]}, batch 1 of {tokens} tokens")

    # ------------------------------------------------------------ running

    def look(self, program: Any, length: int) -> None:
        """Run module and program at a length; compare them and the certificate's digest."""
        prompts = _prompts(self.form, length)
        own = [_observe(self.model, tokens) for tokens in prompts]
        if self.values[str(length)] != _summary([numbers for _, numbers in own]):
            raise NotUnderstood(f"torch computes other constants at {length} tokens than the "
                                "certificate names")
        run = program.module()
        runs = []
        for (logits, numbers), tokens in zip(own, prompts, strict=True):
            with torch.inference_mode():
                if not torch.equal(last_logits(self.model(tokens)), logits):
                    raise NotUnderstood("the module gives other bits when it is run again")
                through = last_logits(run(tokens))
            nodes = _Nodes(program)
            other, found = _observe(nodes.run, tokens)
            if not (torch.equal(other, logits) and torch.equal(through, logits)):
                raise NotUnderstood("the exported graph and the module differ")
            if {line for line, _ in found if line[0] not in WRITING} - {
                    line for line, _ in numbers}:
                raise NotUnderstood("the module does not compute all that its graph computes")
            runs.append(nodes.values)
        self.seen = {node: [values[node] for values in runs] for node in runs[0]}

    # ------------------------------------------------------------ reading

    def settled(self, reader: Reader, node: Any, given: tuple[Any, Any], value: Any) -> Any:
        """The terms of a node's result, with what was seen in the place of constant ones.

        `given` are the positional and the named arguments.
        """
        found = self.seen.get(node)
        if not isinstance(value, Terms) or value.dtype != reader.dtype or found is None or (
                found[0].shape != value.ids.shape or not hasattr(node.target, "_schema")):
            return value
        name = node.target._schema.name.split("::")[1]
        axis = given[0][1] if len(given[0]) > 1 else given[1].get("dim")
        last = name in ALONG_LAST and axis in (-1, value.ids.ndim - 1)
        if not (name in ENTRIES or last) and not (
                name in WHOLE | ALONG_LAST and self._constant(reader, given)):
            return value
        flat = value.ids.reshape(-1).tolist()
        columns = [seen.reshape(-1).tolist() for seen in found]

        def make(i: int) -> Term:
            term = reader.at(flat[i])
            if term.op in ("constant", "kernel") or self.matters(reader, term):
                return term
            values = {column[i] + 0.0 for column in columns}
            if len(values) != 1:
                raise NotUnderstood("a constant with other bits for other tokens")
            number = values.pop()
            return reader.term("kernel", (term,), number) if math.isfinite(number) else term

        return reader.promise(value.ids.shape, make)

    def _constant(self, reader: Reader, args: Any) -> bool:
        """Whether no token has an influence on any entry of the arguments."""
        leaves = pytree.tree_leaves(args, is_leaf=lambda leaf: isinstance(leaf, Terms))
        return not any(self.matters(reader, reader.at(number)) for leaf in leaves
                       if isinstance(leaf, Terms) for number in leaf.ids.reshape(-1).tolist())

    def matters(self, reader: Reader, term: Term) -> bool:
        """Whether a token can have an influence on a term; 0 times a number is 0."""
        known = self._matters.get(term.number)
        if known is None:
            known = bool(term.sees) and self._depends(reader, term)
            self._matters[term.number] = known
        return known

    def _depends(self, reader: Reader, term: Term) -> bool:
        args = term.args
        if term.op in ("token", "integers"):
            return True
        if term.op in ("mul", "sum"):
            pairs = zip(args[::2], args[1::2], strict=True)
            return any(self.matters(reader, one) or self.matters(reader, other)
                       for one, other in pairs if not (_is_zero(one) or _is_zero(other)))
        if term.op == "look up" and args[0].op == "token":
            entries = args[1 : 1 + reader.tokens_at(args[0].data)]
            return len({entry.number for entry in entries}) > 1 or self.matters(
                reader, entries[0])
        return any(self.matters(reader, arg) for arg in args)


def _is_zero(term: Term) -> bool:
    return term.op in ("constant", "kernel") and term.data == 0.0


def _prompts(form: Format, length: int) -> list[Tensor]:
    """Sums of zeros, of middling numbers and of the largest, as far as `length` tokens."""
    most, count = form.number.maximum, range(form.number.operands)
    rows = [[0 for _ in count], [most * (n + 2) // (n + 3) for n in count], [most for _ in count]]
    return [torch.tensor([[*form.encode([row])[0].tolist(), *form.expected(row)][:length]])
            for row in rows]


class _Watch(TorchDispatchMode):
    """A line for each floating-point result: what made it, from what layouts, with its bits."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[tuple[Any, ...], tuple[str, Shape, np.ndarray]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        before = tuple((tuple(t.shape), t.stride()) for t in tensors)
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[1]
        viewed = any(r.alias_info is not None and not r.alias_info.is_write
                     for r in func._schema.returns)
        for leaf in [] if viewed or name in MOVING else pytree.tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.dtype in (torch.float32, torch.float64):
                kind = torch.int32 if leaf.dtype == torch.float32 else torch.int64
                bits = leaf.detach().contiguous().reshape(-1).view(kind).numpy().copy()
                shape = tuple(leaf.shape)
                self.lines.append(((name.rstrip("_"), before, shape, bits.tobytes()),
                                   (name, shape, bits)))
        return result


def _observe(run: Any, tokens: Tensor) -> tuple[Tensor, list[Any]]:
    watch = _Watch()
    with torch.inference_mode(), watch:
        logits = last_logits(run(tokens))
    return logits, watch.lines


def _summary(runs: list[list[Any]]) -> str:
    """A digest of all that has the same bits in every run."""
    digest = hashlib.sha256()
    if len({len(lines) for lines in runs}) != 1:
        raise NotUnderstood("the module computes more for some tokens than for others")
    for results in zip(*([line[1] for line in lines] for lines in runs), strict=True):
        name, shape, bits = results[0]
        if any(other[1] != shape for other in results):
            raise NotUnderstood("tensors whose shape depends on the tokens")
        same = np.all([other[2] == bits for other in results], axis=0)
        digest.update(f"{name} {shape} ".encode() + np.packbits(same).tobytes())
        digest.update(bits[same].tobytes())
    return digest.hexdigest()


class _Nodes(torch.fx.Interpreter):
    """Runs a program's graph and keeps what every node gives."""

    def __init__(self, program: Any) -> None:
        super().__init__(program.graph_module)
        self.program = program
        self.values: dict[Any, Tensor] = {}

    def run(self, tokens: Tensor) -> Any:  # type: ignore[override]
        program, held = self.program, []
        for spec in program.graph_signature.input_specs:
            known = program.state_dict if spec.target in program.state_dict else program.constants
            held.append(tokens if spec.kind.name == "USER_INPUT" else known[spec.target])
        return super().run(*held, enable_io_processing=False)

    def run_node(self, n: torch.fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor) and result.is_floating_point():
            self.values[n] = result.detach().clone()
        return result


__all__ = ["Observed"]
