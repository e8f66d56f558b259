"""Training steps per second: the compiled step, the torch step, and plain eager modules.

Usage: python benchmarks/train.py [--steps 200] [--rounds 5]

All three train the same model (the tied spec of 57 leaves, and the rank-3 spec of 512) on
the same batches with the same optimizer (AdamW, gradients clipped to norm 1) on one thread,
in turns, in one run; the median round counts. Plain eager is what one would write first:
stock nn modules, all positions, cross entropy on the answer, torch.optim.AdamW. Drawing
the batches is timed beside them; it costs all three the same. The losses of the first steps
must agree.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from adderc.lang.check import check_spec
from adderc.lang.parse import parse
from adderc.passes.plan import read_plan
from adderc.pipeline.specs import read_spec
from adderc.realize.free import free_structure
from adderc.train.data import draw_tokens
from adderc.train.ensemble import Leaves
from adderc.train.forward import Forward
from adderc.train.plan import read_train
from adderc.train.starts import start_values
from adderc.train.step import TorchStep, stepper_of

EPSILON = 1e-6


class Tied(nn.Module):
    """The 57-leaf model in stock modules."""

    def __init__(self, leaves: dict[str, np.ndarray]) -> None:
        super().__init__()
        for name, value in leaves.items():
            self.register_parameter(name.replace(".", "_"), nn.Parameter(torch.tensor(value)))
        step = torch.arange(10, dtype=torch.float32)
        turn = 2 * math.pi * step / 10
        self.spiral = torch.stack([3.5 * turn.cos(), 3.5 * turn.sin(), 0.15 * step], 1)
        self.hidden = torch.ones(33, 33, dtype=torch.bool).triu(1)

    def norm(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, (5,), self.norm_weight[0], EPSILON)

    def forward(self, tokens: Tensor) -> Tensor:
        angle = self.embed_start[0] + torch.arange(10) * self.embed_stride[0]
        table = self.embed_radius[0] * torch.stack([angle.cos(), angle.sin()], 1)
        zero = torch.zeros(1, 3)
        places = torch.cat([self.spiral, zero, self.spiral, self.position_symbol0, self.spiral,
                            self.position_carry])
        batch = len(tokens)
        x = torch.cat([table[tokens], places.expand(batch, -1, -1)], -1)
        h = self.norm(x)
        k = functional.linear(h[..., 2:], self.attention_k)
        c, s = self.attention_q_angle.cos()[0], self.attention_q_angle.sin()[0]
        even, odd = k[..., 0::2], k[..., 1::2]
        q = torch.stack([even * c - odd * s, even * s + odd * c], -1).flatten(-2)
        v = h[..., :2] @ self.decode_weight
        scores = (q @ k.transpose(1, 2)) / math.sqrt(5)
        pattern = scores.masked_fill(self.hidden, -math.inf).softmax(-1)
        read = functional.linear(pattern @ v, self.attention_out_right)
        x = x + functional.linear(read, self.attention_out_left)
        hidden = functional.gelu(functional.linear(self.norm(x), self.ffn_rows))
        x = x + hidden @ self.decode_weight
        return functional.linear(self.norm(x), self.decode_weight) @ table.T


class Ranks(nn.Module):
    """The 512-leaf model in stock modules."""

    def __init__(self, leaves: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.token = nn.Embedding(14, 7)
        self.place = nn.Sequential(nn.Embedding(33, 3), nn.Linear(3, 7, bias=False))
        self.first, self.second, self.final = (nn.LayerNorm(7, EPSILON) for _ in range(3))
        self.qkv, self.out, self.up, self.down = (
            nn.Sequential(nn.Linear(a, 3, bias=False), nn.Linear(3, b, bias=False))
            for a, b in ((7, 21), (7, 7), (7, 14), (14, 7)))
        self.hidden = torch.ones(33, 33, dtype=torch.bool).triu(1)
        with torch.no_grad():
            self.token.weight.copy_(torch.tensor(leaves["embed"]))
            self.place[0].weight.copy_(torch.tensor(leaves["position.left"]))
            self.place[1].weight.copy_(torch.tensor(leaves["position.right"]).T)
            for name, pair in (("attention.qkv", self.qkv), ("attention.out", self.out),
                               ("ffn.rows", self.up), ("ffn.out", self.down)):
                pair[0].weight.copy_(torch.tensor(leaves[f"{name}.right"]))
                pair[1].weight.copy_(torch.tensor(leaves[f"{name}.left"]))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token(tokens) + self.place(torch.arange(33))
        q, k, v = self.qkv(self.first(x)).split(7, -1)
        scores = (q @ k.transpose(1, 2)) / math.sqrt(7)
        pattern = scores.masked_fill(self.hidden, -math.inf).softmax(-1)
        x = x + self.out(pattern @ v)
        x = x + self.down(functional.gelu(self.up(self.second(x))))
        return functional.linear(self.final(x), self.token.weight)


class Eager:
    """A plain training loop."""

    def __init__(self, module: nn.Module, rate: float) -> None:
        self.module = module
        self.optimizer = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=0.01)

    def run(self, tokens: np.ndarray) -> list[float]:
        losses = []
        for batch in tokens:
            rows = torch.from_numpy(batch.T.astype(np.int64))
            logits = self.module(rows[:, :-1])[:, 21:]
            loss = functional.cross_entropy(logits.flatten(0, 1), rows[:, 22:].flatten())
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
            self.optimizer.step()
            losses.append(loss.item())
        return losses


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, {options.rounds} rounds of "
          f"{options.steps} steps (seconds of processor time)")
    for name, module in (("microadder57", Tied), ("lowrank512", Ranks)):
        compare(name, module, options.steps, options.rounds)


def compare(name: str, module: Callable[[dict[str, np.ndarray]], nn.Module], steps: int,
            rounds: int) -> None:
    checked = check_spec(parse(read_spec(f"specs/{name}.adder")))
    structure, plan = free_structure(read_plan(checked), checked), read_train(checked)
    start, rate = start_values(structure, 1), 1e-3
    ours = {"compiled step": stepper_of(structure, plan.batch),
            "torch step": TorchStep(Forward(structure))}
    draws = [plan.draw_at(20_000)] * steps
    began = time.process_time()
    tokens = draw_tokens(checked.format, draws, plan.batch, 1, 0)
    drawing = (time.process_time() - began) / steps
    seconds: dict[str, list[float]] = {label: [] for label in ("plain eager", *ours)}
    first: dict[str, list[float]] = {}
    for _ in range(rounds):
        eager = Eager(module(Leaves.of(structure).split(start)), rate)
        began = time.process_time()
        losses = eager.run(tokens)
        seconds["plain eager"].append(time.process_time() - began)
        first["plain eager"] = losses[:20]
        for label, stepper in ours.items():
            theta, moments = start.copy(), (np.zeros_like(start), np.zeros_like(start))
            began = time.process_time()
            found = stepper.train(theta, *moments, 0, tokens, np.full(steps, rate),
                                  np.full(steps, 0.01), plan.clip, plan.betas, plan.epsilon)
            seconds[label].append(time.process_time() - began)
            first[label] = found[:20].tolist()
    base = statistics.median(seconds["plain eager"])
    print(f"{name}: batch {plan.batch}, drawing a batch {drawing * 1e3:.2f} ms")
    for label, times in seconds.items():
        middle = statistics.median(times)
        apart = max(abs(a - b) for a, b in zip(first[label], first["plain eager"], strict=True))
        print(f"  {label:14} {steps / middle:8.0f} steps/s  {base / middle:6.2f} x   "
              f"first 20 losses within {apart:.1e}")
        assert apart < 1e-4, f"{label} computes something else"


if __name__ == "__main__":
    main()
