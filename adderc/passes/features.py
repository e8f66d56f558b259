"""What one token is worth to a reader: a number for every token id.

Takes: a format, a circuit. Gives: `feature_of` (which table a name is read from),
`feature_values` (the table), `sources`, `kinds`.
May import: format, ir.

A digit token is worth its digit, whatever operand it belongs to and whether it was written
as part of the answer. A pair token is worth a sum of its digits; a state token its number,
its digit or its carry. Token ids of pairs and states may overlap: then one token is worth
both, and the embedding needs a column for each.
"""

from __future__ import annotations

import numpy as np

from adderc.format.prompt import Format
from adderc.ir.ops import Circuit, Fetch, Token
from adderc.ir.parts import pair_terms

Array = np.ndarray
DIGIT = "digit"
TOKEN = "token"  # the signal of a plain digit that no node of its own reads


def feature_of(form: Format, name: str) -> str:
    """The table that digit `name` is read from: all plain digits share one."""
    if pair_terms(name) is not None or (name.startswith("s") and form.answer_kind == "states"):
        return name
    return DIGIT


def feature_values(form: Format, feature: str) -> Array:
    """What each token id is worth [V]; 0 where it is nothing of the kind."""
    ids, base, k = np.arange(form.vocabulary), form.number.base, form.number.operands
    if feature == DIGIT:
        return np.where(ids < base, ids, 0).astype(np.float64)
    terms = pair_terms(feature)
    if terms is not None:
        digits = {name: ids // base ** (k - 1 - at) % base
                  for at, name in enumerate(form.number.names)}
        values = sum(c * digits[name] for name, c in terms)
        return np.where(ids < base**k, values, 0).astype(np.float64)
    states = ids - form.first_state
    values = {"s": states, "s.digit": states % base, "s.carry": states // base}[feature]
    return np.where((states >= 0) & (states < base * k), values, 0).astype(np.float64)


def largest_value(form: Format, feature: str) -> float:
    """The largest magnitude in a feature's table."""
    return float(np.abs(feature_values(form, feature)).max())


def fetch_feature(form: Format, op: Fetch) -> str:
    """The table that a head moves; all targets of a fetch share one."""
    return feature_of(form, op.targets[0].name)


def sources(circuit: Circuit, form: Format) -> dict[str, str]:
    """The signals that the embedding writes, with their tables: what the current token is
    read for, and what attention moves."""
    found = {node.name: feature_of(form, node.op.part) for node in circuit.of(Token)
             if isinstance(node.op, Token)}
    for node in circuit.of(Fetch):
        assert isinstance(node.op, Fetch)
        feature = fetch_feature(form, node.op)
        if feature not in found.values():
            found[TOKEN if feature == DIGIT else feature] = feature
    return found or {TOKEN: DIGIT}


def kinds(form: Format) -> list[tuple[Array, Array]]:
    """(positions [T], token ids): where any of several tokens can stand, and which."""
    base, cells = form.number.base, [cell.kind for cell in form.cells]
    states = form.answer_kind == "states"
    held = np.array([*cells, *["answer" if states else "digit"] * (form.steps - 1)])
    tokens = {"digit": np.arange(base), "tuple": np.arange(base**form.number.operands),
              "answer": form.first_state + np.arange(base * form.number.operands)}
    return [(held == kind, ids) for kind, ids in tokens.items() if (held == kind).any()]
