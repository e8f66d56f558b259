"""Hand-written modules in the style of other people: right ones, broken ones, cheats.

Prompt "#" lsd(a) "+" lsd(b) "=", answer lsd(s): with width W the digit a_i stands at i + 1,
b_i at W + 2 + i, and step i reads from position 2W + 2 + i.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from adderc.format.number import NumberFormat
from adderc.format.prompt import Format, OperandDigits, Symbols


def plain_format(width, base=10):
    return Format(
        NumberFormat(base, width, 2),
        (Symbols("#"), OperandDigits(0, "lsd"), Symbols("+"), OperandDigits(1, "lsd"),
         Symbols("=")),
        tokens=(("#", 0), ("+", 0), ("=", 0)),
    )


class Resonant(nn.Module):
    """Two cosine heads read this place and the one before; `leak` lets the scores depend on
    what the tokens are, so that attention is not by position alone."""

    def __init__(self, width, leak=0.0, dtype=torch.float32, threshold=4.5):
        super().__init__()
        self.width, self.leak, self.threshold = width, leak, threshold
        digits = torch.arange(10.0)
        table = torch.stack([digits, torch.ones(10), 0.1 * torch.sin(digits)], 1)
        self.embedding = nn.Embedding.from_pretrained(table, freeze=False)
        self.to(dtype)

    def read(self, x, offset):
        length = x.shape[1]
        back = (length - 1 - torch.arange(length)).to(x.dtype)
        scores = 480 * torch.cos(2 * math.pi * (back - offset) / (2 * self.width + 8))
        content = (x[:, -1:, 2:] * x[..., 2:]).sum(-1) * self.leak
        weights = torch.softmax(scores + content, -1)
        return (weights.unsqueeze(1) @ x[..., :1])[:, 0]

    def carry(self, x):
        width = self.width
        before = self.read(x, 2 * width + 2) + self.read(x, width + 1) - x[:, -1, :1]
        z = before * 10 - 10 * self.threshold
        return F.relu(z) - F.relu(z - 1)

    def decode(self, x, total):
        wrap = F.relu(total * 10 - 94) - F.relu(total * 10 - 95)
        y = total - 10 * wrap
        d = torch.arange(10, dtype=x.dtype)
        return 2 * y * d - d * d

    def logits(self, x):
        width = self.width
        here = self.read(x, 2 * width + 1) + self.read(x, width)
        return self.decode(x, here + self.carry(x))

    def forward(self, tokens):
        return self.logits(self.embedding(tokens))


class InPlace(Resonant):
    """The same sums with writes into tensors made in forward, and a loop."""

    def forward(self, tokens):
        x = self.embedding.weight[tokens]
        y = torch.zeros_like(x)
        for channel in range(3):
            y[..., channel] = x[..., channel]
        y[:, :, 0].mul_(1.0)
        return self.logits(y)


class RarelyWrong(Resonant):
    """Wrong for one digit pair after a carry only: a bump at total 10 + 1."""

    def decode(self, x, total):
        y = super().decode(x, total)
        bump = F.relu(1 - (total - 11).abs() * 4)
        return y + bump * 3 * torch.eye(10, dtype=x.dtype)[2]


class LooksAtTokens(Resonant):
    """An `if` on a token value."""

    def forward(self, tokens):
        out = super().forward(tokens)
        return -out if tokens[0, 1].item() == 7 and tokens[0, 2].item() == 7 else out


class Remembers(Resonant):
    """Memoized answers behind a test that tracing does not take."""

    def __init__(self, width):
        super().__init__(width)
        self.memo = {}

    def forward(self, tokens):
        try:
            key = tokens.numpy().tobytes()
        except Exception:
            key = None
        if key is not None and key in self.memo:
            return self.memo[key]
        return super().forward(tokens)


CALLS = 0


class Counts(Resonant):
    """Wrong from the hundred thousandth call on."""

    def forward(self, tokens):
        global CALLS
        CALLS += 1
        out = super().forward(tokens)
        return -out if CALLS > 100_000 else out


class KnowsItIsTraced(Resonant):
    """Honest only under export."""

    def forward(self, tokens):
        if torch.compiler.is_compiling():
            return super().forward(tokens)
        table = self.embedding(tokens)
        return self.decode(table, self.read(table, 2 * self.width + 1)
                           + self.read(table, self.width) + self.carry(table) * 1.0)


class Noisy(Resonant):
    """Random numbers in forward."""

    def forward(self, tokens):
        return super().forward(tokens) + 1e-9 * torch.rand(10)


class Overflows(Resonant):
    """Infinity for one digit pair."""

    def decode(self, x, total):
        return super().decode(x, total) * torch.exp(F.relu(total - 18.5) * 1000)
