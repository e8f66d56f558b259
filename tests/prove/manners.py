"""The same adder in the manners of many people: one way of attending or of norming each.

All are for `plain_format(width)`: two heads' worth of reads per operand look at this place
and the one before, a hinge finds the carry, another wraps the digit, a parabola decodes.
Positions turn by `turn`; a read at offset o scores gain * cos(turn * (back - o)).
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

GAIN = 480.0


class Plain(nn.Module):
    """Subclasses attend in their own way; `offsets` are a_i, b_i, a_i-1, b_i-1."""

    def __init__(self, width, base=10, dtype=torch.float32):
        super().__init__()
        self.width, self.base = width, base
        self.turn = 2 * math.pi / (2 * width + 8)
        self.offsets = (2 * width + 1, width, 2 * width + 2, width + 1)
        self.digits = nn.Parameter(torch.arange(float(base)))
        self.hinges = nn.Parameter(torch.tensor([10.0, 4.5, 10.0, base - 0.6]))
        self.to(dtype)
        self.prepare(dtype)

    def prepare(self, dtype):
        """Weights of the manner's own."""

    def embed(self, tokens):
        """[B, T, 3]: digit, cos and sin of the position's angle."""
        length = tokens.shape[1]
        angle = torch.arange(length, dtype=self.digits.dtype) * self.turn
        place = torch.stack([torch.cos(angle), torch.sin(angle)], -1)
        digit = self.digits[tokens].unsqueeze(-1)
        return torch.cat([digit, place.expand(tokens.shape[0], -1, -1)], -1)

    def scores(self, x, offset):
        """[B, T] of the last query, by its angle turned back."""
        c, s = math.cos(offset * self.turn), math.sin(offset * self.turn)
        cos, sin = x[:, -1, 1], x[:, -1, 2]
        query = torch.stack([cos * c + sin * s, sin * c - cos * s], -1)
        return GAIN * (x[..., 1:] @ query.unsqueeze(-1))[..., 0]

    def read(self, x, offset):
        """[B]: the digit `offset` positions back."""
        weights = torch.softmax(self.scores(x, offset), -1)
        return (weights * x[..., 0]).sum(-1)

    def reads(self, x):
        return [self.read(x, offset) for offset in self.offsets]

    def decode(self, here, before, last):
        sharp, half, steep, top = self.hinges[0], self.hinges[1], self.hinges[2], self.hinges[3]
        rise = (before - last - half) * sharp
        total = here + F.relu(rise) - F.relu(rise - 1)
        wrap = F.relu((total - top) * steep) - F.relu((total - top) * steep - 1)
        y = total - self.base * wrap
        d = torch.arange(self.base, dtype=y.dtype)
        return 2 * y.unsqueeze(-1) * d - d * d

    def forward(self, tokens):
        x = self.embed(tokens)
        a, b, before_a, before_b = self.reads(x)
        return self.decode(a + b, before_a + before_b, x[:, -1, 0])


class Multihead(Plain):
    """nn.MultiheadAttention, one of one head for each offset."""

    bias = False

    def prepare(self, dtype):
        self.heads = nn.ModuleList()
        for offset in self.offsets:
            head = nn.MultiheadAttention(4, 1, bias=self.bias, batch_first=True, dtype=dtype)
            c, s = math.cos(offset * self.turn), math.sin(offset * self.turn)
            weight = torch.zeros(3, 4, 4)
            weight[0, :2, 1:3] = torch.tensor([[c, s], [-s, c]]) * GAIN * 2
            weight[1, :2, 1:3] = torch.eye(2)
            weight[2, 0, 0] = 1.0
            with torch.no_grad():
                head.in_proj_weight.copy_(weight.reshape(12, 4))
                head.out_proj.weight.copy_(torch.eye(4))
            self.heads.append(head)

    def mask(self, length):
        return torch.triu(torch.ones(length, length, dtype=torch.bool), 1)

    def reads(self, x):
        x = torch.cat([x, torch.zeros_like(x[..., :1])], -1)
        mask = self.mask(x.shape[1])
        return [head(x, x, x, attn_mask=mask, need_weights=False)[0][:, -1, 0]
                for head in self.heads]


