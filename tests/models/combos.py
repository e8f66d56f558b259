"""A sampled matrix of specs over every choice that the language offers.

`combo(rng)` draws one: base, width, digit orders, operands, padding and symbols, position
encoding, activation, decode, embedding, norm, matrix forms, biases, dtype. Only rotary
positions ask for one order, and only a routing table for operands without a symbol between.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from specs import spec_text

NAMES = "abcd"


@dataclass(frozen=True)
class Combo:
    """One drawn spec: its text, and the choices it was drawn from."""

    text: str
    choices: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.choices)


def combo(rng: random.Random) -> Combo:
    """Draw one spec."""
    base = rng.choice([2, 3, 4, 7, 8, 10, 10, 12, 16, 36])
    operands = rng.choice([2, 2, 2, 3, 4])
    operands = min(operands, base)
    width = rng.choice([1, 2, 3, 4, 6, 8, 10, 16, 24])
    position = rng.choice(["sinusoid", "sinusoid", "table", "rope", "routes"])
    forward = position == "rope" or (position == "routes" and rng.random() < 0.4)
    orders = ["lsd"] * operands if forward or rng.random() < 0.4 else [
        rng.choice(["msd", "lsd"])] * operands
    if not forward and rng.random() < (0.6 if position == "routes" else 0.2):
        orders = [rng.choice(["msd", "lsd"]) for _ in range(operands)]
    between = rng.choice(["symbol", "symbol", "symbol", "padded"] + ["none"] * (
        position == "routes"))
    decode = rng.choice(["parabola", "parabola", "parabola", "tied", "vshape"])
    embed = rng.choice(["quadratic", "arc"]) if decode == "tied" else rng.choice(
        ["table", "rank 1", "rank 2", "quadratic"])
    activation = rng.choice(["relu", "relu", "silu", "gelu", "tanh", "reglu", "swiglu", "geglu"])
    norm = rng.choice(["none", "none", "rms", "layer"])
    dtype = rng.choice(["float32", "float32", "float64"])
    form = rng.choice(["dense", "dense", "rank", "slim", "rotation"])
    biases = rng.random() < 0.8
    own = rng.random() < 0.3
    choices = (
        ("base", str(base)), ("width", str(width)), ("operands", str(operands)),
        ("orders", "/".join(orders)), ("between", between), ("position", position),
        ("decode", decode),
        ("embed", embed), ("ffn", activation), ("norm", norm), ("form", form),
        ("bias", str(biases)), ("own", str(own)), ("dtype", dtype))
    return Combo(_text(dict(choices), orders, rng), choices)


def _text(c: dict[str, str], orders: list[str], rng: random.Random) -> str:
    operands = int(c["operands"])
    names = NAMES[:operands]
    plus = {"symbol": '"+" ', "padded": '"0" * 2 "+" ', "none": ""}[c["between"]]
    prompt = plus.join(
        f"{order}({name}) " for name, order in zip(names, orders, strict=True)) + '"="'
    first = '"<bos>" ' if c["position"] == "rope" or rng.random() < 0.3 else ""
    symbols = [symbol for symbol in ('"0"', '"+"', '"="') if symbol in prompt]
    symbols += ['"<bos>"'] if first else []
    tokens = "" if c["own"] == "True" else "tokens " + ", ".join(f"{s} -> 0" for s in symbols)
    x = " + ".join(f"{n}[i]" for n in names)
    prev = " + ".join(f"{n}[i-1]" for n in names)
    carry = "prev > s[i-1]" if operands == 2 else "(prev - s[i-1] + base - 1) div base"
    attention = {
        "dense": "", "slim": "attention { q slim; k slim; v slim; out slim }",
        "rotation": "" if c["position"] == "routes" else "attention { q rotation; k slim }",
        "rank": f"attention {{ v rank {operands * 2}; out rank {2 * operands} }}",
    }[c["form"]]
    bias = "" if c["bias"] == "True" else " { bias none }"
    return spec_text(
        algorithm=f"x = {x}\nprev = {prev}\ncarry = {carry}\nemit (x + carry) mod base",
        number=f"base {c['base']} width {c['width']} operands {operands}",
        format=f"prompt {first}{prompt}\nanswer lsd(s)\n{tokens}",
        model="\n".join([
            f"dtype {c['dtype']}", f"embed {c['embed']}", f"position {c['position']}",
            attention, f"ffn {c['ffn']}{bias}", f"decode {c['decode']}", f"norm {c['norm']}"]),
    )
