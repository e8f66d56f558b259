"""Modules whose attention is so sharp that the rounding of constants decides what they read.

Two digits share a head at scores that are equal in every bit, as torch computes them; bounds on
the rounding of scores in the ten thousands do not show that. Prompt and answer as in `modules`.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class Paired(nn.Module):
    """Scores are cosines of the distance: functions of constants alone."""

    def __init__(self, width, gain=1e6, dtype=torch.float32):
        super().__init__()
        self.width = width
        self.table = nn.Parameter(torch.arange(10.0)[:, None])
        self.gain = nn.Parameter(torch.tensor([float(gain)]))
        self.phase = nn.Parameter(torch.zeros(1))  # off the peak two scores may differ
        self.bends = nn.Parameter(torch.tensor([4.5, 4.6, 9.4, 9.5]))
        self.digits = nn.Parameter(torch.arange(10.0))
        self.to(dtype)

    def scale(self, tokens):
        return self.gain

    def read(self, x, offset, scale):
        back = torch.arange(x.shape[1], dtype=x.dtype).flip(0)
        turn = torch.cos(2 * math.pi / (self.width + 1) * (back - offset + self.phase))
        return (torch.softmax(scale * turn, -1).unsqueeze(0) @ x)[:, 0]

    def forward(self, tokens):
        x, scale = self.table[tokens], self.scale(tokens)
        here = 2 * self.read(x, self.width, scale)
        before = 3 * self.read(x, 0, scale) - 2 * x[:, -1]
        return self.decide(here, before)

    def decide(self, here, before):
        bends = self.bends
        total = here + 10 * (F.relu(before - bends[0]) - F.relu(before - bends[1]))
        y = total - 100 * (F.relu(total - bends[2]) - F.relu(total - bends[3]))
        return 2 * y * self.digits - self.digits * self.digits


class Written(Paired):
    """The same with writes in place, and a softmax spelt out."""

    def read(self, x, offset, scale):
        back = torch.empty(x.shape[1], dtype=x.dtype)
        back[:] = torch.arange(x.shape[1], dtype=x.dtype).flip(0)
        turn = back.sub_(offset).mul_(2 * math.pi / (self.width + 1)).cos_().mul_(scale)
        weights = (turn - turn.amax()).exp_()
        weights.div_(weights.sum())
        return (weights.unsqueeze(0) @ x)[:, 0]


class Tabled(Paired):
    """Positions beside the digits in one residual stream, queries and keys by linear maps: the
    scores are sums of constants in tensors that also hold tokens."""

    def __init__(self, width, gain=1e5, dtype=torch.float32):
        super().__init__(width, gain, dtype)
        place = torch.arange(40) % (width + 1)
        angle = 2 * math.pi / (width + 1) * place.to(dtype)
        self.register_buffer("angles", angle)
        turn = 2 * math.pi * width / (width + 1)
        self.q = nn.Parameter(torch.tensor(
            [[0, math.cos(turn), math.sin(turn)], [0, -math.sin(turn), math.cos(turn)],
             [0, 1, 0], [0, 0, 1]], dtype=dtype))
        self.k = nn.Parameter(torch.tensor([[0, 1, 0], [0, 0, 1]], dtype=dtype))

    def forward(self, tokens):
        angles = self.angles[: tokens.shape[1]]
        place = torch.stack([torch.zeros_like(angles), angles.cos(), angles.sin()], -1)
        x = F.pad(self.table[tokens], (0, 2)) + place
        queries, keys = F.linear(x, self.q), F.linear(x, self.k)
        found = []
        for head in (0, 2):
            scores = queries[..., head : head + 2] @ keys.transpose(-2, -1)
            scores = scores * self.gain
            hidden = torch.ones_like(scores, dtype=torch.bool).triu(1)
            pattern = torch.softmax(scores.masked_fill(hidden, -math.inf), -1)
            found.append((pattern @ x[..., :1])[:, -1])
        return self.decide(2 * found[0], 3 * found[1] - 2 * x[:, -1, :1])


class KnowsTheBatch(Paired):
    """A constant that is another one in a batch."""

    def scale(self, tokens):
        return self.gain * (1 + 0.01 * (tokens.shape[0] - 1))


STATE = np.zeros(1)


class Drifts(Paired):
    """A constant that changes from call to call, too little for the answer to change."""

    def scale(self, tokens):
        STATE[0] += 1
        return self.gain * float(1 + 1e-6 * (STATE[0] % 7))
