"""The forward pass of one structure as straight-line torch code.

Takes: a structure. Gives: `forward_lines`: the body of `forward`, and `position_code`.
May import: weights.structure, weights.signal, export.expressions.

B batch, T tokens, D d_model, H heads, E head_dim, F hidden units, V vocabulary.
"""

from __future__ import annotations

from adderc.export.expressions import Expressions
from adderc.weights.expr import Expr
from adderc.weights.structure import (
    Attention,
    Block,
    FeedForward,
    Norm,
    PositionTable,
    Rope,
    Sinusoid,
    Structure,
)

ACTIVATIONS = {
    "relu": "torch.relu", "silu": "torch.nn.functional.silu",
    "gelu": "torch.nn.functional.gelu", "tanh": "torch.tanh",
}
ROTATE = '''
def rotate(x, turns):
    """Turn dimensions (2j, 2j + 1) of x [B, H, T, E] by the angle of pair j at each position."""
    pairs = turns.shape[1]
    even, odd = x[..., : 2 * pairs].unflatten(-1, (pairs, 2)).unbind(-1)
    sin, cos = turns.unbind(-1)
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)
    return torch.cat([turned, x[..., 2 * pairs :]], -1)
'''
NORMS = {
    "rms": '''
def rms_norm(x, epsilon):
    """x over its root mean square along the last axis."""
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + epsilon)
''',
    "layer": '''
def layer_norm(x, epsilon):
    """x less its mean, over its standard deviation along the last axis."""
    x = x - x.mean(-1, keepdim=True)
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + epsilon)
''',
}


def helper_code(structure: Structure) -> list[str]:
    """The functions that the forward pass calls: positions, rotation, norms."""
    found = []
    if isinstance(structure.position, Sinusoid):
        found.append(sinusoid_code(structure.position, structure.d_model))
    ropes = [b.attention.rope for b in structure.blocks if b.attention is not None]
    for rope in dict.fromkeys(r for r in ropes if r is not None):
        found.append(rope_code(rope, _rope_name(structure, rope)))
    if any(ropes):
        found.append(ROTATE)
    kinds = {norm.kind for norm in _norms(structure)}
    return found + [code for kind, code in NORMS.items() if kind in kinds]


def _norms(structure: Structure) -> list[Norm]:
    norms = [structure.final_norm]
    for block in structure.blocks:
        norms += [block.attention_norm, block.feed_forward_norm]
    return [norm for norm in norms if norm is not None]


def sinusoid_code(signal: Sinusoid, d_model: int) -> str:
    """`positions(length)`: the same float64 numbers, rounded once, as the module has."""
    sine, cosine = signal.slots
    gains = ", ".join(f"({first}, {float(gain)!r})" for first, gain in signal.gains)
    numerator, denominator = signal.period.numerator, signal.period.denominator
    head = f'''
# gain of the position signal from each of these positions on
GAINS = [{gains}]


def positions(length):
    """gain(p) * (sin, cos)(2 pi p / {signal.period}) in dimensions {sine} and {cosine}, [T, D]."""
'''
    balance = ""
    if signal.balance is not None:
        value = f"-signal[:, {sine}] - signal[:, {cosine}]" if signal.rounded else (
            "torch.tensor([-sum(row) for row in rows], dtype=DTYPE)")
        balance = f"    signal[:, {signal.balance}] = {value}\n"
    if signal.rounded is not None:
        return head + f'''    angle = torch.arange(length, dtype=torch.{signal.rounded}) * (
        2 * math.pi / {float(signal.period)!r})
    height = torch.tensor([[g for start, g in GAINS if start <= p][-1] for p in range(length)],
                          dtype=torch.{signal.rounded})
    signal = torch.zeros(length, {d_model}, dtype=DTYPE)
    signal[:, {sine}] = (height * torch.sin(angle)).to(DTYPE)
    signal[:, {cosine}] = (height * torch.cos(angle)).to(DTYPE)
{balance}    return signal
'''
    turns = f"p * {denominator} % {numerator}" if denominator != 1 else f"p % {numerator}"
    return head + f'''    rows = []
    for p in range(length):
        angle = 2 * math.pi * (({turns}) / {numerator})
        gain = [g for start, g in GAINS if start <= p][-1]
        rows.append((gain * math.sin(angle), gain * math.cos(angle)))
    signal = torch.zeros(length, {d_model}, dtype=DTYPE)
    signal[:, [{sine}, {cosine}]] = torch.tensor(rows, dtype=DTYPE)
{balance}    return signal
'''


