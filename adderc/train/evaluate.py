"""How good the weights are now: tokens, whole sums, margins.

Takes: `Forward`, leaf vectors, sets of operands. Gives: `Score`, `judge_sets`, and
`greedy_right`, which decodes for real. May import: format, nn, train, weights.

A sum is exact under teacher forcing if and only if greedy decoding writes it, since both
see the same tokens up to the first wrong one. So runs are watched with one forward pass, and
what is said of a finished model comes from greedy decoding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from adderc.format.batches import digits_of, sums_of
from adderc.format.prompt import Format
from adderc.nn.module import AdderModule
from adderc.train.data import tokens_of
from adderc.train.forward import Forward
from adderc.weights.structure import Structure

Array = np.ndarray
ROWS = 512


@dataclass(frozen=True)
class Score:
    """Shares of answer tokens and of whole sums that are right, and the least margin: the
    right logit less the best other one."""

    tokens: float
    exact: float
    margin: float


def tokens_for(form: Format, batch: Array) -> Array:
    """Tokens [length, N] of operand tuples [N, operands]."""
    digits = digits_of(batch, form.number.base, form.number.width)  # [N, operands, width]
    return tokens_of(form, np.ascontiguousarray(digits.transpose(1, 2, 0)).astype(np.uint8))


def judge_sets(forward: Forward, vector: Array, sets: Mapping[str, Array]) -> dict[str, Score]:
    """The score on each set of tokens [length, N]."""
    return {name: judge(forward, vector, tokens) for name, tokens in sets.items()}


def judge(forward: Forward, vector: Array, tokens: Array) -> Score:
    margins = margins_of(forward, vector, tokens)
    right = margins > 0
    return Score(float(right.mean()), float(right.all(axis=1).mean()), float(margins.min()))


def margins_of(forward: Forward, vector: Array, tokens: Array) -> Array:
    """Margin of every answer digit [N, steps]; an end symbol is not counted."""
    form, found = forward.form, []
    vectors = torch.from_numpy(vector).unsqueeze(0)
    for start in range(0, tokens.shape[1], ROWS):
        rows = torch.from_numpy(tokens[:, start : start + ROWS].T.astype(np.int64))
        with torch.no_grad():
            logits = forward.logits(vectors, rows[:, :-1])[0, :, : form.steps]
        wanted = rows[:, form.prompt_length : form.prompt_length + form.steps].unsqueeze(-1)
        right = logits.gather(-1, wanted).squeeze(-1)
        best = logits.scatter(-1, wanted, -torch.inf).amax(-1)
        found.append((right - best).numpy())
    return np.concatenate(found)


def greedy_right(structure: Structure, values: Mapping[str, Array], batch: Array) -> Array:
    """Which operand tuples [N, operands] greedy decoding adds rightly: bool [N]."""
    module = AdderModule(structure, values)
    written = module.add_many(batch)  # type: ignore[arg-type]
    return np.array([got == int(total)
                     for got, total in zip(written, sums_of(batch), strict=True)])