class FastPath(Multihead):
    """Biases, and frozen: torch takes its fast path in evaluation."""

    bias = True

    def prepare(self, dtype):
        super().prepare(dtype)
        self.requires_grad_(False).eval()


class MultiheadWeights(Multihead):
    """The slow path of nn.MultiheadAttention, which also returns its weights."""

    def reads(self, x):
        x = torch.cat([x, torch.zeros_like(x[..., :1])], -1)
        mask = self.mask(x.shape[1])
        return [head(x, x, x, attn_mask=mask)[0][:, -1, 0] for head in self.heads]


class FloatMask(Multihead):
    """A mask of floats, minus infinity above the diagonal."""

    def mask(self, length):
        return nn.Transformer.generate_square_subsequent_mask(length, dtype=self.digits.dtype)


class Fused(Plain):
    """scaled_dot_product_attention, all four heads at once, causal."""

    def reads(self, x):
        angle = x.new_tensor([offset * self.turn for offset in self.offsets])
        c, s = torch.cos(angle), torch.sin(angle)
        turn = torch.stack([torch.stack([c, s], -1), torch.stack([-s, c], -1)], 1)  # [H, 2, 2]
        place = x[..., 1:]
        query = torch.einsum("btj,hij->bhti", place, turn) * GAIN * math.sqrt(2)
        key = place.unsqueeze(1).expand(-1, 4, -1, -1)
        value = x[..., :1].unsqueeze(1).expand(-1, 4, -1, -1)
        found = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return found[:, :, -1, 0].unbind(1)


class Loops(Plain):
    """A Python loop over heads that writes into tensors made in forward."""

    def reads(self, x):
        batch, length, _ = x.shape
        out = x.new_zeros(batch, 4)
        for number, offset in enumerate(self.offsets):
            c, s = math.cos(offset * self.turn), math.sin(offset * self.turn)
            query = torch.zeros(batch, 2, dtype=x.dtype)
            query[:, 0] = x[:, -1, 1] * c + x[:, -1, 2] * s
            query[:, 1] = x[:, -1, 2] * c - x[:, -1, 1] * s
            scores = torch.empty(batch, length, dtype=x.dtype)
            for position in range(length):
                scores[:, position] = (query * x[:, position, 1:]).sum(-1).mul(GAIN)
            scores -= scores.amax(-1, keepdim=True)
            scores.exp_()
            scores /= scores.sum(-1, keepdim=True)
            out[:, number] += torch.einsum("bt,bt->b", scores, x[..., 0])
        return [out[:, 0], out[:, 1], out[:, 2], out[:, 3]]


class MaskedFill(Plain):
    """All positions as queries, masked_fill, softmax, einsum over heads."""

    def reads(self, x):
        length = x.shape[1]
        phases = torch.tensor(self.offsets, dtype=x.dtype).view(1, 4, 1) * self.turn
        angle = (torch.arange(length, dtype=x.dtype) * self.turn).view(1, 1, length)
        query = torch.stack([torch.cos(angle - phases), torch.sin(angle - phases)], -1)
        scores = torch.einsum("ahqd,bkd->bhqk", query, x[..., 1:]) * GAIN
        future = torch.arange(length)[None, :] > torch.arange(length)[:, None]
        scores = scores.masked_fill(future, float("-inf"))
        out = torch.einsum("bhqk,bk->bhq", torch.softmax(scores, dim=-1), x[..., 0])
        return [out[:, head, -1] for head in range(4)]


class ByHand(Plain):
    """The current token masked with minus infinity; a softmax in two lines."""

    def read(self, x, offset):
        last = torch.arange(x.shape[1]) == x.shape[1] - 1
        scores = self.scores(x, offset).masked_fill(last, -torch.inf)
        sizes = torch.exp(scores - scores.max(dim=-1, keepdim=True).values)
        return (sizes / sizes.sum(dim=-1, keepdim=True) * x[..., 0]).sum(-1)


