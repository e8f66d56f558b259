"""The model file: one .safetensors that is the whole artifact.

Takes: a structure, leaf values, provenance. Gives: a file, or what a file holds.
May import: errors, weights.codec, weights.structure.

The leaves are the file's tensors. Its metadata has one entry, "adderc": canonical JSON
with the format version, the structure, the provenance and the digests. One digest belongs
to each part, so that an edited file can be told what was edited; `digest` is the SHA-256
of all of them. It detects accident, not fraud.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from adderc.errors import InputError
from adderc.weights.codec import CodecError, canonical_json, decode, encode
from adderc.weights.expr import ShapeError, validate
from adderc.weights.structure import Structure

FORMAT_VERSION = 1
METADATA_KEY = "adderc"
DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float64": np.dtype("<f8")}
_STORED_DTYPES = ("F32", "F64")
_REMADE = "the file is damaged or was edited; compile the model again"


@dataclass(frozen=True)
class StoredModel:
    """What a model file holds; `values` are the leaves in the structure's dtype."""

    structure: Structure
    values: dict[str, np.ndarray]
    provenance: dict[str, Any]
    digest: str


def match_leaves(
    structure: Structure, values: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """`values` as arrays of the structure's dtype, in the order of its leaves.

    Values of another float type are rounded. InputError unless the names and shapes are
    exactly those of the structure's leaves and the dtype is one of DTYPES.
    """
    if structure.dtype not in DTYPES:
        raise InputError(
            f"dtype {structure.dtype!r} is not supported", f"use {' or '.join(DTYPES)}"
        )
    leaves = structure.leaf_shapes()
    names = [leaf.name for leaf in leaves]
    if missing := [name for name in names if name not in values]:
        raise InputError(f"the values of leaf {', '.join(missing)} are missing")
    if extra := sorted(values.keys() - set(names)):
        raise InputError(f"the structure has no leaf {', '.join(extra)}")
    matched = {}
    for leaf in leaves:
        array = np.asarray(values[leaf.name])
        if array.shape != leaf.shape:
            raise InputError(
                f"leaf {leaf.name} has shape {list(leaf.shape)}, got {list(array.shape)}"
            )
        with np.errstate(over="ignore"):
            matched[leaf.name] = array.astype(DTYPES[structure.dtype], order="C")
    return matched


# ---------------------------------------------------------------- digests


def model_digest(
    structure: Structure, values: Mapping[str, np.ndarray], provenance: Mapping[str, Any]
) -> str:
    """The digest `save_model` would store, 64 hexadecimal digits; key order plays no part."""
    matched = match_leaves(structure, values)
    return _overall(_part_digests(encode(structure), provenance, matched))


def _part_digests(
    structure: Any, provenance: Any, values: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    tensors = {
        name: _sha256(
            canonical_json([array.dtype.str, list(array.shape)]).encode() + array.tobytes()
        )
        for name, array in values.items()
    }
    return {
        "format_version": FORMAT_VERSION,
        "structure": _sha256(canonical_json(structure).encode()),
        "provenance": _sha256(canonical_json(provenance).encode()),
        "tensors": tensors,
    }


def _overall(parts: Mapping[str, Any]) -> str:
    return _sha256(canonical_json(parts).encode())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# ---------------------------------------------------------------- writing


def save_model(
    path: str | os.PathLike[str],
    structure: Structure,
    values: Mapping[str, np.ndarray],
    provenance: Mapping[str, Any],
) -> str:
    """Write a model file and return its digest; the same model gives the same bytes.

    `provenance` must be plain JSON data. The file appears whole or not at all. InputError
    for a folder that does not exist, a path that is a directory, a disk that refuses, and
    values that do not match the structure.
    """
    matched = match_leaves(structure, values)
    encoded = encode(structure)
    parts = _part_digests(encoded, provenance, matched)
    metadata = {
        "format_version": FORMAT_VERSION,
        "structure": encoded,
        "provenance": provenance,
        "parts": parts,
        "digest": _overall(parts),
    }
    data = safetensors.numpy.save(matched, metadata={METADATA_KEY: canonical_json(metadata)})
    _replace(Path(path), data)
    return str(metadata["digest"])


def check_writable(path: str | os.PathLike[str]) -> None:
    """InputError where a file could not be written at `path`: ask before a long run."""
    target = Path(path)
    if target.is_dir():
        raise InputError(f"{target} is a directory", "name a file to write")
    if not target.parent.exists():
        raise InputError(f"the folder {target.parent} does not exist", "create it first")
    if not target.parent.is_dir():
        raise InputError(f"{target.parent} is not a folder")


def _replace(target: Path, data: bytes) -> None:
    check_writable(target)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with open(temporary, "xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


# ---------------------------------------------------------------- reading


def load_model(path: str | os.PathLike[str]) -> StoredModel:
    """What the model file at `path` holds, checked against its digest.

    InputError, naming the file, for one that is missing, a directory, empty, cut short,
    no safetensors, edited, of a newer version, or no adderc model. NaN and infinite leaf
    values are allowed.
    """
    source = Path(path)
    data = _read_bytes(source)
    header = _read_header(source, data)
    metadata = _read_metadata(source, header)
    values = _read_tensors(source, header, data)
    _check_digests(source, metadata, values)
    with _named(source):
        try:
            structure = decode(metadata["structure"])
            for _, expression in structure.expressions():
                validate(expression)
            values = _exact_leaves(structure, values)
        except (CodecError, ShapeError, RecursionError) as error:
            raise InputError(f"its structure cannot be read: {error}") from error
    return StoredModel(structure, values, metadata["provenance"], metadata["digest"])


@contextlib.contextmanager
def _named(source: Path) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(f"{source}: {error.message}", error.hint) from error


def _read_bytes(source: Path) -> bytes:
    try:
        data = source.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{source}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{source} is a directory, not a model file") from None
    except OSError as error:
        raise InputError(f"cannot read {source}: {error.strerror}") from error
    if not data:
        raise InputError(f"{source} is empty")
    return data


def _read_header(source: Path, data: bytes) -> dict[str, Any]:
    """The safetensors header, after checking that its sizes add up to the file's."""
    size = int.from_bytes(data[:8], "little")
    if data[8:9] not in (b"{", b""):
        raise InputError(f"{source} is not a safetensors file", "expected a model file of adderc")
    if len(data) < 8 + size or size == 0:
        raise InputError(f"{source} is cut short: its header is incomplete", _REMADE)
    text = data[8 : 8 + size].rstrip(b" ")
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError(f"{source} is not a safetensors file: unreadable header",
                         _REMADE) from None
    if not text.endswith(b"}") or not isinstance(header, dict):
        raise InputError(f"{source} is not a safetensors file: unreadable header", _REMADE)
    return header


def _read_metadata(source: Path, header: dict[str, Any]) -> dict[str, Any]:
    """The adderc metadata, of a version that this code reads; canonical to the byte."""
    entries = header.get("__metadata__")
    if not isinstance(entries, dict) or not isinstance(text := entries.get(METADATA_KEY), str):
        raise InputError(f"{source} is no adderc model: it has no adderc metadata")
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError(f"{source}: the metadata is unreadable", _REMADE) from None
    if not isinstance(metadata, dict) or type(metadata.get("format_version")) is not int:
        raise InputError(f"{source}: the metadata lacks format_version", _REMADE)
    if metadata["format_version"] > FORMAT_VERSION:
        raise InputError(
            f"{source} has format version {metadata['format_version']}; "
            f"this adderc reads up to {FORMAT_VERSION}",
            "update adderc",
        )
    wanted = {"format_version", "structure", "provenance", "parts", "digest"}
    if metadata.keys() != wanted or not isinstance(metadata["provenance"], dict):
        odd = ", ".join(sorted(metadata.keys() ^ wanted)) or "provenance"
        raise InputError(f"{source}: the metadata is wrong in {odd}", _REMADE)
    with contextlib.suppress(ValueError):
        if canonical_json(metadata) == text and len(entries) == 1:
            return metadata
    raise InputError(f"{source}: the metadata was edited", _REMADE)


def _read_tensors(source: Path, header: dict[str, Any], data: bytes) -> dict[str, np.ndarray]:
    for name, entry in header.items():
        dtype = entry.get("dtype") if isinstance(entry, dict) else None
        if name != "__metadata__" and dtype not in _STORED_DTYPES:
            raise InputError(f"{source}: tensor {name} has dtype {dtype!r}", _REMADE)
    try:
        return safetensors.numpy.load(data)
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{source} is cut short or damaged: {error}", _REMADE) from error


def _check_digests(
    source: Path, metadata: dict[str, Any], values: Mapping[str, np.ndarray]
) -> None:
    """InputError that names the parts whose digest is not the stored one."""
    stored = metadata["parts"]
    actual = _part_digests(metadata["structure"], metadata["provenance"], values)
    if stored == actual and metadata["digest"] == _overall(actual):
        return
    changed = ["the digests"]
    if isinstance(stored, dict) and isinstance(stored.get("tensors"), dict):
        changed = [f"the {part}" for part in ("structure", "provenance")
                   if stored.get(part) != actual[part]]
        tensors, kept = actual["tensors"], stored["tensors"]
        changed += [f"tensor {name}" for name in sorted({*tensors, *kept})
                    if tensors.get(name) != kept.get(name)]
    what = ", ".join(changed) or "the digests"
    raise InputError(f"{source} was edited after it was written: {what} changed", _REMADE)


def _exact_leaves(
    structure: Structure, values: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    matched = match_leaves(structure, values)
    for name, array in values.items():
        if array.dtype != matched[name].dtype:
            raise InputError(f"leaf {name} is {array.dtype}, the model {structure.dtype}")
    return matched
