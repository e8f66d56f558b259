"""The model file: round trip, equal bytes, and every way in which a file can be wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from adderc.errors import InputError
from adderc.format.number import NumberFormat
from adderc.format.prompt import DigitTuples, Format, OperandDigits, Symbols
from adderc.weights import file
from adderc.weights.codec import CodecError, canonical_json, decode, encode
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
)
from adderc.weights.file import load_model, model_digest, save_model
from adderc.weights.structure import (
    Attention,
    Block,
    FeedForward,
    Head,
    LeafInfo,
    Norm,
    PositionTable,
    Rope,
    Sinusoid,
    Structure,
)

PROVENANCE = {"spec": 'adder "é"\n', "seed": 7, "settings": {"width": 2, "margin": 0.5}}


def structure_of(embedding: Expr, **changes: object) -> Structure:
    number = NumberFormat(10, 2, 2, 57)
    format = Format(
        number,
        (OperandDigits(0, "msd"), Symbols("+", 2), OperandDigits(1, "lsd"), Symbols("=")),
        tokens=(("+", 0), ("=", 10)),
    )
    plain = Structure(number, format, "float32", 2, ("a", "b"), embedding, None, (), None,
                      Head(Leaf("head.weight", (11, 2))))
    return replace(plain, **changes)  # type: ignore[arg-type]


def small() -> tuple[Structure, dict[str, np.ndarray]]:
    structure = structure_of(MatMul(Leaf("embed.A", (11, 1)), Leaf("embed.B", (1, 2))),
                             final_norm=Norm("rms", None), leaves=(
                                 LeafInfo("embed.A", "given", 12, "digit values"),))
    chance = np.random.default_rng(0)
    return structure, {leaf.name: chance.normal(size=leaf.shape).astype(np.float32)
                       for leaf in structure.leaf_shapes()}


def everything() -> Structure:
    """Every node class, every field in use."""
    w, c = Leaf("w", (2, 2)), Constant(Fraction(-2, 3), 1)
    inner = Concat((Take(Transpose(w), (1, 0), 1), Reshape(Arange(4), (2, 2))), 0)
    rich = Scatter(Mul(c, Add(Neg(Cos(w)), Reciprocal(Sin(w)))), (0, 3), (1, 0), (4, 2))
    expr = Add(MatMul(Structural(((0, 1, -1),), (4, 4)), inner), rich)
    attention = Attention(2, 1, w, w, w, w, w, w, w, w, c, Rope((Fraction(19, 2),)), w,
                          ((0, 3), ()), "softmax1")
    ffn = FeedForward("silu", w, w, w, w, w, w)
    norm = Norm("layer", w, w, 1e-5)
    number = NumberFormat(3, 4)
    format = Format(number, (DigitTuples("lsd"), Symbols("s")), "msd", "states", "end",
                    (("s", 9), ("end", 10)))
    return structure_of(
        expr, number=number, format=format, position=PositionTable(w), final_norm=norm,
        blocks=(Block(attention, ffn, norm, norm), Block(None, None)), head=Head(w, w),
        leaves=(LeafInfo("w", "solved", 3, "x"),))


# ---------------------------------------------------------------- codec


def test_every_structure_comes_back_equal() -> None:
    sinusoid = Sinusoid(Fraction(11), (0, 1), ((0, Fraction(1, 3)), (5, Fraction(1))))
    for structure in (everything(), small()[0], structure_of(Leaf("e", (11, 2)),
                                                             position=sinusoid)):
        text = canonical_json(encode(structure))
        again = decode(json.loads(text))
        assert again == structure
        assert canonical_json(encode(again)) == text


@pytest.mark.parametrize(("path", "value", "message"), [
    (("$",), "Struct", "expected Structure"),
    (("colour",), 1, "no field 'colour'"),
    (("embedding", "$"), "Eval", "expected one of Leaf"),
    (("embedding", "left", "twist"), 1, r"structure\.embedding\.left: \w+ has no field 'twist'"),
    (("d_model",), "2", "expected int"),
    (("d_model",), True, "expected int"),
    (("d_model",), 2.0, "expected int"),
    (("dtype",), None, "expected str"),
    (("slots",), {}, "expected a list"),
    (("slots",), ["a", 3], r"slots\[1\]: expected str, got 3"),
    (("blocks", 0, "attention", "rope", "periods", 0), "19", "a fraction p/q"),
    (("blocks", 0, "attention", "rope", "periods", 0), "1/0", "a fraction p/q"),
    (("blocks", 0, "attention", "heads"), [], "expected int"),
    (("final_norm", "epsilon"), "small", "expected float"),
    (("leaves", 0), {"$": "LeafInfo", "name": "w"}, "lacks the field 'how'"),
    (("embedding", "left", "left", "entries", 0), [1, 2], "expected 3 items, got 2"),
])
def test_what_is_not_known_is_refused(
    path: tuple[str | int, ...], value: object, message: str
) -> None:
    data = encode(everything())
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(CodecError, match=message):
        decode(data)


def test_a_missing_field_takes_its_default_and_strangers_are_not_stored() -> None:
    data = encode(everything())
    del data["blocks"][0]["attention"]["kind"]
    assert decode(data).blocks[0].attention.kind == "softmax"
    with pytest.raises(TypeError, match="Path cannot be stored"):
        encode((Path("x"),))
    impostor = type("Leaf", (), {})()
    with pytest.raises(TypeError, match="Leaf cannot be stored"):
        encode(impostor)


# ---------------------------------------------------------------- round trip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_model_comes_back_equal(tmp_path: Path, dtype: str) -> None:
    structure, values = small()
    structure = replace(structure, dtype=dtype)
    values["embed.B"] = np.array([[np.nan, -np.inf]])
    digest = save_model(tmp_path / "m.safetensors", structure, values, PROVENANCE)
    stored = load_model(str(tmp_path / "m.safetensors"))
    assert stored.structure == structure
    assert stored.provenance == PROVENANCE
    assert stored.digest == digest == model_digest(structure, values, PROVENANCE)
    assert list(stored.values) == [leaf.name for leaf in structure.leaf_shapes()]
    for name, array in stored.values.items():
        assert array.dtype == dtype
        assert array.tobytes() == values[name].astype(dtype).tobytes()
    assert os.listdir(tmp_path) == ["m.safetensors"]


def test_a_model_without_leaves_and_one_with_a_scalar(tmp_path: Path) -> None:
    head = Head(Mul(Constant(Fraction(1, 2)), Structural(((0, 0, 1),), (11, 2))))
    bare = structure_of(Structural((), (11, 2)), head=head)
    save_model(tmp_path / "bare", bare, {}, {})
    assert load_model(tmp_path / "bare").values == {}
    scaled = structure_of(Mul(Leaf("s", ()), Structural((), (11, 2))), head=head)
    save_model(tmp_path / "scaled", scaled, {"s": np.array(2.5)}, {})
    assert load_model(tmp_path / "scaled").values["s"] == np.float32(2.5)


def test_equal_models_give_equal_bytes_in_any_process(tmp_path: Path) -> None:
    structure, values = small()
    shuffled = dict(reversed(values.items()))
    other = {"settings": {"margin": 0.5, "width": 2}, "seed": 7, "spec": PROVENANCE["spec"]}
    assert model_digest(structure, values, PROVENANCE) == model_digest(structure, shuffled, other)
    save_model(tmp_path / "a", structure, values, PROVENANCE)
    save_model(tmp_path / "b", structure, shuffled, other)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    code = ("import sys; from adderc.weights.file import load_model, save_model; "
            "m = load_model(sys.argv[1]); "
            "save_model(sys.argv[2], m.structure, m.values, m.provenance); "
            "assert 'torch' not in sys.modules")
    for name in ("c", "d"):
        subprocess.run([sys.executable, "-c", code, tmp_path / "a", tmp_path / name], check=True)
        assert (tmp_path / name).read_bytes() == (tmp_path / "a").read_bytes()


def test_a_tool_that_reorders_the_tensors_does_no_harm(tmp_path: Path) -> None:
    structure, values = small()
    save_model(tmp_path / "a", structure, values, PROVENANCE)
    data = (tmp_path / "a").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = dict(reversed(json.loads(data[8 : 8 + size]).items()))
    text = json.dumps(header).encode()
    (tmp_path / "b").write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    assert load_model(tmp_path / "b").digest == load_model(tmp_path / "a").digest


def test_the_digest_sees_every_part() -> None:
    structure, values = small()
    digests = {model_digest(structure, values, PROVENANCE)}
    digests.add(model_digest(replace(structure, slots=("b", "a")), values, PROVENANCE))
    digests.add(model_digest(structure, values, PROVENANCE | {"seed": 8}))
    digests.add(model_digest(structure, values | {"embed.A": -values["embed.A"]}, PROVENANCE))
    digests.add(model_digest(replace(structure, dtype="float64"), values, PROVENANCE))
    assert len(digests) == 5


# ---------------------------------------------------------------- writing that fails


def test_where_nothing_can_be_written_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    structure, values = small()
    with pytest.raises(InputError, match=r"the folder .*missing does not exist"):
        save_model(tmp_path / "missing" / "m", structure, values, {})
    with pytest.raises(InputError, match="is a directory"):
        save_model(tmp_path, structure, values, {})
    (tmp_path / "plain").write_text("x")
    with pytest.raises(InputError, match="is not a folder"):
        save_model(tmp_path / "plain" / "m", structure, values, {})
    (tmp_path / "m").write_text("before")

    def refuse(*paths: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(file.os, "replace", refuse)
    with pytest.raises(InputError, match=r"cannot write .*No space left"):
        save_model(tmp_path / "m", structure, values, {})
    assert sorted(os.listdir(tmp_path)) == ["m", "plain"]
    assert (tmp_path / "m").read_text() == "before"


@pytest.mark.parametrize(("change", "message"), [
    ({"embed.A": None}, "leaf embed.A are missing"),
    ({"embed.C": np.zeros(1)}, "no leaf embed.C"),
    ({"embed.A": np.zeros((1, 11))}, r"embed.A has shape \[11, 1\], got \[1, 11\]"),
])
def test_values_must_match_the_structure(
    tmp_path: Path, change: dict[str, np.ndarray | None], message: str
) -> None:
    structure, values = small()
    changed = {k: v for k, v in (values | change).items() if v is not None}
    with pytest.raises(InputError, match=message):
        save_model(tmp_path / "m", structure, changed, {})
    assert not os.listdir(tmp_path)


# ---------------------------------------------------------------- reading what is wrong


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_model(tmp_path / "m", *small(), PROVENANCE)
    return tmp_path / "m"


def rewritten(model: Path, change: object) -> Path:
    """The file with its metadata put through `change`, canonical but with the old digests."""
    data = model.read_bytes()
    size = int.from_bytes(data[:8], "little")
    metadata = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["adderc"])
    change(metadata)  # type: ignore[operator]
    model.write_bytes(safetensors.numpy.save(
        safetensors.numpy.load(data), {"adderc": canonical_json(metadata)}))
    return model


@pytest.mark.parametrize(("content", "message"), [
    (None, "no such file"),
    (b"", "is empty"),
    (b"abc", "is cut short"),
    (b"\x80\x04\x95 not a tensor file at all", "is not a safetensors file"),
    (b'\x02\0\0\0\0\0\0\0{]', "is not a safetensors file"),
    (b'\x02\0\0\0\0\0\0\0{}', "is no adderc model"),
    (b'\xff\xff\xff\xff\xff\xff\xff\xff{"a":', "is cut short"),
])
def test_what_is_no_model(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "m").write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_model(tmp_path / "m")


def test_a_directory_and_a_strange_safetensors_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a directory"):
        load_model(tmp_path)
    safetensors.numpy.save_file({"x": np.zeros(3, np.float32)}, tmp_path / "x", {"a": "b"})
    with pytest.raises(InputError, match="is no adderc model"):
        load_model(tmp_path / "x")


def test_every_truncation_is_named(model: Path) -> None:
    data = model.read_bytes()
    for length in [*range(0, len(data), 61), 8, 9, len(data) - 1, len(data) - 100]:
        model.write_bytes(data[:length])
        with pytest.raises(InputError, match=r"cut short|is empty"):
            load_model(model)
    model.write_bytes(data + b"\0")
    with pytest.raises(InputError):
        load_model(model)


def test_any_flipped_byte_is_refused(model: Path) -> None:
    data = model.read_bytes()
    for number, position in enumerate([*range(0, len(data), 7), *range(20), len(data) - 1]):
        for flip in (1, 0x20, 1 << number % 8):
            changed = bytearray(data)
            changed[position] ^= flip
            model.write_bytes(bytes(changed))
            with pytest.raises(InputError):
                load_model(model)


def test_the_case_of_an_escape_and_the_padding_count_too(model: Path) -> None:
    data = model.read_bytes()
    size = int.from_bytes(data[:8], "little")
    assert b"u00e9" in data
    variants = [data.replace(b"u00e9", b"u00E9"), data.replace(b"1e-06", b"1E-06")]
    padded = json.dumps({"__metadata__": {}}).encode()
    assert padded.endswith(b"}")
    variants.append((size + 8).to_bytes(8, "little") + data[8 : 8 + size] + b" " * 7 + b"\t"
                    + data[8 + size :])
    for variant in variants:
        assert variant != data
        model.write_bytes(variant)
        with pytest.raises(InputError):
            load_model(model)


@pytest.mark.parametrize(("change", "message"), [
    (lambda m: m["structure"].update(d_model=3), "the structure changed"),
    (lambda m: m["provenance"].update(seed=8), "the provenance changed"),
    (lambda m: m["parts"]["tensors"].update({"embed.A": "0"}), "tensor embed.A changed"),
    (lambda m: m["parts"]["tensors"].pop("embed.A"), "tensor embed.A changed"),
    (lambda m: m.update(digest="0"), "the digests changed"),
    (lambda m: m.update(parts=[]), "the digests changed"),
    (lambda m: m.update(parts={"tensors": {"z": 1}}), "tensor z changed"),
    (lambda m: m.update(format_version=2), "format version 2; this adderc reads up to 1"),
    (lambda m: m.update(format_version="1"), "lacks format_version"),
    (lambda m: m.pop("format_version"), "lacks format_version"),
    (lambda m: m.pop("structure"), "wrong in structure"),
    (lambda m: m.update(extra=1), "wrong in extra"),
    (lambda m: m.update(provenance=[]), "wrong in provenance"),
])
def test_edited_metadata_is_named(model: Path, change: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_model(rewritten(model, change))


def test_an_edited_tensor_is_named(model: Path) -> None:
    data = bytearray(model.read_bytes())
    data[-3] ^= 1
    model.write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"after it was written: tensor head\.weight changed"):
        load_model(model)


@pytest.mark.parametrize(("change", "message"), [
    (lambda m: m["structure"].update(colour=1), "structure cannot be read: .*no field 'colour'"),
    (lambda m: m["structure"]["embedding"].update(left={
        "$": "Leaf", "name": "embed.A", "shape": [11, 2]}), "structure cannot be read: MatMul"),
    (lambda m: m["structure"]["head"]["weight"].update(name="head.other"),
     "leaf head.other are missing"),
    (lambda m: m["structure"].update(dtype="float64"), "is float32, the model float64"),
    (lambda m: m["structure"].update(dtype="int8"), "dtype 'int8' is not supported"),
])
def test_a_consistent_file_with_a_wrong_structure(
    model: Path, change: object, message: str
) -> None:
    values = load_model(model).values

    def reseal(metadata: dict[str, Any]) -> None:
        change(metadata)  # type: ignore[operator]
        parts = file._part_digests(metadata["structure"], metadata["provenance"], values)
        metadata.update(parts=parts, digest=file._overall(parts))

    with pytest.raises(InputError, match=message) as caught:
        load_model(rewritten(model, reseal))
    assert str(model) in caught.value.message
