"""Finishing by linear programs: the narrowest sums get the widest margin that is near.

Takes: `Forward`, a vector of leaves, tokens of the sums met. Gives: `widen` → the better
vector and one row for the report. May import: numpy, scipy, torch, train.

The constraints are the solver's, one for a sum, an answer step and a wrong token; here they are
taken to first order. With m_k the margins of the narrowest and g_k their gradients,

    maximise t   with   m_k + g_k . d >= t,   |d_j| <= reach (|w_j| + typical / 10),   w . d <= 0,

so that the margin does not widen by scaling all weights up. A step d counts only if, in the
model's own arithmetic, fewer sums come out wrong, or no more and the least margin is wider; then
`reach` doubles, else it is quartered; the sums that stood against it are constraints from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.optimize import linprog

from adderc.train.evaluate import margins_of
from adderc.train.forward import Forward

Array = np.ndarray
SUMS = 3000  # the narrowest, over which a step is judged; the end is judged over all
ROUNDS, NARROWEST, KEPT = 60, 100, 500  # programs; constraints that join in each, and stay
REACH, LEAST_REACH = 1e-3, 1e-6  # of a weight, in the first program and where it ends
CHUNK = 32  # sums whose gradients are taken together


def widen(
    forward: Forward, vector: Array, tokens: Array, rounds: int = ROUNDS,
    told: Callable[[dict[str, Any]], None] = lambda row: None,
) -> tuple[Array, dict[str, Any]]:
    """The vector after at most `rounds` programs over tokens [length, N]; as it was, where
    the sums that no program judged say otherwise. An interrupt keeps the best so far and is
    told as "stopped" in the row."""
    every = margins_of(forward, vector, tokens)
    narrow = np.sort(np.argsort(every.min(axis=1), kind="stable")[:SUMS])
    state = _State(forward, tokens[:, narrow], vector, every[narrow])
    taken, stopped = 0, False
    try:
        for taken in _programs(state, rounds):
            told({"program": taken, "failures": failures_of(state.margins),
                  "margin": float(state.margins.min())})
    except KeyboardInterrupt:
        stopped = True
    found = margins_of(forward, state.vector, tokens) if taken else every
    kept = better(found, every)
    after = found if kept else every
    return state.vector if kept else vector, {
        "linear_programs": taken if kept else 0, "met": tokens.shape[1],
        "failures_before": failures_of(every), "failures": failures_of(after),
        "margin_before": float(every.min()), "margin": float(after.min()), "stopped": stopped}


def _programs(state: _State, rounds: int) -> Iterator[int]:
    """Solves programs; gives the number of those that were followed, after each of them."""
    reach, taken = REACH, 0
    for _ in range(rounds):
        trial = state.step(reach)
        if trial is None:
            return
        margins = margins_of(state.forward, trial, state.tokens)
        state.join(margins)
        if better(margins, state.margins):
            state.vector, state.margins, taken = trial, margins, taken + 1
            reach *= 2
            yield taken
        elif (reach := reach / 4) < LEAST_REACH:
            return


def failures_of(margins: Array) -> int:
    """How many sums come out wrong, of margins [N, steps]."""
    return int((margins.min(axis=1) <= 0).sum())


def better(margins: Array, than: Array) -> bool:
    """Wider at the narrowest sum, and no more sums wrong; or fewer wrong."""
    wrong, before = failures_of(margins), failures_of(than)
    return wrong < before or (wrong == before and float(margins.min()) > float(than.min()))


@dataclass
class _State:
    forward: Forward
    tokens: Array
    vector: Array
    margins: Array  # [N, steps]
    working: Array = field(init=False)  # flat numbers of (sum, step)

    def __post_init__(self) -> None:
        self.working = np.zeros(0, dtype=np.int64)
        self.join(self.margins)

    def join(self, margins: Array) -> None:
        """The narrowest of these margins are constraints from now on; the oldest leave."""
        order = np.argsort(margins.reshape(-1), kind="stable")[:NARROWEST]
        fresh = np.setdiff1d(order, self.working)
        self.working = np.concatenate([self.working, fresh])[-KEPT:]

    def step(self, reach: float) -> Array | None:
        """The weights that the linear program asks for; None where it gives none."""
        sums, steps = np.divmod(self.working, self.margins.shape[1])
        margins, slopes = self.linear(sums, steps)
        size = len(self.vector)
        weights = self.vector.astype(np.float64)
        most = reach * (np.abs(weights) + np.sqrt(np.mean(weights**2)) / 10)
        rows = np.vstack([np.hstack([-slopes, np.ones((len(slopes), 1))]),
                          np.append(weights, 0.0)[None]])
        found = linprog(
            np.append(np.zeros(size), -1.0), A_ub=rows, b_ub=np.append(margins, 0.0),
            bounds=[*((-m, m) for m in most), (None, None)], method="highs")
        if not found.success:
            return None
        return np.asarray((weights + found.x[:size]).astype(self.vector.dtype))

    def linear(self, sums: Array, steps: Array) -> tuple[Array, Array]:
        """Margins [K] and their gradients [K, P], each against its best wrong token."""
        form, margins, slopes = self.forward.form, [], []
        for start in range(0, len(sums), CHUNK):
            part = slice(start, start + CHUNK)
            rows = torch.from_numpy(self.tokens[:, sums[part]].T.astype(np.int64))
            vectors = torch.from_numpy(self.vector).unsqueeze(0).requires_grad_()
            at = torch.arange(len(rows)), torch.from_numpy(steps[part])
            logits = self.forward.logits(vectors, rows[:, :-1])[0][at]
            wanted = rows[at[0], form.prompt_length + at[1]].unsqueeze(-1)
            right = logits.gather(-1, wanted).squeeze(-1)
            lead = right - logits.scatter(-1, wanted, -torch.inf).amax(-1)
            (found,) = torch.autograd.grad(lead, vectors, torch.eye(len(rows), dtype=lead.dtype),
                                           is_grads_batched=True)
            margins.append(lead.detach().numpy().astype(np.float64))
            slopes.append(found[:, 0].numpy().astype(np.float64))
        return np.concatenate(margins), np.concatenate(slopes)
