"""The logits of a structure's last position, case by case, as a tape over the unknown leaves.

Takes: a structure, the values of its known leaves, `Cases`. Gives: `Model`: a tape with the
node of its logits [R, N, V].
May import: errors, weights, solve.cases, solve.tape.

R points, N cases, K keys (the query is the last), D d_model, H heads, E head_dim,
F hidden units, V vocabulary. Only the last position is computed; so attention may stand in
the first block only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from adderc.errors import Fault, Refusal
from adderc.solve.cases import Cases
from adderc.solve.tape import RULES, Rows, Tape
from adderc.weights.expr import (
    Add,
    Arange,
    Concat,
    Constant,
    Cos,
    Expr,
    Leaf,
    MatMul,
    Mul,
    Neg,
    Reciprocal,
    Reshape,
    Scatter,
    Sin,
    Structural,
    Take,
    Transpose,
    children,
)
from adderc.weights.reading import structural_matrix
from adderc.weights.signal import rope_table, sinusoid_table
from adderc.weights.structure import (
    Attention,
    FeedForward,
    Norm,
    PositionTable,
    Rope,
    Sinusoid,
    Structure,
)

Array = np.ndarray
PLAIN = {MatMul: "matmul", Add: "add", Mul: "mul", Neg: "neg", Reciprocal: "reciprocal",
         Transpose: "transpose", Cos: "cos", Sin: "sin"}


@dataclass(frozen=True, eq=False)
class Model:
    """A tape and the node that holds its logits [R, N, V]."""

    tape: Tape
    logits: int

    @property
    def affine(self) -> bool:
        """Whether the logits are affine in the unknowns."""
        return self.tape.nodes[self.logits].degree <= 1


def model_of(
    structure: Structure, unknown: tuple[Leaf, ...], known: Mapping[str, Array], cases: Cases,
    apart: bool = False,
) -> Model:
    """The model on all cases; `apart`: one case per point instead, for their gradients."""
    return _Builder(structure, known, cases.spread() if apart else cases.together(),
                    {leaf.name for leaf in unknown}).build(unknown)


@dataclass
class _Builder:
    """`cases` arrays are [B, N, K]: B is 1, or one case a point."""

    structure: Structure
    known: Mapping[str, Array]
    cases: Cases
    free: set[str]
    tape: Tape = field(default_factory=Tape)
    leaves: dict[str, int] = field(default_factory=dict)
    read: dict[int, int] = field(default_factory=dict)

    def build(self, unknown: tuple[Leaf, ...]) -> Model:
        for leaf in unknown:
            self.leaves[leaf.name] = self.tape.unknown(leaf.shape)
        structure = self.structure
        shape = self.cases.tokens.shape
        rows = Rows.of(self.cases.tokens.reshape(shape[0], -1), structure.format.vocabulary)
        x = self.tape.apply("gather", self.matrix(structure.embedding), data=rows)
        if (signal := self.position()) is not None:
            x = self.tape.apply("add", x, signal)  # [R, N*K, D]
        for number, block in enumerate(structure.blocks):
            if block.attention is not None:
                if number:
                    raise Refusal(kind="not implemented", faults=(Fault(
                        "solving takes attention in the first block only"),))
                seen = self.normalised(x, block.attention_norm)
                x = self.tape.apply("add", self.last(x), self.attend(seen, block.attention))
            elif not number:
                x = self.last(x)
            if block.feed_forward is not None:
                seen = self.normalised(x, block.feed_forward_norm)
                x = self.tape.apply("add", x, self.feed_forward(seen, block.feed_forward))
        x = self.normalised(x, structure.final_norm)
        return Model(self.tape, self.project(x, structure.head.weight, structure.head.bias))

    # ------------------------------------------------------------ weights

    def matrix(self, expr: Expr) -> int:
        """The node of a weight expression, shared parts once."""
        if id(expr) not in self.read:
            self.read[id(expr)] = self.matrix_of(expr)
        return self.read[id(expr)]

    def matrix_of(self, expr: Expr) -> int:
        match expr:
            case Leaf(name):
                if name not in self.leaves:
                    self.leaves[name] = self.tape.constant(self.known[name][None])
                return self.leaves[name]
            case Constant():
                return self.tape.constant(np.array([expr.value()]))
            case Structural():
                return self.tape.constant(structural_matrix(expr).astype(float)[None])
            case Arange(length):
                return self.tape.constant(np.arange(length, dtype=float)[None, :, None])
        inputs = [self.matrix(child) for child in children(expr)]
        match expr:
            case Reshape(_, shape):
                return self.tape.apply("reshape", *inputs, data=shape)
            case Concat(_, axis):
                return self.tape.apply("concat", *inputs, data=axis)
            case Take(_, indices, axis):
                return self.tape.apply("take", *inputs, data=(list(indices), axis))
            case Scatter(_, rows, columns, shape):
                return self.tape.apply("scatter", *inputs, data=(rows, columns, shape))
        return self.tape.apply(PLAIN[type(expr)], *inputs)

    def project(self, x: int, weight: Expr, bias: Expr | None) -> int:
        """x @ W.T + b on [R, M, in]."""
        y = self.tape.apply("matmul", x, self.tape.apply("transpose", self.matrix(weight)))
        if bias is None:
            return y
        size = weight.shape[0]
        row = self.tape.apply("reshape", self.matrix(bias), data=(1, size))
        return self.tape.apply("add", y, row)

    # ------------------------------------------------------------ the blocks

    def position(self) -> int | None:
        """What positions add to each key [B, N*K, D]."""
        places = self.cases.positions.reshape(len(self.cases.positions), -1)
        signal, length = self.structure.position, int(places.max()) + 1
        if isinstance(signal, PositionTable):
            rows = Rows.of(places, signal.table.shape[0])
            return self.tape.apply("gather", self.matrix(signal.table), data=rows)
        if isinstance(signal, Sinusoid):
            table = sinusoid_table(signal, length, self.structure.d_model)
            return self.tape.constant(table.astype(self.structure.dtype).astype(float)[places])
        return None

    def last(self, x: int) -> int:
        """The query's residual [R, N, D] of all keys' [R, N*K, D]."""
        return self.tape.apply("last", self.keyed(x, self.structure.d_model))

    def keyed(self, x: int, size: int) -> int:
        """[R, N*K, size] as [R, N, K, size]."""
        return self.tape.apply("reshape", x, data=(*self.cases.tokens.shape[1:], size))

    def attend(self, x: int, attention: Attention) -> int:
        """What attention adds at the last position [R, N, D]."""
        queries = self.project(self.last(x), attention.q, attention.q_bias)  # [R, N, H*E]
        keys = self.keyed(self.project(x, attention.k, attention.k_bias), attention.k.shape[0])
        values = self.keyed(self.project(x, attention.v, attention.v_bias), attention.v.shape[0])
        heads = [self.head(head, queries, keys, values, attention)
                 for head in range(attention.heads)]
        merged = heads[0] if len(heads) == 1 else self.tape.apply("concat", *heads, data=1)
        return self.project(merged, attention.out, attention.out_bias)

    def head(self, head: int, queries: int, keys: int, values: int, attention: Attention) -> int:
        """What one head reads [R, N, E]."""
        size, tape = attention.head_dim, self.tape
        columns = list(range(head * size, (head + 1) * size))
        q, k, v = queries, keys, values
        if attention.heads > 1:
            q = tape.apply("take", queries, data=(columns, 1))
            k, v = (tape.apply("take", m, data=(columns, 2)) for m in (keys, values))
        count = self.cases.tokens.shape[1]
        q = tape.apply("reshape", q, data=(count, 1, size))
        if attention.rope is not None:
            places = self.cases.positions
            q = self.turned(q, attention.rope, places[..., -1:], size)
            k = self.turned(k, attention.rope, places, size)
        scores = tape.apply("sum", tape.apply("mul", q, k), data=-1)  # [R, N, K]
        scores = tape.apply("mul", scores, self.scale(attention, head))
        if attention.slopes is not None:
            scores = tape.apply("add", scores, self.sloped(attention, head))
        weights = self.pattern(scores, attention, head)
        shape = (*self.cases.tokens.shape[1:], 1)
        weights = tape.apply("reshape", weights, data=shape)
        return tape.apply("sum", tape.apply("mul", weights, v), data=-2)

    def scale(self, attention: Attention, head: int) -> int:
        if attention.scale is None:
            return self.tape.constant(np.array([[[1 / math.sqrt(attention.head_dim)]]]))
        node = self.tape.apply("reshape", self.matrix(attention.scale), data=(-1, 1))
        many = math.prod(attention.scale.shape) > 1
        return self.tape.apply("take", node, data=([head if many else 0], 0))

    def sloped(self, attention: Attention, head: int) -> int:
        """Minus the slope times the distance from the query [R, N, K]."""
        assert attention.slopes is not None
        places = self.cases.positions
        apart = self.tape.constant((places - places[..., -1:]).astype(float))
        node = self.tape.apply("reshape", self.matrix(attention.slopes), data=(-1, 1))
        return self.tape.apply("mul", apart, self.tape.apply("take", node, data=([head], 0)))

    def pattern(self, scores: int, attention: Attention, head: int) -> int:
        """The softmax over the keys the head may see; "softmax1" has one more, of score 0."""
        seen = self.cases.seen[:, :, head]
        if attention.kind != "softmax1":
            return self.tape.apply("softmax", scores, data=seen)
        shape = self.cases.tokens.shape
        zero = self.tape.constant(np.zeros((*shape[:2], 1)))
        longer = self.tape.apply("concat", scores, zero, data=1)
        more = np.concatenate([seen, np.ones_like(seen[..., :1])], axis=-1)
        weights = self.tape.apply("softmax", longer, data=more)
        return self.tape.apply("take", weights, data=(list(range(shape[-1])), 1))

    def turned(self, x: int, rope: Rope, places: Array, size: int) -> int:
        """Pairs (2j, 2j + 1) of [R, N, K, E] turned by the angle of their position."""
        turns = rope_table(rope, int(places.max()) + 1)[places]  # [B, N, K, pairs, 2]
        turns = turns.astype(self.structure.dtype).astype(float)
        sine, cosine = np.zeros((*places.shape, size)), np.ones((*places.shape, size))
        cross = np.zeros((1, size, size))
        for pair in range(len(rope.periods)):
            even, odd = 2 * pair, 2 * pair + 1
            sine[..., [even, odd]] = turns[..., pair, :1]
            cosine[..., [even, odd]] = turns[..., pair, 1:]
            cross[0, odd, even], cross[0, even, odd] = -1, 1
        flat = self.tape.apply("reshape", x, data=(-1, size))
        crossed = self.tape.apply("matmul", flat, self.tape.constant(cross))
        crossed = self.tape.apply("reshape", crossed, data=(*places.shape[1:], size))
        kept = self.tape.apply("mul", x, self.tape.constant(cosine))
        return self.tape.apply("add", kept, self.tape.apply(
            "mul", crossed, self.tape.constant(sine)))

    def feed_forward(self, x: int, ffn: FeedForward) -> int:
        if ffn.activation not in RULES:
            raise Refusal(kind="not implemented", faults=(Fault(
                f"the solver does not know the activation {ffn.activation}"),))
        hidden = self.tape.apply(ffn.activation, self.project(x, ffn.up, ffn.up_bias))
        if ffn.gate is not None:
            hidden = self.tape.apply("mul", hidden, self.project(x, ffn.gate, ffn.gate_bias))
        return self.project(hidden, ffn.down, ffn.down_bias)

    def normalised(self, x: int, norm: Norm | None) -> int:
        if norm is None:
            return x
        tape, size = self.tape, self.structure.d_model
        average = tape.constant(np.full((1, size, 1), 1 / size))
        if norm.kind == "layer":
            mean = tape.apply("matmul", x, average)
            x = tape.apply("add", x, tape.apply("neg", mean))
        square = tape.apply("matmul", tape.apply("mul", x, x), average)
        square = tape.apply("add", square, tape.constant(np.array([[[norm.epsilon]]])))
        x = tape.apply("mul", x, tape.apply("rsqrt", square))
        for name, part in (("mul", norm.weight), ("add", norm.bias)):
            if part is not None:
                row = tape.apply("reshape", self.matrix(part), data=(1, size))
                x = tape.apply(name, x, row)
        return x
