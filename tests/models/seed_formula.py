"""The published 58-parameter adder's formula, written anew for comparison only.

Source: the nanoGPT seed (130 -> 58 parameters): sinusoid of period 11 with gain 100 up to
position 21, queries rotated by 8 and 9 steps and scaled by 100, values and carry as below.
"""

from __future__ import annotations

import math

import torch

STEP = 2 * math.pi / 11


def seed_logits(tokens: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Logits [B, T, 10] of token ids [B, T]."""
    length = tokens.shape[1]
    place = torch.arange(length, dtype=dtype)
    height = torch.where(place <= 21, 100.0, 1.0).to(dtype)
    sine, cosine = height * torch.sin(place * STEP), height * torch.cos(place * STEP)
    digit = tokens.to(dtype)
    fetched = []
    future = torch.triu(torch.ones(length, length, dtype=torch.bool), 1)
    for turn in (8 * STEP, 9 * STEP):
        c, s = (f(torch.tensor(turn, dtype=dtype)) * 100 for f in (torch.cos, torch.sin))
        first, second = -c * sine + s * cosine, s * sine + c * cosine
        score = (first[:, None] * sine + second[:, None] * cosine) / math.sqrt(2)
        pattern = torch.softmax(score.masked_fill(future, -math.inf), dim=-1)
        fetched.append(2 * digit @ pattern.T)
    here, before = fetched
    low = -100 * digit + 100 * (sine + before)
    high = -10 * digit + 10 * (sine + before) + 1000 * here
    relu = torch.relu
    out = here + 0.01 * relu(low - 50) - 0.01 * relu(low - 150)
    out = out - relu(high - 9005) + relu(high - 9015)
    values = torch.arange(10, dtype=dtype)
    return 2 * values * out[..., None] - values**2


def seed_add(a: int, b: int, dtype: torch.dtype = torch.float32) -> int:
    """Greedy decoding of the formula, one pair."""
    tokens = [int(c) for c in f"{a:010d}"] + [0] + [int(c) for c in f"{b:010d}"] + [0]
    for _ in range(11):
        tokens.append(int(seed_logits(torch.tensor([tokens]), dtype)[0, -1].argmax()))
    return int("".join(map(str, reversed(tokens[22:]))))
