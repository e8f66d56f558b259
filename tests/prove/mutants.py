"""Mutants of a module, with the truth found by running every operand tuple."""

import itertools
from dataclasses import dataclass

import numpy as np
import torch

from adderc.nn.greedy import decode_greedy, decode_one

FACTORS = (1 - 1e-6, 1 + 1e-6, 1 - 1e-4, 1 + 1e-4, 1 - 1e-3, 1 + 1e-3, 0.98, 1.02, 0.9, 1.1,
           0.5, 1.5, 2.0)
SHIFTS = (0.02, -0.02, 0.1, -0.1, 0.3, -0.3, 0.5, -0.5, 1.0, -1.0)
SCALES = (1e-3, 1e-2, 0.1, 0.7, 1.3, 10.0, 1e2, 1e3, 1e4, 1e5, 1e6)
KINDS = ("factor", "sign", "zero", "shift", "swap", "scale")


@dataclass(frozen=True)
class Mutant:
    """New values for some elements of parameters; `kind` says how they were chosen."""

    kind: str
    text: str
    changes: tuple[tuple[str, tuple[int, ...] | None, float], ...]  # None: the whole, a factor

    def apply(self, module):
        """Change the parameters in place; the old ones."""
        parameters = dict(module.named_parameters())
        old = {name: parameters[name].detach().clone() for name, _, _ in self.changes}
        with torch.no_grad():
            for name, index, value in self.changes:
                if index is None:
                    parameters[name].mul_(value)
                else:
                    parameters[name][index] = value
        return old


def undo(module, mutant, old):
    parameters = dict(module.named_parameters())
    with torch.no_grad():
        for name, value in old.items():
            parameters[name].copy_(value)


def draw(module, count, seed, kinds=KINDS):
    """`count` different mutants, the kinds in turn as far as each goes."""
    rng = np.random.default_rng(seed)
    found, seen, kind = [], set(), itertools.cycle(kinds)
    for _ in range(50 * count):
        mutant = draw_one(module, next(kind), rng)
        if mutant is not None and mutant.changes not in seen:
            seen.add(mutant.changes)
            found.append(mutant)
        if len(found) == count:
            break
    return found


def draw_one(module, kind, rng):
    """One mutant of a kind; None where the element drawn cannot be changed so."""
    parameters = dict(module.named_parameters())
    name = str(rng.choice(sorted(parameters)))
    leaf = parameters[name].detach()
    if kind == "scale":
        factor = float(rng.choice(SCALES))
        return Mutant(kind, f"{name} * {factor:g}", ((name, None, factor),))
    index = tuple(int(rng.integers(size)) for size in leaf.shape)
    value = float(leaf[index])
    if kind == "swap":
        other = tuple(int(rng.integers(size)) for size in leaf.shape)
        second = float(leaf[other])
        changes = ((name, index, second), (name, other, value))
        return Mutant(kind, f"{name}{index} <-> {other}", changes) if second != value else None
    if kind == "shift":
        value += float(rng.choice(SHIFTS))
    elif value == 0:
        return None
    elif kind == "factor":
        value *= float(rng.choice(FACTORS))
    else:
        value = -value if kind == "sign" else 0.0
    return Mutant(kind, f"{name}{index} = {value:.7g}", ((name, index, value),))


def adds_everything(module, form=None):
    """Whether greedy decoding is right for every operand tuple, confirmed one at a time."""
    form = form or module.format
    number = form.number
    rows = list(itertools.product(range(number.maximum + 1), repeat=number.operands))
    answers = decode_greedy(module, form, form.encode(rows))
    expected = expected_answers(form, rows)
    wrong = np.flatnonzero((answers != expected).any(axis=1))
    return not any(decode_one(module, form, rows[i]) != sum(rows[i]) for i in wrong[:50])


def expected_answers(form, rows):
    """Right answer tokens [N, steps], made once for a format."""
    key = (form, len(rows))
    if key not in _EXPECTED:
        _EXPECTED[key] = np.array([form.expected(row) for row in rows])
    return _EXPECTED[key]


_EXPECTED = {}
