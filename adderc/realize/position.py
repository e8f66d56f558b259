"""Positions: how a token knows where it stands, and so what a head can find.

Takes: the plan's position choice, the checked spec. Gives: one class for each realization
of POSITIONS: the rings on which alignment may search, what it needs in the residual, and the
structure's position signal. May import: errors, lang, passes, realize.store, weights.

sinusoid  position p adds gain(p) (sin, cos)(2 pi p / P)
table     the same from a stored table, in which a digit is known by its place and a query
          by its step, whatever the order in which they are written
rope      nothing is added: queries and keys turn by 2 pi p / P
routes    nothing is added: each head may see fixed distances only

Keys stand in the prompt, queries are the last prompt token and the answer. With a gain G
before a boundary and g from it on, keys of answer tokens score g / G of what prompt keys on
the same phase score, so the answer may run over phases that the prompt uses. Needed is only
that g / G of the peak lies below the peak by the gap: G / g = 2 for gaps up to 1/2, else 4.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar

import numpy as np

from adderc.errors import Fault, SpecError, did_you_mean
from adderc.ir.ops import Fetch, Node
from adderc.ir.parts import is_answer
from adderc.lang.checked import CheckedSpec
from adderc.lang.constants import ConstantFault, rational
from adderc.lang.settle import constants_of
from adderc.lang.syntax import Call, Gain, Name, walk
from adderc.passes.align import Alignment, Ring
from adderc.passes.place import POSITION, PlacedCircuit
from adderc.passes.plan import Choice, option_value
from adderc.realize.store import Store
from adderc.weights.structure import PositionTable, Rope, Sinusoid

Array = np.ndarray
QUIET = Fraction(1, 64)  # query gain where a position signal shares its slot
LOUD = Fraction(8)  # query gain behind a LayerNorm, whose mean moves every slot a little
Gains = tuple[tuple[int, Fraction], ...]


@dataclass(frozen=True)
class Position:
    """What all realizations share: options, gains, and the ring without any."""

    choice: Choice
    spec: CheckedSpec
    given: dict[str, Fraction]

    OPTIONS: ClassVar[tuple[str, ...]] = ("period", "gain", "phase")
    IN_RESIDUAL = True  # needs sine and cosine slots
    NEEDS_ONE = False  # needs a constant channel

    def takes(self, name: str) -> bool:
        """Whether `name` is a scale symbol that the options mention and that is given."""
        whole = Call(self.choice.name, self.choice.args, self.choice.options)
        return name in self.given and Name(name) in walk(whole)

    def rings(self, fetches: tuple[Node, ...]) -> list[Ring]:
        """The rings on which the heads may be aligned: the spec's, or the usual ones.

        Where the spec leaves gains out, keys lose theirs at the last prompt token or after
        it (a head whose digits have run out can then look at that token, which is 0).
        """
        first = self.ring(fetches)
        if self.choice.option("gain") is not None or first.low_from is None:
            return [first]
        return [first, replace(first, low_from=first.low_from + 1)]

    def ring(self, fetches: tuple[Node, ...]) -> Ring:
        """The ring of the spec's own period and gains."""
        self.check_options()
        period = option_value(self.spec, self.choice.option("period"))
        if period is not None and period <= 1:
            raise SpecError(source=self.spec.source, faults=(Fault(
                f"period {period} is too short: a position must differ from the next",
                self.choice.span),))
        stretches = self.stretches(fetches)
        known = [self.value(gain) for _, gain in stretches]
        for (_, gain), value in zip(stretches, known, strict=True):
            option = self.choice.option("gain")
            if value == 0 and gain is not None and option is not None:
                raise SpecError(source=self.spec.source, faults=(Fault(
                    "with a gain of 0 positions cannot be told apart", option.span),))
        if len(stretches) < 2:
            return Ring(period)
        ratio = 0.25
        if known[0] is not None and known[1] is not None:
            ratio = float(known[1] / known[0])
        return Ring(period, stretches[1][0], ratio)

    def check_options(self) -> None:
        """SpecError for an option that this realization does not have."""
        unknown = [(o.name, o.span) for o in self.choice.options if o.name not in self.OPTIONS]
        unknown += [("this argument", arg.span) for arg in self.choice.args]
        phase = self.choice.option("phase")
        if phase is not None and phase.value not in (Name("reduced"), Name("rounded")):
            unknown.append(("this phase", phase.span))
        if unknown:
            name, span = unknown[0]
            kind = self.choice.name.split()[0]
            raise SpecError(source=self.spec.source, faults=(Fault(
                f"{kind} has no option {name!r}", span, did_you_mean(name, self.OPTIONS)
                or f"options: {', '.join(self.OPTIONS) or 'none'}"),))

    def stretches(self, fetches: tuple[Node, ...]) -> list[tuple[int, Gain | None]]:
        """(first position, gain) of each stretch; None where the gain is left to us."""
        option = self.choice.option("gain")
        length = self.spec.format.prompt_length
        if option is None:
            reads_answer = any(is_answer(target.name) for node in fetches
                               if isinstance(node.op, Fetch) for target in node.op.targets)
            return [(0, None)] if reads_answer else [(0, None), (length - 1, None)]
        gains = option.stretches or (Gain(option.value, None),)
        first = 0
        found: list[tuple[int, Gain | None]] = []
        for gain in gains:
            found.append((first, gain))
            if gain.until is not None:
                first = self.boundary(gain)
        return found

    def boundary(self, gain: Gain) -> int:
        """The first position after a stretch that runs until (or through) a symbol."""
        cells = self.spec.format.cells
        places = [at for at, cell in enumerate(cells) if cell.text == gain.until]
        if not places:
            texts = sorted({cell.text for cell in cells if cell.text})
            raise SpecError(source=self.spec.source, faults=(Fault(
                f'"{gain.until}" does not stand in the prompt', gain.span,
                did_you_mean(gain.until or "", texts)),))
        return places[-1] + gain.inclusive

    def value(self, gain: Gain | None) -> Fraction | None:
        """A stretch's gain; None where it is to be derived."""
        if gain is None:
            return None
        constants = constants_of(self.spec.number)
        if isinstance(gain.value, Name) and gain.value.name not in constants:
            return self.given.get(gain.value.name)
        try:
            return rational(gain.value, constants)
        except ConstantFault as fault:
            raise SpecError(source=self.spec.source, faults=(Fault(
                fault.message, fault.span, fault.hint),)) from None

    def gains(self, placed: PlacedCircuit, fetches: tuple[Node, ...]) -> Gains:
        """(first position, gain), with the gains left out derived (module docstring)."""
        stretches = self.stretches(fetches)
        low = placed.alignment.ring.low_from
        if low is not None and len(stretches) == 2:
            stretches[1] = (low, stretches[1][1])
        values = [self.value(gain) for _, gain in stretches]
        shares = any(len(slot.form.terms) > 1 and set(POSITION) & set(dict(slot.form.terms))
                     for slot in placed.slots if slot.name != "balance")
        query = values[-1]
        if query is None:
            query = QUIET if shares else LOUD if placed.balance is not None else Fraction(1)
        ratio = 4 if placed.alignment.gap > 0.5 else 2
        filled = [value if value is not None else query * ratio for value in values[:-1]]
        return tuple((first, gain) for (first, _), gain in
                     zip(stretches, [*filled, query], strict=True))

    def signal(
        self, placed: PlacedCircuit, gains: Gains, dtype: str, store: Store
    ) -> Sinusoid | PositionTable | None:
        """What the structure adds at each position."""
        raise NotImplementedError

    def rope(self, alignment: Alignment) -> Rope | None:
        """The turn of queries and keys."""
        return None


