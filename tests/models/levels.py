"""One compiled spec at every level, and operand tuples to put to them all."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from adderc.errors import Source
from adderc.format.number import to_digits
from adderc.ir.evaluate import run
from adderc.ir.show import read_circuit
from adderc.nn.greedy import decode_greedy
from adderc.nn.module import AdderModule
from adderc.pipeline import Settings, compile_spec
from adderc.reference import Reference

Tuples = Sequence[tuple[int, ...]]


class Levels:
    """The digits of sums, least significant first [N, steps], as each level gives them."""

    def __init__(self, source: Source, settings: Settings | None = None, unchecked: bool = False):
        self.compiled = compile_spec(source, settings, unchecked)
        self.number = self.compiled.spec.number

    @cached_property
    def module(self) -> AdderModule:
        return AdderModule(self.compiled.structure, self.compiled.values)

    def integers(self, rows: Tuples) -> np.ndarray:
        number = self.number
        return np.array([to_digits(sum(row), number.base, number.answer_digits) for row in rows])

    def reference(self, rows: Tuples) -> np.ndarray:
        reference = Reference(self.compiled.spec)
        return np.array([reference.digits(row) for row in rows])

    def circuit(self, rows: Tuples) -> np.ndarray:
        return np.array([run(self.compiled.placed.circuit, self.number, row) for row in rows])

    def circuit_text(self, rows: Tuples) -> np.ndarray:
        """The circuit that stands in the model file, read back."""
        circuit = read_circuit(self.compiled.provenance["circuit"])
        return np.array([run(circuit, self.number, row) for row in rows])

    def decoded(self, rows: Tuples, incremental: bool = True) -> np.ndarray:
        form = self.module.format
        return decode_greedy(self.module, form, form.encode(rows), incremental=incremental)


def carry_chains(base: int, width: int, operands: int = 2) -> list[tuple[int, ...]]:
    """Sums in which a carry runs, stops or is nearly there: small and complete by hand."""
    top, nine = base**width - 1, base - 1
    low = [0, 1, nine, top, top - 1, top // 2, top // 2 + 1, base ** (width - 1),
           base ** (width - 1) - 1, nine * base ** (width - 1)]
    rest = (0,) * (operands - 2)
    pairs = [(a, b, *rest) for a in low for b in low]
    return [*dict.fromkeys((*pairs, (top,) * operands))]


def random_rows(base: int, width: int, count: int, operands: int = 2) -> list[tuple[int, ...]]:
    """Uniform operands, the same for every run."""
    rng = np.random.default_rng([base, width, operands])
    digits = rng.integers(0, base, (count, operands, width)).tolist()
    return [tuple(sum(d * base**at for at, d in enumerate(row)) for row in rows)
            for rows in digits]
