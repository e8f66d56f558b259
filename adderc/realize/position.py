"""Positions: sine and cosine of the position, with a gain for keys and one for queries.

Takes: the plan's position choice, the format. Gives: `SinusoidPosition`: the ring that
alignment searches on, and the structure's position signal.
May import: errors, lang.constants, passes, weights.structure.

Position p adds gain(p) (sin, cos)(2 pi p / P). Keys stand in the prompt, queries are the
last prompt token and the answer: with a gain G before the last prompt token and g from it
on, keys of answer tokens score g / G of what prompt keys on the same phase score, so the
answer may run over phases that the prompt uses. Needed is only that g / G of the peak lies
below the peak by at least the gap: G / g = 2 for gaps up to 1/2, else 4.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

from adderc.errors import Fault, SpecError, did_you_mean
from adderc.ir.ops import Fetch, Node
from adderc.lang.checked import CheckedSpec
from adderc.lang.constants import ConstantFault, rational
from adderc.lang.settle import constants_of
from adderc.lang.syntax import Gain, Name
from adderc.passes.align import Alignment, Ring
from adderc.passes.place import POSITION, PlacedCircuit
from adderc.passes.plan import Choice, option_value
from adderc.weights.structure import Sinusoid

OPTIONS = ("period", "gain", "phase")
QUIET = Fraction(1, 64)  # query gain where a position signal shares its slot


@dataclass(frozen=True)
class SinusoidPosition:
    """`sinusoid(period = …, gain = … until "=", …)`; what is left out is derived."""

    choice: Choice
    spec: CheckedSpec
    given: dict[str, Fraction]

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
        self.check_options()
        period = option_value(self.spec, self.choice.option("period"))
        if period is not None and period <= 1:
            raise SpecError(source=self.spec.source, faults=(Fault(
                f"period {period} is too short: a position must differ from the next",
                self.choice.span),))
        stretches = self.stretches(fetches)
        if len(stretches) < 2:
            return Ring(period)
        low = stretches[1][0]
        known = [self.value(gain) for _, gain in stretches]
        ratio = 0.25
        if known[0] is not None and known[1] is not None and known[0] != 0:
            ratio = float(known[1] / known[0])
        return Ring(period, low, ratio)

    def check_options(self) -> None:
        """SpecError for an option that a sinusoid does not have."""
        unknown = [(o.name, o.span) for o in self.choice.options if o.name not in OPTIONS]
        unknown += [("this argument", arg.span) for arg in self.choice.args]
        phase = self.choice.option("phase")
        if phase is not None and phase.value not in (Name("reduced"), Name("rounded")):
            unknown.append(("this phase", phase.span))
        if unknown:
            name, span = unknown[0]
            raise SpecError(source=self.spec.source, faults=(Fault(
                f"sinusoid has no option {name!r}", span, did_you_mean(name, OPTIONS)
                or "options: period, gain, phase = reduced or rounded"),))

    def stretches(self, fetches: tuple[Node, ...]) -> list[tuple[int, Gain | None]]:
        """(first position, gain) of each stretch; None where the gain is left to us."""
        option = self.choice.option("gain")
        length = self.spec.format.prompt_length
        if option is None:
            reads_answer = any(isinstance(n.op, Fetch) and any(t.name == "s" for t in n.op.targets)
                               for n in fetches)
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
        """The first position after a stretch that runs until a symbol."""
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

    def gains(
        self, placed: PlacedCircuit, fetches: tuple[Node, ...]
    ) -> tuple[tuple[int, Fraction], ...]:
        """(first position, gain), with the gains left out derived (module docstring)."""
        stretches = self.stretches(fetches)
        low = placed.alignment.low_from
        if low is not None and len(stretches) == 2:
            stretches[1] = (low, stretches[1][1])
        values = [self.value(gain) for _, gain in stretches]
        shares = any(len(slot.form.terms) > 1 and set(POSITION) & set(dict(slot.form.terms))
                     for slot in placed.slots)
        query = values[-1]
        if query is None:
            query = QUIET if shares else Fraction(1)
        ratio = 4 if placed.alignment.gap > 0.5 else 2
        filled = [value if value is not None else query * ratio for value in values[:-1]]
        return tuple((first, gain) for (first, _), gain in
                     zip(stretches, [*filled, query], strict=True))

    def signal(
        self, placed: PlacedCircuit, alignment: Alignment,
        gains: tuple[tuple[int, Fraction], ...], dtype: str,
    ) -> Sinusoid:
        """The structure's position signal."""
        sine, cosine = (placed.slot_of(name) for name in POSITION)
        assert sine is not None
        assert cosine is not None
        phase = self.choice.option("phase")
        rounded = phase is not None and phase.value == Name("rounded")
        return Sinusoid(alignment.period, (sine, cosine), gains, dtype if rounded else None)
