"""Positions of a model without an algorithm: stored, spiral, fixed waves, rotary, routed.

Takes: the plan's position choice, the checked spec, the residual's parts. Gives:
`FreePosition`: the structure's position signal, rotary turns or routes.
May import: errors, lang, passes.plan, realize.free_forms, weights.

table     one row a position, dense or of rank r
spiral    digit i of every operand and of the answer stands at
          [A cos(2 pi i / P + f), A sin(2 pi i / P + f), t i + c]; the places named by
          `learned` have rows of their own, every other symbol stands at 0. What the spec
          sets of amplitude A, phase f, slope t, offset c is fixed, what it leaves out is
          a leaf; the period P is the width unless it is set
sinusoid  sin and cos of 2 pi p / P        rope      queries and keys turn by 2 pi p / P
routes    each head sees fixed distances   none      nothing
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from adderc.errors import did_you_mean
from adderc.lang.checked import CheckedSpec
from adderc.lang.constants import ConstantFault, rational
from adderc.lang.settle import constants_of
from adderc.lang.syntax import Expr as Argument
from adderc.lang.syntax import Name, Sequence, Text
from adderc.passes.plan import Choice
from adderc.realize.free_forms import Matrices, Wanted
from adderc.weights.expr import (
    Add,
    Arange,
    Concat,
    Constant,
    Cos,
    Expr,
    Mul,
    Scatter,
    Sin,
    Structural,
    Take,
)
from adderc.weights.structure import PositionTable, Rope, Sinusoid

KINDS = ("table", "spiral", "sinusoid", "rope", "routes", "none")
OPTIONS = {"spiral": ("amplitude", "phase", "slope", "offset", "period", "learned"),
           "sinusoid": ("period",), "rope": ("period",)}
CARRY = "carry"


@dataclass
class FreePosition:
    """`choice` is the spec's; `table` and `spiral` fill the residual's position part."""

    choice: Choice
    checked: CheckedSpec
    matrices: Matrices
    size: int
    parts: dict[str, tuple[int, ...]]

    def __post_init__(self) -> None:
        kind, faults = self.kind, self.matrices.faults
        if kind not in KINDS:
            faults.add(f"unknown position encoding {self.choice.name!r}", self.choice.span,
                       did_you_mean(kind, KINDS) or f"known: {', '.join(KINDS)}")
        for option in self.choice.options:
            if option.name not in OPTIONS.get(kind, ()):
                faults.add(f"{kind} has no option {option.name!r}", option.span,
                           f"options: {', '.join(OPTIONS.get(kind, ())) or 'none'}")

    @property
    def kind(self) -> str:
        return self.choice.name.split()[0]

    @property
    def columns(self) -> tuple[int, ...]:
        return self.parts.get("position", tuple(range(self.size)))

    @property
    def rows(self) -> int:
        """Positions that a token is ever read at: all but that of the last token written."""
        return self.checked.format.length - 1

    def signal(self) -> PositionTable | Sinusoid | None:
        """What is added to the residual."""
        match self.kind:
            case "table":
                return PositionTable(self.placed(self.stored()))
            case "spiral":
                return PositionTable(self.placed(self.spiral()))
            case "sinusoid":
                if len(self.columns) < 2:
                    self.fault("sinusoid needs two dimensions")
                    return None
                slots = self.columns[0], self.columns[1]
                return Sinusoid(self.period(), slots, ((0, Fraction(1)),))
        return None

    def rope(self, head_dim: int) -> Rope | None:
        """Every pair of a head's dimensions turns with the same period."""
        return Rope((self.period(),) * (head_dim // 2)) if self.kind == "rope" else None

    def routes(self) -> tuple[int, ...] | None:
        """`routes(0, width)`: the distances that every head sees."""
        if self.kind != "routes":
            return None
        found = [self.number(arg) for arg in self.choice.args]
        offsets = tuple(int(v) for v in found if v is not None and v.denominator == 1 and v >= 0)
        if len(offsets) != len(found) or not offsets:
            self.fault("routes takes the distances that a head sees",
                       "write for example: routes(0, width)")
        return offsets

    # ------------------------------------------------------------ tables

    def placed(self, table: Expr) -> Expr:
        if len(self.columns) == self.size:
            return table
        return Scatter(table, tuple(range(self.rows)), self.columns, (self.rows, self.size))

    def stored(self) -> Expr:
        word = (self.choice.name.split()[1:] or ["dense"])[0]
        form = Choice(word, self.choice.number, self.choice.args, (), self.choice.span)
        self.matrices.want("position", Wanted("position", form, (self.rows, len(self.columns)),
                                              "positions"))
        return self.matrices.full("position")

    def spiral(self) -> Expr:
        """The rows of the digits, then the learned ones, then 0; taken by position."""
        if len(self.columns) != 3:
            self.fault("a spiral has three dimensions",
                       "write for example: residual token 2, position 3")
        width, learned = self.checked.number.width, self.learned()
        parts: list[Expr] = [self.turn(width)]
        for name in learned:
            leaf = f"position.{name if name.isalnum() else f'symbol{learned.index(name)}'}"
            parts.append(self.matrices.leaf(leaf, (1, 3), f"where {name} stands",
                                            self.choice.span))
        parts.append(Structural((), (1, 3)))
        after = {name: width + at for at, name in enumerate(learned)}
        nothing = width + len(learned)
        rows = [place if isinstance(place, int) else after.get(place, nothing)
                for place in self.places()]
        return Take(Concat(tuple(parts), 0), tuple(rows), 0)

    def turn(self, width: int) -> Expr:
        """[A cos(2 pi i / P + f), A sin(2 pi i / P + f), t i + c] for i = 0 … width - 1."""
        count = Arange(width)
        angle: Expr = Mul(Constant(2 / self.period(), 1), count)
        phase, offset = self.setting("phase"), self.setting("offset")
        if phase is not None:
            angle = Add(angle, phase)
        size, slope = self.setting("amplitude"), self.setting("slope")
        waves: list[Expr] = [Cos(angle), Sin(angle)]
        if size is not None:
            waves = [Mul(size, wave) for wave in waves]
        ramp: Expr = Mul(slope, count) if slope is not None else Structural((), (width, 1))
        return Concat((*waves, ramp if offset is None else Add(ramp, offset)), 1)

    def setting(self, name: str) -> Expr | None:
        """A constant that the spec sets, or a leaf; None where it changes nothing."""
        option = self.choice.option(name)
        if option is None:
            return self.matrices.leaf(f"position.{name}", (1, 1), f"{name} of the spiral",
                                      self.choice.span)
        value = self.number(option.value)
        if value is None or value == (1 if name == "amplitude" else 0):
            return None
        return Constant(value)

    def learned(self) -> tuple[str, ...]:
        """The places with rows of their own: symbols in quotes, and `carry`, the answer's
        last digit."""
        option = self.choice.option("learned")
        if option is None:
            return ()
        items = option.value.items if isinstance(option.value, Sequence) else (option.value,)
        known = {cell.text for cell in self.checked.format.cells if cell.text}
        found = []
        for item in items:
            name = item.text if isinstance(item, Text) else (
                item.name if isinstance(item, Name) and item.name == CARRY else "")
            if not (isinstance(item, Name) and name) and name not in known:
                self.matrices.faults.add("learned names symbols of the prompt, or carry",
                                         item.span, f"symbols: {', '.join(sorted(known))}")
            found.append(name)
        return tuple(found)

    def places(self) -> list[int | str]:
        """What stands at each position: a digit's place, a symbol, or the carry."""
        form = self.checked.format
        prompt: list[int | str] = [cell.text or cell.place for cell in form.cells]
        answer = [form.answer_place(step) for step in range(self.rows - len(prompt))]
        width = self.checked.number.width
        return prompt + [place if place < width else CARRY for place in answer]

    # ------------------------------------------------------------ numbers

    def period(self) -> Fraction:
        option = self.choice.option("period")
        if option is None:
            return Fraction(self.checked.number.width if self.kind == "spiral"
                            else self.checked.format.length)
        value = self.number(option.value)
        if value is None or value <= 0:
            self.fault("a period is a positive number")
            return Fraction(1)
        return value

    def number(self, expr: Argument) -> Fraction | None:
        try:
            return rational(expr, constants_of(self.checked.number))
        except ConstantFault as fault:
            self.matrices.faults.add(fault.message, fault.span, fault.hint)
            return None

    def fault(self, message: str, hint: str = "") -> None:
        self.matrices.faults.add(message, self.choice.span, hint)
