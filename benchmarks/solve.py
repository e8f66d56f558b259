"""Solving: time and margin of every backend, beside a training loop on whole sequences.

    python benchmarks/solve.py            (--quick: fewer seeds, the state machine only)

The baseline is a loop as published code has it: torch.nn.MultiheadAttention under a routing
mask, Adam with lr 5e-3 and cross entropy on the 16 transitions, each a whole sequence, up to
8 starts of 3000 steps, ending at the first exact table. It and the solver run on one thread
in one process, in one run; seconds are processor time from the first statement after imports.
Building the problem is part of a solve.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import statistics
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from adderc import pipeline
from adderc.errors import AddercError, Source
from adderc.pipeline.driver import read_model, settle
from adderc.pipeline.solve import SolverOptions, orders_of, solve_rules, task_of
from adderc.solve.conduct import _Conduct
from adderc.solve.nlp import Nlp

WIDTH, NORM = 35, 5.417
STARTS, STEPS, RATE = 8, 3000, 5e-3
GOALS = (1e-9, 2.2)


class Baseline(nn.Module):
    """One block of width 2, four hidden units, and a head tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(4, 2)
        self.attention = nn.MultiheadAttention(2, 1, bias=False, batch_first=True)
        self.feed_forward = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
        length = 2 * WIDTH
        offset = torch.arange(length)[:, None] - torch.arange(length)[None]
        self.mask = ~((offset == 0) | (offset == WIDTH))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        mask = self.mask[: x.shape[1], : x.shape[1]]
        x = x + self.attention(x, x, x, attn_mask=mask, need_weights=False)[0]
        x = x + self.feed_forward(x)
        return x @ self.embed.weight.T


