"""Token values: the embedding writes a token's value into the slots that hold it.

Takes: the placed circuit and the format. Gives: `embed` → the embedding [V, D].
May import: format, passes, realize.store.

E[t] = value(t) * m, where m is the column of the current token in the residual: value(t) is
the digit for digit tokens and 0 for a symbol with an id of its own. E has rank 1.
"""

from __future__ import annotations

import numpy as np

from adderc.format.prompt import Format
from adderc.passes.place import PlacedCircuit
from adderc.realize.store import Store
from adderc.weights.expr import Expr

Array = np.ndarray


def token_values(form: Format) -> Array:
    """The value of each token id [V]: its digit, or 0."""
    ids = np.arange(form.vocabulary)
    return np.where(ids < form.number.base, ids, 0).astype(np.float64)


def embed(placed: PlacedCircuit, form: Format, store: Store) -> Expr:
    """The embedding [V, D] in the form the spec asks for."""
    column = np.array([float(c) for c in placed.column(placed.token)])
    wanted = np.outer(token_values(form), column)
    return store.shaped(store.plan.embed, "embed", wanted, "token values")