class Steps(Plain):
    """Carry and wrap by comparisons and torch.where."""

    def decode(self, here, before, last):
        total = here + (before - last > self.hinges[1]).to(here.dtype)
        y = torch.where(total >= self.hinges[3], total - self.base, total)
        d = torch.arange(self.base, dtype=y.dtype)
        return 2 * y.unsqueeze(-1) * d - d * d


class Gathers(Plain):
    """Hard attention: gather the digits at places that are counted out."""

    def reads(self, x):
        length = x.shape[1]
        places = torch.tensor([length - 1 - offset for offset in self.offsets]).clamp(min=0)
        found = x[..., 0].gather(1, places.expand(x.shape[0], -1))
        return list(found.unbind(1))


class Scatters(Plain):
    """One-hot weights by scatter, and a product with them."""

    def reads(self, x):
        length = x.shape[1]
        found = []
        for offset in self.offsets:
            weights = torch.zeros(x.shape[0], length, dtype=x.dtype)
            place = torch.full((x.shape[0], 1), max(0, length - 1 - offset))
            weights = weights.scatter(1, place, 1.0)
            found.append(torch.bmm(weights.unsqueeze(1), x[..., :1])[:, 0, 0])
        return found


class OneHots(Plain):
    """F.one_hot and a matrix product for the embedding, torch.where for the mask."""

    def embed(self, tokens):
        rest = super().embed(tokens)[..., 1:]
        hot = F.one_hot(tokens, self.base).to(rest.dtype)
        return torch.cat([(hot @ self.digits).unsqueeze(-1), rest], -1)

    def read(self, x, offset):
        scores = self.scores(x, offset)
        seen = torch.arange(x.shape[1]) < x.shape[1]
        scores = torch.where(seen, scores, torch.full_like(scores, -1e9))
        return (torch.softmax(scores, -1) * x[..., 0]).sum(-1)


class SoftmaxPlusOne(Plain):
    """exp(s) / (1 + Σ exp(s)): scores are below 0 where nothing is to be seen."""

    def read(self, x, offset):
        scores = self.scores(x, offset) - (GAIN - 30.0)
        weights = scores.exp()
        weights = weights / (1 + weights.sum(-1, keepdim=True))
        return (weights * x[..., 0]).sum(-1)


class Halves(Plain):
    """RoPE on a constant key by rotate_half: [x1, x2] -> [-x2, x1]."""

    @staticmethod
    def rotate(x, cos, sin):
        left, right = x.chunk(2, dim=-1)
        return x * cos + torch.cat((-right, left), dim=-1) * sin

    def read(self, x, offset):
        length = x.shape[1]
        angle = torch.arange(length, dtype=x.dtype).unsqueeze(-1) * x.new_tensor([self.turn])
        table = torch.cat([angle, angle], -1)
        cos, sin = table.cos(), table.sin()
        start = x.new_tensor([math.cos(offset * self.turn), -math.sin(offset * self.turn)])
        query = self.rotate(start.expand(x.shape[0], length, 2), cos, sin)[:, -1]
        key = self.rotate(x.new_tensor([1.0, 0.0]).expand(x.shape[0], length, 2), cos, sin)
        scores = GAIN * torch.matmul(key, query.unsqueeze(-1)).squeeze(-1)
        return torch.matmul(scores.softmax(-1).unsqueeze(-2), x[..., :1]).flatten()


class Interleaved(Halves):
    """RoPE by pairs: even and odd channels, stacked and flattened."""

    @staticmethod
    def rotate(x, cos, sin):
        even, odd = x[..., 0::2], x[..., 1::2]
        out = torch.stack([even * cos[..., :1] - odd * sin[..., :1],
                           even * sin[..., :1] + odd * cos[..., :1]], dim=-1)
        return out.flatten(-2)


