"""Values that share a factor which several tokens settle, such as what a norm divides by.

Takes: terms, the values of their arguments. Gives: `Scaled`, `keep_factor`, `least_margins`.
May import: prove.checker_balls, prove.checker_forms, prove.checker_ranges,
prove.checker_reader, flint.

y_1 = x_1 r, y_2 = x_2 r, … with one r: a sum of w_k y_k is r times the sum of w_k x_k, which
is one linear form, and only one product is made linear, if any. In the end the gap of two
logits is r g + e. With 0 < low <= r <= high and g >= l that is no less than low l + e where
l > 0, and no less than high l + e elsewhere. All that rounding adds is in e.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flint import arb

from adderc.prove.checker_balls import ONE, ZERO
from adderc.prove.checker_forms import Balls, Column, Form, combined, is_zero, plus, times
from adderc.prove.checker_reader import Term

FACTORS = frozenset(("div", "reciprocal", "rsqrt"))


@dataclass(eq=False)
class Scaled:
    """inner * factor + rest. It is no value of another group: the factor's bounds are not."""

    owner: Any  # the evaluator
    inner: Form
    factor: Form
    rest: Form
    _form: Form | None = None

    def value(self) -> Form:
        """The same made linear, always the same form."""
        if self._form is None:
            product = self.owner.ranges.product(self.inner, self.factor)
            self._form = combined([([ONE], product), ([ONE], self.rest)])
        return self._form

    def magnitude(self) -> Balls:
        sizes = plus(times(self.inner.magnitude(), self.factor.magnitude()),
                     self.rest.magnitude())
        return [ball.abs_upper() for ball in sizes]

    def settled(self, name: Any) -> Scaled:
        return Scaled(self.owner, self.inner, self.factor, self.rest.settled(name))


def keep_factor(owner: Any, term: Term, args: Sequence[Any]) -> Scaled | None:
    """The value of a term with its factor kept; None where it has none."""
    if any(isinstance(arg, Scaled) for arg in args):
        return _linear(owner, term, args)
    if term.op == "mul":
        for one, other in ((0, 1), (1, 0)):
            factor, rest = args[one], args[other]
            if term.args[one].op in FACTORS and _shared(owner, term.args[one], factor) and (
                    isinstance(rest, (Column, Form)) and not _is_number(rest)):
                return _scaled(owner, rest, factor, 1)
    if term.op == "div" and _shared(owner, term.args[1], args[1]) and (
            isinstance(args[0], (Column, Form)) and not _is_number(args[0])):
        return _scaled(owner, args[0], owner.inverse(term.args[1], args[1]), 4)
    return None


def _shared(owner: Any, term: Term, value: Any) -> bool:
    return isinstance(value, Form) and not value.flat and owner.uses[term.number] > 1


def _is_number(value: Any) -> bool:
    return isinstance(value, Column) and value.position < 0


def _scaled(owner: Any, value: Column | Form, factor: Form, units: int) -> Scaled:
    """value * factor, off by some times u of itself."""
    inner = value.form if isinstance(value, Column) else value
    exact = Scaled(owner, inner, factor, Form([ZERO]))
    return _off(owner, exact, times([owner.arithmetic.unit * units], exact.magnitude()), 1)


def _off(owner: Any, exact: Scaled, error: Balls, products: int) -> Scaled:
    error = plus(error, [2 * products * owner.arithmetic.tiny])
    return Scaled(owner, exact.inner, exact.factor, exact.rest.loose(error))


def _linear(owner: Any, term: Term, args: Sequence[Any]) -> Scaled | None:
    """A linear operation on values of one factor; None for another operation."""
    unit, one = owner.arithmetic.unit, Column(-1, [ONE])
    match term.op:
        case "mul":
            return _sum(owner, [(args[0], args[1])], unit)
        case "sum":
            pairs = list(zip(args[::2], args[1::2], strict=True))
            return _sum(owner, pairs, owner.arithmetic.gamma(len(pairs) + term.data))
        case "add" | "sub":
            sign = ONE if term.op == "add" else -ONE
            first, second = args
            if isinstance(first, Scaled) and isinstance(second, Scaled):
                return _sum(owner, [(first, one), (second, Column(-1, [sign]))], unit)
            if isinstance(first, Scaled) and _is_number(second):
                return _moved(owner, first, sign * second.balls[0])
            if isinstance(second, Scaled) and _is_number(first) and term.op == "add":
                return _moved(owner, second, first.balls[0])
    return None


def _sum(owner: Any, pairs: Sequence[tuple[Any, Any]], error: arb) -> Scaled | None:
    """Σ y * w for constants w, off by `error` times Σ |y w|; None if it is not that."""
    ordered = [(x, y) if isinstance(x, Scaled) else (y, x) for x, y in pairs]
    live = [(y, w) for y, w in ordered if not (is_zero(y) or is_zero(w))]
    if not live or not all(isinstance(y, Scaled) and _is_number(w) for y, w in live):
        return None
    factor = live[0][0].factor
    if any(y.factor is not factor for y, _ in live):
        return None
    size = [ZERO]
    for y, w in live:
        size = plus(size, times([w.balls[0].abs_upper()], y.magnitude()))
    exact = Scaled(owner, combined([(w.balls, y.inner) for y, w in live]), factor,
                   combined([(w.balls, y.rest) for y, w in live]))
    return _off(owner, exact, [ball.abs_upper() * error for ball in size], len(live))


def _moved(owner: Any, value: Scaled, by: arb) -> Scaled:
    """value + by, rounded once."""
    exact = Scaled(owner, value.inner, value.factor, combined([([ONE], value.rest)], [by]))
    return _off(owner, exact, times([owner.arithmetic.unit], exact.magnitude()), 1)


# ---------------------------------------------------------------- margins


def least_margins(owner: Any, values: Sequence[Any], right: Sequence[int]) -> Balls:
    """For each case a lower bound on logit right[case] less the largest other one."""
    bounds = _by_factor(owner, values, right)
    if bounds is None:
        forms = [owner.plain(value) for value in values]
        bounds = owner.ranges.gaps(forms, right)
    margins = []
    for row in bounds:
        least = row[0]
        for bound in row[1:]:
            least = least.min(bound)
        margins.append(least)
    return margins


def _by_factor(owner: Any, values: Sequence[Any], right: Sequence[int]) -> list[Balls] | None:
    """The gaps of logits of one factor; None where there is none that is known to be positive."""
    if not all(isinstance(value, Scaled) and not value.rest.roots for value in values):
        return None
    factor = values[0].factor
    if any(value.factor is not factor for value in values):
        return None
    low, high = owner.ranges.of(factor)
    if not all(ball > 0 for ball in low):
        return None
    inner = owner.ranges.gaps([value.inner for value in values], right)
    rests = owner.ranges.gaps([value.rest for value in values], right)
    return [[((a if gap > 0 else b) * gap + rest).lower()
             for gap, rest in zip(gaps, others, strict=True)]
            for a, b, gaps, others in zip(low, high, inner, rests, strict=True)]


__all__ = ["Scaled", "keep_factor", "least_margins"]
