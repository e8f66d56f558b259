"""The scalar graph: every number the module computes, as a hash-consed node.

Takes: operations on node numbers. Gives: `ScalarGraph`, `Roots`.
May import: prove.doubt.

A node is an operation, the nodes it reads and a datum. Two nodes are merged only where IEEE
754 makes equal computations give equal numbers (correctly rounded operations), or where the
node depends on at most one token, because no correlation between such nodes is ever used;
sums of several products are rounded in an order that may differ from place to place, so each
keeps its own identity. `depends` is a bit mask of the token positions a node depends on.
A node "kernel" stands for its only argument, which depends on no token, at the value that
torch was seen to compute.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CORRECTLY_ROUNDED = frozenset(
    ("constant", "token", "integers", "pick", "add", "sub", "mul", "div", "neg", "abs", "relu",
     "sqrt", "max")
)

_BOUNDED = frozenset(("sin", "cos", "tanh", "sigmoid", "erf", "entry"))
_SCALED = frozenset(("neg", "abs", "relu", "silu", "gelu"))


@dataclass(frozen=True)
class Roots:
    """The nodes of one step's logits, and what must be finite besides for them to be right."""

    nodes: tuple[int, ...]
    aside: Mapping[int, Iterable[int]]

    def __len__(self) -> int:
        return len(self.nodes)


class ScalarGraph:
    """Nodes by number; arguments always have smaller numbers."""

    def __init__(self) -> None:
        self.op: list[str] = []
        self.args: list[tuple[int, ...]] = []
        self.data: list[Any] = []
        self.depends: list[int] = []
        self.aside: dict[int, dict[int, None]] = {}  # must be finite for the node to be right
        self.bound: list[float] = []
        self._known: dict[Hashable, int] = {}

    def __len__(self) -> int:
        return len(self.op)

    def node(self, op: str, args: tuple[int, ...] = (), data: Hashable = None) -> int:
        """The number of this node, a new one unless an equal one may be shared."""
        key = (op, args, data)
        found = self._known.get(key)
        if found is not None:
            return found
        depends = 0
        for arg in args:
            depends |= self.depends[arg]
        if op == "token":
            depends = 1 << data  # type: ignore[operator]
        number = len(self.op)
        self.op.append(op)
        self.args.append(args)
        self.data.append(data)
        self.depends.append(depends)
        self.bound.append(self._crude_bound(op, args, data))
        if op in CORRECTLY_ROUNDED or depends & (depends - 1) == 0:
            self._known[key] = number
        return number

    def _crude_bound(self, op: str, args: tuple[int, ...], data: Any) -> float:
        """A bound on the computed magnitude from those of the arguments; inf if unknown.

        The factor 1.01 covers rounding: no sum here has the 10^5 terms that would need more.
        """
        bound = self.bound
        if op in ("constant", "kernel"):
            return abs(data)
        if op in _BOUNDED:
            return 1.1 if bound[args[0]] < 1e30 else math.inf
        if op == "softrow":
            live = [bound[arg] for arg in args if not self.is_constant(arg, -math.inf)]
            return 1.0 if live and max(live) < 1e30 else math.inf
        if op in _SCALED or op in ("add", "sub", "max"):
            return sum(bound[arg] for arg in args) * 1.01 + 1
        if op == "pick":
            return max(bound[arg] for arg in args[1:])
        if op == "mul":
            found = bound[args[0]] * bound[args[1]] * 1.01
        elif op == "dot":
            found = 1.01 * sum(bound[a] * bound[b] for a, b in zip(args[::2], args[1::2],
                                                                   strict=True))
        else:
            return math.inf
        return math.inf if math.isnan(found) else found

    def surely_finite(self, number: int) -> bool:
        """Whether the crude bound excludes overflow, NaN and infinity in any float dtype."""
        return self.bound[number] < 1e30

    def constant(self, value: float) -> int:
        """A number exactly as the module holds it (0.0 and -0.0 are the same here)."""
        return self.node("constant", (), value + 0.0)

    def is_constant(self, number: int, value: float) -> bool:
        return self.op[number] == "constant" and self.data[number] == value

    def roots(self, nodes: Sequence[int]) -> Roots:
        """The roots of one run, with what was kept aside while it built its nodes."""
        found, self.aside = Roots(tuple(nodes), self.aside), {}
        return found

    def reachable(self, roots: Roots) -> list[int]:
        """The roots and everything they are computed from, arguments first."""
        seen, todo = set(roots.nodes), list(roots.nodes)
        while todo:
            node = todo.pop()
            for arg in (*self.args[node], *roots.aside.get(node, ())):
                if arg not in seen:
                    seen.add(arg)
                    todo.append(arg)
        return sorted(seen)
