"""Mutants of a module, with the truth found by running every operand tuple."""

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from adderc.nn.greedy import decode_one, last_logits

FACTORS = (1 - 1e-6, 1 + 1e-6, 1 - 1e-4, 1 + 1e-4, 1 - 1e-3, 1 + 1e-3, 0.98, 1.02, 0.9, 1.1,
           0.5, 1.5, 2.0)
SHIFTS = (0.02, -0.02, 0.1, -0.1, 0.3, -0.3, 0.5, -0.5, 1.0, -1.0)
SCALES = (1e-3, 1e-2, 0.1, 0.7, 1.3, 10.0, 1e2, 1e3, 1e4, 1e5, 1e6)
AT_ONCE, CLOSE_CALLS = 4096, 12
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
    """Whether greedy decoding is right for every operand tuple."""
    return adds(module, form or module.format, _everything(form or module.format))


def adds(module, form, sums):
    """Whether greedy decoding is right for all of `sums`, what `prepared` gives.

    All earlier answer digits given, each step's right logit must lead. The tuples with the
    smallest leads, wrong or right, are decided by the one-at-a-time loop.
    """
    rows, prompts, expected = sums
    leads = np.full(len(rows), np.inf)
    with torch.inference_mode():
        for step in range(form.steps):
            tokens = torch.from_numpy(np.concatenate([prompts, expected[:, :step]], 1))
            parts = [last_logits(module(part)).double() for part in tokens.split(AT_ONCE)]
            logits, right = torch.cat(parts), torch.from_numpy(expected[:, step : step + 1])
            lead = logits.gather(1, right)[:, 0] - logits.scatter(1, right, -math.inf).amax(1)
            lead = torch.where(logits.isnan().any(1), -math.inf, lead).numpy()
            leads = np.minimum(leads, lead)
    nearest = np.argsort(leads, kind="stable")[:CLOSE_CALLS]
    return all(decode_one(module, form, rows[at]) == sum(rows[at]) for at in nearest)


def prepared(form, rows):
    """Operand tuples, their prompts [N, P] and right answer tokens [N, steps]."""
    return rows, form.encode(rows), np.array([form.expected(row) for row in rows])


@lru_cache
def _everything(form):
    number = form.number
    every = itertools.product(range(number.maximum + 1), repeat=number.operands)
    return prepared(form, list(every))
