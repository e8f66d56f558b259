"""Values of scalar nodes for all cases of a step.

Takes: a scalar graph, a step's cases. Gives: `Evaluator`, node number to `Box`, `Form`
or `Scaled`.
May import: prove.box, prove.carry, prove.doubt, prove.form, prove.functions, prove.jumps,
prove.lines, prove.ranges, prove.rows, prove.scalars, prove.scaled,
prove.softmax, prove.sums.

A node of at most one token is a box, exact per token. A node of several tokens is a form;
its rounding is a noise symbol of its own where the node is read more than once.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from adderc.prove import box as boxes
from adderc.prove.box import Box
from adderc.prove.carry import Automaton, Cases
from adderc.prove.doubt import Doubt, Unsupported
from adderc.prove.form import (
    OWN,
    UP,
    Form,
    combine,
    from_box,
    middle,
    multiply_forms,
    scale,
    square_form,
    up,
)
from adderc.prove.functions import EVERY, FUNCTIONS
from adderc.prove.jumps import compare, divided, leaky, select, whole
from adderc.prove.lines import line
from adderc.prove.ranges import Ranges
from adderc.prove.rows import ONE, Rows, meet, rows_by
from adderc.prove.scalars import Roots, ScalarGraph
from adderc.prove.scaled import INVERSE, Common, Scaled, common_factor, keep_factor
from adderc.prove.softmax import Entry, SoftRow, average, weigh
from adderc.prove.sums import SumBuilder, dot_boxes

Array = np.ndarray
Value = Box | Form
RANGES_AT_ONCE = 50_000  # forms times cases


class Evaluator:
    """One step's cases. `shared` keeps boxes of one token at most, which no case changes, from
    step to step.

    `exact` leaves the module's rounding out, but for that of float64; `named` gives every
    error a name. `known` are the positions whose tokens every case knows.
    """

    def __init__(self, graph: ScalarGraph, automaton: Automaton, dtype: np.dtype[Any],
                 cases: Cases, positions: int, shared: dict[int, Box], exact: bool = False,
                 named: bool = False) -> None:
        self.graph, self.automaton = graph, automaton
        self.dtype = np.dtype(np.float64) if exact else dtype
        self.cases, self.positions, self.shared = cases, positions, shared
        self.named = named
        info = np.finfo(dtype)
        self.unit = 0.0 if exact else float(info.eps) / 2
        self.tiny = 0.0 if exact else float(info.tiny)
        self.largest = float(info.max)
        self.tokens = max(automaton.domain(p) for p in range(positions))
        self.ranges = Ranges(automaton, cases, positions)
        self.values: dict[int, Any] = {}
        self.uses: dict[int, int] = {}
        self.sees: dict[int, frozenset[int]] = {}  # positions of the tokens a node depends on
        self.each_case = Rows(np.arange(len(cases)), len(cases), np.arange(len(cases)))
        self._forms: dict[int, tuple[Box, Form]] = {}
        self._inverses: dict[int, Form] = {}
        self.common: Common | None = None  # what the roots have in common
        self.known = self._known_tokens()

    # ------------------------------------------------------------ driving

    def run(self, roots: Roots, deadline: float = np.inf) -> list[Form]:
        """The forms of the roots; Doubt where something cannot be bounded in time."""
        needed = self.graph.reachable(roots)
        for number in needed:
            args = self.graph.args[number]
            token = self.graph.op[number] == "token"
            self.sees[number] = frozenset((self.graph.data[number],)) if token else frozenset(
                ).union(*(self.sees[arg] for arg in args))
            for arg in args:
                self.uses[arg] = self.uses.get(arg, 0) + 1
        for count, number in enumerate(needed):
            if count % 64 == 0 and time.monotonic() > deadline:
                raise Doubt("out of budget")
            self.values[number] = self.evaluate(number)
        self.common = common_factor(self, [self.values[root] for root in roots.nodes])
        return [self.form(self.values[root]).with_symbol(root) for root in roots.nodes]

    def evaluate(self, number: int) -> Any:
        known = self.shared.get(number)
        if known is not None:
            return known
        try:
            value = self._compute(number)
        except Doubt as doubt:
            raise type(doubt)(f"{doubt} ({self.graph.op[number]})") from None
        if isinstance(value, Box):
            # rows alone do not tell: these cases may all know the same token, or be one case
            if value.rows is ONE and len(self.sees[number]) < 2:
                self.shared[number] = value
        elif isinstance(value, Form):
            if not (value.mass < self.largest / 8).all():
                raise Doubt("overflow cannot be excluded")
            if self.named or self.uses.get(number, 0) > 1:
                value = value.with_symbol(number)
        elif isinstance(value, Scaled):
            if not (value.magnitude < self.largest / 8).all():
                raise Doubt("overflow cannot be excluded")
            value = value.named(number)
        return value

    def _compute(self, number: int) -> Any:
        op, data = self.graph.op[number], self.graph.data[number]
        args = [self.values[arg] for arg in self.graph.args[number]]
        if op == "constant":
            if np.isnan(data) or data == np.inf:
                raise Doubt("a constant that is not finite")
            return -np.inf if data == -np.inf else boxes.constant(data, self.dtype)
        if op == "token":
            return None
        if (kept := keep_factor(self, op, args, number)) is not None:
            return kept
        args = [arg.form if isinstance(arg, Scaled) else arg for arg in args]
        if op == "softrow":
            return self._soft_row(args, data)
        if op == "entry":
            return weigh(args[0], data, self.unit, self.tiny)
        if any(isinstance(arg, float) for arg in args):
            raise Unsupported("arithmetic on minus infinity")
        if op == "dot":
            return self._dot(args, data)
        args = [arg.box() if isinstance(arg, Entry) else arg for arg in args]
        return self._elementwise(op, args, number)

    def _elementwise(self, op: str, args: list[Any], number: int) -> Value:
        match op:
            case "pick":
                return self._pick(args[1:], self.graph.data[self.graph.args[number][0]])
            case "add" | "sub":
                return self._add(args[0], args[1], 1.0 if op == "add" else -1.0)
            case "mul":
                return self._multiply(args[0], args[1])
            case "div":
                return self._divide(args[0], args[1])
            case "kernel":
                return self._at_kernel(args[0], self.graph.data[number])
            case "neg":
                return boxes.negate(args[0]) if isinstance(args[0], Box) else scale(args[0], -1.0)
            case "relu":
                return self.relu(args[0])
            case "max":
                return self._larger(args[0], args[1])
            case "leaky":
                return leaky(self, args[0], self.graph.data[number])
            case "whole":
                return whole(self.box(args[0]), self.graph.data[number])
            case "fraction" | "quotient":
                return divided(self, op, args[0], self.graph.data[number])
            case "select":
                return select(self, args[0], args[1], args[2])
            case "eq" | "ne" | "lt" | "le" | "gt" | "ge":
                return compare(self, op, args[0], args[1])
            case "loosen":
                return self._loosen(args[0], args[1], self.graph.data[number])
            case "nonnegative":
                return self._clip(args[0])
            case "abs":
                return boxes.absolute(self.box(args[0]))
            case "sqrt":
                if isinstance(args[0], Box):
                    return boxes.square_root(args[0])
                return self._function(op, args[0])
            case _ if op in FUNCTIONS:
                if isinstance(args[0], Box):
                    return boxes.apply(op, args[0])
                return self._function(op, args[0])
        raise Unsupported(f"the operation {op}")

    # ------------------------------------------------------------ conversions

    def form(self, value: Any) -> Form:
        if isinstance(value, Entry):
            value = value.box()
        if isinstance(value, Scaled):
            value = value.form
        if not isinstance(value, (Box, Form)):
            raise Unsupported("minus infinity in a sum")
        if isinstance(value, Form):
            return value
        known = self._forms.get(id(value))
        if known is None:
            known = (value, from_box(value, self.positions, self.tokens))
            self._forms[id(value)] = known
        return known[1]

    def box(self, value: Value) -> Box:
        """A value of several tokens as an interval for each case."""
        if isinstance(value, Box):
            return value
        low, high = self.case_range(value)
        return boxes.outward(low[:, None], high[:, None], self.dtype, -1, self.each_case)

    def case_range(self, form: Form) -> tuple[Array, Array]:
        """Exact bounds over all operands of each case, [C] each."""
        if form.range is None:
            self._find_ranges([form])
        assert form.range is not None
        return form.range

    def prefetch(self, forms: Sequence[Form]) -> None:
        """Compute the ranges of several forms together, which is quicker than one by one."""
        missing = [form for form in dict.fromkeys(forms) if form.range is None]
        most = max(1, RANGES_AT_ONCE // len(self.cases))
        for start in range(0, len(missing), most):
            self._find_ranges(missing[start : start + most])

    def _find_ranges(self, forms: list[Form]) -> None:
        """Fill in the ranges of forms that have none yet, all by one dynamic programme."""
        index: list[Array] = []
        counts = [form.tables.shape[2] for form in forms]
        starts = np.cumsum([0, *counts])
        for form, start, count in zip(forms, starts, counts, strict=False):
            row = form.rows.of(len(self.cases)) if count > 1 else np.zeros(
                len(self.cases), dtype=np.int64)
            index += [row + start, row + start + starts[-1]]
        all_tables = [form.tables for form in forms]
        both = np.concatenate([*all_tables, *(-tables for tables in all_tables)], axis=2)
        tops = self.ranges.largest(both, np.stack(index, 1))
        for number, form in enumerate(forms):
            rows = form.rows.of(len(self.cases))
            aside = form.spread() + self.ranges.error(form.largest)
            base, aside = (a[rows] if len(a) > 1 else a for a in (form.base, aside))
            low = base - tops[:, 2 * number + 1] - aside
            high = base + tops[:, 2 * number] + aside
            low, high = low - OWN * 2 * np.abs(low), high + OWN * 2 * np.abs(high)
            if form.limits is not None:
                low, high = np.maximum(low, form.limits[0]), np.minimum(high, form.limits[1])
            form.range = low, high

    def row_range(self, form: Form) -> tuple[Array, Array]:
        low, high = self.case_range(form)
        return -form.rows.worst(-low), form.rows.worst(high)

    def _known_tokens(self) -> dict[int, Array]:
        """Positions whose token every case knows, with the token of each case [C]."""
        auto, cases, found = self.automaton, self.cases, dict(self.cases.pins)
        for position in range(self.positions):
            holder = auto.holders[position]
            if holder.kind in ("answer", "state"):
                if cases.near is not None and holder.place == cases.near_place:
                    found[position] = auto.token_of_total(position, cases.near)
            elif cases.tuples is not None and holder.place == cases.place:
                found[position] = (
                    auto.digits[cases.tuples, holder.operand] if holder.kind == "digit"
                    else auto.tuple_token[cases.tuples])
        return found

    def fix(self, value: Box) -> Box:
        """A function of a token that each case knows, as a constant of the case."""
        tokens = self.known[value.position]
        own = rows_by(tokens)
        rows = meet(value.rows, own)
        picked = tokens[rows.first]
        lo, hi = value.rows.take(value.lo, rows), value.rows.take(value.hi, rows)
        at = np.arange(len(picked)) if len(lo) > 1 else np.zeros(len(picked), dtype=np.int64)
        return Box(lo[at, picked][:, None], hi[at, picked][:, None], -1, rows)

    def settle_pair(self, left: Value, right: Value) -> tuple[Value, Value]:
        """Fix one of two boxes of different tokens where the case allows it."""
        if isinstance(left, Box) and isinstance(right, Box) and not boxes.compatible(left, right):
            if right.position in self.known:
                right = self.fix(right)
            elif left.position in self.known:
                left = self.fix(left)
        elif isinstance(left, Box) and left.position in self.known and isinstance(right, Form):
            left = self.fix(left)
        elif isinstance(right, Box) and right.position in self.known and isinstance(left, Form):
            right = self.fix(right)
        return left, right

    # ------------------------------------------------------------ operations

    def _loosen(self, value: Value, size: Value, units: int) -> Value:
        """The value with an error of units * u * |size| more."""
        if isinstance(value, Box) and isinstance(size, Box) and boxes.compatible(value, size):
            low, high, least, most, position, where = boxes.align(value, size)
            most = np.maximum(np.abs(least), np.abs(most)).astype(np.float64)
            error = units * self.unit * UP * most
            return boxes.outward(low - error, high + error, self.dtype, position, where)
        one, two = self.form(value), self.form(size)
        rows = meet(one.rows, two.rows)
        amount = two.rows.take(two.magnitude, rows) * units * self.unit * UP
        return one.on(rows).add_radius(amount)

    def _at_kernel(self, value: Value, seen: float) -> Value:
        """A constant at the value that was seen; Doubt where its bounds exclude that."""
        value = self.box(value)
        if not self.unit:  # in exact arithmetic nothing was rounded
            return value
        if not ((value.lo <= seen) & (seen <= value.hi)).all():
            raise Doubt(f"torch computes {seen!r}, outside its bounds")
        return boxes.constant(seen, self.dtype)

    def _clip(self, value: Value) -> Value:
        """A value that is known not to be negative, whatever its bounds say."""
        if isinstance(value, Form) and (self.case_range(value)[0] >= 0).all():
            return value
        value = self.box(value)
        return Box(np.maximum(value.lo, 0), np.maximum(value.hi, 0), value.position, value.rows)

    def _pick(self, entries: list[Any], position: int) -> Box:
        domain = self.automaton.domain(position)
        if any(not isinstance(e, Box) or e.position not in (-1, position) or e.rows is not ONE
               for e in entries[:domain]):
            raise Unsupported("a choice by token between values of several tokens")
        pick = [slice(t, t + 1) if e.position >= 0 else slice(0, 1)
                for t, e in enumerate(entries[:domain])]
        lo = np.concatenate([e.lo[:, p] for e, p in zip(entries, pick, strict=False)], axis=1)
        hi = np.concatenate([e.hi[:, p] for e, p in zip(entries, pick, strict=False)], axis=1)
        return Box(lo, hi, position, ONE)

    def rounded(self, form: Form, factor: float = 1.0) -> Form:
        """One correctly rounded operation: half an ulp of the result, or underflow."""
        return form.add_radius(form.magnitude * (self.unit * factor * UP) + self.tiny)

    def _add(self, left: Value, right: Value, sign: float) -> Value:
        if isinstance(left, Box) and isinstance(right, Box) and boxes.compatible(left, right):
            return boxes.add(left, right) if sign > 0 else boxes.subtract(left, right)
        one, two = self.form(left), self.form(right)
        rows = meet(one.rows, two.rows)
        total = combine([(np.ones(1), one), (np.full(1, sign), two)], np.zeros(1), rows)
        return self.rounded(total)

    def _multiply(self, left: Value, right: Value) -> Value:
        left, right = self.settle_pair(left, right)
        if isinstance(left, Box) and isinstance(right, Box) and boxes.compatible(left, right):
            return boxes.multiply(left, right)
        return self.rounded(self.product(left, right))

    def product(self, left: Value, right: Value) -> Form:
        """The exact product of computed values, as a form."""
        if isinstance(left, Box) and left.position < 0:
            left, right = right, left
        if isinstance(right, Box) and right.position < 0:
            one = self.form(left)
            rows = meet(one.rows, right.rows)
            centre, half = middle(right.lo[:, 0], right.hi[:, 0])
            take = right.rows.take
            form = combine([(take(centre, rows), one)], np.zeros(1), rows)
            size = one.rows.take(one.magnitude, rows)
            return form.add_radius(take(half, rows) * size * UP)
        one, two = self.form(left), self.form(right)
        self.prefetch([one, two])
        if one is two:
            return square_form(one.on(self.each_case), self.case_range(one))
        return multiply_forms(one.on(self.each_case), two.on(self.each_case),
                              self.case_range(one), self.case_range(two))

    def _divide(self, left: Value, right: Value) -> Value:
        left, right = self.settle_pair(left, right)
        if isinstance(left, Box) and isinstance(right, Box) and boxes.compatible(left, right):
            return boxes.divide(left, right)
        if isinstance(right, Form) and (self.case_range(right)[0] > 0).all():
            return self.rounded(self.product(left, self._function("reciprocal", right)))
        if isinstance(right, Form):
            right = self.box(right)
        if right.position >= 0:
            right = self.box(self.form(right))
        one = boxes.constant(1.0, self.dtype)
        inverse = boxes.divide(one, right)
        wide = boxes.outward(inverse.lo.astype(np.float64), inverse.hi.astype(np.float64),
                             self.dtype, -1, inverse.rows)
        return self.rounded(self.product(left, wide))

    def _dot(self, args: list[Any], extra: int) -> Value:
        """Σ left * right over pairs, in any order, with or without FMA, `extra` roundings more."""
        pairs = list(zip(args[::2], args[1::2], strict=True))
        ratio = average(self, pairs, extra)
        if ratio is not None:
            return ratio
        pairs = [tuple(x.box() if isinstance(x, Entry) else x for x in pair)  # type: ignore[misc]
                 for pair in pairs]
        if len(pairs) == 1:
            product = self._multiply(*pairs[0])
            return self._loosen(product, product, extra + 1) if extra else product
        pairs = [self.settle_pair(*pair) for pair in pairs]
        if (found := dot_boxes(pairs, self.unit, self.tiny, extra)) is not None:
            return found
        return SumBuilder(self).build(pairs, extra=extra)

    def inverse(self, number: int, value: Form) -> Form:
        """1 / node `number`, exactly, for all that is divided by it; its value is positive."""
        if number not in self._inverses:
            inverse = self._function("reciprocal", value)
            self._inverses[number] = self.form(inverse).with_symbol(INVERSE + number)
        return self._inverses[number]

    def difference(self, left: Value, right: Value) -> Form:
        """left - right, exactly: what a comparison looks at."""
        one, two = self.form(left), self.form(right)
        return combine([(np.ones(1), one), (np.full(1, -1.0), two)], np.zeros(1),
                       meet(one.rows, two.rows))

    def _larger(self, left: Value, right: Value) -> Value:
        """max(x, y) = y + relu(x - y)"""
        if isinstance(left, Box) and isinstance(right, Box) and boxes.compatible(left, right):
            return boxes.select_larger(left, right)
        more, rest = self.form(self.relu(self.difference(left, right))), self.form(right)
        ones = np.ones(1)
        return combine([(ones, rest), (ones, more)], np.zeros(1), meet(rest.rows, more.rows))

    def relu(self, value: Value) -> Value:
        if isinstance(value, Box):
            return boxes.relu(value)
        low, high = self.case_range(value)
        state = np.where(low >= 0, 1, np.where(high <= 0, 0, 2))
        if (state == 1).all():
            return value
        if (state == 0).all():
            return boxes.constant(0.0, self.dtype)
        own = np.where(state == 2, np.arange(len(state)) + 2, state)
        rows = meet(value.rows, rows_by(own))
        state, low, high = (array[rows.first] for array in (state, low, high))
        with np.errstate(invalid="ignore", divide="ignore"):
            slope = np.where(state == 2, high / (high - low), state)
        slope = np.clip(slope, 0.0, 1.0)
        # over [low, high] relu lies between slope * x and slope * (x - low), slope rounded
        gap = np.where(state == 2, np.maximum(-slope * low, (1 - slope) * high), 0.0) * up(4)
        form = combine([(slope.astype(np.float64), value)], gap / 2, rows)
        return form.add_radius(gap / 2)

    def _function(self, name: str, value: Form) -> Value:
        """The better of a linear form with a bounded remainder and a plain interval."""
        function = EVERY[name]
        low, high = self.case_range(value)
        if (high - low).max() == 0 or (name in ("rsqrt", "sqrt") and (low <= 0).any()):
            return boxes.apply(name, self.box(value))
        slope, base, aside = line(function, low, high)
        least, most = function.enclose(low, high)
        error = function.error(low, high, least, most, np.finfo(self.dtype)) + self.tiny
        error = error + 2 * OWN * (np.abs(least) + np.abs(most))
        found = combine([(slope, value)], base, self.each_case).add_radius(aside + error)
        found.limits = least - error, most + error
        return found

    def _soft_row(self, args: list[Any], passes: int) -> SoftRow:
        kept = [arg.box() if isinstance(arg, Entry) else arg for arg in args]
        self.prefetch([arg for arg in kept if isinstance(arg, Form)])
        return SoftRow([arg if isinstance(arg, float) else self.box(arg) for arg in kept],
                       self.unit, self.tiny, passes)
