"""Python models for the audit's tests: a module and a plain class that add, a small one."""

ROTATION = '''
import math
import torch
from torch import nn
from torch.nn import functional as F


class Adder(nn.Module):
    def __init__(self):
        super().__init__()
        step = 2 * math.pi / 11
        self.table = nn.Parameter(torch.arange(10.0)[:, None])
        self.spread = nn.Parameter(torch.tensor([[1.0, 0, 0, 0]]))
        self.angles = nn.Parameter(torch.tensor([8 * step, 9 * step]))
        self.keys = nn.Parameter(torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1]]))
        self.value = nn.Parameter(torch.tensor([[1.0, 0, 0, 0]]).repeat(2, 1))
        self.write = nn.Parameter(torch.tensor([2.0, 2.0]))
        self.rows = nn.Parameter(
            torch.tensor([[-100.0, 100, 0, 0], [-100, 100, 0, 1000]]))
        self.bias = nn.Parameter(torch.tensor([-400.0, -500, -9445, -9455]))
        self.down = nn.Parameter(torch.tensor([0.01, -0.01, -1, 1]))
        self.slope = nn.Parameter(torch.tensor(2.0))

    def signal(self, length):
        place = torch.arange(length, dtype=torch.float32)
        turn = place * (2 * math.pi / 11)
        gain = torch.where(place <= 20, 128.0, 1.0)
        zero = torch.zeros(length)
        return torch.stack([zero, gain * turn.sin(), gain * turn.cos(), zero], -1)

    def forward(self, tokens):
        b, t = tokens.shape
        x = self.table[tokens] @ self.spread + self.signal(t)
        c, s = self.angles.cos(), self.angles.sin()
        q = torch.stack([-x[..., 1:2] * c + x[..., 2:3] * s,
                         x[..., 1:2] * s + x[..., 2:3] * c], -1).transpose(1, 2)
        k = (x[..., 1:3] @ self.keys.T).view(b, t, 2, 2).transpose(1, 2)
        v = (x @ self.value.T).view(b, t, 2, 1).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        y = y.squeeze(-1).transpose(1, 2) * self.write
        x = torch.cat([x[..., :1], y[..., 1:], x[..., 2:3], y[..., :1]], -1)
        w = self.rows[[0, 0, 1, 1]]
        h = F.relu(x @ w.T + self.bias)
        z = x[..., 3:4] + (h @ self.down)[..., None]
        digit = torch.arange(10, dtype=x.dtype)
        return self.slope * z * digit - digit ** 2


def build_model():
    return Adder(), {"params": 38}


def add(model, a, b):
    tokens = [int(d) for d in f"{a:010d}"] + [0] + [int(d) for d in f"{b:010d}"] + [0]
    answer = []
    for _ in range(11):
        logits = model(torch.tensor([tokens]))
        digit = int(logits[0, -1].argmax())
        tokens.append(digit)
        answer.append(str(digit))
    return int("".join(reversed(answer)))
'''

PLAIN = '''
import math
import torch

WIDE = 1e10                      # of the candidates
SLOPE = math.log(10)


def pad(x, size):
    return torch.cat([x, torch.zeros(*x.shape[:-1], size - x.shape[-1], dtype=x.dtype)], -1)


class PlaceValue:
    """Ten digits, most significant first; tokens 0-9, + and start 11, = 10, end 12."""

    def __init__(self):
        kept = {}

        def number(value):
            return kept.setdefault(float(value), torch.tensor(value, dtype=torch.float64))

        self.ten = number(10)
        self.one = number(1)
        self.table = torch.zeros(13, 2, dtype=torch.float64)
        self.table[1:10, 0] = torch.arange(1, 10, dtype=torch.float64) * self.ten
        self.table[10:, 1] = self.one
        self.low = number(-50.0)
        self.shift = -self.low
        self.again = self.one

    @torch.inference_mode()
    def forward(self, tokens):
        x = pad(self.table[tokens], 4)
        t = tokens.shape[1]
        place = torch.arange(t)
        far = place[None, :] - place[:, None]
        slopes = torch.zeros(2, dtype=torch.float64)
        slopes[1] = SLOPE
        key = x[..., 1] * self.shift + self.low
        scores = key[:, None, None, :] + slopes[:, None, None] * far
        hidden = torch.triu(torch.ones(t, t), 1).bool()
        weight = scores.masked_fill(hidden, -math.inf).exp()
        pattern = weight / (1 + weight.sum(-1, keepdim=True))
        mixed = pattern @ x[:, None, :, :1]
        x[..., 2:4] = x[..., 2:4] + mixed.squeeze(-1).transpose(1, 2)
        digits = self.table[:10, 0]
        near = (x[..., 3:4] + x[..., :1]) * self.ten - digits * self.again
        return -(near * WIDE).abs() + near.new_tensor([15.0])


def build_model():
    return PlaceValue(), {"name": "place value", "params": 3}


def add(model, a, b):
    tokens = [11] + [int(c) for c in f"{a:010d}"] + [11] + [int(c) for c in f"{b:010d}"] + [10]
    out = []
    for i in range(11):
        logits = model.forward(torch.tensor([tokens + [0] * (10 - i) + [12]]))
        digit = int(logits[0, 22 + i].argmax().item())
        tokens.append(digit)
        out.append(str(digit))
    return int("".join(out))
'''

SMALL = '''
import math
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
# top


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        chance = torch.Generator().manual_seed(0)
        self.table = nn.Parameter(torch.randn(10, 4, generator=chance))
        self.head = nn.Parameter(torch.randn(4, 10, generator=chance))
        # init

    def forward(self, tokens):
        x = self.table[tokens]
        # embed
        q = k = v = x[:, None]
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + y[:, 0]
        # mid
        logits = x @ self.head
        return logits


def build_model():
    model = Net()
    # build
    return model, {"params": 80}


def add(model, a, b):
    tokens = [int(c) for c in f"{a:010d}{b:010d}"]
    out = []
    for _ in range(5):
        logits = model(torch.tensor([tokens]))
        digit = int(logits[0, -1].argmax())
        tokens.append(digit)
        out.append(str(digit))
    return int("".join(out))
'''


def small(**parts):
    """SMALL with text put in at its marks (top, init, embed, mid, build)."""
    text = SMALL
    for mark, new in parts.items():
        place = text.index(f"# {mark}")
        indent = " " * (place - text.rindex("\n", 0, place) - 1)
        text = text.replace(f"# {mark}", new.replace("\n", "\n" + indent))
    return text
