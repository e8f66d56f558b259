"""Placement: which residual dimension carries which signals, and which layer each step.

Takes: a flat circuit, its node values, the alignment and the model plan. Gives: `place` →
`PlacedCircuit`. May import: errors, lang, ir, passes.

The residual stream of the last position is a vector of slots; slot k holds a fixed sum of
signals (the current token's value, fetched sums, steps, the position's sine and cosine).
A reader that wants a sum of signals solves for the slots that combine to it, exactly. So
signals may share a slot wherever no reader wants them apart: a carry wants prev - token
only, and one slot holds just that. The decoded digit grows in slot `out`: what is linear
in it is written there by attention and embedding, its steps by the feed-forward layers.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np

from adderc.errors import Fault, FaultList, Refusal, SpecError
from adderc.ir.form import Form
from adderc.ir.graph import decoded, depths, form_of
from adderc.ir.ops import Affine, Circuit, Fetch, Node, Step, Token, Wave
from adderc.ir.show import show_op
from adderc.lang.checked import CheckedSpec
from adderc.lang.linear import Definitions
from adderc.lang.syntax import Expr, Name
from adderc.passes.align import Alignment
from adderc.passes.exact import rank, solve
from adderc.passes.features import TOKEN, fetch_feature, sources
from adderc.passes.needs import Needs
from adderc.passes.plan import ModelPlan

Array = np.ndarray
POSITION = ("sin", "cos")
COPY = "token copy"  # the token's value once more, from a feed-forward unit
ONE = "one"  # the constant channel
CURVE = "curve"  # the height of the curve that tokens lie on
NEGATIVE = "minus "  # before the name of a constant channel: its negative
BALANCE = "balance"  # minus the sum of all other slots
CONSTANT = (ONE, CURVE, NEGATIVE + ONE, NEGATIVE + CURVE)


@dataclass(frozen=True)
class Slot:
    """One residual dimension: its name, and the sum of signals it holds in the end."""

    name: str
    form: Form


@dataclass(frozen=True)
class Unit:
    """A step with its place: layer, the slots it reads, and the values it must tell apart.

    row . residual (+ waves) is at most `off` where the step is 0, at least `on` where 1.
    """

    step: str
    layer: int
    row: tuple[Fraction, ...]
    waves: tuple[tuple[str, Fraction], ...]
    off: float
    on: float
    line: int


@dataclass(frozen=True)
class PlacedCircuit:
    """A flat circuit with its residual slots, layers and units.

    `sources` are the signals that the embedding writes, with the table of each (see
    passes.features); `value_slots` the slot that each fetch moves, `moved` the signal in it.
    `digit_factor` is what slot `out` holds for a decoded digit of 1; `values[name]` are node
    values per context (for the error analysis).
    """

    circuit: Circuit
    alignment: Alignment
    slots: tuple[Slot, ...]
    out: int
    value_slots: tuple[int, ...]
    units: tuple[Unit, ...]
    layers: int
    needs: Needs = Needs()
    digit_factor: Fraction = Fraction(1)
    copy_row: tuple[Fraction, ...] | None = None
    sources: tuple[tuple[str, str], ...] = ()
    moved: tuple[str, ...] = ()
    values: dict[str, Array] = field(compare=False, repr=False, default_factory=dict)

    @property
    def d_model(self) -> int:
        return len(self.slots)

    @property
    def token(self) -> str:
        """The signal that is the current token's value, read by a node or not."""
        return token_name(self.circuit)

    @property
    def fetches(self) -> tuple[str, ...]:
        return tuple(node.name for node in self.circuit.of(Fetch))

    def source_of(self, fetch: str) -> tuple[str, str, int]:
        """The signal that a fetch moves, its table, and the slot that holds it."""
        at = self.fetches.index(fetch)
        return self.moved[at], dict(self.sources)[self.moved[at]], self.value_slots[at]

    def column(self, signal: str) -> tuple[Fraction, ...]:
        """How much of `signal` each slot holds."""
        return tuple(dict(slot.form.terms).get(signal, Fraction(0)) for slot in self.slots)

    @property
    def digit_column(self) -> tuple[Fraction, ...]:
        """What each slot holds for a decoded digit of 1."""
        return tuple(
            self.digit_factor if at == self.out else -self.digit_factor
            if at == self.balance else Fraction(0) for at in range(self.d_model))

    @property
    def logit_slots(self) -> tuple[int, ...]:
        """The slots of the token ids' logits, where the decode has its own."""
        return tuple(at for at, slot in enumerate(self.slots) if slot.name.startswith("logit "))

    @property
    def balance(self) -> int | None:
        """The slot that makes the mean zero, if there is one."""
        return next((at for at, slot in enumerate(self.slots) if slot.name == BALANCE), None)

    @property
    def one(self) -> int | None:
        """The slot of the constant channel, if there is one; a curve can stand in for it."""
        return self.slot_of(ONE) if self.needs.one is not None else self.slot_of(CURVE)

    @property
    def one_height(self) -> float:
        """The height of that channel."""
        return float(self.constant[self.one]) if self.one is not None else 0.0

    @property
    def constant(self) -> tuple[Fraction, ...]:
        """What every token writes into each slot: the constant channels."""
        return tuple(a + b for a, b in zip(self.column(ONE), self.column(CURVE), strict=True))

    def slot_of(self, signal: str) -> int | None:
        """The slot (the balancing one aside) that holds a position signal or the constant."""
        return next((at for at, value in enumerate(self.column(signal))
                     if value and at != self.balance), None)


