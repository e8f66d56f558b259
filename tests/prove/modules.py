"""Hand-written modules in the style of other people: right ones, broken ones, cheats.

Prompt "#" lsd(a) "+" lsd(b) "=", answer lsd(s): with width W the digit a_i stands at i + 1,
b_i at W + 2 + i, and step i reads from position 2W + 2 + i.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from adderc.format.number import NumberFormat
from adderc.format.prompt import DigitTuples, Format, OperandDigits, Symbols


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


class Fused(Resonant):
    """scaled_dot_product_attention on rotating queries and keys."""

    def read(self, x, offset):
        length = x.shape[1]
        turn = 2 * math.pi / (2 * self.width + 8)
        angles = torch.arange(length).to(x.dtype) * turn
        keys = torch.stack([torch.cos(angles), torch.sin(angles)], -1)
        at = torch.ones((1,), dtype=x.dtype) * ((length - 1 - offset) * turn)
        query = 480 * torch.stack([torch.cos(at), torch.sin(at)], -1)
        found = F.scaled_dot_product_attention(
            query[None, None], keys[None, None], x[None, ..., :1], scale=1.0)
        return found[0, 0]


class Summed(Resonant):
    """The average by einsum."""

    def read(self, x, offset):
        length = x.shape[1]
        back = (length - 1 - torch.arange(length)).to(x.dtype)
        scores = 480 * torch.cos(2 * math.pi * (back - offset) / (2 * self.width + 8))
        return torch.einsum("t,btd->bd", torch.softmax(scores, -1), x[..., :1])


class Normed(Resonant):
    """A norm that a large constant channel makes nearly linear; "layer" or "rms"."""

    def __init__(self, width, kind):
        super().__init__(width)
        self.kind = kind

    def forward(self, tokens):
        x = self.embedding(tokens)
        big = torch.full_like(x[..., :1], 1000.0)
        if self.kind == "layer":
            whole = torch.cat([x[..., :1], -x[..., :1], big, -big], -1)
            y = F.layer_norm(whole, (4,))[..., :1]
        else:
            y = F.rms_norm(torch.cat([x[..., :1], big], -1), (2,))[..., :1]
        return self.logits(torch.cat([y * math.sqrt(500_000.0), x[..., 1:]], -1))


class PlaceValue(nn.Module):
    """Most significant digit first: what the written digits leave of the sum, in float64."""

    def __init__(self, form):
        super().__init__()
        self.base, self.k = form.number.base, form.number.operands
        self.start, self.steps, self.width = form.prompt_length, form.steps, form.number.width
        digits = torch.arange(self.base, dtype=torch.float64)
        self.table = nn.Parameter(digits.unsqueeze(1))

    def forward(self, tokens):
        base, length = float(self.base), tokens.shape[1]
        operand = [base**j for j in reversed(range(self.width))] + [0.0]
        answer = [-(base**j) for j in reversed(range(self.steps))]
        values = torch.tensor((operand * self.k + answer)[:length], dtype=torch.float64)
        rest = (self.table[tokens][..., 0] * values).sum(-1, keepdim=True)
        scale = torch.tensor([base**-j for j in range(self.steps)], dtype=torch.float64)
        z = rest * scale[self.steps - 1 - (length - self.start)]
        d = torch.arange(base, dtype=torch.float64) + 0.5 - 0.25 / base**self.width
        return 2 * z * d - d * d


def place_value_format(width, base, operands):
    prompt = []
    for operand in range(operands):
        sign = "=" if operand == operands - 1 else "+"
        prompt += [OperandDigits(operand, "msd"), Symbols(sign)]
    return Format(NumberFormat(base, width, operands), tuple(prompt), answer_order="msd",
                  tokens=(("+", 0), ("=", 0)))


class StateMachine(nn.Module):
    """Digit pairs in, digit and carry out, with one_hot and comparisons of tokens."""

    def __init__(self, width, base):
        super().__init__()
        self.width, self.base = width, base
        pairs = torch.arange(base * base)
        sums = (pairs // base + pairs % base).float()
        self.sums = nn.Parameter(torch.cat([sums, torch.zeros(1)]).unsqueeze(1))

    def forward(self, tokens):
        size = self.base * self.base + 1
        here = tokens.shape[1] - 1 - self.width
        chosen = (torch.arange(tokens.shape[1]) == here).float()
        total = (chosen * self.sums[tokens][..., 0]).sum(-1, keepdim=True)
        last = F.one_hot(tokens[:, -1], size).to(torch.float32)
        carries = (torch.arange(size) >= self.base) & (torch.arange(size) < size - 1)
        y = total + last @ carries.float().unsqueeze(1)
        d = torch.arange(float(size))
        return 2 * y * d - d * d


def state_format(width, base):
    return Format(NumberFormat(base, width, 2), (DigitTuples("lsd"), Symbols(">")),
                  answer_kind="states", tokens=((">", base * base),))
