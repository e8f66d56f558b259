"""What the last position can be shown: token sequences for every context and step.

Takes: a checked spec with its contexts, a structure. Gives: `Cases`, `cases_of`.
May import: errors, format, lang, weights.structure.

A context (a row of the algorithm's truth table) is met at many steps. At each, the digits
that the algorithm looks at stand at known positions; all others are free. A case fills them
with one digit, the lowest or the highest, and is a prompt that exists with the right answer
so far: what cannot be solved here cannot be solved at all. What other digits leak in
between, the recheck bounds.
Keys that no head may see are left out, and equal cases come once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from adderc.errors import Fault, Refusal
from adderc.format.number import NumberFormat, to_digits
from adderc.format.prompt import Format
from adderc.lang.checked import Algorithm, CheckedSpec, Contexts
from adderc.lang.explore import Window
from adderc.weights.structure import Attention, Structure

Array = np.ndarray
LOW, HIGH = 0, 1  # what fills the digits that no one looks at


@dataclass(frozen=True, eq=False)
class Cases:
    """N cases of K keys, the query last; `seen` [N, H, K] says what each head may see.

    `right` is the token that must win; `row`, `step` and `fill` say where a case is from.
    """

    tokens: Array  # [N, K]
    positions: Array  # [N, K]
    seen: Array  # [N, H, K]
    right: Array  # [N]
    row: Array  # [N]
    step: Array  # [N]
    fill: Array  # [N]

    def __len__(self) -> int:
        return len(self.right)

    def take(self, which: Array) -> Cases:
        """Some of the cases."""
        return Cases(*(getattr(self, name)[which] for name in self.__dataclass_fields__))

    def together(self) -> Cases:
        """With an axis of points in front, one for all."""
        return replace(self, tokens=self.tokens[None], positions=self.positions[None],
                       seen=self.seen[None])

    def spread(self) -> Cases:
        """With an axis of points in front, one a case."""
        return replace(self, tokens=self.tokens[:, None], positions=self.positions[:, None],
                       seen=self.seen[:, None])


def cases_of(
    checked: CheckedSpec, contexts: Contexts, structure: Structure, steps: Sequence[int],
    fills: Sequence[int] = (LOW, HIGH),
) -> Cases:
    """The cases of all contexts at these steps, equal ones once."""
    algorithm = checked.algorithm
    assert algorithm is not None
    if checked.format.answer_order != "lsd":
        raise Refusal(kind="not implemented", source=checked.source, faults=(Fault(
            "solving takes answers whose least significant digit comes first"),))
    found = [_at(checked.format, algorithm, contexts, structure, step, fill)
             for step in steps for fill in fills]
    keys = max(cases.tokens.shape[1] for cases in found)
    padded = [_padded(cases, keys) for cases in found]
    joined = Cases(*(np.concatenate([getattr(c, name) for c in padded])
                     for name in Cases.__dataclass_fields__))
    return joined.take(_distinct(joined, structure))


def _at(
    form: Format, algorithm: Algorithm, contexts: Contexts, structure: Structure, step: int,
    fill: int,
) -> Cases:
    """The cases of one step with one fill: prompts that exist, answers that are right so far."""
    rows, digits, answers = _sums(form, algorithm, contexts, step, fill)
    tokens = np.hstack([form.encode_digits(digits), answers])
    places, seen = visible(structure.blocks[0].attention, tokens.shape[1] - 1)
    count = len(rows)
    return Cases(
        tokens[:, places], np.broadcast_to(places, (count, len(places))),
        np.broadcast_to(seen, (count, *seen.shape)),
        right_tokens(form, contexts.right[rows]), rows,
        np.full(count, step), np.full(count, fill))


def right_tokens(form: Format, right: Array) -> Array:
    """Token ids of right digits or states."""
    return right + form.first_state if form.answer_kind == "states" else right


def _sums(
    form: Format, algorithm: Algorithm, contexts: Contexts, step: int, fill: int
) -> tuple[Array, Array, Array]:
    """Rows that step `step` can meet, with operand digits [N, operands, width] that lead
    there and the answer tokens [N, step] written before.

    Below the digits that the algorithm sees stands a place whose digits make the carry that
    the row needs; what is found not to lead to the row is left out.
    """
    number, low = form.number, Window.of(algorithm).low
    rows = np.flatnonzero((contexts.index == step) | (contexts.index < 0))
    inside = [0 <= step + low + at < number.width for at in range(contexts.digits.shape[2])]
    rows = rows[~contexts.digits[rows][:, :, ~np.array(inside)].any(axis=(1, 2))]
    found = [_met(form, contexts, rows[:0], np.zeros((0, number.operands, number.width), int),
                  step)]
    for total, carry in _below(number.base, number.operands, step + low):
        digits = np.full((len(rows), number.operands, number.width), fill * (number.base - 1))
        for at in np.flatnonzero(inside):
            digits[:, :, step + low + at] = contexts.digits[rows][:, :, at]
        for place, wanted in ((step + low - 1, total), (step + low - 2, carry * number.base)):
            if place >= 0:
                digits[:, :, place] = _digits(number, wanted)
        met = _met(form, contexts, rows, digits, step)
        found.append(met)
        rows = np.setdiff1d(rows, met[0])
        if not len(rows):
            break
    order = np.argsort(np.concatenate([f[0] for f in found]), kind="stable")
    return tuple(np.concatenate([f[k] for f in found])[order]  # type: ignore[return-value]
                 for k in range(3))


def _below(base: int, operands: int, low: int) -> list[tuple[int, int]]:
    """Sums for the place below what a row sees, with the carry into it: the plainest that
    make a carry first, then all others."""
    if low <= 0:
        return [(0, 0)]
    plain = [(carry * base, 0) for carry in range(operands)]
    sums = range(operands * (base - 1) + 1)
    rest = [(total, carry) for carry in range(operands if low > 1 else 1) for total in sums]
    return list(dict.fromkeys(plain + rest))


def _met(
    form: Format, contexts: Contexts, rows: Array, digits: Array, step: int
) -> tuple[Array, Array, Array]:
    """Those rows that operand digits [N, operands, width] lead to, with them and the answers."""
    written, into = _written(form, digits, step)
    wanted, back = right_tokens(form, contexts.answers[rows]), contexts.answers.shape[1]
    near = min(back, step)
    fits = (into == contexts.carry[rows]) & _in_range(form.number, digits)
    fits &= (written[:, step - near : step] == wanted[:, back - near :]).all(axis=1)
    fits &= (contexts.answers[rows][:, : back - near] == 0).all(axis=1)
    return rows[fits], digits[fits], written[fits]


def _digits(number: NumberFormat, total: int) -> Array:
    """Digits of one place whose sum is `total`, or the largest below it."""
    digits = []
    for _ in range(number.operands):
        digits.append(min(total, number.base - 1))
        total -= digits[-1]
    return np.array(digits)


def _written(form: Format, digits: Array, step: int) -> tuple[Array, Array]:
    """The right answer tokens before `step` [N, step], and the carry into it [N]."""
    carry, tokens = np.zeros(len(digits), dtype=np.int64), []
    for place in range(step):
        total = digits[:, :, place].sum(axis=1) + carry if place < digits.shape[2] else carry
        carry = total // form.number.base
        right = total if form.answer_kind == "states" else total % form.number.base
        tokens.append(right_tokens(form, right))
    stacked = np.stack(tokens, axis=1) if tokens else np.zeros((len(digits), 0), dtype=np.int64)
    return stacked, carry


def _in_range(number: NumberFormat, digits: Array) -> Array:
    """Whether every operand [N, operands, width] is at most the largest allowed."""
    limit = to_digits(number.maximum, number.base, number.width)
    small = np.ones(digits.shape[:2], dtype=bool)
    for place, top in enumerate(limit):
        at = digits[:, :, place]
        small = (at < top) | ((at == top) & small)
    return np.asarray(small.all(axis=1))


def visible(attention: Attention | None, query: int) -> tuple[Array, Array]:
    """The positions that some head may see from `query`, the query last, and which head may
    see which [H, K]."""
    if attention is None:
        return np.array([query]), np.ones((1, 1), dtype=bool)
    keys = [attention.keys(head, query) for head in range(attention.heads)]
    places = np.array(sorted({query}.union(*keys)))
    return places, np.array([np.isin(places, found) for found in keys])


def _padded(cases: Cases, keys: int) -> Cases:
    """Unseen keys in front, up to `keys` of them."""
    if not (extra := keys - cases.tokens.shape[1]):
        return cases
    front = ((0, 0), (extra, 0))
    return replace(cases, tokens=np.pad(cases.tokens, front),
                   positions=np.pad(cases.positions, front),
                   seen=np.pad(cases.seen, ((0, 0), *front)))


def _distinct(cases: Cases, structure: Structure) -> Array:
    """One of each kind of equal cases; positions tell them apart only where a model sees
    them."""
    first = structure.blocks[0].attention
    placed = structure.position is not None or (
        first is not None and (first.rope is not None or first.slopes is not None))
    columns = [cases.tokens, cases.seen.reshape(len(cases), -1), cases.right[:, None]]
    columns += [cases.positions] if placed else []
    return np.sort(np.unique(np.hstack(columns), axis=0, return_index=True)[1])
