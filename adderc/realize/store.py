"""Collects the leaves of a model while its matrices are realized.

Takes: wanted matrices. Gives: weight expressions; values, meanings and spec lines of their
leaves; a `Refusal` that names the spec line where a form cannot hold a matrix.
May import: errors, passes.plan, weights, realize.forms.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from adderc.errors import Fault, Refusal, Source, SpecError, did_you_mean
from adderc.passes.plan import Choice, ModelPlan
from adderc.realize.forms import FORMS, FormFault, Realized, realize_matrix
from adderc.weights.expr import Expr, Leaf
from adderc.weights.structure import LeafInfo

Array = np.ndarray


@dataclass
class Store:
    """Leaves by name. `prefix` goes in front of every name (several layers)."""

    plan: ModelPlan
    source: Source
    values: dict[str, Array] = field(default_factory=dict)
    infos: list[LeafInfo] = field(default_factory=list)

    def matrix(self, key: str, default: str, name: str, wanted: Array, meaning: str) -> Expr:
        """The expression of a wanted matrix in the form the spec asks for `key`."""
        return self.shaped(self.plan.form(key, default), name, wanted, meaning)

    def shaped(self, form: Choice, name: str, wanted: Array, meaning: str) -> Expr:
        """The expression of a wanted matrix in a given form."""
        if form.name not in FORMS:
            raise SpecError(source=self.source, faults=(Fault(
                f"unknown matrix form {form.name!r}", form.span,
                did_you_mean(form.name, FORMS) or f"known: {', '.join(sorted(FORMS))}"),))
        try:
            realized = realize_matrix(form.name, form.number, name, wanted, meaning)
        except FormFault as fault:
            raise Refusal(kind="algorithm impossible", source=self.source, faults=(Fault(
                f"{name} cannot be {form.name}: {fault}", form.span,
                "choose another form, for example dense"),)) from None
        return self.keep(realized, form.span.line)

    def scalar(self, name: str, value: float, line: int, meaning: str) -> Expr:
        """A leaf of one number, [1, 1]."""
        leaf = Leaf(name, (1, 1))
        return self.keep(Realized(leaf, {name: np.array([[value]])}, {name: meaning}), line)

    def keep(self, realized: Realized, line: int) -> Expr:
        """Take over the leaves of a realized matrix."""
        for leaf, values in realized.values.items():
            self.values[leaf] = np.asarray(values, dtype=np.float64)
            self.infos.append(LeafInfo(leaf, "derived", line, realized.meanings.get(leaf, "")))
        return realized.expr
