"""Arithmetic on arrays of scalar nodes: elementwise operations, sums of products, softmax.

Takes: int64 tensors of node numbers. Gives: `Algebra`, operations that return such tensors.
May import: prove.doubt, prove.scalars.

A product with an exact 0 is left out of a sum, because 0 times a finite number is 0; the
other factor then has to be shown finite, so it is kept in `aside` of the node and bounded
like everything else that is reached.
"""

from __future__ import annotations

import bisect
import math
import operator
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from adderc.prove.doubt import Doubt, Unsupported
from adderc.prove.scalars import ScalarGraph

PROMISES = 1 << 40
COMPARISONS = {"eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le,
               "gt": operator.gt, "ge": operator.ge}


class Algebra:
    """Builds nodes; `round_to(x)` is a Python number as the module's dtype holds it."""

    def __init__(self, graph: ScalarGraph, dtype: torch.dtype,
                 domain: Callable[[int], int]) -> None:
        self.graph, self.dtype, self.domain = graph, dtype, domain
        self.zero, self.one = graph.constant(0.0), graph.constant(1.0)
        self.pairs: list[tuple[int, int]] = []  # both parts of complex numbers
        self._makers: list[tuple[int, Callable[[int], int]]] = []
        self._starts: list[int] = []
        self._made: dict[int, int] = {}

    # ------------------------------------------------------------ promises

    def promise(self, shape: Sequence[int], make: Callable[[int], int]) -> Tensor:
        """Numbers that stand for nodes to be made when they are needed, [*shape].

        `make(i)` gives the node of flat place i. Most of what a module computes never
        reaches the last logits, and is never made.
        """
        count = math.prod(shape)
        start = self._makers[-1][0] if self._makers else PROMISES
        self._starts.append(start)
        self._makers.append((start + count, make))
        return torch.arange(start, start + count, dtype=torch.int64).reshape(tuple(shape))

    def resolve(self, number: int) -> int:
        """The node a number stands for."""
        if number < PROMISES:
            return number
        found = self._made.get(number)
        if found is None:
            at = bisect.bisect_right(self._starts, number) - 1
            while number >= self._makers[at][0]:
                at += 1  # makers of nothing share a start
            found = self.resolve(self._makers[at][1](number - self._starts[at]))
            self._made[number] = found
        return found

    def resolved(self, ids: Tensor) -> list[int]:
        """The nodes of a flattened tensor."""
        return [self.resolve(number) for number in ids.reshape(-1).tolist()]

    def forget(self) -> None:
        """Drop the promises of one run; its nodes stay in the graph."""
        self.pairs.clear()
        self._makers.clear()
        self._starts.clear()
        self._made.clear()

    # ------------------------------------------------------------ constants

    def round_to(self, value: float) -> float:
        return float(torch.tensor(value, dtype=torch.float64).to(self.dtype))

    def constant(self, value: float) -> int:
        return self.graph.constant(self.round_to(float(value)))

    def lift(self, tensor: Tensor) -> Tensor:
        """The nodes of a tensor of numbers."""
        values = tensor.detach().to(torch.float64).reshape(-1).tolist()
        ids = [self.graph.constant(value) for value in values]
        return torch.tensor(ids, dtype=torch.int64).reshape(tensor.shape)

    # ------------------------------------------------------------ elementwise

    def unary(self, op: str, x: Tensor, data: Hashable = None) -> Tensor:
        flat = x.reshape(-1).tolist()
        return self.promise(x.shape, lambda i: self.one_of(op, self.resolve(flat[i]), data))

    def one_of(self, op: str, a: int, data: Hashable = None) -> int:
        """op of a; the exponential of minus infinity, a masked score, is 0."""
        if op == "exp" and self.graph.is_constant(a, -math.inf):
            return self.zero
        return self.graph.node(op, (a,), data)

    def binary(self, op: str, x: Tensor, y: Tensor) -> Tensor:
        x, y = torch.broadcast_tensors(x, y)
        left, right = x.reshape(-1).tolist(), y.reshape(-1).tolist()
        return self.promise(x.shape, lambda i: self.two_of(
            op, self.resolve(left[i]), self.resolve(right[i])))

    def two_of(self, op: str, a: int, b: int) -> int:
        """a op b; exact neutral elements and minus infinity are settled here."""
        graph = self.graph
        if op in COMPARISONS and graph.op[a] == graph.op[b] == "constant":
            return graph.constant(float(COMPARISONS[op](graph.data[a], graph.data[b])))
        if op in ("add", "sub") and graph.is_constant(b, 0.0):
            return a
        if op == "add" and graph.is_constant(a, 0.0):
            return b
        if op == "mul":
            for left, right in ((a, b), (b, a)):
                if graph.is_constant(left, 1.0):
                    return right
                if graph.is_constant(left, 0.0):
                    self._keep_aside(self.zero, right)
                    return self.zero
        if op == "div" and graph.is_constant(b, 1.0):
            return a
        if op in ("add", "max"):
            for left, right in ((a, b), (b, a)):
                if graph.is_constant(left, -math.inf):
                    self._keep_aside(left, right)
                    return left if op == "add" else right
        if op == "sub" and graph.is_constant(a, -math.inf):
            self._keep_aside(a, b)
            return a
        if op in ("add", "mul", "max") and a > b:
            a, b = b, a
        return graph.node(op, (a, b))

    def loosened(self, value: Tensor, size: Tensor, units: int) -> Tensor:
        """`value` with an error of `units` * u * |size| more, element by element."""
        value, size = torch.broadcast_tensors(value, size)
        left, right = value.reshape(-1).tolist(), size.reshape(-1).tolist()
        return self.promise(value.shape, lambda i: self.graph.node(
            "loosen", (self.resolve(left[i]), self.resolve(right[i])), units))

    def least(self, x: Tensor, y: Tensor) -> Tensor:
        return self.unary("neg", self.binary("max", self.unary("neg", x), self.unary("neg", y)))

    def power(self, x: Tensor, exponent: float) -> Tensor:
        if exponent == 1:
            return x
        if exponent == 2:
            return self.binary("mul", x, x)
        if exponent == 0.5:
            return self.unary("sqrt", x)
        if exponent == -0.5:
            return self.unary("rsqrt", x)
        if exponent == -1:
            return self.binary("div", torch.tensor(self.one), x)
        raise Unsupported(f"a power of {exponent}")

    def exponential(self, base: float, x: Tensor) -> Tensor:
        """base ** x as exp(x log(base)): its kernel errs as exp's does, the exponent here by
        2u for log(base), held to the dtype, and u for the product; 4u are given. base ** 0 is 1.
        """
        flat, log = x.reshape(-1).tolist(), self.constant(math.log(base))

        def make(i: int) -> int:
            node = self.resolve(flat[i])
            if self._is_zero(node):
                return self.one
            scaled = self.two_of("mul", node, log)
            return self.one_of("exp", self.graph.node("loosen", (scaled, scaled), 4))

        return self.promise(x.shape, make)

    def _is_zero(self, node: int) -> bool:
        """Whether a node is a constant 0, or that divided by another constant."""
        graph, args = self.graph, self.graph.args[node]
        if graph.op[node] == "loosen" and args[0] == args[1]:
            return self._is_zero(args[0])
        if graph.op[node] == "div" and graph.op[args[1]] == "constant":
            return graph.data[args[1]] != 0 and self._is_zero(args[0])
        return graph.is_constant(node, 0.0)

    def _fill(self, ids: Sequence[int], like: Tensor) -> Tensor:
        return torch.tensor(ids, dtype=torch.int64).reshape(like.shape)

    def _keep_aside(self, node: int, other: int) -> None:
        graph = self.graph
        if graph.surely_finite(other):
            return
        if graph.op[other] != "constant":
            graph.aside.setdefault(node, {})[other] = None
        elif not math.isfinite(graph.data[other]) and graph.data[other] != -math.inf:
            raise Doubt("a constant that is not finite")
        elif graph.data[other] == -math.inf and graph.is_constant(node, 0.0):
            raise Doubt("0 times minus infinity")

    # ------------------------------------------------------------ sums of products

    def dot(self, left: Sequence[int], right: Sequence[int], extra: int = 0) -> int:
        """Σ left * right; `extra` roundings more than the sum itself has."""
        graph, kept, aside = self.graph, [], []
        for a, b in zip(left, right, strict=True):
            if graph.is_constant(a, 0.0):
                aside.append(b)
            elif graph.is_constant(b, 0.0):
                aside.append(a)
            else:
                kept.append((a, b))
        if not kept:
            node = self.zero
        elif len(kept) == 1 and not extra:
            node = self.two_of("mul", *kept[0])
        else:
            node = graph.node("dot", tuple(n for pair in kept for n in pair), extra)
        for other in aside:
            self._keep_aside(node, other)
        return node

    def matmul(self, x: Tensor, y: Tensor, bias: Tensor | None = None, extra: int = 0) -> Tensor:
        """[..., I, K] @ [..., K, J] (+ bias that broadcasts to the result)."""
        one_row, one_column = x.ndim == 1, y.ndim == 1
        x = x.unsqueeze(0) if one_row else x
        y = y.unsqueeze(-1) if one_column else y
        batch = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])
        x = x.expand(*batch, *x.shape[-2:])
        y = y.expand(*batch, *y.shape[-2:]).transpose(-2, -1)
        shape = (*batch, x.shape[-2], y.shape[-2])
        addends = None if bias is None else bias.expand(shape).reshape(-1).tolist()
        rows = x.reshape(-1, x.shape[-1]).tolist()
        columns = y.reshape(-1, y.shape[-1]).tolist()
        across, size = shape[-1], shape[-2] * shape[-1]

        def make(i: int) -> int:
            row = [self.resolve(n) for n in rows[i // across]]
            column = [self.resolve(n) for n in columns[i // size * across + i % across]]
            if addends is None:
                return self.dot(row, column, extra)
            return self.dot([*row, self.resolve(addends[i])], [*column, self.one], extra)

        result = self.promise(shape, make)
        result = result.squeeze(-2) if one_row else result
        return result.squeeze(-1) if one_column else result

    def reduce(self, x: Tensor, dims: Sequence[int], keepdim: bool, mean: bool) -> Tensor:
        """Sum or mean over axes; no axes means all."""
        axes = sorted({d % x.ndim for d in dims} or range(x.ndim))
        rest = [d for d in range(x.ndim) if d not in axes]
        count = math.prod(x.shape[d] for d in axes)
        rows = x.permute(*rest, *axes).reshape(-1, count).tolist()
        weight = [self.constant(1 / count) if mean else self.one] * count
        extra = 3 if mean and count & (count - 1) else 0
        kept = [1 if d in axes else x.shape[d] for d in range(x.ndim)]
        shape = kept if keepdim else [x.shape[d] for d in rest]
        return self.promise(shape, lambda i: self.dot(
            [self.resolve(n) for n in rows[i]], weight, extra))

    def softmax(self, x: Tensor, dim: int, passes: int = 1) -> Tensor:
        moved = x.movedim(dim, -1)
        keys = moved.shape[-1]
        rows, made = moved.reshape(-1, keys).tolist(), {}

        def make(i: int) -> int:
            number, key = divmod(i, keys)
            if number not in made:
                scores = tuple(self.resolve(n) for n in rows[number])
                made[number] = self.graph.node("softrow", scores, passes)
            return self.graph.node("entry", (made[number],), key)

        return self.promise(moved.shape, make).movedim(-1, dim)

    # ------------------------------------------------------------ functions of a token

    def pick(self, token: int, entries: Sequence[int]) -> int:
        """Entry number `token` of a list of nodes; the token may be a known one."""
        entries = [self.resolve(entry) for entry in entries]
        graph = self.graph
        if graph.op[token] == "constant":
            at = int(graph.data[token])
            if not 0 <= at < len(entries):
                raise Doubt(f"token {at} is outside a table of {len(entries)}")
            return entries[at]
        if graph.op[token] == "integers":
            values = graph.data[token]
            if not all(0 <= v < len(entries) for v in values):
                raise Doubt("an index outside its table")
            return self._choice(graph.args[token][0], [entries[v] for v in values])
        domain = self.domain(graph.data[token])
        if domain > len(entries):
            raise Doubt(f"a table of {len(entries)} entries for {domain} tokens")
        return self._choice(token, entries[:domain])

    def _choice(self, token: int, entries: Sequence[int]) -> int:
        """One entry for each token; equal entries need no choice."""
        if all(entry == entries[0] for entry in entries):
            return entries[0]
        return self.graph.node("pick", (token, *entries))

    def choose(self, condition: Tensor, yes: Tensor, no: Tensor) -> Tensor:
        """yes where a truth value is 1, else no; the condition may depend on many tokens."""
        condition, yes, no = torch.broadcast_tensors(condition, yes, no)
        rows = list(zip(*(t.reshape(-1).tolist() for t in (condition, yes, no)), strict=True))

        def make(i: int) -> int:
            node, first, second = rows[i]
            node, first, second = (self.resolve(n) for n in (node, first, second))
            if first == second:
                return first
            graph = self.graph
            known = graph.op[node] in ("constant", "token", "integers")
            others = (graph.depends[first] | graph.depends[second]) & ~graph.depends[node]
            if graph.op[node] == "constant" or (known and not others):
                return self.pick(node, [second, first])
            return graph.node("select", (self._as_number(node), first, second))

        return self.promise(condition.shape, make)

    def truth(self, op: str, x: Tensor, y: Tensor) -> Tensor:
        """"and", "or" of two truth values, or "not" of the first."""
        x, y = torch.broadcast_tensors(x, y)
        pairs = list(zip(x.reshape(-1).tolist(), y.reshape(-1).tolist(), strict=True))
        exact: Callable[[int, int], int] = {
            "and": lambda p, q: p & q, "or": lambda p, q: p | q, "not": lambda p, q: 1 - p}[op]

        def make(i: int) -> int:
            a, b = (self.resolve(n) for n in pairs[i])
            try:
                return self._integer(exact, a, b)
            except Unsupported:
                a, b = (self._as_number(n) for n in (a, b))
            return {"and": lambda: self.two_of("mul", a, b),
                    "or": lambda: self.two_of("max", a, b),
                    "not": lambda: self.graph.node("sub", (self.one, a))}[op]()

        return self.promise(x.shape, make)

    def integers(self, x: Tensor, y: Tensor, function: Callable[[int, int], int]) -> Tensor:
        """A function of tokens and known integers, one token for each element at most."""
        x, y = torch.broadcast_tensors(x, y)
        pairs = zip(x.reshape(-1).tolist(), y.reshape(-1).tolist(), strict=True)
        return self._fill([self._integer(function, a, b) for a, b in pairs], x)

    def _integer(self, function: Callable[[int, int], int], a: int, b: int) -> int:
        (token, left), (other, right) = self._values(a), self._values(b)
        if token is not None and other is not None and token != other:
            raise Unsupported("an integer that depends on two tokens")
        token = other if token is None else token
        if token is None:
            return self.graph.constant(float(function(left[0], right[0])))
        count = max(len(left), len(right))
        left, right = (v * count if len(v) == 1 else v for v in (left, right))
        data = tuple(int(function(p, q)) for p, q in zip(left, right, strict=True))
        return self.graph.node("integers", (token,), data)

    def _values(self, node: int) -> tuple[int | None, tuple[int, ...]]:
        graph = self.graph
        if graph.op[node] == "constant":
            return None, (int(graph.data[node]),)
        if graph.op[node] == "integers":
            return graph.args[node][0], graph.data[node]
        if graph.op[node] != "token":
            raise Unsupported("an integer computed from several tokens")
        return node, tuple(range(self.domain(graph.data[node])))

    def as_float(self, x: Tensor) -> Tensor:
        """Integers as numbers of the module's dtype, exact below 2^24."""
        nodes = x.reshape(-1).tolist()
        return self.promise(x.shape, lambda i: self._as_number(self.resolve(nodes[i])))

    def _as_number(self, node: int) -> int:
        if self.graph.op[node] not in ("constant", "integers", "token"):
            return node  # a truth value or a choice, which is a number already
        token, values = self._values(node)
        if max(map(abs, values)) > 2**24:
            raise Unsupported("large integers as floating-point numbers")
        entries = [self.graph.constant(float(v)) for v in values]
        return entries[0] if token is None else self._choice(token, entries)
