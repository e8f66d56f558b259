"""The structure that a model part describes on its own, without an algorithm behind it.

Takes: `ModelPlan`, `CheckedSpec`. Gives: `free_structure` → `Structure` whose leaves have no
values yet: for weights that are trained, for weights that are solved for as a whole, and for
counting before either. SpecError with all faults. May import: errors, lang, passes, realize,
weights.

V vocabulary, D d_model, H heads, E head_dim, F hidden units.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from adderc.errors import FaultList, did_you_mean
from adderc.lang.checked import CheckedSpec
from adderc.passes.plan import Choice, ModelPlan
from adderc.realize.activations import ACTIVATIONS
from adderc.realize.choices import GATED, know_room
from adderc.realize.free_forms import Matrices, Wanted
from adderc.realize.free_position import FreePosition
from adderc.realize.norm import KINDS
from adderc.weights.expr import Add, Arange, Concat, Cos, Expr, MatMul, Mul, Scatter, Sin, Take
from adderc.weights.structure import (
    Attention,
    Block,
    FeedForward,
    Head,
    LeafInfo,
    Norm,
    Structure,
)

HOW = {"solve": "solved", "train": "trained"}
NONE = Choice("none")
SOFTMAX = ("softmax", "softmax1")


def free_structure(plan: ModelPlan, checked: CheckedSpec) -> Structure:
    """The structure of the model part; every leaf is still to be found."""
    know_room()
    faults = FaultList(checked.source)
    structure = _Builder(plan, checked, faults).build()
    faults.raise_if_any()
    assert structure is not None
    return structure


@dataclass
class _Builder:
    plan: ModelPlan
    checked: CheckedSpec
    faults: FaultList

    def build(self) -> Structure | None:
        plan, checked = self.plan, self.checked
        if plan.d_model is None:
            self.faults.add("a model without an algorithm needs its d_model", plan.span("model"),
                            "write for example: layers 1  d_model 7  heads 1")
            return None
        self.size = plan.d_model
        self.parts = self.residual_parts()
        self.matrices = Matrices(self.faults, self.parts)
        self.position = FreePosition(plan.position, checked, self.matrices, self.size,
                                     self.parts)
        self.heads = plan.head_count or 1
        self.head_dim = plan.head_dim or max(1, self.size // self.heads)
        if plan.heads is not None:
            self.heads = len(plan.heads)
            self.head_dim = plan.head_dim or max(1, self.size // self.heads)
        prefixes = [""] if plan.layers == 1 else [f"layer{n + 1}." for n in range(plan.layers)]
        self.want_ends()
        for prefix in prefixes:
            self.want_layer(prefix)
        embedding, tokens = self.embedding()
        signal = self.position.signal()
        blocks = tuple(self.block(prefix) for prefix in prefixes)
        final = self.norm("final")
        head = self.head(embedding, tokens)
        structure = Structure(checked.number, checked.format, plan.dtype, self.size, self.slots(),
                              embedding, signal, blocks, final, head)
        return replace(structure, leaves=self.infos(structure))

    # ------------------------------------------------------------ residual

    def residual_parts(self) -> dict[str, tuple[int, ...]]:
        """Which dimensions each part has; empty where tokens and positions share them all."""
        plan, found, at = self.plan, {}, 0
        for name, count in plan.parts:
            if name not in ("token", "position"):
                self.faults.add(f"the residual has no part {name!r}", plan.span("residual"),
                                "parts: token, position")
            found[name] = tuple(range(at, at + count))
            at += count
        if found and at != self.size:
            self.faults.add(f"the residual's parts take {at} dimensions, d_model is {self.size}",
                            plan.span("residual"))
            return {}
        return found

    def slots(self) -> tuple[str, ...]:
        names = [f"{part}{n}" for part, slots in self.parts.items() for n in range(len(slots))]
        return tuple(names) if names else tuple(f"x{n}" for n in range(self.size))

    # ------------------------------------------------------------ what is wanted

    def want_ends(self) -> None:
        """The embedding and the head's own matrix, which others may be tied to."""
        plan, vocabulary = self.plan, self.checked.format.vocabulary
        width = len(self.parts.get("token", range(self.size)))
        form = plan.embed
        if form.name != "arc":
            self.want("embed", "embed", form, (vocabulary, width), "token vectors")
        weight = plan.forms.get("decode.weight")
        if plan.decode.name == "tied" and weight is not None:
            self.want("decode", "decode.weight", weight, (width, self.size),
                      "what the head compares with the token vectors", reads=True)
        elif plan.decode.name != "tied":
            self.want("decode", "decode.weight", weight or plan.decode, (vocabulary, self.size),
                      "slopes of each logit", reads=True)
        bias = plan.forms.get("decode.bias", NONE)
        if bias.name != "none":
            self.want("decode.bias", "decode.bias", bias, (1, vocabulary), "offset of each logit")

    def want_layer(self, prefix: str) -> None:
        plan, size, wide = self.plan, self.size, self.heads * self.head_dim
        joint = plan.forms.get("attention.qkv")
        if joint is not None:
            self.want(f"{prefix}attention.qkv", f"{prefix}attention.qkv", joint, (3 * wide, size),
                      "queries, keys and values", reads=True)
        else:
            for key, what in (("q", "queries"), ("k", "keys"), ("v", "values")):
                self.want(f"{prefix}attention.{key}", f"{prefix}attention.{key}",
                          plan.form(f"attention.{key}", "dense"), (wide, size), what, reads=True,
                          heads=self.heads)
        self.want(f"{prefix}attention.out", f"{prefix}attention.out",
                  plan.form("attention.out", "dense"), (size, wide), "what the heads write")
        hidden = self.hidden()
        up, down = plan.form("ffn.up", "dense"), plan.form("ffn.down", "dense")
        self.want(f"{prefix}ffn.up", f"{prefix}ffn.rows", up, (hidden, size), "rows of the units",
                  reads=True)
        if plan.feed_forward.name in GATED:
            self.want(f"{prefix}ffn.gate", f"{prefix}ffn.gate",
                      plan.forms.get("ffn.gate", Choice("dense")), (hidden, size),
                      "gates of the units", reads=True)
        self.want(f"{prefix}ffn.down", f"{prefix}ffn.out", down, (size, hidden),
                  "what the units write")
        bias = plan.forms.get("ffn.bias", Choice("dense"))
        if bias.name != "none":
            self.want(f"{prefix}ffn.bias", f"{prefix}ffn.bias", bias, (1, hidden),
                      "thresholds of the units")
            self.want(f"{prefix}ffn.shift", f"{prefix}ffn.shift", bias, (1, size),
                      "what the units write together")

    def want(self, key: str, name: str, form: Choice, shape: tuple[int, int], meaning: str,
             reads: bool = False, heads: int = 0) -> None:
        self.matrices.want(key, Wanted(name, form, shape, meaning, reads, heads))

    def hidden(self) -> int:
        """F: the number in `relu 4`; four times d_model where there is none."""
        return self.plan.feed_forward.number or 4 * self.size

    # ------------------------------------------------------------ parts of the structure

    def embedding(self) -> tuple[Expr, Expr]:
        """E [V, D], and the token vectors alone [V, width]."""
        tokens = self.arc() if self.plan.embed.name == "arc" else self.matrices.full("embed")
        if "token" not in self.parts:
            return tokens, tokens
        rows = tuple(range(tokens.shape[0]))
        return Scatter(tokens, rows, self.parts["token"], (len(rows), self.size)), tokens

    def arc(self) -> Expr:
        """[A cos(s + d t), A sin(s + d t)] for token d: three leaves."""
        span, vocabulary = self.plan.embed.span, self.checked.format.vocabulary
        if len(self.parts.get("token", range(self.size))) != 2:
            self.faults.add("embed arc has two dimensions", span,
                            "write for example: residual token 2, position 3")
        leaf = self.matrices.leaf
        radius = leaf("embed.radius", (1, 1), "radius of the arc", span)
        start = leaf("embed.start", (1, 1), "angle of token 0", span)
        stride = leaf("embed.stride", (1, 1), "angle from token to token", span)
        angle = Add(start, Mul(Arange(vocabulary), stride))
        return Concat((Mul(radius, Cos(angle)), Mul(radius, Sin(angle))), 1)

    def block(self, prefix: str) -> Block:
        site = prefix or ""
        before = self.norm(f"{site}attention")
        attention = self.attention(prefix)
        after = self.norm(f"{site}ffn")
        return Block(attention, self.feed_forward(prefix), before, after)

    def attention(self, prefix: str) -> Attention:
        matrices, place = self.matrices, f"{prefix}attention"
        if f"{place}.qkv" in matrices.wanted:
            whole, wide = matrices.full(f"{place}.qkv"), self.heads * self.head_dim
            q, k, v = (_rows(whole, at * wide, wide) for at in range(3))
        else:
            q, k, v = (matrices.full(f"{place}.{name}") for name in ("q", "k", "v"))
        kind = self.plan.forms.get("attention.softmax", Choice("softmax"))
        if kind.name not in SOFTMAX:
            self.faults.add(f"unknown softmax {kind.name!r}", kind.span,
                            f"known: {', '.join(SOFTMAX)}")
        routes = self.position.routes()
        return Attention(
            self.heads, self.head_dim, q, k, v, matrices.full(f"{place}.out"),
            rope=self.position.rope(self.head_dim),
            routes=(routes,) * self.heads if routes else None, kind=kind.name)

    def feed_forward(self, prefix: str) -> FeedForward | None:
        choice, matrices, place = self.plan.feed_forward, self.matrices, f"{prefix}ffn"
        if choice.name not in {*ACTIVATIONS, *GATED}:
            known = (*ACTIVATIONS, *GATED)
            self.faults.add(f"unknown activation {choice.name!r}", choice.span,
                            did_you_mean(choice.name, known) or f"known: {', '.join(known)}")

        def maybe(name: str) -> Expr | None:
            key = f"{place}.{name}"
            return matrices.full(key) if key in matrices.wanted else None

        return FeedForward(GATED.get(choice.name, choice.name), matrices.full(f"{place}.up"),
                           matrices.full(f"{place}.down"), maybe("bias"), maybe("shift"),
                           maybe("gate"))

    def norm(self, site: str) -> Norm | None:
        """The norm of one site; a LayerNorm has a bias unless the spec says `bias none`."""
        choice = self.plan.norm
        kind, *words = choice.name.split()
        if kind not in KINDS or set(words) - {"shared"}:
            self.faults.add(f"unknown norm {choice.name!r}", choice.span,
                            f"known: {', '.join(KINDS)}, and shared behind them")
            return None
        if kind == "none":
            return None
        name = "norm" if "shared" in words else f"{site}_norm"
        leaf, shape = self.matrices.leaf, (1, self.size)
        weight = bias = None
        if self.plan.forms.get("norm.weight", Choice("dense")).name != "none":
            weight = leaf(f"{name}.weight", shape, "scale of each dimension", choice.span)
        if kind == "layer" and self.plan.forms.get("norm.bias", Choice("dense")).name != "none":
            bias = leaf(f"{name}.bias", shape, "offset of each dimension", choice.span)
        return Norm(kind, weight, bias)

    def head(self, embedding: Expr, tokens: Expr) -> Head:
        matrices = self.matrices
        bias = matrices.full("decode.bias") if "decode.bias" in matrices.wanted else None
        if self.plan.decode.name != "tied":
            return Head(matrices.full("decode"), bias)
        if "decode" in matrices.wanted:
            return Head(MatMul(tokens, matrices.full("decode")), bias)
        return Head(embedding, bias)

    def infos(self, structure: Structure) -> tuple[LeafInfo, ...]:
        """What is known of each leaf: who is to find it, from which line, what it means."""
        ways = {target.split(".")[0]: rule.action for rule in self.checked.weights
                for target in rule.targets if rule.action in HOW}
        usual = next((rule.action for rule in self.checked.weights
                      if rule.action in HOW and not rule.targets), "train")
        found = []
        for leaf in structure.leaf_shapes():
            meaning, line = self.matrices.leaves.get(leaf.name, ("", 0))
            place = next((word for word in leaf.name.split(".") if word in ways), "")
            found.append(LeafInfo(leaf.name, HOW[ways.get(place, usual)], line, meaning))
        return tuple(found)


def _rows(expr: Expr, first: int, count: int) -> Expr:
    return Take(expr, tuple(range(first, first + count)), 0)
