"""What compiling gives, and what a model file tells of how it was made.

Takes: weights and the stages' results. Gives: `Compiled`,
`provenance`, `solve_record`, `warnings_of`.
May import: errors, ir, lang, passes, realize.derive, solve, weights, pipeline.settings.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adderc import __version__
from adderc.errors import Source
from adderc.ir.ops import Circuit
from adderc.ir.show import show_circuit
from adderc.lang.checked import CheckedSpec
from adderc.passes.place import PlacedCircuit
from adderc.pipeline.settings import Settings
from adderc.realize.derive import Weights
from adderc.solve.conduct import Solved
from adderc.weights.file import save_model
from adderc.weights.structure import Structure

Array = np.ndarray


@dataclass(frozen=True)
class Compiled:
    """Weights with what is recorded beside them; every stage's result is kept."""

    spec: CheckedSpec
    placed: PlacedCircuit | None
    weights: Weights
    provenance: dict[str, Any]
    warnings: tuple[str, ...]
    seconds: float
    method: str = "derive"
    solved: Solved | None = None

    @property
    def structure(self) -> Structure:
        return self.weights.structure

    @property
    def values(self) -> dict[str, Array]:
        return self.weights.values

    @property
    def parameters(self) -> int:
        return self.weights.parameters

    @property
    def norm(self) -> float:
        return self.weights.norm

    @property
    def margin(self) -> float:
        """Bound on the least logit margin, rounding included; not positive if one breaks."""
        return self.weights.judgement.margin

    def save(self, path: str) -> None:
        """Write the model file."""
        save_model(path, self.structure, self.values, self.provenance)


def provenance(
    source: Source, settings: Settings, circuit: Circuit | None, weights: Weights
) -> dict[str, Any]:
    """What a model file tells of how it was made."""
    return {
        "spec": {"name": Path(source.name).name, "text": source.text},
        "settings": {"width": settings.width, "base": settings.base, "dtype": settings.dtype,
                     "set": [list(pair) for pair in settings.set]},
        "seed": settings.seed,
        "versions": {"adderc": __version__, "numpy": np.__version__,
                     "python": platform.python_version()},
        "circuit": show_circuit(circuit) if circuit is not None else "",
        "leaves": {info.name: info.how for info in weights.structure.leaves},
        "margin": weights.judgement.margin,
        "broken": [f"{i.name}: {i.text}: {i.left:.6g} <= {i.right:.6g}"
                   for i in weights.judgement.broken],
    }


def solve_record(found: Solved, norm: float) -> dict[str, Any]:
    """What a model file tells of a solve."""
    return {
        "method": found.method, "margin": found.margin, "norm": norm,
        "largest_logit": found.checked.largest, "bound": found.bound,
        "starts": found.tried, "constraints": found.constraints,
        "lowering_margin": found.lowering.margin if found.lowering is not None else None,
        "kept_lowering": found.kept_lowering, "interrupted": found.stopped,
    }


def warnings_of(weights: Weights) -> tuple[str, ...]:
    """The inequalities that given values break."""
    return tuple(
        f"{i.name}" + (f" (line {i.line})" if i.line else "")
        + f": {i.text}, but {i.left:.6g} is not at most {i.right:.6g}"
        for i in weights.judgement.broken)