@dataclass(frozen=True)
class SinusoidPosition(Position):
    """`sinusoid(period = …, gain = … until "=", …, phase = rounded)`."""

    def signal(
        self, placed: PlacedCircuit, gains: Gains, dtype: str, store: Store
    ) -> Sinusoid:
        sine, cosine = (placed.slot_of(name) for name in POSITION)
        assert sine is not None
        assert cosine is not None
        phase = self.choice.option("phase")
        rounded = phase is not None and phase.value == Name("rounded")
        return Sinusoid(placed.alignment.period, (sine, cosine), gains,
                        dtype if rounded else None, placed.balance)


@dataclass(frozen=True)
class TablePosition(Position):
    """`table`, `table dense`, `table rank 2`: stored, one row a position."""

    OPTIONS = ("gain",)

    def codes(self) -> tuple[int, ...] | None:
        """A digit's place, a query's step; symbols take the place beyond the operands.

        The places run around a circle of width + 1, so that the symbol stands both behind
        the highest digit and before the lowest. None where there is no symbol to do so.
        """
        form, width = self.spec.format, self.spec.number.width
        if not any(cell.kind == "symbol" for cell in form.cells[:-1]):
            return None
        prompt = [width if cell.kind == "symbol" else cell.place for cell in form.cells[:-1]]
        return (*prompt, *range(form.steps))

    def rings(self, fetches: tuple[Node, ...]) -> list[Ring]:
        """By place and step first, by plain position where that does not align."""
        plain = super().rings(fetches)
        codes = self.codes()
        return [*(replace(ring, codes=codes) for ring in plain[:1] if codes), *plain]

    def signal(
        self, placed: PlacedCircuit, gains: Gains, dtype: str, store: Store
    ) -> PositionTable:
        length = self.spec.format.length
        codes = placed.alignment.ring.codes or tuple(range(length))
        period = placed.alignment.period
        codes = codes + (codes[-1] + 1,) * (length - len(codes))
        angle = np.array([2 * np.pi * float(Fraction(code) / period % 1) for code in codes])
        height = np.zeros(length)
        for first, gain in gains:
            height[first:] = float(gain)
        table = np.zeros((length, placed.d_model))
        for name, wave in zip(POSITION, (np.sin(angle), np.cos(angle)), strict=True):
            column = np.array([float(c) for c in placed.column(name)])
            table += np.outer(height * wave, column)
        words = self.choice.name.split()[1:]
        form = replace(self.choice, name=words[0] if words else "slim")
        return PositionTable(store.shaped(form, "position", table, "positions"))


