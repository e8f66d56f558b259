"""Lowers an algorithm on integers to a circuit of fetches, affine forms and steps.

Takes: `CheckedSpec` with its contexts, and how operand digits may share a fetch. Gives:
`lower` → `Circuit` (steps may be nested; values known for every node).
May import: errors, format, lang, ir.

Every expression becomes an affine form over nodes. A function of one quantity q with
ascending values v_0 < v_1 < … is, exactly on those values,

    f(q) = f(v_0) + m (q - v_0) + sum over k of (f(v_k) - f(v_{k-1}) - m (v_k - v_{k-1})) [q >= v_k]

for any slope m; the slope that leaves the fewest steps is taken. mod, div, min, max, abs
and powers are such functions; `and`, `or` are thresholds on a sum; a product of two
quantities is a sum over steps of one of the other, gated: [g and q >= v] = [g + [q >= v] >= 2].
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from adderc.errors import Fault, Refusal
from adderc.ir.form import Form
from adderc.ir.graph import live
from adderc.ir.ops import Affine, Circuit, Decode, Fetch, Index, Node, Op, Step, Token
from adderc.ir.parts import resolve
from adderc.ir.rules import check_circuit
from adderc.lang.checked import CheckedSpec, Contexts
from adderc.lang.explore import Window
from adderc.lang.syntax import Binary, Call, Compare, Digit, Expr, If, Name, Number, Unary
from adderc.passes.features import feature_of, feature_values
from adderc.passes.fetches import Grouping, Vector, group_digits

Array = np.ndarray
STEP_LIMIT = 20_000


@dataclass
class Builder:
    """The circuit under construction: nodes, and their values in every context."""

    spec: CheckedSpec
    grouping: Grouping
    nodes: list[Node] = field(default_factory=list)
    arrays: dict[str, Array] = field(default_factory=dict)
    known: dict[Op, str] = field(default_factory=dict)
    cache: dict[Expr, Form] = field(default_factory=dict)

    @property
    def contexts(self) -> Contexts:
        assert self.spec.contexts is not None
        return self.spec.contexts

    def add(self, op: Op, values: Array, line: int, name: str) -> str:
        """The node that computes `op`, made once; its name is free or gets a number."""
        if op in self.known:
            return self.known[op]
        taken = {node.name for node in self.nodes}
        unique, count = name, 1
        while unique in taken:
            count += 1
            unique = f"{name}{count}"
        exact = tuple(Fraction(int(v)) for v in np.unique(values))
        self.nodes.append(Node(unique, op, line, exact))
        self.arrays[unique] = np.broadcast_to(values, len(self.contexts))
        self.known[op] = unique
        if len(self.nodes) > STEP_LIMIT:
            raise self.refusal(f"the algorithm needs more than {STEP_LIMIT:,} steps", line)
        return unique

    def values(self, form: Form) -> Array:
        """An affine form's integer value in every context."""
        total = np.full(len(self.contexts), int(form.constant), dtype=np.int64)
        for name, coefficient in form.terms:
            total = total + int(coefficient) * self.arrays[name]
        return total

    def refusal(self, message: str, line: int, hint: str = "") -> Refusal:
        place = f" (line {line})" if line else ""
        return Refusal(kind="not implemented", source=self.spec.source,
                       faults=(Fault(message + place, hint=hint),))

    # ------------------------------------------------------------ sources

    def digits(self, vector: Vector, line: int) -> Form:
        """A linear form of operand and answer digits as fetches and the current token."""
        total = Form()
        for part in group_digits(vector, self.spec, self.grouping):
            if part.targets is None:
                self.check_first_token(line)
                part_name = part.name.replace("s.", "token.") if "." in part.name else "token"
                name = self.add(Token(part.name), self.digit(part.name, -1), line, part_name)
            else:
                values = sum(
                    int(t.coefficient) * self.digit(t.name, t.offset) for t in part.targets
                )
                name = self.add(Fetch(part.targets), np.asarray(values), part.line or line,
                                part.name)
            total = total.plus(Form.of(name).scaled(part.coefficient))
        return total

    def check_first_token(self, line: int) -> None:
        """s[-1] is 0, so the token before the answer must have the value 0."""
        form = self.spec.format
        cell = form.cells[-1] if form.cells else None
        if cell is not None and cell.kind == "symbol":
            token = form.ids[cell.text]
            if not feature_values(form, feature_of(form, "s"))[token]:
                return
            what = f"digit {token}"
            if form.answer_kind == "states":
                what = f"state {token - form.first_state}"
            message = f'"{cell.text}" is the {what}, and stands where s[-1] = 0 is read'
        else:
            message = "the prompt ends in a digit, and stands where s[-1] = 0 is read"
        raise Refusal(kind="positions collide", source=self.spec.source, faults=(Fault(
            f"{message} (line {line})",
            hint='end the prompt in a symbol that is 0 or has an id of its own: "=" -> 0'),))

    def digit(self, name: str, offset: int) -> Array:
        """Digit i + offset of an operand or the answer, in every context."""
        algorithm, contexts = self.spec.algorithm, self.contexts
        assert algorithm is not None
        low, names = Window.of(algorithm).low, self.spec.number.names

        def plain(name: str, offset: int) -> Array:
            if name == "s":
                return contexts.answers[:, contexts.answers.shape[1] + offset]
            return contexts.digits[:, names.index(name), offset - low]

        return resolve(plain, self.spec.number.base)(name, offset)

    # ------------------------------------------------------------ expressions

    def form(self, expr: Expr, line: int) -> Form:
        """The affine form of an expression over nodes."""
        if expr not in self.cache:
            linear = self.spec.algorithm.definitions.linear(expr)  # type: ignore[union-attr]
            vector = {(a.name, a.offset): c for a, c in linear.terms if isinstance(a, Digit)}
            total = self.digits(vector, line) if vector else Form()
            for atom, coefficient in linear.terms:
                if isinstance(atom, Name):
                    name = self.add(Index(), self.contexts.index, line, "index")
                    total = total.plus(Form.of(name).scaled(coefficient))
                elif not isinstance(atom, Digit):
                    total = total.plus(self.nonlinear(atom, line).scaled(coefficient))
            self.cache[expr] = total.plus(Form(constant=linear.constant))
        return self.cache[expr]

    def nonlinear(self, expr: Expr, line: int) -> Form:
        """An operation that is not affine, by steps."""
        match expr:
            case Compare(op, left, right):
                return self.compare(op, self.form(left, line).minus(self.form(right, line)), line)
            case Unary("not", operand):
                return self.tabulate(self.form(operand, line), lambda v: int(v == 0), line)
            case Binary("and" | "or" as op, left, right):
                both = [self.truth(self.form(side, line), line) for side in (left, right)]
                return self.at_least(both[0].plus(both[1]), 2 if op == "and" else 1, line)
            case Binary("div" | "mod" as op, left, right):
                return self.divide(op, left, right, line)
            case Binary("^", left, Number(power)):
                return self.tabulate(self.form(left, line), lambda v: v ** int(power), line)
            case Binary("*", left, right):
                return self.product(self.form(left, line), self.form(right, line), line)
            case If(condition, then, otherwise):
                chosen = self.truth(self.form(condition, line), line)
                other = self.form(otherwise, line)
                return other.plus(
                    self.product(chosen, self.form(then, line).minus(other), line))
            case Call("abs", (operand,)):
                return self.tabulate(self.form(operand, line), abs, line)
            case Call("min" | "max" as name, args):
                return self.extreme(name, [self.form(arg, line) for arg in args], line)
        raise self.refusal(f"{type(expr).__name__.lower()} cannot be lowered", line)

    def compare(self, op: str, difference: Form, line: int) -> Form:
        """[difference op 0] on integers."""
        one = Form(constant=Fraction(1))
        match op:
            case ">=":
                return self.at_least(difference, 0, line)
            case ">":
                return self.at_least(difference, 1, line)
            case "<":
                return one.minus(self.at_least(difference, 0, line))
            case "<=":
                return one.minus(self.at_least(difference, 1, line))
        equal = self.at_least(difference, 0, line).minus(self.at_least(difference, 1, line))
        return equal if op == "==" else one.minus(equal)

    def truth(self, form: Form, line: int) -> Form:
        """[form != 0]; the form itself where it is 0 or 1 already."""
        if set(np.unique(self.values(form))) <= {0, 1}:
            return form
        return self.tabulate(form, lambda v: int(v != 0), line)

    def divide(self, op: str, left: Expr, right: Expr, line: int) -> Form:
        divisor = self.form(right, line)
        if divisor.terms:
            raise self.refusal(f"{op} by a quantity is not implemented", line,
                               "divide by a constant such as base")
        m = int(divisor.constant)
        function: Callable[[int], int] = (lambda v: v // m) if op == "div" else (lambda v: v % m)
        name = "quotient" if op == "div" else "wrap"
        return self.tabulate(self.form(left, line), function, line, name)

    def extreme(self, name: str, forms: list[Form], line: int) -> Form:
        """min(p, q) = q + min(p - q, 0), folded from the left; max likewise."""
        fold = min if name == "min" else max
        total = forms[0]
        for form in forms[1:]:
            total = form.plus(self.tabulate(total.minus(form), lambda v: fold(v, 0), line))
        return total

    def product(self, left: Form, right: Form, line: int) -> Form:
        """left * right = l_0 right + sum of increments of left, each gating right."""
        if not left.terms or not right.terms:
            return (right.scaled(left.constant) if not left.terms
                    else left.scaled(right.constant))
        sides = [(np.unique(self.values(form)), form) for form in (left, right)]
        (outer, gated), (inner, form) = sorted(sides, key=lambda side: len(side[0]))
        total = form.scaled(int(outer[0]))
        for below, value in itertools.pairwise(outer):
            gate = self.at_least(gated, int(value), line)
            part = gate.scaled(int(inner[0]))
            for low, high in itertools.pairwise(inner):
                both = gate.plus(self.at_least(form, int(high), line))
                part = part.plus(self.at_least(both, 2, line).scaled(int(high - low)))
            total = total.plus(part.scaled(int(value - below)))
        return total

    # ------------------------------------------------------------ steps

    def tabulate(
        self, form: Form, function: Callable[[int], int], line: int, name: str = "step"
    ) -> Form:
        """A function of one quantity, exact on the values it takes (formula above)."""
        values = [int(v) for v in np.unique(self.values(form))]
        images = [function(v) for v in values]
        rises = [
            (high - low, f_high - f_low)
            for low, high, f_low, f_high in zip(
                values[:-1], values[1:], images[:-1], images[1:], strict=True)
        ]
        slopes = Counter(Fraction(rise, run) for run, rise in rises)
        slope = max((s for s in slopes if s.denominator == 1),
                    key=lambda s: (slopes[s], -abs(s)), default=Fraction(0))
        total = form.scaled(slope)
        total = total.plus(Form(constant=images[0] - slope * values[0]))
        for value, (run, rise) in zip(values[1:], rises, strict=True):
            if rise != slope * run:
                step = self.at_least(form, value, line, name)
                total = total.plus(step.scaled(rise - slope * run))
        return total

    def at_least(self, form: Form, threshold: int, line: int, called: str = "step") -> Form:
        """[form >= threshold] as one step; a constant where it never changes."""
        truth = self.values(form) >= threshold
        if truth.all() or not truth.any():
            return Form(constant=Fraction(int(truth[0])))
        bound = threshold - form.constant
        argument = Form(form.terms)
        lead = argument.terms[0][1]
        if len(argument.terms) == 1 and lead > 0:
            name = argument.terms[0][0]
            return self.step(name, Fraction(-(-bound // lead)), truth, line, called)
        name = self.affine(argument, line)
        return self.step(name, bound, truth, line, called)

    def step(
        self, argument: str, threshold: Fraction, truth: Array, line: int, called: str
    ) -> Form:
        """Steps that agree in every context are one node: the threshold is the least value
        that passes."""
        least = Fraction(int(self.arrays[argument][truth].min()))
        assert least >= threshold
        name = self.add(Step(argument, least), truth.astype(np.int64), line, called)
        return Form.of(name)

    def affine(self, form: Form, line: int, name: str = "sum") -> str:
        """The node whose value is `form`."""
        if form.node is not None:
            return form.node
        return self.add(Affine(form.terms, form.constant), self.values(form), line, name)


def lower(spec: CheckedSpec, grouping: Grouping) -> Circuit:
    """The circuit of the spec's algorithm; see the module's docstring."""
    algorithm = spec.algorithm
    assert algorithm is not None
    builder = Builder(spec, grouping)
    lines = dict(algorithm.lines)
    named: dict[str, str] = {}
    for quantity in algorithm.order:
        form = builder.form(algorithm.quantities[quantity], lines[quantity])
        if form.node is not None:
            named.setdefault(form.node, quantity)
    emitted = builder.form(algorithm.emit, algorithm.emit_line)
    last = builder.affine(emitted, algorithm.emit_line, "digit")
    builder.add(Decode(last), builder.arrays[last], algorithm.emit_line, "decode")
    return check_circuit(rename(live(Circuit(tuple(builder.nodes))), named), "lowered")


def rename(circuit: Circuit, names: dict[str, str]) -> Circuit:
    """Steps and sums take the names of the quantities they are, where those are free."""
    taken = {node.name for node in circuit.nodes}
    chosen = {old: new for old, new in names.items() if old in taken and new not in taken}

    def call(name: str) -> str:
        return chosen.get(name, name)

    def renamed(op: Op) -> Op:
        match op:
            case Affine(terms, constant):
                return Affine(tuple((call(n), c) for n, c in terms), constant)
            case Step(argument, threshold):
                return Step(call(argument), threshold)
            case Decode(argument):
                return Decode(call(argument))
        return op

    return Circuit(tuple(
        Node(call(node.name), renamed(node.op), node.line, node.values)
        for node in circuit.nodes))