def rope_code(rope: Rope, name: str) -> str:
    """`turns(length)`: (sin, cos) of each pair's angle at each position."""
    periods = ", ".join(f"({p.numerator}, {p.denominator})" for p in rope.periods)
    return f'''
def {name}(length):
    """(sin, cos) of pair j's angle 2 pi p / period_j at each position p, [T, pairs, 2]."""
    rows = []
    for p in range(length):
        angles = [2 * math.pi * ((p * below % above) / above) for above, below in [{periods}]]
        rows.append([(math.sin(angle), math.cos(angle)) for angle in angles])
    return torch.tensor(rows, dtype=DTYPE)
'''


def _rope_name(structure: Structure, rope: Rope) -> str:
    ropes = list(dict.fromkeys(b.attention.rope for b in structure.blocks
                               if b.attention is not None and b.attention.rope is not None))
    return "turns" if len(ropes) == 1 else f"turns_{ropes.index(rope)}"


class Forward:
    """Builds the body of `forward`, part by part."""

    def __init__(self, structure: Structure, expressions: Expressions) -> None:
        self.structure, self.code = structure, expressions
        self.lines: list[str] = []
        self.several = len(structure.blocks) > 1

    def build(self) -> list[str]:
        structure = self.structure
        self.weight("embedding", structure.embedding)
        self.add("x = torch.nn.functional.embedding(tokens, embedding)  # [B, T, D]")
        if isinstance(structure.position, Sinusoid):
            self.add("x = x + positions(tokens.shape[1])")
        elif isinstance(structure.position, PositionTable):
            self.weight("position", structure.position.table)
            self.add("x = x + position[: tokens.shape[1]]")
        for number, block in enumerate(structure.blocks):
            self.block(number, block)
        source = self.norm(structure.final_norm, "final_norm", "x")
        self.add("", "# head")
        self.weight("head", structure.head.weight)
        bias = self.bias("head_bias", structure.head.bias)
        self.add(f"return {source} @ head.T{bias}  # [B, T, V]")
        return self.lines

    def add(self, *lines: str) -> None:
        self.lines += lines

    def weight(self, name: str, expr: Expr) -> None:
        """The statements that compute a matrix, with its shape on the last one."""
        statements = self.code.statements(name, expr)
        if statements:
            shape = ", ".join(map(str, expr.shape))
            statements[-1] += f"  # {name} [{shape}]" if statements[-1] == ")" else f"  # [{shape}]"
        self.add(*statements)

    def bias(self, name: str, expr: Expr | None) -> str:
        if expr is None:
            return ""
        self.weight(name, expr)
        return f" + {name}.reshape(-1)"

    def norm(self, norm: Norm | None, name: str, source: str) -> str:
        """Normalise `source` into h; gives the name of what is to be read."""
        if norm is None:
            return source
        self.add(f"h = {norm.kind}_norm({source}, {norm.epsilon!r})")
        for part, sign in (("weight", "*"), ("bias", "+")):
            expr = getattr(norm, part)
            if expr is not None:
                self.weight(f"{name}_{part}", expr)
                self.add(f"h = h {sign} {name}_{part}.reshape(-1)")
        return "h"

    def block(self, number: int, block: Block) -> None:
        suffix = str(number) if self.several else ""
        if block.attention is not None:
            self.add("", f"# attention {suffix}".rstrip())
            source = self.norm(block.attention_norm, f"attention_norm{suffix}", "x")
            self.attention(block.attention, source, suffix)
        if block.feed_forward is not None:
            self.add("", f"# feed-forward {suffix}".rstrip())
            source = self.norm(block.feed_forward_norm, f"feed_forward_norm{suffix}", "x")
            self.feed_forward(block.feed_forward, source, suffix)

    def attention(self, attention: Attention, source: str, suffix: str) -> None:
        shape = f"({attention.heads}, {attention.head_dim})"
        for name in ("q", "k", "v"):
            weight = f"w_{name}{suffix}"
            self.weight(weight, getattr(attention, name))
            bias = self.bias(f"b_{name}{suffix}", getattr(attention, f"{name}_bias"))
            product = f"{source} @ {weight}.T"
            whole = f"({product}{bias})"
            self.add(f"{name} = {whole}.unflatten(-1, {shape}).transpose(1, 2)  # [B, H, T, E]")
        if attention.rope is not None:
            name = _rope_name(self.structure, attention.rope)
            self.add(f"angles = {name}(tokens.shape[1])",
                     "q, k = rotate(q, angles), rotate(k, angles)")
        self.scores(attention, suffix)
        self.pattern(attention)
        self.weight(f"w_out{suffix}", attention.out)
        bias = self.bias(f"b_out{suffix}", attention.out_bias)
        self.add("z = (pattern @ v).transpose(1, 2).flatten(2)  # [B, T, H * E]",
                 f"x = x + (z @ w_out{suffix}.T{bias})")

    def scores(self, attention: Attention, suffix: str) -> None:
        if attention.scale is None:
            scale = f"(1 / math.sqrt({attention.head_dim}))"
        else:
            self.weight(f"scale{suffix}", attention.scale)
            scale = f"scale{suffix}.reshape(-1, 1, 1)"
        self.add(f"scores = q @ k.transpose(-2, -1) * {scale}  # [B, H, T, T]",
                 "at = torch.arange(tokens.shape[1])",
                 "behind = at[:, None] - at  # how far each key lies behind each query")
        if attention.slopes is not None:
            self.weight(f"slopes{suffix}", attention.slopes)
            self.add(f"scores = scores - slopes{suffix}.reshape(-1, 1, 1) * behind.to(DTYPE)")

    def pattern(self, attention: Attention) -> None:
        masked = attention.routes is not None or attention.visible is not None
        if attention.routes is not None:
            routes = ", ".join(f"torch.isin(behind, torch.tensor({list(route)}))"
                               for route in attention.routes)
            self.add(f"seen = torch.stack([{routes}])  # the offsets that each head may see")
        elif attention.visible is not None:
            self.table(attention.visible)
        if not masked:
            self.add("scores = scores.masked_fill(behind < 0, -math.inf)")
        else:
            self.add("blind = ~seen.any(-1, keepdim=True)  # queries that see no key read zero",
                     "scores = scores.masked_fill(~(seen | blind), -math.inf)")
        if attention.kind == "softmax1":
            self.add("zero = torch.zeros_like(scores[..., :1])  # one more key, of score 0",
                     "pattern = torch.softmax(torch.cat([scores, zero], -1), -1)[..., :-1]")
        else:
            self.add("pattern = torch.softmax(scores, -1)")
        if masked:
            self.add("pattern = pattern.masked_fill(blind, 0.0)")

    def table(self, visible: tuple[tuple[tuple[int, ...], ...], ...]) -> None:
        """The mask by its true entries: query positions and the keys that each sees."""
        length = len(visible[0])
        self.add(f"seen = torch.zeros({len(visible)}, {length}, {length}, dtype=torch.bool)")
        for head, rows in enumerate(visible):
            pairs = [(query, key) for query, keys in enumerate(rows) for key in keys]
            self.add(f"seen[{head}, {[q for q, _ in pairs]}, {[k for _, k in pairs]}] = True")
        self.add("seen = seen[:, : len(at), : len(at)]  # the positions that each head may see")

    def feed_forward(self, ffn: FeedForward, source: str, suffix: str) -> None:
        self.weight(f"up{suffix}", ffn.up)
        bias = self.bias(f"up_bias{suffix}", ffn.up_bias)
        self.add(f"hidden = {ACTIVATIONS[ffn.activation]}({source} @ up{suffix}.T{bias})"
                 "  # [B, T, F]")
        if ffn.gate is not None:
            self.weight(f"gate{suffix}", ffn.gate)
            bias = self.bias(f"gate_bias{suffix}", ffn.gate_bias)
            self.add(f"hidden = hidden * ({source} @ gate{suffix}.T{bias})")
        self.weight(f"down{suffix}", ffn.down)
        bias = self.bias(f"down_bias{suffix}", ffn.down_bias)
        self.add(f"x = x + (hidden @ down{suffix}.T{bias})")