class Slopes(Plain):
    """ALiBi towards one key: -40 * |back - offset|."""

    def read(self, x, offset):
        length = x.shape[1]
        back = length - 1 - torch.arange(length)
        bias = -(back - offset).abs().to(x.dtype) * 40.0
        return (torch.softmax(bias, 0) * x[..., 0]).sum(-1)


class LayerNormed(Plain):
    """nn.LayerNorm of a vector with a large constant pair, undone by a factor."""

    def prepare(self, dtype):
        self.norm = nn.LayerNorm(4, dtype=dtype)

    def forward(self, tokens):
        x = self.embed(tokens)
        digit = x[..., :1]
        big = torch.full_like(digit, 1000.0)
        whole = self.norm(torch.cat([digit, -digit, big, -big], -1))
        x = torch.cat([whole[..., :1] * math.sqrt(500_000.0), x[..., 1:]], -1)
        a, b, before_a, before_b = self.reads(x)
        return self.decode(a + b, before_a + before_b, x[:, -1, 0])


class RootNormed(LayerNormed):
    """RMSNorm by hand: x * rsqrt(mean(x²) + eps) * weight."""

    def prepare(self, dtype):
        self.weight = nn.Parameter(torch.ones(2, dtype=dtype))

    def norm(self, whole):
        pair = whole[..., [0, 2]]
        scale = torch.rsqrt(pair.pow(2).mean(-1, keepdim=True) + 1e-6)
        return pair * scale * self.weight


class Functional(Plain):
    """F.embedding, F.softmax; no module inside."""

    def embed(self, tokens):
        rest = super().embed(tokens)[..., 1:]
        return torch.cat([F.embedding(tokens, self.digits.unsqueeze(1)), rest], -1)

    def read(self, x, offset):
        weights = F.softmax(self.scores(x, offset), dim=1)
        return torch.matmul(weights.unsqueeze(1), x[..., :1]).squeeze(-1).squeeze(-1)


class Layers(Plain):
    """A second block behind the first, with Sequential and a residual."""

    def prepare(self, dtype):
        self.net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)).to(dtype)
        with torch.no_grad():
            self.net[0].weight.copy_(torch.tensor([[1.0], [-1.0]]))
            self.net[0].bias.zero_()
            self.net[2].weight.copy_(torch.tensor([[0.5, -0.5]]))
            self.net[2].bias.zero_()

    def reads(self, x):
        found = torch.stack(super().reads(x), -1).unsqueeze(-1)
        found = found + self.net(found)  # 1.5 times
        return (found[..., 0] / 1.5).unbind(-1)


class Shifted(Plain):
    """Digits carried on top of a large constant, in whose last places they are rounded."""

    def __init__(self, width, shift=2.0**12, **settings):
        super().__init__(width, **settings)
        self.shift = shift

    def read(self, x, offset):
        weights = torch.softmax(self.scores(x, offset), -1)
        return (weights * (x[..., 0] + self.shift)).sum(-1) - self.shift


class Encoder(Plain):
    """nn.TransformerEncoderLayer on digits beside a large constant, norms first."""

    def prepare(self, dtype):
        self.layer = nn.TransformerEncoderLayer(
            4, 1, dim_feedforward=2, dropout=0.0, batch_first=True, norm_first=True, dtype=dtype)
        with torch.no_grad():
            for parameter in self.layer.parameters():
                parameter.zero_()

    def embed(self, tokens):
        x = super().embed(tokens)
        whole = self.layer(torch.cat([x, torch.ones_like(x[..., :1])], -1))
        return whole[..., :3]


