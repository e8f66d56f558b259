"""A small static program over numpy arrays, many points at once, with its gradient.

Takes: operations, entered one by one. Gives: `Tape`: values for points [R, n] of the
unknowns, and the gradient of any weighted sum of a node.
May import: numpy, scipy.

Every array has the points in front: [R, …] where it depends on unknowns, [1, …] (or one
row a point) where not. One point may be given for R rows of constants; its gradient then
comes apart, one row each. What depends on no unknown is computed once, when it is entered.
Each node keeps its degree as a polynomial in the unknowns (infinite beyond a bend), which
tells the backends what they deal with.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import erf, expit

Array = np.ndarray
Gradients = tuple[Array | None, ...]


@dataclass(frozen=True)
class Rule:
    """One operation. `backward(data, grad, value, *inputs)` gives a gradient per input."""

    forward: Callable[..., Array]
    backward: Callable[..., Gradients]
    degree: Callable[..., float] = lambda *degrees: max(degrees)


@dataclass(frozen=True)
class Node:
    """An operation on earlier nodes, with what else it needs; `constant` is its value."""

    rule: Rule | None
    inputs: tuple[int, ...]
    data: Any
    degree: float
    constant: Array | None = None


@dataclass
class Tape:
    """Nodes in the order of computation; `size` unknowns."""

    size: int = 0
    nodes: list[Node] = field(default_factory=list)

    def constant(self, value: Array) -> int:
        """A value that does not change, with its axis of points."""
        return self._add(Node(None, (), None, 0.0, value))

    def unknown(self, shape: tuple[int, ...]) -> int:
        """The next unknowns, as an array of that shape."""
        start = self.size
        self.size += math.prod(shape)
        return self._add(Node(None, (), (start, self.size, shape), 1.0))

    def apply(self, name: str, *inputs: int, data: Any = None) -> int:
        """One operation of RULES; computed at once where nothing in it is unknown."""
        rule = RULES[name]
        nodes = [self.nodes[i] for i in inputs]
        if all(node.constant is not None for node in nodes):
            return self.constant(rule.forward(data, *(node.constant for node in nodes)))
        return self._add(Node(rule, inputs, data, rule.degree(*(n.degree for n in nodes))))

    def _add(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1

    def run(self, points: Array) -> list[Array]:
        """The value of every node at points [R, n]."""
        values: list[Array] = []
        for node in self.nodes:
            if node.constant is not None:
                values.append(node.constant)
            elif node.rule is None:
                start, stop, shape = node.data
                values.append(points[:, start:stop].reshape(len(points), *shape))
            else:
                values.append(node.rule.forward(node.data, *(values[i] for i in node.inputs)))
        return values

    def gradient(self, values: list[Array], output: int, seed: Array) -> Array:
        """The gradient [R, n] of sum(seed * output) for values that `run` gave."""
        found: dict[int, Array] = {output: seed}
        total = np.zeros((len(seed), self.size))
        for at in range(output, -1, -1):
            grad = found.pop(at, None)
            node = self.nodes[at]
            if grad is None or node.constant is not None:
                continue
            if node.rule is None:
                start, stop, _ = node.data
                total[:, start:stop] += grad.reshape(len(grad), -1)
                continue
            parts = node.rule.backward(node.data, grad, values[at],
                                       *(values[i] for i in node.inputs))
            for i, part in zip(node.inputs, parts, strict=True):
                if part is not None and self.nodes[i].constant is None:
                    part = _like(part, values[i].shape)
                    found[i] = found[i] + part if i in found else part
        return total


def _like(grad: Array, shape: tuple[int, ...]) -> Array:
    """`grad` summed over what broadcasting had repeated, but never over the points."""
    if grad.shape[1:] == shape[1:]:
        return grad
    if extra := grad.ndim - len(shape):  # the points stay in front
        grad = grad.sum(axis=tuple(range(1, 1 + extra)))
    axes = tuple(a for a in range(1, len(shape)) if grad.shape[a] != shape[a])
    return grad.sum(axis=axes, keepdims=True) if axes else grad


# ---------------------------------------------------------------- rules


def _turned(a: Array) -> Array:
    return a.swapaxes(-1, -2)


def _sum(*degrees: float) -> float:
    return sum(degrees)


def _bent(*degrees: float) -> float:
    return math.inf if any(degrees) else 0.0


def _each(function: Callable[[Array], Array],
          slope: Callable[[Array, Array], Array]) -> Rule:
    """Elementwise; `slope` of (input, value)."""
    return Rule(lambda _, a: function(a), lambda _, g, y, a: (g * slope(a, y),), _bent)


def _aligned(a: Array, b: Array) -> tuple[Array, Array]:
    """Both with as many axes, new ones behind that of the points."""
    while a.ndim < b.ndim:
        a = a[:, None]
    while b.ndim < a.ndim:
        b = b[:, None]
    return a, b


def _add(_: Any, a: Array, b: Array) -> Array:
    a, b = _aligned(a, b)
    return a + b


def _mul(_: Any, a: Array, b: Array) -> Array:
    a, b = _aligned(a, b)
    return a * b


def _mul_back(_: Any, g: Array, y: Array, a: Array, b: Array) -> Gradients:
    a, b = _aligned(a, b)
    return g * b, g * a


def _matmul(_: Any, a: Array, b: Array) -> Array:
    if len(b) == 1 and a.ndim == b.ndim == 3:  # one product instead of many small ones
        return (a.reshape(-1, a.shape[-1]) @ b[0]).reshape(*a.shape[:-1], b.shape[-1])
    return np.matmul(a, b)


def _matmul_back(_: Any, g: Array, y: Array, a: Array, b: Array) -> Gradients:
    turned = _turned(a)
    right = turned * g if a.shape[-2] == 1 else np.matmul(turned, g)
    return _matmul(None, g, _turned(b)), right


def _concat_back(axis: int, g: Array, _: Array, *parts: Array) -> Gradients:
    stops = np.cumsum([part.shape[axis + 1] for part in parts])[:-1]
    return tuple(np.split(g, stops, axis=axis + 1))


def _concat(axis: int, *parts: Array) -> Array:
    points = max(len(part) for part in parts)
    return np.concatenate([np.broadcast_to(p, (points, *p.shape[1:])) for p in parts], axis + 1)


def _take_back(data: Any, g: Array, _: Array, a: Array) -> Gradients:
    indices, axis = data
    back = np.zeros((len(g), *a.shape[1:]))
    moved, from_ = np.moveaxis(back, axis + 1, 0), np.moveaxis(g, axis + 1, 0)
    for place, index in enumerate(indices):
        moved[index] += from_[place]
    return (back,)


def _scatter(data: Any, a: Array) -> Array:
    rows, columns, shape = data
    whole = np.zeros((len(a), *shape))
    whole[:, np.array(rows)[:, None], np.array(columns)[None, :]] = a
    return whole


def _scatter_back(data: Any, g: Array, *_: Array) -> Gradients:
    rows, columns, _shape = data
    return (g[:, np.array(rows)[:, None], np.array(columns)[None, :]],)


@dataclass(frozen=True)
class Rows:
    """Which row each place reads: ids [B, M], and the same as 0 and 1 [B, V, M]."""

    ids: Array
    chosen: Array

    @classmethod
    def of(cls, ids: Array, count: int) -> Rows:
        return cls(ids, (ids[:, None, :] == np.arange(count)[None, :, None]).astype(float))


def _gather(rows: Rows, a: Array) -> Array:
    if len(rows.ids) == 1:
        return a[:, rows.ids[0]]
    return a[np.arange(len(rows.ids))[:, None] if len(a) > 1 else 0, rows.ids]


def _softmax(seen: Array, a: Array) -> Array:
    a = np.where(seen, a, -np.inf)
    top = a.max(axis=-1, keepdims=True)
    weights = np.exp(a - np.where(np.isfinite(top), top, 0.0))
    total = weights.sum(axis=-1, keepdims=True)
    return weights / np.where(total > 0, total, 1.0)


def _softmax_back(_: Any, g: Array, y: Array, a: Array) -> Gradients:
    return (y * (g - (g * y).sum(axis=-1, keepdims=True)),)


def _normal(a: Array) -> Array:
    return np.exp(-0.5 * a * a) / math.sqrt(2 * math.pi)


def _phi(a: Array) -> Array:
    return 0.5 * (1 + erf(a / math.sqrt(2)))


RULES: dict[str, Rule] = {
    "add": Rule(_add, lambda _, g, y, a, b: (g, g)),
    "mul": Rule(_mul, _mul_back, _sum),
    "matmul": Rule(_matmul, _matmul_back, _sum),
    "neg": Rule(lambda _, a: -a, lambda _, g, y, a: (-g,)),
    "transpose": Rule(lambda _, a: _turned(a), lambda _, g, y, a: (_turned(g),)),
    "reshape": Rule(lambda shape, a: a.reshape(len(a), *shape),
                    lambda shape, g, y, a: (g.reshape(len(g), *a.shape[1:]),)),
    "concat": Rule(_concat, _concat_back),
    "take": Rule(lambda d, a: np.take(a, d[0], axis=d[1] + 1), _take_back),
    "last": Rule(lambda _, a: a[:, :, -1], lambda _, g, y, a: (_placed_last(g, a.shape),)),
    "scatter": Rule(_scatter, _scatter_back),
    "gather": Rule(_gather, lambda rows, g, y, a: (np.matmul(rows.chosen, g),)),
    "sum": Rule(lambda axis, a: a.sum(axis=axis),
                lambda axis, g, y, a: (np.broadcast_to(
                    np.expand_dims(g, axis), (len(g), *a.shape[1:])),)),
    "reciprocal": _each(np.reciprocal, lambda a, y: -y * y),
    "rsqrt": _each(lambda a: 1 / np.sqrt(a), lambda a, y: -0.5 * y / a),
    "cos": _each(np.cos, lambda a, y: -np.sin(a)),
    "sin": _each(np.sin, lambda a, y: np.cos(a)),
    "relu": _each(lambda a: np.maximum(a, 0.0), lambda a, y: (a > 0).astype(float)),
    "tanh": _each(np.tanh, lambda a, y: 1 - y * y),
    "silu": _each(lambda a: a * expit(a), lambda a, y: expit(a) * (1 + a * (1 - expit(a)))),
    "gelu": _each(lambda a: a * _phi(a), lambda a, y: _phi(a) + a * _normal(a)),
    "softmax": Rule(_softmax, _softmax_back, _bent),
}


def _placed_last(g: Array, shape: tuple[int, ...]) -> Array:
    whole = np.zeros((len(g), *shape[1:]))
    whole[:, :, -1] = g
    return whole
