"""Flattening: steps nested deeper than the model has layers become steps on plain sums.

Takes: a lowered circuit, its contexts, the number of layers, the period of the positions.
Gives: `flatten` → an equal circuit (in every context) of depth at most `layers`, without
`Index`. May import: errors, lang.checked, ir, passes.separate.

A step whose argument holds other steps is a truth value y on finitely many feature points
f (the sums below those steps). In this order:
1. y is linearly separable: one step on w f, w in small integers with a nearly widest margin.
   A carry inside a wrap is: [x + [d > 0] >= B] = [B x + d >= B (B - 1) + …].
2. Otherwise the features are merged into one number z = f_1 + K_1 f_2 + … with K so large
   that different points have different z; y along z is a staircase, one step for each change.
3. Where y depends on the step number i, the rule that holds at most steps is treated as
   above, and for each other step j the difference is a staircase on z - K (1 - wave_j),
   which K keeps below every threshold unless i = j.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from adderc.errors import Fault, Refusal, Source
from adderc.ir.form import Form
from adderc.ir.graph import decoded, depths, form_of, live
from adderc.ir.ops import (
    Affine,
    Circuit,
    Decode,
    Fetch,
    Index,
    Node,
    Op,
    Step,
    Token,
    Wave,
    arguments,
)
from adderc.ir.rules import check_circuit
from adderc.passes.exact import rank, solve
from adderc.passes.separate import separate

Array = np.ndarray
SPECIAL_LIMIT = 256
STAIR_LIMIT = 4096
WIDEST = 2**40  # largest merged sum
FINE = 0.5  # how far one step's margin may fall behind a staircase's


def flatten(
    circuit: Circuit, arrays: dict[str, Array], index: Array, layers: int, period: Fraction,
    source: Source,
) -> Circuit:
    """`circuit` at depth `layers` at most; `arrays` are its node values per context."""
    work = _Work(list(circuit.nodes), dict(arrays), index, period, source)
    while (name := work.next_deep(layers)) is not None:
        work.replace(name, work.flat_form(name))
    if work.circuit.of(Index):
        work.spell_out_index()
    work.nodes = list(live(merge(work.circuit)).nodes)
    while (name := work.complement()) is not None:
        work.replace(name, work.flipped(name))
    return check_circuit(live(merge(work.circuit)), "flat", layers)


def merge(circuit: Circuit) -> Circuit:
    """One node for equal operations; the first name stays."""
    known: dict[Op, str] = {}
    names: dict[str, str] = {}
    nodes = []
    for node in circuit.nodes:
        op = node.op
        match op:
            case Affine(terms, constant):
                op = Affine(tuple((names.get(n, n), c) for n, c in terms), constant)
            case Step(argument, threshold):
                op = Step(names.get(argument, argument), threshold)
            case Decode(argument):
                op = Decode(names.get(argument, argument))
        if op in known:
            names[node.name] = known[op]
            continue
        known[op] = node.name
        nodes.append(Node(node.name, op, node.line, node.values))
    return Circuit(tuple(nodes))


@dataclass
class _Work:
    nodes: list[Node]
    arrays: dict[str, Array]
    index: Array
    period: Fraction
    source: Source
    fresh: int = field(default=0)

    @property
    def circuit(self) -> Circuit:
        return Circuit(tuple(self.nodes))

    # ------------------------------------------------------------ what to flatten

    def next_deep(self, layers: int) -> str | None:
        """The first step that lies too deep or looks at the index; inner ones come first."""
        depth = depths(self.circuit)
        indexed = self.indexed()
        too_deep = any(depth[node.name] > layers for node in self.circuit.of(Step))
        for node in self.circuit.of(Step):
            if node.name in indexed or (too_deep and depth[node.name] == 2):
                return node.name
        return None

    def indexed(self) -> set[str]:
        """Nodes whose argument holds the index as it stands."""
        found: set[str] = set()
        for node in self.nodes:
            reads = found & set(arguments(node.op)) if isinstance(node.op, Affine) else set()
            if isinstance(node.op, Index) or reads:
                found.add(node.name)
        return {node.name for node in self.circuit.of(Step) if node.op.argument in found}  # type: ignore[union-attr]

    # ------------------------------------------------------------ one step

    def flat_form(self, name: str) -> Form:
        """The step `name` as a form over steps on sums of sources."""
        truth = self.arrays[name].astype(np.int64)
        line = self.circuit[name].line
        for features in self.feature_sets(name):
            try:
                return self.over(features, truth, name, line)
            except _NotAFunction:
                continue
        raise self.refusal(f"{name} depends on too much for this many layers", line)

    def feature_sets(self, name: str) -> list[list[Form]]:
        """The sums below the inner steps, then the single sources."""
        circuit = self.circuit
        sums: list[Form] = []
        sources: list[str] = []
        waiting = [circuit[name].op.argument]  # type: ignore[union-attr]
        while waiting:
            form = form_of(circuit, waiting.pop(0))
            plain = []
            for term, coefficient in form.terms:
                op = circuit[term].op
                if isinstance(op, Step):
                    waiting.append(op.argument)
                elif isinstance(op, Token | Fetch):
                    plain.append((term, coefficient))
                    sources += [term] if term not in sources else []
            if plain and (total := _primitive(Form(tuple(plain)))) not in sums:
                sums.append(total)
        singles = [Form.of(source) for source in sources]
        sums = _independent(sums, sources)
        return [sums, singles] if sums != singles else [sums]

    def over(self, features: list[Form], truth: Array, name: str, line: int) -> Form:
        """`truth` as steps over the given features and, where needed, waves."""
        points = (np.stack([self.value(f) for f in features], axis=1) if features
                  else np.zeros((len(truth), 0), dtype=np.int64))
        if is_function(points, truth):
            return self.generic(features, points, truth, name, line)
        if np.all(self.index < 0):
            raise _NotAFunction
        steps = np.unique(self.index)
        usual = _usual_steps(points, truth, self.index)
        rows = np.isin(self.index, usual)
        total = (self.generic(features, points[rows], truth[rows], name, line)
                 if features else Form(constant=Fraction(int(truth[rows][0]))))
        special = [int(step) for step in steps if step not in usual]
        if len(special) > SPECIAL_LIMIT:
            raise self.refusal(f"{name} has another rule at {len(special)} steps", line)
        for place in special:
            total = total.plus(self.exception(features, points, truth, total, place, line))
        return total

    def generic(
        self, features: list[Form], points: Array, truth: Array, name: str, line: int
    ) -> Form:
        """One step where separable, else a staircase along the merged features."""
        if truth.all() or not truth.any():
            return Form(constant=Fraction(int(truth[0])))
        weights = separate(points, truth)
        merged, along = _merge_features(features, points, truth)
        if weights is not None:
            values = points @ weights
            gap = int(values[truth > 0].min() - values[truth == 0].max())
            if gap * _size(merged, features) >= FINE * sum(map(abs, weights)):
                return self.step(_combine(features, weights), int(values[truth > 0].min()),
                                 line, name)
        return self.staircase(merged, along, truth, Form(), Fraction(0), line)

    def exception(
        self, features: list[Form], points: Array, truth: Array, usual: Form, place: int,
        line: int,
    ) -> Form:
        """What the rule at step `place` adds to the usual one, gated by a wave."""
        rows = self.index == place
        change = truth[rows] - self.value(usual)[rows]
        if not change.any():
            return Form()
        merged, along = _merge_features(features, points[rows], change)
        everywhere = self.value(merged) if features else np.zeros(len(truth), dtype=np.int64)
        waves = np.cos(2 * math.pi * (self.index[~rows] - place) / float(self.period))
        room = 1 - float(waves.max()) if (~rows).any() else 1.0
        if room < 1e-9:
            raise self.refusal(f"step {place} has the phase of another step", line)
        span = int(everywhere.max() - along.min()) + 1
        height = Fraction(2 ** math.ceil(math.log2(span / room)))
        gate = Form.of(self.wave(place, line)).scaled(height)
        return self.staircase(merged, along, change, gate, height, line)

    def staircase(
        self, merged: Form, along: Array, change: Array, gate: Form, height: Fraction, line: int
    ) -> Form:
        """`change` along the values of `merged`, 0 (or, ungated, the lowest) before them."""
        order, first = np.unique(along, return_index=True)
        levels = change[first]
        gated = bool(gate.terms)
        total = Form(constant=Fraction(0 if gated else int(levels[0])))
        before = 0 if gated else int(levels[0])
        rises = []
        for value, level in zip(order, levels, strict=True):
            if level != before:
                rises.append((int(value), int(level) - before))
                before = int(level)
        if len(rises) > STAIR_LIMIT:
            raise self.refusal(f"a rule needs {len(rises)} steps", line)
        for value, rise in rises:
            step = self.step(merged.plus(gate), value + height, line, "step")
            total = total.plus(step.scaled(rise))
        return total

    # ------------------------------------------------------------ the constant

    def complement(self) -> str | None:
        """A step whose opposite takes the constant out of the digit: k - k [q >= t] is
        k [-q > -t], which needs no unit that is always 1. None where there is none."""
        form = decoded(self.circuit)
        readers = [n for node in self.nodes for n in arguments(node.op)]
        for name, coefficient in form.terms:
            op = self.circuit[name].op
            if (isinstance(op, Step) and coefficient == -form.constant and form.constant
                    and readers.count(name) == 1 and self.circuit[op.argument].values):
                return name
        return None

    def flipped(self, name: str) -> Form:
        """1 - [-q >= -(largest q that does not pass)]."""
        op = self.circuit[name].op
        assert isinstance(op, Step)
        form = form_of(self.circuit, op.argument)
        below = int(self.arrays[op.argument][self.arrays[name] == 0].max())
        opposite = self.step(form.scaled(-1), -below, self.circuit[name].line, name)
        return Form(constant=Fraction(1)).minus(opposite)

    # ------------------------------------------------------------ nodes

    def value(self, form: Form) -> Array:
        """A form's value in every context; integer unless it holds a wave."""
        total: Array = np.full(len(self.index), int(form.constant), dtype=np.int64)
        for name, coefficient in form.terms:
            factor = int(coefficient) if coefficient.denominator == 1 else float(coefficient)
            total = total + factor * self.arrays[name]
        return total

    def step(self, form: Form, threshold: Fraction | int, line: int, name: str) -> Form:
        """A new step node on `form`."""
        threshold = Fraction(threshold) - form.constant
        form = Form(form.terms)
        argument = form.node or self.add(Affine(form.terms), self.value(form), line, "sum")
        bound = float(threshold)
        slack = 0.5 if any(isinstance(self.circuit[n].op, Wave) for n, _ in form.terms) else 0.0
        values = (self.value(form) >= bound - slack).astype(np.int64)
        if slack:
            threshold -= Fraction(1, 2)
        return Form.of(self.add(Step(argument, threshold), values, line, name))

    def wave(self, place: int, line: int) -> str:
        values = np.cos(2 * math.pi * (self.index - place) / float(self.period))
        return self.add(Wave(place, self.period), values, line, f"wave{place}")

    def add(self, op: Op, values: Array, line: int, name: str) -> str:
        """A node with a name of its own, put before the decode."""
        for node in self.nodes:
            if node.op == op:
                return node.name
        taken = {node.name for node in self.nodes}
        unique = name
        while unique in taken:
            self.fresh += 1
            unique = f"{name}{self.fresh}"
        exact: tuple[Fraction, ...] = ()
        if np.issubdtype(values.dtype, np.integer):
            exact = tuple(Fraction(int(v)) for v in np.unique(values))
        self.nodes.insert(len(self.nodes) - 1, Node(unique, op, line, exact))
        self.arrays[unique] = values
        return unique

    def replace(self, name: str, form: Form) -> None:
        """Write `form` for the node `name` wherever it is read, and order the nodes anew."""
        old = self.circuit[name]
        kept = [node for node in self.nodes if node.name != name]
        renamed = []
        single = form.node
        if single is not None and single.startswith(name) and single[len(name):].isdigit():
            kept = [Node(name, n.op, n.line, n.values) if n.name == single else n for n in kept]
            self.arrays[name] = self.arrays.pop(single)
            self.nodes = _ordered(kept)
            return
        for node in kept:
            op = node.op
            if isinstance(op, Affine) and name in dict(op.terms):
                total = Form(op.terms, op.constant).substitute({name: form})
                op = Affine(total.terms, total.constant)
            elif isinstance(op, Step | Decode) and op.argument == name:
                if single is None:
                    single = f"{name}_sum"
                    self.arrays[single] = self.value(form)
                    kept_node = Node(single, Affine(form.terms, form.constant), old.line,
                                     old.values)
                    renamed.append(kept_node)
                op = (Step(single, op.threshold) if isinstance(op, Step) else Decode(single))
            renamed.append(Node(node.name, op, node.line, node.values))
        self.nodes = _ordered(renamed)

    def spell_out_index(self) -> None:
        """The index as a sum of indicators, where a digit depends on it linearly."""
        index = self.circuit.of(Index)[0]
        total = Form()
        for place in sorted(int(v) for v in np.unique(self.index)):
            if place:
                total = total.plus(self.exception(
                    [], np.zeros((len(self.index), 0)), (self.index == place).astype(np.int64),
                    Form(), place, index.line).scaled(place))
        self.replace(index.name, total)

    def refusal(self, message: str, line: int) -> Refusal:
        return Refusal(kind="not implemented", source=self.source, faults=(Fault(
            f"{message} (line {line})", hint="give the model more layers"),))