def place(
    circuit: Circuit, values: dict[str, Array], alignment: Alignment, plan: ModelPlan,
    spec: CheckedSpec, needs: Needs,
) -> PlacedCircuit:
    """Choose the slots, or check those the spec names, and place every step."""
    return _Placing(circuit, values, plan, spec, needs).run(alignment)


@dataclass
class _Placing:
    circuit: Circuit
    values: dict[str, Array]
    plan: ModelPlan
    spec: CheckedSpec
    needs: Needs

    @property
    def extra(self) -> list[Slot]:
        """The slots that the realizations want."""
        slots = [Slot(name, Form.of(name)) for name in POSITION if self.needs.position]
        for name, height in ((ONE, self.needs.one), (CURVE, self.needs.curve)):
            if height is None:
                continue
            slots.append(Slot(name, Form.of(name).scaled(height)))
            if self.needs.centred:
                slots.append(Slot(NEGATIVE + name, Form.of(name).scaled(-height)))
        return slots

    def run(self, alignment: Alignment) -> PlacedCircuit:
        depth = max(depths(self.circuit).values())
        if depth < self.plan.layers and self.plan.layers > 1:
            raise SpecError(source=self.spec.source, faults=(Fault(
                f"layers {self.plan.layers}: the algorithm has work for {max(depth, 1)}",
                self.plan.span("layers")),))
        slots = self.given_slots() if self.plan.residual is not None else self.chosen_slots()
        slots = self.with_steps(slots)
        if self.needs.centred:
            slots = self.balanced(slots)
        units = tuple(self.unit(node.name, slots) for node in self.circuit.of(Step))
        out = next(at for at, slot in enumerate(slots) if slot.name == "out")
        named = tuple(
            replace(slot, name=_slot_name(slot)) for slot in slots)
        copy_row = self.copy_row(slots) if self.copies else None
        moved = tuple(self.source_of(node) for node in self.circuit.of(Fetch))
        return PlacedCircuit(
            self.circuit, alignment, named, out,
            tuple(self.value_slot(slots, name) for name in moved), units, self.plan.layers,
            self.needs, self.factor, copy_row, tuple(self.sources.items()), moved, self.values)

    @property
    def sources(self) -> dict[str, str]:
        """The signals that the embedding writes, with their tables."""
        return sources(self.circuit, self.spec.format)

    def source_of(self, fetch: Node) -> str:
        """The signal that a fetch moves."""
        assert isinstance(fetch.op, Fetch)
        feature = fetch_feature(self.spec.format, fetch.op)
        return next(name for name, found in self.sources.items() if found == feature)

    def copy_row(self, slots: list[Slot]) -> tuple[Fraction, ...]:
        """The slots that combine to the token's value, so that it can be taken away."""
        token = token_name(self.circuit)
        depth = depths(self.circuit)  # the last layer copies: earlier steps are there
        known = [n.name for n in self.circuit.nodes
                 if isinstance(n.op, Token | Fetch)
                 or (isinstance(n.op, Step) and depth[n.name] < self.plan.layers)]
        row = self.read(Form.of(token), slots, list(dict.fromkeys([token, *known])))
        if row is None:
            raise Refusal(kind="algorithm impossible", source=self.spec.source, faults=(Fault(
                "the residual does not hold the token's value alone, which a tied head needs",
                self.plan.span("residual")),))
        return row

    # ------------------------------------------------------------ what is wanted

    @property
    def out_form(self) -> Form:
        form = decoded(self.circuit)
        return Form(form.terms)

    @property
    def out_plain(self) -> Form:
        """The part of the decoded digit that is linear in token and fetches."""
        return Form(tuple((n, c) for n, c in self.out_form.terms if not self.is_step(n)))

    def is_step(self, name: str) -> bool:
        return isinstance(self.circuit[name].op, Step)

    def readers(self) -> list[Form]:
        """What the steps read, waves left out."""
        found = []
        for node in self.circuit.of(Step):
            assert isinstance(node.op, Step)
            form = form_of(self.circuit, node.op.argument)
            kept = tuple((n, c) for n, c in form.terms
                         if not isinstance(self.circuit[n].op, Wave))
            found.append(Form(kept))
        return found

    # ------------------------------------------------------------ slots

    def balanced(self, slots: list[Slot]) -> list[Slot]:
        """The slots with one more that holds minus their sum."""
        total = Form()
        for slot in slots:
            if slot.name not in CONSTANT:
                total = total.plus(slot.form)
        return [*slots, Slot(BALANCE, total.scaled(-1))]

    def chosen_slots(self) -> list[Slot]:
        """A slot for each signal, or, where the spec's d_model is smaller, for each sum
        that some reader wants."""
        position = self.extra
        if self.needs.tied:
            generous, frugal = self.tied_slots(False), self.tied_slots(True)
        else:
            generous = [*self.own_slots(), Slot("out", self.out_plain)]
            frugal = [*self.shared_slots(), Slot("out", self.out_plain)]
        wanted = self.plan.d_model
        beside = self.needs.centred + self.needs.logits
        if wanted is not None:
            wanted -= beside
        chosen = (generous if wanted is None or wanted >= len(generous) + len(position)
                  else frugal)
        slots = [chosen[0], *position, *chosen[1:]] if len(chosen) > 1 else position + chosen
        if wanted is not None and len(slots) > wanted:
            names = [_slot_name(s) for s in slots] + ["balance"] * self.needs.centred
            names += [f"{self.needs.logits} logits"] if self.needs.logits else []
            raise Refusal(kind="algorithm impossible", source=self.spec.source, faults=(Fault(
                f"d_model {self.plan.d_model} is too small: this algorithm needs "
                f"{len(slots) + beside} residual dimensions ({', '.join(names)})",
                self.plan.span("d_model"), f"write d_model {len(slots) + beside}"),))
        logits = [Slot(f"logit {t}", Form()) for t in range(self.needs.logits)]
        unused = [Slot(f"unused{k + 1}", Form()) for k in range((wanted or 0) - len(slots))]
        return slots + unused + logits

    def own_slots(self) -> list[Slot]:
        """One slot per signal; one fetch of the digit's linear part lives in `out`."""
        signals = [n.name for n in self.circuit.nodes if isinstance(n.op, Fetch)]
        if signals or self.circuit.of(Token):
            signals = [*self.sources, *signals]
        signals += self.inner_steps()
        fetched = [n for n, _ in self.out_plain.terms
                   if isinstance(self.circuit[n].op, Fetch)]
        signs = {token_name(self.circuit): self.needs.token_sign}
        return [Slot(name, Form.of(name).scaled(signs.get(name, 1)))
                for name in signals if name not in fetched[:1]]

    @property
    def own_share(self) -> Fraction:
        """How much of the token's value the digit's linear part holds itself."""
        return dict(self.out_plain.terms).get(token_name(self.circuit), Fraction(0))

    @property
    def copies(self) -> bool:
        """Whether the token's value must be taken out of the digit's slot: it stands there
        for the attention to read, and a tied head reads that slot. Not where the digit holds
        it anyway and a norm can set the scale."""
        return bool(self.needs.tied) and not (self.own_share and self.needs.scaled)

    @property
    def factor(self) -> Fraction:
        """What slot `out` holds for a decoded digit of 1."""
        if not self.needs.tied:
            return Fraction(1)
        return Fraction(self.needs.tied) if self.copies else (
            self.needs.token_sign / self.own_share)

    def tied_slots(self, frugal: bool) -> list[Slot]:
        """The digit in the token's slot, every fetch and inner step in a slot of its own
        (frugal: where a reader needs it)."""
        token = token_name(self.circuit)
        grown = self.out_plain.scaled(self.factor)
        if self.copies:
            grown = Form.of(token).scaled(self.needs.token_sign).plus(grown)
        out = Slot("out", grown)
        known = [n.name for n in self.circuit.nodes if isinstance(n.op, Token | Fetch)]
        if frugal and not self.copies and all(
            self.read(form, [out], known) for form in self.readers()
        ):
            return [out]
        signals = [n.name for n in self.circuit.of(Fetch)] + self.inner_steps()
        return [out, *(Slot(name, Form.of(name)) for name in signals)]

    def inner_steps(self) -> list[str]:
        """Steps that other steps read."""
        read = {name for form in self.readers() for name, _ in form.terms}
        return [node.name for node in self.circuit.of(Step) if node.name in read]

    def shared_slots(self) -> list[Slot]:
        """A basis of what the readers want, beside the digit's linear part."""
        signals = [n.name for n in self.circuit.nodes
                   if isinstance(n.op, Token | Fetch | Step)]

        def vector(form: Form) -> list[Fraction]:
            return [dict(form.terms).get(name, Fraction(0)) for name in signals]

        basis = [vector(self.out_plain)] if self.out_plain.terms else []
        chosen: list[Form] = []
        for form in sorted(self.readers(), key=lambda f: len(f.terms)):
            if form.terms and rank([*basis, vector(form)]) > len(basis):
                basis.append(vector(form))
                chosen.append(form)
        token = token_name(self.circuit)
        for source in dict.fromkeys(self.source_of(node) for node in self.circuit.of(Fetch)):
            if not any(self.holds(f, source) for f in [*chosen, self.out_plain]):
                chosen.insert(0, Form.of(source))
        normal = []
        for form in chosen:
            lead = dict(form.terms).get(token, form.terms[0][1])
            normal.append(form.scaled(self.needs.token_sign / lead))
        normal.sort(key=lambda f: not any(self.holds(f, source) for source in self.sources))
        return [Slot(f"s{at}", form) for at, form in enumerate(normal)]

    def holds(self, form: Form, source: str) -> bool:
        """Whether a slot with this form holds a source, and nothing else of the embedding."""
        terms = dict(form.terms)
        others = {*POSITION, *self.sources} - {source}
        return bool(terms.get(source)) and not others & set(terms)

    def given_slots(self) -> list[Slot]:
        """The slots as the spec's residual line names them."""
        faults = FaultList(self.spec.source)
        assert self.plan.residual is not None
        names = {node.name for node in self.circuit.nodes if isinstance(node.op, Token | Fetch)}
        token = token_name(self.circuit)
        extra = [slot.name for slot in self.extra]
        aliases = {name: name for name in (*names, *extra, *self.inner_steps(), *self.sources)}
        aliases["token"] = token
        slots = []
        for expr in self.plan.residual:
            slots.append(self.given_slot(expr, aliases, faults))
        faults.raise_if_any()
        if self.plan.d_model not in (None, len(slots)):
            faults.add(f"residual names {len(slots)} dimensions, d_model is {self.plan.d_model}",
                       self.plan.span("residual"))
        carriers = [at for at, slot in enumerate(slots) if slot.name == "out"] or [
            at for at, slot in enumerate(slots)
            if _without_position(slot.form) == self.out_plain]
        if not carriers:
            faults.add("no residual dimension holds the linear part of the digit alone: "
                       + _text(self.out_plain), self.plan.span("residual"),
                       "name one `out`, or one that holds just that")
        missing = [name for name in extra
                   if not any(dict(s.form.terms).get(name) for s in slots)]
        if missing:
            faults.add(f"the residual does not hold {' and '.join(missing)}",
                       self.plan.span("residual"))
        faults.raise_if_any()
        out = carriers[-1]
        form = slots[out].form
        kept = Form(tuple((n, c) for n, c in form.terms if n in POSITION))
        slots[out] = Slot("out", self.out_plain.plus(kept))
        return slots

    def given_slot(self, expr: Expr, aliases: dict[str, str], faults: FaultList) -> Slot:
        if expr == Name("out"):
            return Slot("out", Form())
        linear = Definitions((), ()).linear(expr)
        terms = []
        for atom, coefficient in linear.terms:
            if not isinstance(atom, Name) or atom.name not in aliases:
                text = atom.name if isinstance(atom, Name) else "this"
                faults.add(f"{text!r} is no signal of the residual", atom.span,
                           f"signals: {', '.join(sorted(aliases))}, out")
                continue
            terms.append((aliases[atom.name], coefficient))
        return Slot("given", Form(tuple(terms)))

    def with_steps(self, slots: list[Slot]) -> list[Slot]:
        """Slot `out` also takes the digit's steps, and gives up the token if it holds one."""
        steps = Form(tuple((n, c) for n, c in self.out_form.terms if self.is_step(n)))
        if self.needs.tied:
            steps = steps.scaled(self.factor)
        if self.copies:
            steps = steps.plus(Form.of(COPY).scaled(-self.needs.token_sign))
        return [Slot(s.name, s.form.plus(steps)) if s.name == "out" else s for s in slots]

    # ------------------------------------------------------------ readers

    def unit(self, name: str, slots: list[Slot]) -> Unit:
        node = self.circuit[name]
        assert isinstance(node.op, Step)
        depth = depths(self.circuit)
        form = form_of(self.circuit, node.op.argument)
        waves = tuple((n, c) for n, c in form.terms if isinstance(self.circuit[n].op, Wave))
        plain = Form(tuple((n, c) for n, c in form.terms if n not in dict(waves)))
        known = [n.name for n in self.circuit.nodes
                 if isinstance(n.op, Token | Fetch)
                 or (isinstance(n.op, Step) and depth[n.name] < depth[name])]
        known += [source for source in self.sources if source not in (TOKEN, *known)]
        row = self.read(plain, slots, known)
        if row is None:
            raise Refusal(kind="algorithm impossible", source=self.spec.source, faults=(Fault(
                f"the residual does not hold what {name} reads: {_text(plain)}",
                self.plan.span("residual"), "give it a dimension of its own"),))
        argument = self.values[node.op.argument] - float(form.constant)
        truth = self.values[name] > 0
        return Unit(name, depth[name], row, waves, float(argument[~truth].max()),
                    float(argument[truth].min()), node.line)

    def read(
        self, form: Form, slots: list[Slot], known: list[str]
    ) -> tuple[Fraction, ...] | None:
        """Slot coefficients that combine to `form`: free of position signals, if they can be."""
        for signals in ([*known, *POSITION, ONE, CURVE], [*known, ONE, CURVE]):
            columns = [[dict(s.form.terms).get(n, Fraction(0)) for n in signals] for s in slots]
            wanted = [dict(form.terms).get(n, Fraction(0)) for n in signals]
            row = solve(columns, wanted)
            if row is not None:
                return row
        return None

    def value_slot(self, slots: list[Slot], source: str) -> int:
        """The slot whose embedding is the token's value alone: what attention moves."""
        for at, slot in enumerate(slots):
            if self.holds(slot.form, source):
                return at
        raise Refusal(kind="algorithm impossible", source=self.spec.source, faults=(Fault(
            "no residual dimension holds the token's value alone, so attention cannot move it",
            self.plan.span("residual")),))


def token_name(circuit: Circuit) -> str:
    """The name of the token node, or `token` where the algorithm does not read it."""
    return next((node.name for node in circuit.of(Token)), TOKEN)


def _without_position(form: Form) -> Form:
    return Form(tuple((n, c) for n, c in form.terms if n not in (*POSITION, ONE, CURVE)))


def _slot_name(slot: Slot) -> str:
    if slot.name == BALANCE:
        return BALANCE
    if slot.name == "out":
        plain = _text(Form(slot.form.terms))
        return plain if slot.form.terms else "out"
    if slot.name.startswith(("unused", "logit ")) or slot.name in CONSTANT:
        return slot.name
    return _text(slot.form)


def _text(form: Form) -> str:
    return show_op(Affine(form.terms, form.constant)).removeprefix("affine ")