@dataclass(frozen=True)
class RopePosition(Position):
    """`rope(period = …)`: queries and keys turn; a constant channel is what turns."""

    OPTIONS = ("period",)
    IN_RESIDUAL = False
    NEEDS_ONE = True

    def rings(self, fetches: tuple[Node, ...]) -> list[Ring]:
        return [replace(self.ring(fetches), low_from=None, forward=True)]

    def signal(self, placed: PlacedCircuit, gains: Gains, dtype: str, store: Store) -> None:
        return None

    def gains(self, placed: PlacedCircuit, fetches: tuple[Node, ...]) -> Gains:
        return ((0, Fraction(1)),)

    def rope(self, alignment: Alignment) -> Rope:
        return Rope((alignment.period,))


@dataclass(frozen=True)
class RoutePosition(Position):
    """`routes`: a fixed mask; a head averages over what it sees."""

    OPTIONS = ()
    IN_RESIDUAL = False

    def rings(self, fetches: tuple[Node, ...]) -> list[Ring]:
        self.check_options()
        return [Ring(routes=True)]

    def gains(self, placed: PlacedCircuit, fetches: tuple[Node, ...]) -> Gains:
        return ((0, Fraction(1)),)

    def signal(self, placed: PlacedCircuit, gains: Gains, dtype: str, store: Store) -> None:
        return None


POSITIONS: dict[str, type[Position]] = {
    "sinusoid": SinusoidPosition, "table": TablePosition, "rope": RopePosition,
    "routes": RoutePosition,
}


def position_of(
    choice: Choice, spec: CheckedSpec, given: dict[str, Fraction]
) -> Position:
    """The realization that the spec's position line names."""
    name = choice.name.split()[0]
    if name not in POSITIONS:
        raise SpecError(source=spec.source, faults=(Fault(
            f"unknown position encoding {choice.name!r}", choice.span,
            did_you_mean(name, POSITIONS) or f"known: {', '.join(POSITIONS)}"),))
    return POSITIONS[name](choice, spec, given)
