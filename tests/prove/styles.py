"""Modules in the styles of adders that people train, solve or write by hand.

`Learned`: learned positions, a norm in front, GELU steps. `PrefixSum`: answer written most
significant digit first, attention as a geometric sum, gated units, V-shaped decode.
`Machine`: pairs of digits in, states out, torch's own attention under a routing mask.
`Anything`: random weights, for bounds that must hold whatever a module computes.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from adderc.format.number import NumberFormat
from adderc.format.prompt import DigitTuples, Format, OperandDigits, Symbols


class Learned(nn.Module):
    """`plain_format` of tests/prove/modules.py, digits least significant first.

    Channels: digit, a large constant (which keeps the norm linear), and its negative.
    """

    LARGE = 512.0

    def __init__(self, width, kind="rms"):
        super().__init__()
        self.width, length = width, 3 * width + 4
        table = torch.stack([torch.arange(10.0), torch.full((10,), self.LARGE),
                             -torch.arange(10.0), torch.full((10,), -self.LARGE)], 1)
        self.embedding = nn.Embedding.from_pretrained(table, freeze=False)
        self.norm = (nn.RMSNorm(4) if kind == "rms" else nn.LayerNorm(4))
        turn = 2 * math.pi / (2 * width + 8)
        at = torch.arange(float(length))
        self.keys = nn.Parameter(torch.stack([torch.cos(at * turn), torch.sin(at * turn)], 1))
        backs = torch.tensor([2 * width + 1, width, 2 * width + 2, width + 1])
        seen = at[:, None] - backs
        self.queries = nn.Parameter(480 * torch.stack(
            [torch.cos(seen * turn), torch.sin(seen * turn)], 2))  # [T, 4, 2]

    def forward(self, tokens):
        length = tokens.shape[1]
        x = self.embedding(tokens)
        y = self.norm(x)[..., :1] * math.sqrt((self.LARGE**2 + 40) / 2)
        scores = self.queries[length - 1] @ self.keys[:length].T  # [4, T]
        a, b, c, d = (scores.softmax(-1) @ y).unbind(-2)  # each [1, 1]
        before = c + d - y[:, -1]
        carry = self.step(before, 4.5)
        total = a + b + carry
        z = total - 10 * self.step(total, 9.5)
        digit = torch.arange(10.0)
        return 2 * z * digit - digit**2

    @staticmethod
    def step(x, threshold):
        """0 below the threshold, 1 above, by two saturated units."""
        z = 64 * (x - threshold + 1 / 128)
        return F.gelu(z + 16) / 32 - F.gelu(z - 16) / 32


class PrefixSum(nn.Module):
    """What the written digits leave of the sum, weighed by place, in float64."""

    def __init__(self, form, kind="softmax1"):
        super().__init__()
        self.base, self.kind = form.number.base, kind
        self.start, self.steps, self.width = form.prompt_length, form.steps, form.number.width
        digits = torch.arange(self.base, dtype=torch.float64)
        self.table = nn.Parameter(torch.stack([digits, torch.ones_like(digits)], 1))
        places = ([*reversed(range(self.width)), -40] * form.number.operands
                  + list(reversed(range(self.steps))))
        self.at = places
        self.register_buffer("slope", torch.tensor([math.log(self.base)], dtype=torch.float64))
        self.register_buffer("places", torch.tensor(places, dtype=torch.float64))

    def attend(self, scores):
        if self.kind == "anchored":  # one more key, whose value is 0
            whole = torch.cat([scores, torch.zeros_like(scores[:1])]).softmax(-1)
            return whole[:-1]
        most = scores.amax(-1, keepdim=True).clamp(min=0)
        sizes = torch.exp(scores - most)
        return sizes / (torch.exp(-most) + sizes.sum(-1, keepdim=True))

    def forward(self, tokens):
        length, step = tokens.shape[1], tokens.shape[1] - self.start
        places = self.places[:length]
        x = self.table[tokens]  # [1, T, 2]
        sign = torch.where(torch.arange(length) < self.start, 1.0, -1.0).to(x.dtype)
        scores = self.slope * (places - self.width + 1)
        rest = (self.attend(scores) * sign * x[..., 0]).sum(-1, keepdim=True)
        here = float(self.base) ** (self.steps - step - self.width)
        total = float(sum(float(self.base) ** (p - self.width + 1) for p in self.at[:length]))
        z = rest * ((1 + total) / here)
        up, gate = torch.relu(z + 1), x[:, -1, 1:]  # a gated unit
        digit = torch.arange(self.base, dtype=torch.float64)
        aim = digit + 1.5 - 0.25 / self.base ** (self.width + 1)
        return -(up * gate - aim).abs()


class Machine(nn.Module):
    """States digit + base * carry; two heads read the pair of this place and the last token.

    Channels: digit sum of a pair, carry of a state, the id and minus half its square.
    """

    def __init__(self, width, base):
        super().__init__()
        self.width, size = width, base * base + 1
        ids = torch.arange(float(size))
        real = ids < size - 1
        table = torch.stack([
            torch.where(real, torch.floor(ids / base) + ids % base, 0.0),
            torch.where((ids >= base) & (ids < 2 * base), 1.0, 0.0), ids, -ids * ids / 2], 1)
        self.embedding = nn.Embedding.from_pretrained(table, freeze=False)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        with torch.no_grad():
            self.attention.in_proj_weight.zero_()
            self.attention.in_proj_bias.zero_()
            self.attention.out_proj.weight.zero_()
            self.attention.out_proj.bias.zero_()
            self.attention.in_proj_weight[8, 0] = 1  # values: head 0 the sum, head 1 the carry
            self.attention.in_proj_weight[10, 1] = 1
            self.attention.out_proj.weight[0, 0] = 1
            self.attention.out_proj.weight[0, 2] = 1
        self.up = nn.Linear(4, 1)
        self.down = nn.Linear(1, 4)
        with torch.no_grad():
            self.up.weight.copy_(torch.tensor([[1.0, 0, 0, 0]]))
            self.up.bias.fill_(1.0)
            self.down.weight.copy_(torch.tensor([[0.0], [0], [1], [0]]))
            self.down.bias.copy_(torch.tensor([0.0, 0, -1, 1]))
        self.eval()

    def forward(self, tokens):
        length = tokens.shape[1]
        x = self.embedding(tokens)
        back = torch.arange(length).unsqueeze(1) - torch.arange(length)
        early = torch.arange(length).unsqueeze(1) < self.width  # no row may see nothing
        hidden = torch.stack([(back != self.width) & ~(early & (back == 0)), back != 0])
        hidden = hidden.repeat(len(tokens), 1, 1)  # [B * 2, T, T]
        y = self.attention(x, x, x, attn_mask=hidden, need_weights=False)[0]
        h = self.down(torch.relu(self.up(y)))
        return h @ self.embedding.weight.T


class Anything(nn.Module):
    """A block with random weights; `name` says what is done to the attention's output."""

    def __init__(self, name, seed=0, dtype=torch.float32, spread=1.0):
        super().__init__()
        self.name = name
        draw = torch.Generator().manual_seed(seed)

        def random(*shape):
            return nn.Parameter(
                spread * torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype))

        self.table, self.places = random(5, 4), random(16, 4)
        self.q, self.k, self.v, self.up = random(4, 4), random(4, 4), random(4, 4), random(4, 4)
        self.down, self.head = random(4, 4), random(4, 5)

    def forward(self, tokens):
        x = self.table[tokens] + self.places[: tokens.shape[1]]
        h = F.layer_norm(x, (4,)) if self.name == "layer norm" else x
        scores = (h[:, -1:] @ self.q) @ (h @ self.k).transpose(-2, -1)
        y = x[:, -1:] + torch.softmax(scores / 2, -1) @ (h @ self.v)
        return (y + self.change(y @ self.up) @ self.down) @ self.head

    def change(self, u):
        left, right = u[..., :2], u[..., 2:]
        match self.name:
            case "layer norm":
                return F.layer_norm(u, (4,))
            case "rms norm":
                return F.rms_norm(u, (4,))
            case "gated":
                return torch.cat([F.silu(left) * right, torch.relu(right) * left], -1)
            case "quotient":
                return torch.cat([left / (1 + right * right), right / (1 + left.abs())], -1)
            case "choice":
                return torch.cat([torch.maximum(left, right), left.clamp(-0.5, 0.5)], -1)
            case "root":
                return torch.sqrt(1 + u * u) + torch.rsqrt(1 + u * u)
        return {"gelu": F.gelu, "silu": F.silu, "tanh": torch.tanh, "sigmoid": torch.sigmoid,
                "erf": torch.erf, "relu": F.relu, "sin": torch.sin, "cos": torch.cos,
                "exp": lambda t: torch.exp(t / 4), "abs": torch.abs}[self.name](u)


CHANGES = ("layer norm", "rms norm", "gated", "quotient", "choice", "root", "gelu", "silu",
           "tanh", "sigmoid", "erf", "relu", "sin", "cos", "exp", "abs")


def msd_format(width, base):
    return Format(NumberFormat(base, width, 2),
                  (OperandDigits(0, "msd"), Symbols("+"), OperandDigits(1, "msd"), Symbols("=")),
                  answer_order="msd", tokens=(("+", 0), ("=", 0)))


def pair_format(width, base):
    return Format(NumberFormat(base, width, 2), (DigitTuples("lsd"), Symbols(">")),
                  answer_kind="states", tokens=((">", base * base),))