class _NotAFunction(Exception):
    """The features do not determine the truth value, or their merged sum is too wide."""


def _primitive(form: Form) -> Form:
    """The form scaled to coprime integers with a positive lead."""
    scale = math.lcm(*(c.denominator for _, c in form.terms))
    divisor = math.gcd(*(int(c * scale) for _, c in form.terms))
    sign = 1 if form.terms[0][1] > 0 else -1
    return form.scaled(Fraction(sign * scale, divisor))


def _independent(sums: list[Form], sources: list[str]) -> list[Form]:
    """The sums without those that are combinations of earlier ones, shortest first."""
    kept: list[Form] = []
    rows: list[list[Fraction]] = []
    for form in sorted(sums, key=lambda f: (len(f.terms), max(abs(c) for _, c in f.terms))):
        row = [dict(form.terms).get(source, Fraction(0)) for source in sources]
        if rank([*rows, row]) > len(rows):
            rows.append(row)
            kept.append(form)
    return kept


def _combine(features: list[Form], weights: tuple[int, ...]) -> Form:
    total = Form()
    for feature, weight in zip(features, weights, strict=True):
        total = total.plus(feature.scaled(weight))
    return total


def _size(merged: Form, features: list[Form]) -> int:
    """How much an error of 1 in every feature can move the merged sum."""
    names = list(dict.fromkeys(n for f in features for n, _ in f.terms))
    columns = [[dict(f.terms).get(n, Fraction(0)) for n in names] for f in features]
    weights = solve(columns, [dict(merged.terms).get(n, Fraction(0)) for n in names])
    assert weights is not None
    return int(sum(map(abs, weights)))


