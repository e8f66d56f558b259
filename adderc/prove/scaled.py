"""Values with a common factor that several tokens settle: what a norm divides by.

Takes: values of an operation's arguments. Gives: `Scaled`, `keep_factor`, `Common`,
`common_factor`.
May import: prove.box, prove.form, prove.rows, prove.sums.

y_k = x_k r for k = 1 … n, with r >= 0 the same for all, is kept as it is. Σ w_k y_k is then
(Σ w_k x_k) r, whose bound needs the range of one linear form, where the products made linear
one by one would each add an error of their own. In the end a difference of two logits is
(a form) r + a rest, and has the sign of the form where the rest is small.

What the module computes is off by rounding: y_k by u |x_k r|, a sum of n by
gamma(n) Σ |w_k y_k|; the rest holds all of it. A product with a constant is rounded likewise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from adderc.prove.box import Box
from adderc.prove.form import UP, Form, combine, middle, multiply_forms
from adderc.prove.rows import Rows, meet
from adderc.prove.sums import gamma

Array = np.ndarray
PRODUCT = 1 << 40  # the symbol of a product's own error is its node's number and this
INVERSE = 1 << 41  # that of the inverse of a node is the node's number and this


@dataclass(eq=False)
class Product:
    """inner * factor, exactly; `form` is the same made linear, under a name of its own."""

    owner: Any
    inner: Form
    factor: Form
    symbol: int
    _form: Form | None = None

    @property
    def form(self) -> Form:
        if self._form is None:
            owner = self.owner
            owner.prefetch([self.inner, self.factor])
            self._form = multiply_forms(
                self.inner.on(owner.each_case), self.factor.on(owner.each_case),
                owner.case_range(self.inner), owner.case_range(self.factor)
            ).with_symbol(self.symbol)
        return self._form

    @property
    def rows(self) -> Rows:
        return meet(self.inner.rows, self.factor.rows)

    @property
    def size(self) -> Array:
        """A bound on the absolute value, [R] of `rows`."""
        inner, factor, rows = self.inner, self.factor, self.rows
        return (inner.rows.take(inner.magnitude, rows) * UP
                * factor.rows.take(factor.magnitude, rows))


@dataclass(eq=False)
class Scaled:
    """product + rest; a value of the module."""

    product: Product
    rest: Form
    _form: Form | None = field(default=None)

    @property
    def form(self) -> Form:
        if self._form is None:
            one, rows = np.ones(1), meet(self.product.form.rows, self.rest.rows)
            self._form = combine([(one, self.product.form), (one, self.rest)], np.zeros(1), rows)
        return self._form

    @property
    def rows(self) -> Rows:
        return meet(self.product.rows, self.rest.rows)

    @property
    def magnitude(self) -> Array:
        """A bound on the absolute value, [R] of `rows`."""
        product, rest, rows = self.product, self.rest, self.rows
        return (product.rows.take(product.size, rows)
                + rest.rows.take(rest.mass, rows)) * UP

    def named(self, symbol: int) -> Scaled:
        """The rounding of the rest under a name of its own."""
        return Scaled(self.product, self.rest.with_symbol(symbol))


def keep_factor(owner: Any, op: str, args: list[Any], number: int) -> Scaled | None:
    """The value of node `number` with its factor kept; None where it has none."""
    graph = owner.graph
    if any(isinstance(arg, Scaled) for arg in args):
        return _linear(owner, op, args, number)
    nodes = graph.args[number]
    if op == "mul":
        for own, other in ((0, 1), (1, 0)):
            if _is_factor(owner, nodes[own], args[own]) and not _is_number(args[other]):
                return _scaled(owner, _inner(owner, args[other]), args[own], number)
    if op == "div" and isinstance(args[1], Form) and owner.uses.get(nodes[1], 0) > 1 and (
            not _is_number(args[0]) and (owner.case_range(args[1])[0] > 0).all()):
        return _scaled(owner, _inner(owner, args[0]), owner.inverse(nodes[1], args[1]), number)
    return None


def _is_factor(owner: Any, node: int, value: Any) -> bool:
    """Whether a node divides by something that several values are divided by."""
    return (isinstance(value, Form) and owner.graph.op[node] in ("rsqrt", "div")
            and owner.uses.get(node, 0) > 1)


def _inner(owner: Any, value: Any) -> Form:
    """The form of a value; tokens that cases know are constants in it."""
    if isinstance(value, Box) and value.position in owner.known:
        value = owner.fix(value)
    found: Form = owner.form(value)
    return found


def _linear(owner: Any, op: str, args: list[Any], number: int) -> Scaled | None:
    """A linear operation on values of one factor."""
    unit, one = owner.unit, Box(np.ones((1, 1)), np.ones((1, 1)))
    match op:
        case "mul":
            return _sum(owner, [(args[0], args[1])], number, unit)
        case "dot":
            pairs = list(zip(args[::2], args[1::2], strict=True))
            extra = owner.graph.data[number]
            return _sum(owner, pairs, number, gamma(len(pairs) + extra, unit))
        case "add" | "sub":
            sign = one if op == "add" else Box(-one.lo, -one.hi)
            if isinstance(args[0], Scaled) and isinstance(args[1], Scaled):
                return _sum(owner, [(args[0], one), (args[1], sign)], number, unit)
            if isinstance(args[0], Scaled):
                return _shifted(owner, args[0], args[1], float(sign.lo[0, 0]))
            return _shifted(owner, args[1], args[0], 1.0) if op == "add" else None
    return None


def _scaled(owner: Any, inner: Form, factor: Form, number: int) -> Scaled:
    """inner * factor as one rounded operation computes it; node `number`."""
    product = Product(owner, inner, factor, PRODUCT + number)
    nothing = np.zeros((owner.tokens, owner.positions, 1))
    rest = Form(np.zeros(1), nothing, {}, product.size * (owner.unit * UP) + owner.tiny,
                product.rows)
    return Scaled(product, rest)


def _sum(owner: Any, pairs: list[tuple[Any, Any]], number: int, error: float
               ) -> Scaled | None:
    """Σ y * w of values y of one factor and constants w; None if it is not that.

    It is off by `error` times Σ |y w|, by underflow, and by what bounds leave open of a w.
    """
    ordered = [(x, y) if isinstance(x, Scaled) else (y, x) for x, y in pairs]
    if not all(isinstance(y, Scaled) and _is_number(w) for y, w in ordered):
        return None
    factor = ordered[0][0].product.factor
    if any(y.product.factor is not factor for y, _ in ordered):
        return None
    weights, halves = zip(*(middle(w.lo[0], w.hi[0]) for _, w in ordered), strict=True)
    rows = ordered[0][0].rows
    for y, _ in ordered:
        rows = meet(rows, y.rows)
    inner, rest = (combine([(w, part) for w, part in zip(weights, parts, strict=True)],
                           np.zeros(1), rows)
                   for parts in ([y.product.inner for y, _ in ordered],
                                 [y.rest for y, _ in ordered]))
    sizes = [y.rows.take(y.magnitude, rows) for y, _ in ordered]
    off = sum(((half + np.abs(w) * (error * UP)) * size for w, half, size in zip(
        weights, halves, sizes, strict=True)), np.zeros(1))
    rest = rest.add_radius(off * UP + 2 * len(pairs) * owner.tiny)
    return Scaled(Product(owner, inner, factor, PRODUCT + number), rest)


def _shifted(owner: Any, value: Scaled, other: Box, sign: float) -> Scaled | None:
    """value + sign * other for a constant as one rounded operation computes it."""
    if not _is_number(other):
        return None
    centre, half = middle(other.lo[0], other.hi[0])
    rest = combine([(np.ones(1), value.rest)], sign * centre, value.rest.rows).add_radius(half)
    moved = Scaled(value.product, rest)
    error = moved.magnitude * (owner.unit * UP) + owner.tiny
    return Scaled(value.product, rest.on(moved.rows).add_radius(error))


def _is_number(value: Any) -> bool:
    """Whether a value is a constant with the same bounds in all cases."""
    return isinstance(value, Box) and value.position < 0 and value.lo.size == 1


@dataclass(frozen=True)
class Common:
    """Logits that are inner * factor + rest; the factor is from low to high, [C], above 0,
    and no rest depends on a token."""

    inner: list[Form]
    rests: list[Form]
    low: Array
    high: Array


def common_factor(owner: Any, values: list[Any]) -> Common | None:
    """What the values have in common; None if that is no factor."""
    if not all(isinstance(value, Scaled) for value in values):
        return None
    factor = values[0].product.factor
    if any(value.product.factor is not factor or value.rest.tables.any() for value in values):
        return None
    low, high = owner.case_range(factor)
    if not (low > 0).all():
        return None
    return Common([value.product.inner for value in values], [value.rest for value in values],
                  low, high)
