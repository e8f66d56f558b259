"""What `check` tells: the format, the quantities with their values, the proof.

Takes: `CheckedSpec`. Gives: `CheckReport` with `text` and `as_json`. May import: format, lang.
"""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from typing import Any

from adderc.lang.checked import CheckedSpec
from adderc.lang.show import show_expr
from adderc.weights.structure import Structure


@dataclass(frozen=True)
class CheckReport:
    """A spec that is sound; whether its algorithm adds is in its contexts. `structure` is the
    model whose weights are all still to be found, if they are."""

    spec: CheckedSpec
    structure: Structure | None = None

    def text(self) -> str:
        """A few lines that fit 80 columns."""
        spec, number, form = self.spec, self.spec.number, self.spec.format
        written = (f"{number.answer_digits} answer digits" if form.answer_kind == "digits"
                   else f"{form.steps} answer states (digit and carry)")
        lines = [
            f"{spec.name}: {number.operands} operands of {number.width} digits in base "
            f"{number.base}, {written}, {form.answer_order} first",
            f"{form.prompt_length} prompt tokens, {form.vocabulary} token ids",
        ]
        if spec.algorithm is not None and spec.contexts is not None:
            lines += ["", *self.quantity_lines(), ""]
            verdict = (
                f"The algorithm adds: right in all {len(spec.contexts):,} contexts that it can "
                "meet, so by induction over the digits for every operand."
                if spec.contexts.adds else "The algorithm does not add.")
            lines += textwrap.wrap(verdict, 80)
        if spec.algorithm is not None and spec.place_proof is not None:
            lines += ["", *self.place_lines(), ""]
            proof = spec.place_proof
            verdict = (f"The algorithm adds, at every width: {proof.reason}. Its interpreter was "
                       f"run on all {proof.tried:,} sums at small widths and bases."
                       if proof.adds else "The algorithm does not add.")
            lines += textwrap.wrap(verdict, 80)
        if self.structure is not None:
            lines += ["", *self.leaf_lines()]
        return "\n".join(lines)

    def leaf_lines(self) -> list[str]:
        """The leaves that are to be solved or trained, one a line."""
        structure = self.structure
        assert structure is not None
        ways = {info.name: info for info in structure.leaves}
        leaves = structure.leaf_shapes()
        width = max(len(leaf.name) for leaf in leaves)
        rows = [f"  {leaf.name.ljust(width)}  {math.prod(leaf.shape):4}  "
                f"{ways[leaf.name].meaning}"
                for leaf in leaves]
        total = sum(math.prod(leaf.shape) for leaf in leaves)
        return [f"{total} numbers are still to be found:", *rows]

    def quantity_lines(self) -> list[str]:
        """Each quantity with its definition and exact values."""
        algorithm = self.spec.algorithm
        assert algorithm is not None
        values = dict(self.spec.values)
        shown = [(n, show_expr(algorithm.quantities[n])) for n in algorithm.order]
        shown.append(("emit", show_expr(algorithm.written)))
        width = max(len(name) for name, _ in shown)
        middle = min(44, max(len(text) for _, text in shown))
        return [f"  {name.rjust(width)} = {text.ljust(middle)}  in {show_values(values[name])}"
                for name, text in shown]

    def place_lines(self) -> list[str]:
        """Each quantity of a place-value algorithm with its definition."""
        algorithm = self.spec.algorithm
        assert algorithm is not None
        shown = [(n, show_expr(algorithm.quantities[n])) for n in algorithm.order]
        shown.append(("emit", show_expr(algorithm.written)))
        width = max(len(name) for name, _ in shown)
        return [f"  {name.rjust(width)} = {text}" for name, text in shown]

    def as_json(self) -> dict[str, Any]:
        number, form = self.spec.number, self.spec.format
        return {
            "name": self.spec.name,
            "base": number.base, "width": number.width, "operands": number.operands,
            "maximum": str(number.maximum),
            "answer_digits": number.answer_digits,
            "prompt_length": form.prompt_length, "vocabulary": form.vocabulary,
            "adds": self.spec.adds,
            "contexts": len(self.spec.contexts) if self.spec.contexts is not None else None,
            "to_find": (sum(math.prod(leaf.shape) for leaf in self.structure.leaf_shapes())
                        if self.structure is not None else 0),
            "quantities": {name: list(values) for name, values in self.spec.values},
        }


def show_values(values: tuple[int, ...]) -> str:
    """`0..18`, or `{-1, 0, 9, 10}`, long sets shortened."""
    if len(values) > 2 and values[-1] - values[0] == len(values) - 1:
        return f"{values[0]}..{values[-1]}"
    if len(values) > 8:
        return "{" + ", ".join(map(str, values[:4])) + f", … {values[-1]}}} ({len(values)} values)"
    return "{" + ", ".join(map(str, values)) + "}"