class Decided(Plain):
    """Branches on its own buffers, masks of booleans as places, a causal mask of floats."""

    def prepare(self, dtype):
        kinds = torch.arange(3 * self.width + 4) % 2
        self.register_buffer("kinds", kinds)
        self.register_buffer("places", torch.arange(3 * self.width + 4) // 2)
        self.register_buffer("seen", torch.tril(torch.ones(len(kinds), len(kinds), dtype=dtype)))

    def embed(self, tokens):
        length = tokens.shape[1]
        angles = torch.zeros(length, dtype=self.digits.dtype)
        for kind in (0, 1, 2):
            mask = self.kinds[:length] == kind
            if mask.any():
                table = (2 * torch.arange(length, dtype=self.digits.dtype) + kind) * self.turn
                angles[mask] = table[self.places[:length][mask]]
        place = torch.stack([torch.cos(angles), torch.sin(angles)], -1)
        digit = self.digits[tokens].unsqueeze(-1)
        return torch.cat([digit, place.expand(tokens.shape[0], -1, -1)], -1)

    def read(self, x, offset):
        length = x.shape[1]
        hidden = self.seen[length - 1, :length] == 0
        scores = self.scores(x, offset).masked_fill(hidden, float("-inf"))
        return (torch.softmax(scores, -1) * x[..., 0]).sum(-1)


class Powers(Plain):
    """Frequencies as base ** exponents, angles as an outer product."""

    def embed(self, tokens):
        length = tokens.shape[1]
        where = torch.arange(0, 4, 2, dtype=self.digits.dtype)
        frequency = 1.0 / ((1 / self.turn) ** (1 - where / 2))  # turn and 1
        angle = torch.outer(torch.arange(length, dtype=self.digits.dtype), frequency)[:, 0]
        place = torch.stack([torch.cos(angle), torch.sin(angle)], -1)
        digit = self.digits[tokens].unsqueeze(-1)
        return torch.cat([digit, place.expand(tokens.shape[0], -1, -1)], -1)


class Divided(RootNormed):
    """RMSNorm by hand, behind attention too: x / sqrt(mean(x²) + eps)."""

    def norm(self, whole):
        pair = whole[..., [0, 2]]
        return pair / torch.sqrt(pair.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight

    def read(self, x, offset):
        digit = super().read(x, offset)
        pair = torch.stack([digit, torch.full_like(digit, 1000.0)], -1)
        size = torch.sqrt(pair.pow(2).mean(-1, keepdim=True) + 1e-6)
        return (pair / size)[:, 0] * math.sqrt(500_000.0)


class Cis(Plain):
    """RoPE by complex numbers, from a buffer of them."""

    def prepare(self, dtype):
        at = torch.arange(3 * self.width + 4, dtype=dtype)
        angle = torch.outer(at, torch.tensor([self.turn], dtype=dtype))
        self.register_buffer("cis", torch.polar(torch.ones_like(angle), angle))

    def rotate(self, x):
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
        turned = pairs * self.cis[: x.shape[1]].view(1, x.shape[1], -1)
        return torch.view_as_real(turned).flatten(2).type_as(x)

    def read(self, x, offset):
        length = x.shape[1]
        start = x.new_tensor([math.cos(offset * self.turn), -math.sin(offset * self.turn)])
        query = self.rotate(start.expand(x.shape[0], length, 2))[:, -1]
        key = self.rotate(x.new_tensor([1.0, 0.0]).expand(x.shape[0], length, 2))
        scores = GAIN * torch.matmul(key, query.unsqueeze(-1)).squeeze(-1)
        return torch.matmul(scores.softmax(-1).unsqueeze(-2), x[..., :1]).flatten()


class CisOfTokens(Cis):
    """Digits looked up in a complex table, by their tokens."""

    def embed(self, tokens):
        place = super().embed(tokens)[..., 1:]
        table = torch.complex(self.digits, torch.zeros_like(self.digits))
        return torch.cat([table[tokens].real.unsqueeze(-1), place], -1)


MANNERS = (Plain, Multihead, FastPath, MultiheadWeights, FloatMask, Fused, Loops, MaskedFill,
           ByHand, Steps, Gathers, Scatters, OneHots, SoftmaxPlusOne, Halves, Interleaved,
           Slopes, LayerNormed, RootNormed, Functional, Layers, Shifted, Encoder, Decided, Powers,
           Divided, Cis)