def transitions() -> tuple[torch.Tensor, torch.Tensor]:
    """16 sequences: a pair at the start, the state behind the prompt; the next states."""
    rows, right = [], []
    for pair in range(4):
        for state in range(4):
            tokens = [0] * (WIDTH + 1)
            tokens[0], tokens[WIDTH] = pair, state
            rows.append(tokens)
            right.append(pair // 2 + pair % 2 + state // 2)
    return torch.tensor(rows), torch.tensor(right)


@dataclass(frozen=True)
class Trained:
    seconds: float
    exact: bool
    margin: float
    norm: float


def train(seed: int) -> Trained:
    """The baseline loop from one seed on."""
    began = time.process_time()
    tokens, right = transitions()
    for start in range(STARTS):
        torch.manual_seed(seed * STARTS + start + 1)
        model = Baseline()
        optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
        for _ in range(STEPS):
            logits = model(tokens)[:, -1]
            if bool((logits.argmax(-1) == right).all()):
                own = logits.gather(1, right[:, None])
                lead = (own - logits).scatter(1, right[:, None], math.inf)
                norm = math.sqrt(sum(float((p.detach() ** 2).sum()) for p in model.parameters()))
                return Trained(time.process_time() - began, True, float(lead.detach().min()), norm)
            loss = functional.cross_entropy(logits, right)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return Trained(time.process_time() - began, False, -math.inf, math.nan)


def state_problem(base: int = 2, hidden: int = 4, norm: float = NORM):
    """The state machine's problem, as `adderc solve` builds it."""
    text = pipeline.read_spec("gpt46").text.replace("relu 4", f"relu {hidden}")
    if base != 2:
        text = text.replace("max 9999999999", "").replace("width 35", "width 10")
    source = Source("gpt46.adder", text)
    checked = settle(pipeline.parse(source), pipeline.Settings(base=base), unchecked=False)
    choices, given = read_model(checked, pipeline.Settings())
    _, task = task_of(checked, choices, given, solve_rules(checked))
    orders = replace(orders_of(checked, solve_rules(checked), 0, SolverOptions()), norm=norm)
    conductor = _Conduct(task, orders, lambda *_: None)
    return conductor.problem(conductor.first_cases(), None)


def reach(seed: int, goal: float) -> tuple[float, float]:
    """Seconds until a margin of `goal`, the solver's problem included, and the margin."""
    began, reached = time.process_time(), []

    def watch(margin: float, _: int) -> None:
        if margin >= goal and not reached:
            reached.append(time.process_time() - began)

    answer = Nlp().solve(replace(state_problem(), enough=goal), seed, watch)
    return (reached[0] if reached else math.inf), answer.margin


def against_the_loop(seeds: int) -> None:
    train(10**6)  # the first calls of torch and numpy are slower
    reach(10**6, 0.5)
    loops, exact, good = [], [], []
    for seed in range(seeds):
        loops.append(train(seed))
        exact.append(first_exact(seed))
        good.append(reach(seed, GOALS[1]))
    print("| seed | loop s | exact | its margin | its norm | ours: exact after s | "
          "margin 2.2 after s |\n| ---: | ---: | --- | ---: | ---: | ---: | ---: |")
    for seed, (loop, first, goal) in enumerate(zip(loops, exact, good, strict=True)):
        print(f"| {seed} | {loop.seconds:.2f} | {'yes' if loop.exact else 'no'} "
              f"| {loop.margin:.3f} | {loop.norm:.3f} | {first:.3f} | {goal[0]:.2f} |")
    median = statistics.median(loop.seconds for loop in loops)
    print(f"\nloop: median {median:.2f} s, exact for {sum(x.exact for x in loops)} of {seeds} "
          f"seeds. Ours: exact after a median of {statistics.median(exact):.3f} s, at most "
          f"{max(exact):.3f} s ({median / max(exact):.0f} times sooner at worst); margin 2.2 at "
          f"norm {NORM} after a median of {statistics.median(g[0] for g in good):.2f} s, at most "
          f"{max(g[0] for g in good):.2f} s.\n")


def first_exact(seed: int) -> float:
    """Seconds until the first point without a wrong token, building the problem included."""
    began, found = time.process_time(), []

    def watch(margin: float, _: int) -> None:
        if margin > 0:
            found.append(time.process_time() - began)
            raise KeyboardInterrupt  # the rest is not asked for

    Nlp().solve(state_problem(), seed, watch)
    return found[0] if found else math.inf


def best_margins(seeds: int) -> None:
    print("| seed | margin | norm | seconds |\n| ---: | ---: | ---: | ---: |")
    for seed in range(seeds):
        began = time.process_time()
        answer = Nlp().solve(state_problem(), seed)
        print(f"| {seed} | {answer.margin:.4f} | {np.linalg.norm(answer.point):.4f} "
              f"| {time.process_time() - began:.2f} |", flush=True)
    print()


def every_backend() -> None:
    print("| spec | solved | method | margin | lowering's | per largest logit | lowering's | "
          "seconds |\n| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |")
    dense = ("decode    parabola", "decode parabola { weight dense }")
    plain = ("out rank 1 }", "out dense }")
    tasks = [(name, block, method, ()) for name in ("nanogpt58", "rope19")
             for block in ("ffn", "decode", "embedding") for method in ("nlp",)]
    tasks += [("nanogpt58", "ffn.out", "lp", (plain,)), ("nanogpt58", "decode", "lp", (dense,)),
              ("nanogpt58", "ffn.out", "milp", (plain,))]
    tasks += [("gpt46", "", "nlp", ()), ("gpt46", "", "adam", ())]
    for name, block, method, changes in tasks:
        print(row(name, block, method, changes), flush=True)
    print()


def row(name: str, block: str, method: str, changes: tuple[tuple[str, str], ...]) -> str:
    text = pipeline.read_spec(name).text
    for old, new in changes:
        text = text.replace(old, new)
    if block:
        text = text[: text.index("weights {")] + f"weights {{ solve {block} }}\n"
    try:
        made = pipeline.compile_spec(Source(f"{name}.adder", text),
                                     solver=SolverOptions(method=method))
    except AddercError as error:
        return f"| {name} | {block} | {method} | {str(error).splitlines()[0]} | | | | |"
    found = made.solved
    own = found.lowering
    ratio = f"{found.margin / found.checked.largest:.6g}"
    before = ("", "") if own is None else (f"{own.margin:.4f}", f"{own.margin / own.largest:.6g}")
    return (f"| {name} | {block or 'all'} | {method} | {found.margin:.4f} | {before[0]} "
            f"| {ratio} | {before[1]} | {made.seconds:.2f} |")


def growth() -> None:
    print("| base | hidden | unknowns | contexts | norm | margin | seconds |\n"
          "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for base, hidden, norm in ((2, 2, NORM), (2, 4, NORM), (2, 8, NORM), (2, 16, NORM),
                               (3, 8, 10.0), (3, 16, 10.0), (4, 16, 15.0)):
        began = time.process_time()
        problem = state_problem(base, hidden, norm)
        answer = Nlp().solve(problem, 0)
        print(f"| {base} | {hidden} | {problem.size} | {len(problem.cases)} | {norm} "
              f"| {answer.margin:.3f} | {time.process_time() - began:.1f} |", flush=True)
    print()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true")
    quick = options.parse_args().quick
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, Python {platform.python_version()}, "
          f"{platform.machine()}, one thread\n")
    against_the_loop(3 if quick else 10)
    best_margins(3 if quick else 10)
    if not quick:
        every_backend()
        growth()


if __name__ == "__main__":
    main()
