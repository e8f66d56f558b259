"""Mutants of a compiled model, with the truth found by running every operand pair."""

import itertools
from dataclasses import dataclass

import numpy as np
import torch

from adderc.nn.greedy import decode_greedy, decode_one

FACTORS = (1 - 1e-6, 1 + 1e-6, 1 - 1e-3, 1 + 1e-3, 0.98, 1.02, 0.9, 1.1, 0.5, 1.5, 2.0, 0.0, -1.0)
SHIFTS = (0.02, -0.02, 0.1, -0.1, 0.3, -0.3, 0.5, -0.5, 1.0, -1.0)


@dataclass(frozen=True)
class Mutant:
    """One element of one leaf, multiplied and shifted."""

    leaf: str
    index: tuple[int, ...]
    factor: float
    shift: float

    def apply(self, module):
        """Change the module's leaf in place; the old value."""
        leaf = module.leaves()[self.leaf]
        old = leaf.detach().clone()
        with torch.no_grad():
            leaf[self.index] = leaf[self.index] * self.factor + self.shift
        return old


def undo(module, mutant, old):
    with torch.no_grad():
        module.leaves()[mutant.leaf].copy_(old)


def draw(module, count, seed):
    """`count` different mutants."""
    rng = np.random.default_rng(seed)
    places = [(name, index) for name, leaf in module.leaves().items()
              for index in itertools.product(*map(range, leaf.shape))]
    changes = [(f, 0.0) for f in FACTORS] + [(1.0, s) for s in SHIFTS]
    pairs = list(itertools.product(range(len(places)), range(len(changes))))
    for number in rng.permutation(len(pairs))[:count]:
        place, change = pairs[number]
        yield Mutant(*places[place], *changes[change])


def adds_everything(module):
    """Whether greedy decoding is right for every operand tuple, confirmed one at a time."""
    number, form = module.number, module.format
    rows = list(itertools.product(range(number.maximum + 1), repeat=number.operands))
    answers = decode_greedy(module, form, form.encode(rows))
    expected = np.array([form.expected(row) for row in rows])
    wrong = np.flatnonzero((answers != expected).any(axis=1))
    return not any(decode_one(module, form, rows[i]) != sum(rows[i]) for i in wrong[:50])
