"""The value of every term, for the cases of one group.

Takes: terms, arguments first; a group of cases and the tokens they know. Gives: `Evaluator`.
May import: prove.checker_balls, prove.checker_digits, prove.checker_floors,
prove.checker_forms, prove.checker_ranges, prove.checker_reader, prove.checker_scaled,
prove.checker_softmax, flint.

A term of one token at most is a column, exact token by token. Others are forms, whose
rounding is noise of the term's own if the term is read more than once. Terms whose value
needs no range and no known token are kept for all groups and steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flint import arb

from adderc.prove.checker_balls import FUNCTIONS, ONE, ZERO, Arithmetic, is_power, max_of, min_of
from adderc.prove.checker_digits import Places, Reach
from adderc.prove.checker_floors import floor_of
from adderc.prove.checker_forms import (
    Balls,
    Column,
    Form,
    Value,
    at,
    column,
    combined,
    gathered,
    is_zero,
    plus,
    together,
)
from adderc.prove.checker_ranges import Ranges
from adderc.prove.checker_reader import NotUnderstood, Term
from adderc.prove.checker_scaled import Scaled, keep_factor
from adderc.prove.checker_softmax import SoftRow, Weight, soft_row

MINUS_INFINITY = float("-inf")
Pair = tuple[Any, Any]
UNIT = Column(-1, [ONE])
FLOORED = frozenset(("div", "reciprocal", "rsqrt", "sqrt"))  # where a floor is of use


class Evaluator:
    """Values of terms; `tokens` says which token stands at a position where that is known."""

    def __init__(self, arithmetic: Arithmetic, places: Places, reach: Reach,
                 tokens: dict[int, int], kept: dict[int, Any], uses: dict[int, int]) -> None:
        self.arithmetic, self.places, self.tokens = arithmetic, places, tokens
        self.ranges, self.kept, self.uses = Ranges(arithmetic, reach), kept, uses
        self.own: dict[int, Any] = {}
        self.inverses: dict[int, Form] = {}
        self.fixed = sum(1 << position for position in tokens)

    def run(self, order: Sequence[Term]) -> None:
        for term in order:
            if term.number in self.kept and not term.sees & self.fixed:
                continue
            self.ranges.asked = False
            value = self._finished(term, self._evaluate(term))
            free = not (self.ranges.asked or term.sees & self.fixed) and all(
                arg.number in self.kept for arg in term.args)
            (self.kept if free else self.own)[term.number] = value

    def value(self, term: Term) -> Any:
        return self.own[term.number] if term.number in self.own else self.kept[term.number]

    def form(self, term: Term) -> Form:
        return self.plain(self.value(term))

    def plain(self, value: Any) -> Form:
        value = value.value() if isinstance(value, (Scaled, Weight)) else value
        if not isinstance(value, (Column, Form)):
            raise NotUnderstood("minus infinity where a number is needed")
        return value.form if isinstance(value, Column) else value

    def _finished(self, term: Term, value: Any) -> Any:
        if not isinstance(value, (Form, Scaled)):
            return value
        if not all(size < self.arithmetic.largest for size in value.magnitude()):
            raise NotUnderstood("overflow or NaN cannot be excluded")
        return value.settled(term.number) if self.uses[term.number] > 1 else value

    def inverse(self, term: Term, value: Form) -> Form:
        """1 / value, exactly, for all that is divided by the term."""
        if term.number not in self.inverses:
            least = floor_of(term, self.arithmetic)
            found = self.ranges.quotient(UNIT.form, value, ZERO if least is None else least)
            self.inverses[term.number] = found.settled(object())
        return self.inverses[term.number]

    # ------------------------------------------------------------ one term

    def _evaluate(self, term: Term) -> Any:
        match term.op:
            case "constant":
                infinite = term.data == MINUS_INFINITY
                return None if infinite else Column(-1, [self.arithmetic.constant(term.data)])
            case "inverse of":
                return Column(-1, [1 / arb(term.data)])
            case "token" | "integer" | "integers":
                return None
            case "look up":
                return self._look_up(term)
            case "kernel":
                return self._seen(self.value(term.args[0]), term.data)
        args = [self.value(arg) for arg in term.args]
        if term.op == "weight":
            return args[0].weights[term.data]
        if (kept := keep_factor(self, term, args)) is not None:
            return kept
        args = [arg.value() if isinstance(arg, Scaled) or (
            isinstance(arg, Weight) and term.op != "sum") else arg for arg in args]
        if term.op == "row":
            return self._row(args, term.data)
        if any(arg is None for arg in args):
            return self._infinite(term.op, args)
        if term.op == "sum":
            return self._sum(list(zip(args[::2], args[1::2], strict=True)), term.data)
        least = floor_of(term.args[-1], self.arithmetic) if term.op in FLOORED else None
        return self._elementwise(term.op, args, term.data or 0, least)

    def _infinite(self, op: str, args: list[Any]) -> None:
        """Minus infinity plus a number; anything else is refused."""
        if op != "add" or args == [None, None]:
            raise NotUnderstood("arithmetic on minus infinity")

    def _seen(self, value: Any, seen: float) -> Column:
        """A constant at the value that torch gave it, which its bounds must contain."""
        low, high = self._ends(value.value() if isinstance(value, Weight) else value)
        if not low <= arb(seen) <= high:
            raise NotUnderstood("torch computes a constant outside its bounds")
        return Column(-1, [self.arithmetic.constant(seen)])

    def _look_up(self, term: Term) -> Value:
        token, *entries = term.args
        position, count = token.data, self.places.tokens(token.data)
        if count > len(entries):
            raise NotUnderstood("a token outside its table")
        if position in self.tokens:
            return self.value(entries[self.tokens[position]])
        balls = []
        for number, entry in enumerate(entries[:count]):
            value = self.value(entry)
            if value is None:
                raise NotUnderstood("minus infinity in a table")
            if not isinstance(value, Column) or value.position not in (-1, position):
                raise NotUnderstood("a table of values that depend on other tokens")
            balls.append(at(value, number))
        return column(position, balls)

    def _row(self, args: list[Any], passes: int) -> SoftRow:
        return soft_row(self, args, passes)

    def _elementwise(self, op: str, args: list[Value], units: int,
                     least: arb | None = None) -> Value:
        """`least`: the last argument is known not to be smaller."""
        if op in ("add", "sub") and is_zero(args[1]):
            return args[0]
        if op == "add" and is_zero(args[0]):
            return args[1]
        if op == "mul":
            for one, other in (args, args[::-1]):
                if isinstance(one, Column) and one.position < 0 and one.balls[0] == 1:
                    return other
        columns = [arg for arg in args if isinstance(arg, Column)]
        where = together(columns) if len(columns) == len(args) else None
        if where is not None:
            position, tokens = where
            return column(position, [
                self.arithmetic.one(op, [at(c, token) for c in columns], units)
                for token in range(tokens)])
        forms = [arg.form if isinstance(arg, Column) else arg for arg in args]
        return self._of_forms(op, forms, units, ZERO if least is None else least)

    def _of_forms(self, op: str, x: list[Form], units: int, least: arb) -> Form:
        ranges, exact = self.ranges, [ONE]
        match op:
            case "add" | "sub":
                sign = exact if op == "add" else [-ONE]
                return self._rounded(combined([(exact, x[0]), (sign, x[1])]))
            case "mul":
                return self._rounded(ranges.product(x[0], x[1]))
            case "div" | "reciprocal":
                x = x if op == "div" else [UNIT.form, x[0]]
                power = x[1].flat and all(is_power(ball) for ball in x[1].base)
                return self._rounded(ranges.quotient(x[0], x[1], least), 1 if power else 4)
            case "neg":
                return combined([([-ONE], x[0])])
            case "relu":
                return ranges.relu(x[0])
            case "abs":
                held = x[0].settled(object())
                return combined([([2 * ONE], ranges.relu(held)), ([-ONE], held)])
            case "max":
                best = x[0]
                for other in x[1:]:
                    held = other.settled(object())
                    above = ranges.relu(combined([(exact, best), ([-ONE], held)]))
                    best = combined([(exact, held), (exact, above)])
                return best
            case "loosen":
                size = [s * units * self.arithmetic.unit for s in x[1].magnitude()]
                return x[0].loose(size)
            case "nonnegative":
                low, high = ranges.of(x[0])
                if all(ball >= 0 for ball in low):
                    return x[0]
                half = [(ball.max(ZERO) / 2).upper() for ball in high]
                return Form(half).spread(half)
        if op not in FUNCTIONS:
            raise NotUnderstood(f"{op} of values of several tokens")
        return ranges.function(FUNCTIONS[op], x[0], least)

    def _rounded(self, form: Form, units: int = 1) -> Form:
        unit, tiny = self.arithmetic.unit * units, self.arithmetic.tiny
        return form.loose([size * unit + tiny for size in form.magnitude()])

    # ------------------------------------------------------------ sums of products

    def _sum(self, pairs: list[Pair], extra: int) -> Value:
        """Σ x * y as the module computes it, in any order."""
        average = self._average(pairs, extra)
        if average is not None:
            return average
        pairs = [tuple(v.value() if isinstance(v, Weight) else v  # type: ignore[misc]
                       for v in pair) for pair in pairs]
        live = [(x, y) for x, y in pairs if not (is_zero(x) or is_zero(y))]
        if not live:
            return Column(-1, [ZERO])
        if len(live) == 1 and not extra:
            return self._elementwise("mul", list(live[0]), 0)
        gamma, under = self.arithmetic.gamma(len(live) + extra), 2 * len(live)
        columns = [value for pair in live for value in pair if isinstance(value, Column)]
        where = together(columns) if len(columns) == 2 * len(live) else None
        if where is not None:
            return column(where[0], [self._by_token(live, token, gamma, under)
                                     for token in range(where[1])])
        total, size = self.total(live)
        tiny = self.arithmetic.tiny * under
        return total.loose([ball * gamma + tiny for ball in size])

    def _by_token(self, live: list[Pair], token: int, gamma: arb, under: int) -> arb:
        products = [at(x, token) * at(y, token) for x, y in live]
        size = sum((product.abs_upper() for product in products), ZERO)
        exact = len([product for product in products if not product.is_zero()]) <= 1
        if exact and all(self.arithmetic.is_exact(product) for product in products):
            return sum(products, ZERO)
        total = sum(products, ZERO) + arb(0, size * gamma + under * self.arithmetic.tiny)
        self.arithmetic.finite(total)
        return total

    def total(self, pairs: list[Pair]) -> tuple[Form, Balls]:
        """Σ x * y exactly, and a bound on Σ |x * y|."""
        tables: dict[int, Balls] = {}
        base, size, parts = ZERO, [ZERO], []
        merge = not any(isinstance(value, Form) for pair in pairs for value in pair)
        for x, y in pairs:
            columns = [value for value in (x, y) if isinstance(value, Column)]
            where = together(columns) if len(columns) == 2 else None
            if where is None or not (merge or where[0] < 0 or x.position == y.position):
                form = self._product(x, y)
                parts.append(form)
                size = plus(size, form.magnitude())
                continue
            position, tokens = where
            balls = [at(x, token) * at(y, token) for token in range(tokens)]
            size = plus(size, [Column(position, balls).largest()])
            if position < 0:
                base += balls[0]
            else:
                old = tables.get(position)
                tables[position] = balls if old is None else plus(old, balls)
        parts.append(gathered(tables, base))
        return combined([([ONE], part) for part in parts]), size

    def _product(self, x: Value, y: Value) -> Form:
        """x * y exactly; a constant times a column keeps the column's root."""
        one, two = (value.form if isinstance(value, Column) else value for value in (x, y))
        return self.ranges.product(one, two)

    def _average(self, pairs: list[Pair], extra: int) -> Form | None:
        """Σ weight * value of one row of weights that depend on tokens; None if not that."""
        ordered = [(y, x) if isinstance(y, Weight) else (x, y) for x, y in pairs]
        live = [(w, v) for w, v in ordered if not (is_zero(w) or is_zero(v))]
        if not live or any(not isinstance(w, Weight) or isinstance(v, Weight)
                           or w.row is not live[0][0].row for w, v in live):
            return None
        row: SoftRow = live[0][0].row
        above, _ = self.total([(weight.exponential, value) for weight, value in live])
        ends = [self._ends(value) for _, value in live]
        if len(live) < sum(e is not None for e in row.exponentials):
            ends.append((ZERO, ZERO))  # the values left out are 0
        known = min_of([low for low, _ in ends]), max_of([high for _, high in ends])
        found = self.ranges.quotient(above, row.sum, row.least, known)
        peak = known[0].abs_upper().max(known[1].abs_upper())
        loss = row.loss + self.arithmetic.gamma(len(pairs) + extra)
        tiny = 4 * len(pairs) * self.arithmetic.tiny
        return found.loose([(peak * loss + tiny * (1 + peak)) * arb("1.01")])

    def _ends(self, value: Value) -> tuple[arb, arb]:
        """Bounds on a value over all tokens and cases."""
        low, high = ((value.balls, value.balls) if isinstance(value, Column)
                     else self.ranges.of(value))
        return min_of([ball.lower() for ball in low]), max_of([ball.upper() for ball in high])


__all__ = ["Evaluator"]