def is_function(points: Array, truth: Array) -> bool:
    """Whether equal points always carry equal truth values."""
    rows = np.unique(np.hstack([points, truth[:, None]]), axis=0)
    return len(np.unique(rows[:, :-1], axis=0)) == len(rows)


def _usual_steps(points: Array, truth: Array, index: Array) -> list[int]:
    """The largest set of steps (greedily) at which one rule holds."""
    groups: list[tuple[dict[tuple[int, ...], int], list[int]]] = []
    for step in np.unique(index):
        rows = index == step
        rule = {tuple(map(int, p)): int(y)
                for p, y in zip(points[rows], truth[rows], strict=True)}
        for known, members in groups:
            if all(known.get(point, y) == y for point, y in rule.items()):
                known.update(rule)
                members.append(int(step))
                break
        else:
            groups.append((rule, [int(step)]))
    return max((members for _, members in groups), key=len)


def _merge_features(
    features: list[Form], points: Array, change: Array
) -> tuple[Form, Array]:
    """One integer form that tells all points apart, along which `change` changes least."""
    if not features:
        return Form(), np.zeros(len(points), dtype=np.int64)
    best: tuple[int, Form, Array] | None = None
    orders = itertools.permutations(range(len(features))) if len(features) <= 4 else [
        tuple(range(len(features)))]
    for order in orders:
        form, along, radix = Form(), np.zeros(len(points), dtype=np.int64), 1
        for at in order:
            form = form.plus(features[at].scaled(radix))
            along = along + radix * points[:, at]
            radix *= int(np.ptp(points[:, at])) + 1
            if radix > WIDEST:
                raise _NotAFunction
        _, first = np.unique(along, return_index=True)
        changes = int(np.count_nonzero(np.diff(change[first])))
        if best is None or changes < best[0]:
            best = (changes, form, along)
    assert best is not None
    return best[1], best[2]


def _ordered(nodes: list[Node]) -> list[Node]:
    """Arguments before readers, otherwise in the given order, the decode last."""
    waiting, done, result = list(nodes), set(), []
    while waiting:
        ready = next(n for n in waiting if all(a in done for a in arguments(n.op))
                     and (len(waiting) == 1 or not isinstance(n.op, Decode)))
        waiting.remove(ready)
        done.add(ready.name)
        result.append(ready)
    return result
