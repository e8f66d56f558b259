"""The module against independent formulas, option by option, and as an nn.Module."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from handmade import (
    plain_attention,
    plain_format,
    plain_structure,
    random_values,
    rotation_adder,
)
from torch import Tensor
from torch.nn import functional

from adderc.errors import InputError
from adderc.nn.module import AdderModule
from adderc.weights.expr import Add, Constant, Leaf, MatMul
from adderc.weights.structure import (
    Block,
    FeedForward,
    Norm,
    PositionTable,
    Rope,
    Sinusoid,
    Structure,
)

TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6], [2, 7, 1, 8, 2, 8, 1, 8]])


def built(structure: Structure, seed: int = 0) -> tuple[AdderModule, dict[str, Tensor]]:
    values = random_values(structure, seed)
    return AdderModule(structure, values), {k: torch.from_numpy(v) for k, v in values.items()}


def heads(x: Tensor) -> Tensor:
    return x.reshape(*x.shape[:2], 2, 4).transpose(1, 2)


def expected_logits(w: dict[str, Tensor], attended: Tensor, x: Tensor) -> Tensor:
    x = x + functional.linear(attended.transpose(1, 2).flatten(2), w["out"])
    return functional.linear(x, w["head.weight"], w["head.bias"][0])


def qkv(w: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x = w["embedding"][TOKENS]
    q, k, v = (heads(functional.linear(x, w[name], w.get(f"{name}_bias"))) for name in "qkv")
    return x, q, k, v


def test_attention_is_causal_sdpa_with_its_default_scale() -> None:
    module, w = built(plain_structure(plain_attention(
        q_bias=Leaf("q_bias", (8,)), v_bias=Leaf("v_bias", (8,)))))
    x, q, k, v = qkv(w)
    attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(module(TOKENS), expected_logits(w, attended, x))


@pytest.mark.parametrize("shape", [(), (1, 1), (2,)])
def test_scale_is_one_number_or_one_a_head(shape: tuple[int, ...]) -> None:
    module, w = built(plain_structure(plain_attention(scale=Leaf("scale", shape))))
    x, q, k, v = qkv(w)
    q = q * w["scale"].reshape(-1, 1, 1)
    attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)
    torch.testing.assert_close(module(TOKENS), expected_logits(w, attended, x))


def test_alibi_lowers_scores_by_slope_times_distance() -> None:
    module, w = built(plain_structure(plain_attention(slopes=Leaf("slopes", (2,)))))
    x, q, k, v = qkv(w)
    mask = torch.full((2, 8, 8), -math.inf, dtype=torch.float64)
    for h in range(2):
        for query in range(8):
            for key in range(query + 1):
                mask[h, query, key] = -w["slopes"][h] * (query - key)
    attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(module(TOKENS), expected_logits(w, attended, x))


def test_routes_show_each_head_its_offsets_and_nothing_where_there_are_none() -> None:
    routes = ((0, 3), (2,))
    module, w = built(plain_structure(plain_attention(routes=routes)))
    x, q, k, v = qkv(w)
    attended = torch.zeros_like(v)
    for h, route in enumerate(routes):
        for query in range(8):
            keys = [query - offset for offset in route if offset <= query]
            if keys:
                scores = (k[:, h, keys] @ q[:, h, query, :, None]).squeeze(-1) / 2
                weight = torch.softmax(scores, -1)[..., None]
                attended[:, h, query] = (weight * v[:, h, keys]).sum(1)
    torch.testing.assert_close(module(TOKENS), expected_logits(w, attended, x))
    module(TOKENS).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)


def test_softmax1_adds_one_to_the_denominator() -> None:
    module, w = built(plain_structure(plain_attention(kind="softmax1")))
    x, q, k, v = qkv(w)
    weight = torch.exp(q @ k.mT / 2).tril()
    attended = weight / (1 + weight.sum(-1, keepdim=True)) @ v
    torch.testing.assert_close(module(TOKENS), expected_logits(w, attended, x))


def test_softmax1_holds_large_scores() -> None:
    structure = plain_structure(plain_attention(kind="softmax1"))
    values = random_values(structure) | {"q": np.full((8, 6), 100.0), "k": np.full((8, 6), 100.0)}
    assert torch.isfinite(AdderModule(structure, values)(TOKENS)).all()


def test_rope_turns_pairs_of_dimensions_as_complex_numbers() -> None:
    periods = (Fraction(19), Fraction(-7, 2))
    module, w = built(plain_structure(plain_attention(rope=Rope(periods))))
    x, q, k, v = qkv(w)
    p = torch.arange(8, dtype=torch.float64)
    angle = torch.stack([2 * math.pi * p / float(period) for period in periods], -1)
    turn = torch.polar(torch.ones_like(angle), angle)

    def turned(y: Tensor) -> Tensor:
        pairs = torch.view_as_complex(y.reshape(*y.shape[:-1], 2, 2).contiguous())
        return torch.view_as_real(pairs * turn).flatten(-2)

    attended = functional.scaled_dot_product_attention(turned(q), turned(k), v, is_causal=True)
    torch.testing.assert_close(module(TOKENS), expected_logits(w, attended, x))


def test_rope_leaves_the_dimensions_beyond_its_pairs() -> None:
    one, _ = built(plain_structure(plain_attention(rope=Rope((Fraction(5),)))))
    seen: list[Tensor] = []
    for name in ("q", "q_turned"):
        one.hook_point(f"blocks.0.attention.{name}").register_forward_hook(
            lambda module, inputs, value: seen.append(value))
    one(TOKENS)
    assert torch.equal(seen[0][..., 2:], seen[1][..., 2:])
    assert not torch.equal(seen[0][..., :2], seen[1][..., :2])


@pytest.mark.parametrize("name", ["relu", "silu", "gelu", "tanh"])
@pytest.mark.parametrize("gated", [False, True])
def test_feed_forward(name: str, gated: bool) -> None:
    ffn = FeedForward(name, Leaf("up", (5, 6)), Leaf("down", (6, 5)), Leaf("up_bias", (1, 5)),
                      Leaf("down_bias", (6,)), Leaf("gate", (5, 6)) if gated else None)
    module, w = built(plain_structure(None, blocks=(Block(None, ffn),)))
    x = w["embedding"][TOKENS]
    act = torch.tanh if name == "tanh" else getattr(functional, name)
    hidden = act(functional.linear(x, w["up"], w["up_bias"][0]))
    if gated:
        hidden = hidden * (x @ w["gate"].T)
    x = x + functional.linear(hidden, w["down"], w["down_bias"])
    torch.testing.assert_close(
        module(TOKENS), functional.linear(x, w["head.weight"], w["head.bias"][0]))


@pytest.mark.parametrize("bias", [None, Leaf("norm_bias", (1, 6))])
@pytest.mark.parametrize("weight", [None, Leaf("norm", (6,))])
@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_norms(kind: str, weight: Leaf | None, bias: Leaf | None) -> None:
    norm = Norm(kind, weight, bias, epsilon=1e-3)
    module, w = built(plain_structure(plain_attention(), blocks=(
        Block(plain_attention(), FeedForward("relu", Leaf("up", (5, 6)), Leaf("down", (6, 5))),
              norm, norm),), final_norm=norm))

    def normalised(x: Tensor) -> Tensor:
        b = w["norm_bias"][0] if bias else None
        if kind == "layer":
            return functional.layer_norm(x, (6,), w.get("norm"), b, 1e-3)
        y = functional.rms_norm(x, (6,), w.get("norm"), 1e-3)
        return y if b is None else y + b

    x = w["embedding"][TOKENS]
    h = normalised(x)
    q, k, v = (heads(h @ w[name].T) for name in "qkv")
    z = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    x = x + z.transpose(1, 2).flatten(2) @ w["out"].T
    x = x + torch.relu(normalised(x) @ w["up"].T) @ w["down"].T
    expected = functional.linear(normalised(x), w["head.weight"], w["head.bias"][0])
    torch.testing.assert_close(module(TOKENS), expected)


def test_position_table_is_added_and_bounds_the_length() -> None:
    module, w = built(plain_structure(None, blocks=(), position=PositionTable(Leaf("p", (8, 6)))))
    expected = functional.linear(
        w["embedding"][TOKENS] + w["p"], w["head.weight"], w["head.bias"][0])
    torch.testing.assert_close(module(TOKENS), expected)
    with pytest.raises(InputError, match="positions for 8 tokens, got 9"):
        module(torch.zeros(1, 9, dtype=torch.int64))


def test_sinusoid_is_periodic_to_the_bit_at_any_length() -> None:
    signal = Sinusoid(Fraction(11, 3), (4, 1), ((0, Fraction(100)), (5, Fraction(1, 4))))
    module, _ = built(plain_structure(None, blocks=(), position=signal))
    seen: list[Tensor] = []
    module.hook_point("position").register_forward_hook(lambda m, i, value: seen.append(value))
    module(torch.zeros(1, 3000, dtype=torch.int64))
    rows = seen[0]
    p = torch.arange(3000, dtype=torch.float64)
    gain = torch.where(p < 5, 100.0, 0.25)
    angle = 2 * math.pi * 3 * p / 11
    torch.testing.assert_close(rows[:, 4], gain * torch.sin(angle), atol=1e-9, rtol=0)
    torch.testing.assert_close(rows[:, 1], gain * torch.cos(angle), atol=1e-9, rtol=0)
    assert torch.equal(rows[5:1000], rows[16:1011])  # positions 11 apart
    assert not rows[:, [0, 2, 3, 5]].any()


# ---------------------------------------------------------------- a published architecture


def published(tokens: Tensor, w: dict[str, Tensor], width: int) -> Tensor:
    """Rank-1 embedding, rotated queries, slim keys, shared rows, parabola: by hand."""
    p = torch.arange(tokens.shape[1], dtype=torch.float64)
    gain = torch.where(p < 2 * width + 1, 128.0, 1.0)
    turn = 2 * math.pi * (p % (width + 1)) / (width + 1)
    x = w["embed.A"][tokens, 0][..., None] * w["embed.B"][0]
    x[..., 1] += gain * torch.sin(turn)
    x[..., 2] += gain * torch.cos(turn)
    q = torch.zeros(*x.shape[:2], 4, dtype=x.dtype)
    for row, name in ((0, "q.x"), (2, "q.prev")):
        cos, sin = torch.cos(w[name]), torch.sin(w[name])
        q[..., row] = w["q.scale"] * (-cos * x[..., 1] + sin * x[..., 2])
        q[..., row + 1] = w["q.scale"] * (sin * x[..., 1] + cos * x[..., 2])
    k = x[..., 1:3] @ w["k.weight"].T
    v = (x @ w["v.v"].T) @ w["v.u"].T
    q, k, v = (y.unflatten(-1, (2, 2)).transpose(1, 2) for y in (q, k, v))
    z = functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
    x = x.clone()
    x[..., 3] += w["out.x"][0, 0] * z[..., 0]
    x[..., 1] += w["out.prev"][0, 0] * z[..., 2]
    up = w["ffn.rows"][[0, 0, 1, 1]]
    x = x + (torch.relu(x @ up.T + w["ffn.bias"]) @ w["ffn.v"].T) @ w["ffn.u"].T
    d = torch.arange(10, dtype=x.dtype)
    return w["head.lin"] * d * (x[..., 3:] * w["head.read"]) + w["head.quad"] * d**2


@pytest.mark.parametrize("kind", ["random", "adds"])
def test_a_published_architecture(kind: str) -> None:
    structure, values = rotation_adder(10, "float64")
    if kind == "random":
        values = random_values(structure)
        values["q.scale"] = np.array(1e-4)
    module = AdderModule(structure, values)
    tokens = torch.from_numpy(np.random.default_rng(1).integers(0, 10, (50, 33)))
    w = {name: torch.from_numpy(value) for name, value in values.items()}
    torch.testing.assert_close(module(tokens), published(tokens, w, 10), rtol=1e-8, atol=1e-8)


# ---------------------------------------------------------------- as an nn.Module


def test_the_state_is_the_leaves_and_nothing_else() -> None:
    structure, values = rotation_adder(3)
    module = AdderModule(structure, values)
    names = [leaf.name for leaf in structure.leaf_shapes()]
    assert list(module.leaves()) == names
    assert sorted(module.state_dict()) == sorted(names)
    assert sorted(name for name, _ in module.named_parameters()) == sorted(names)
    assert not list(module.buffers())
    assert all(p.requires_grad and p.dtype == torch.float32 for p in module.parameters())
    other = AdderModule(structure, random_values(structure))
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(TOKENS), module(TOKENS))
    module(TOKENS).sum().backward()
    assert all(p.grad is not None for p in module.parameters())


def test_an_edited_leaf_takes_effect() -> None:
    structure, values = rotation_adder(3)
    module = AdderModule(structure, values)
    before = module(TOKENS)
    with torch.no_grad():
        module.leaves()["head.quad"].fill_(-2.0)
    values["head.quad"] = np.array([[-2.0]])
    assert not torch.equal(before, module(TOKENS))
    assert torch.equal(module(TOKENS), AdderModule(structure, values)(TOKENS))


@pytest.mark.parametrize("name", ["forward", "format", "training", "_parameters", "add.number",
                                  "structure.values.x", "blocks.0.ffn.pre", "type"])
def test_leaf_names_do_not_clash_with_attributes(name: str) -> None:
    structure = plain_structure(None, head=replace(
        plain_structure(None).head, weight=Leaf(name, (10, 6)), bias=Leaf(f"{name}.bias", (10,))))
    module, w = built(structure)
    assert set(module.state_dict()) == {"embedding", name, f"{name}.bias"}
    expected = functional.linear(w["embedding"][TOKENS], w[name], w[f"{name}.bias"])
    torch.testing.assert_close(copy.deepcopy(module)(TOKENS), expected)
    assert module.format == structure.format


def test_conversion_takes_constants_and_signals_along() -> None:
    structure, values = rotation_adder(3)
    exact = AdderModule(replace(structure, dtype="float64"), values)
    module = AdderModule(structure, values)
    assert module(TOKENS).dtype == torch.float32
    with torch.inference_mode():
        module.double()
    third = 1.0 / 3
    for each in (module, exact):
        each.load_state_dict({name: torch.full_like(leaf, third)
                              for name, leaf in each.leaves().items()})
    assert torch.equal(module(TOKENS), exact(TOKENS))
    module(TOKENS).sum().backward()
    assert module.to("meta")(TOKENS.to("meta")).shape == (2, 8, 10)


def test_constants_are_rounded_from_their_exact_value() -> None:
    third = Constant(Fraction(1, 3))
    head = replace(plain_structure(None).head, bias=Add(third, Leaf("b", (1, 10))))
    structure = plain_structure(None, dtype="float32", head=head)
    values = random_values(structure)
    values |= {"b": np.zeros((1, 10)), "head.weight": np.zeros((10, 6))}
    module = AdderModule(structure, values)
    assert module(TOKENS)[0, 0, 0].item() == np.float32(1 / 3)
    assert module.double()(TOKENS)[0, 0, 0].item() == 1 / 3


def test_hooks_see_and_replace_interior_values() -> None:
    structure, values = rotation_adder(3)
    module = AdderModule(structure, values)
    seen: dict[str, Tensor] = {}
    for name, point in module.hook_points().items():
        assert module.get_submodule(f"hooks.{name}") is point
        point.register_forward_hook(lambda m, i, value, name=name: seen.update({name: value}))
    logits = module(TOKENS)
    assert list(seen) == list(module.hook_points())
    sizes = {"B": 2, "T": 8, "S": 8, "D": 4, "H": 2, "E": 2, "F": 4, "V": 10}
    for name, point in module.hook_points().items():
        assert seen[name].shape == tuple(sizes[letter] for letter in point.shape.split()), name
    pattern = seen["blocks.0.attention.pattern"]
    torch.testing.assert_close(pattern.sum(-1), torch.ones(2, 2, 8))
    assert not pattern.triu(1).any()
    assert torch.isneginf(seen["blocks.0.attention.scores"][0, 0, 0, 1:]).all()
    module.hook_point("embed").register_forward_hook(lambda m, i, value: value * 0)
    assert not torch.equal(module(TOKENS), logits)
    with pytest.raises(KeyError, match="no hook point 'nothing'"):
        module.hook_point("nothing")


@pytest.mark.parametrize("length", [8, 40])
def test_export_gives_the_same_function(length: int) -> None:
    routed = plain_attention(routes=((0, 3), (2,)), kind="softmax1", rope=Rope((Fraction(5),)),
                             slopes=Leaf("slopes", (2,)))
    norm = Norm("layer", Leaf("norm", (6,)))
    ffn = FeedForward("gelu", Leaf("up", (5, 6)), Leaf("down", (6, 5)), gate=Leaf("g", (5, 6)))
    odd = plain_structure(None, blocks=(Block(plain_attention(), ffn, norm, norm),
                                        Block(routed, ffn)), final_norm=norm)
    structure, values = rotation_adder(3)
    for module in (AdderModule(structure, values), built(odd)[0]):
        tokens = TOKENS.repeat(1, length // 8)
        exported = torch.export.export(module, (tokens,))
        torch.testing.assert_close(exported.module()(tokens.flip(0)), module(tokens.flip(0)))
        assert set(exported.state_dict) == set(module.state_dict())
        torch.testing.assert_close(module(tokens), module(tokens))  # nothing fake was kept


def test_unknown_parts_are_refused() -> None:
    values = random_values(plain_structure(plain_attention()))
    for attention in (plain_attention(kind="linear"), plain_attention(routes=((0,),)),
                      plain_attention(routes=((0,), (-1,)))):
        with pytest.raises(InputError):
            AdderModule(plain_structure(attention), values)
    ffn = FeedForward("softplus", Leaf("up", (5, 6)), Leaf("down", (6, 5)))
    structure = plain_structure(None, blocks=(Block(None, ffn),))
    with pytest.raises(InputError, match="no activation 'softplus'"):
        built(structure)
    for name in ("hooks.x", "a..b", ""):
        with pytest.raises(InputError, match="cannot be named"):
            built(plain_structure(None, embedding=Leaf(name, (10, 6))))
    with pytest.raises(InputError, match="missing"):
        AdderModule(plain_structure(None), {})
    with pytest.raises(InputError, match="bfloat16"):
        built(plain_structure(None, dtype="bfloat16"))


def test_the_format_belongs_to_the_module() -> None:
    structure, values = rotation_adder(3)
    module = AdderModule(structure, values)
    assert module.format == plain_format(3)
    assert module.number.width == 3
    assert module.structure is structure
    assert MatMul(*structure.embedding.__dict__.values()) == structure.embedding
    assert {k: v.tolist() for k, v in module.leaf_values().items()} == {
        k: v.astype(np.float32).tolist() for k, v in values.items()}
