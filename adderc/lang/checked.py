"""What `check` hands on: a spec whose names, numbers and kinds are settled.

Takes: nothing. Gives: the frozen records `Algorithm`, `Contexts`, `CheckedSpec`.
May import: errors, format, lang.syntax, lang.linear.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from adderc.errors import Source
from adderc.format.number import NumberFormat
from adderc.format.prompt import Format
from adderc.lang.linear import Definitions
from adderc.lang.places import PlaceProof, PlaceSum
from adderc.lang.syntax import Entry, Expr, Sequence, WeightRule


@dataclass(frozen=True)
class Algorithm:
    """The integer meaning of answer digit i: quantities in an order of evaluation, and emit.

    The value depends on operand digits at i + `operand_offsets` and on answer digits at
    i + `answer_offsets`. Where answer tokens are states, `emit` is the number of the state,
    `parts` are the digit and the carry it is made of, and answer digits are states, of which
    `answer_parts` are read.
    """

    definitions: Definitions
    order: tuple[str, ...]
    lines: tuple[tuple[str, int], ...]
    emit: Expr
    emit_line: int
    operand_offsets: tuple[int, ...]
    answer_offsets: tuple[int, ...]
    uses_index: bool
    parts: tuple[Expr, Expr] | None = None
    answer_parts: tuple[str, ...] = ()

    @property
    def written(self) -> Expr:
        """What the spec emits, as it says it."""
        return self.emit if self.parts is None else Sequence(self.parts, "(")

    @property
    def quantities(self) -> dict[str, Expr]:
        return dict(self.definitions.quantities)


@dataclass(frozen=True, eq=False)
class Contexts:
    """Every situation in which the algorithm can find itself, up to what it can see.

    R rows; `digits` [R, operands, len(operand_offsets)] are representative operand digits,
    `answers` [R, back] the answer digits (or states) it wrote at -back … -1, `index` [R] the
    step (-1 where the algorithm does not look at it), `carry` [R] the true carry into this
    digit, `right` [R] the digit (or state) that would be right and `emitted` [R] the one it emits.
    """

    digits: np.ndarray
    answers: np.ndarray
    index: np.ndarray
    carry: np.ndarray
    right: np.ndarray
    emitted: np.ndarray

    def __len__(self) -> int:
        return len(self.right)

    @property
    def adds(self) -> bool:
        """Whether every emitted digit is right: with the start state and the step relation
        this is the induction that proves the algorithm for every operand."""
        return bool(np.all(self.right == self.emitted))


@dataclass(frozen=True)
class CheckedSpec:
    """A spec with its numbers, format and algorithm settled; the model part still in words.

    `values` gives each quantity's exact set of values over all contexts, ascending. A
    place-value algorithm has no contexts: `places` is the sum whose floor it emits.
    """

    name: str
    number: NumberFormat
    format: Format
    algorithm: Algorithm | None
    model: tuple[Entry, ...]
    weights: tuple[WeightRule, ...]
    source: Source = field(compare=False)
    contexts: Contexts | None = field(default=None, compare=False)
    values: tuple[tuple[str, tuple[int, ...]], ...] = ()
    places: PlaceSum | None = None
    place_proof: PlaceProof | None = None

    @property
    def adds(self) -> bool | None:
        """Whether the algorithm adds; None where there is none, or its proof is not done."""
        if self.contexts is not None:
            return self.contexts.adds
        return None if self.place_proof is None else self.place_proof.adds
