"""Structures as JSON and back: tagged objects, fractions as "p/q", exact round trip.

Takes: frozen dataclasses of weights.expr, weights.structure and format. Gives: JSON values.
May import: format, weights.expr, weights.structure.

A dataclass becomes an object whose "$" is the class name and whose other keys are all its
fields. Reading follows the fields' declared types; unknown classes, unknown fields and
values of another type are refused. A missing field takes its default where it has one, so
that a later version may add fields.
"""

from __future__ import annotations

import json
import types
from dataclasses import MISSING, Field, fields, is_dataclass
from fractions import Fraction
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from adderc.format.number import NumberFormat
from adderc.format.prompt import DigitTuples, Format, OperandDigits, Symbols
from adderc.weights import expr, structure

TAG = "$"

KINDS: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        NumberFormat,
        Format,
        Symbols,
        OperandDigits,
        DigitTuples,
        *get_args(expr.Expr),
        structure.Sinusoid,
        structure.PositionTable,
        structure.Rope,
        structure.Attention,
        structure.FeedForward,
        structure.Norm,
        structure.Block,
        structure.Head,
        structure.LeafInfo,
        structure.Structure,
    )
}


class CodecError(ValueError):
    """JSON that is no structure this version knows; the message says where and why."""


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no blanks, ASCII; NaN is a ValueError."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )


def encode(value: Any) -> Any:
    """`value` as JSON-ready data; TypeError for a class that is not in KINDS."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Fraction):
        return f"{value.numerator}/{value.denominator}"
    if isinstance(value, tuple):
        return [encode(item) for item in value]
    name = type(value).__name__
    if KINDS.get(name) is not type(value) or not is_dataclass(value):
        raise TypeError(f"{name} cannot be stored in a model file")
    return {TAG: name} | {f.name: encode(getattr(value, f.name)) for f in fields(value)}


def decode(data: Any, expected: Any = structure.Structure) -> Any:
    """The value of type `expected` that `data` encodes; CodecError where it does not."""
    return _decode(data, expected, "structure")


def _decode(data: Any, expected: Any, place: str) -> Any:
    if get_origin(expected) in (Union, types.UnionType):
        expected = _choose(data, get_args(expected), place)
    if get_origin(expected) is tuple:
        return _decode_tuple(data, get_args(expected), place)
    if expected is Fraction:
        return _decode_fraction(data, place)
    if expected in (int, float, str, type(None)):
        if not _is_plain(data, expected):
            raise CodecError(f"{place}: expected {expected.__name__}, got {_show(data)}")
        return data
    if not _fits(data, expected):
        raise CodecError(f"{place}: expected {expected.__name__}, got {_show(data)}")
    return _decode_object(data, expected, place)


def _choose(data: Any, options: tuple[Any, ...], place: str) -> Any:
    for option in options:
        if _fits(data, option):
            return option
    names = ", ".join(getattr(option, "__name__", str(option)) for option in options)
    raise CodecError(f"{place}: expected one of {names}, got {_show(data)}")


def _fits(data: Any, option: Any) -> bool:
    if get_origin(option) is tuple:
        return isinstance(data, list)
    if option in (Fraction, str):
        return isinstance(data, str)
    if option in (int, float, type(None)):
        return _is_plain(data, option)
    return isinstance(data, dict) and KINDS.get(str(data.get(TAG))) is option


def _is_plain(data: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(data, int | float) and not isinstance(data, bool)
    return isinstance(data, kind) and (kind is bool or not isinstance(data, bool))


def _decode_tuple(data: Any, items: tuple[Any, ...], place: str) -> tuple[Any, ...]:
    if not isinstance(data, list):
        raise CodecError(f"{place}: expected a list, got {_show(data)}")
    kinds = [items[0]] * len(data) if len(items) == 2 and items[1] is Ellipsis else list(items)
    if len(kinds) != len(data):
        raise CodecError(f"{place}: expected {len(kinds)} items, got {len(data)}")
    return tuple(
        _decode(item, kind, f"{place}[{number}]")
        for number, (item, kind) in enumerate(zip(data, kinds, strict=True))
    )


def _decode_fraction(data: Any, place: str) -> Fraction:
    parts = data.split("/") if isinstance(data, str) else []
    try:
        numerator, denominator = map(int, parts)
        return Fraction(numerator, denominator)
    except (ValueError, ZeroDivisionError):
        raise CodecError(f"{place}: expected a fraction p/q, got {_show(data)}") from None


def _decode_object(data: dict[str, Any], kind: type, place: str) -> Any:
    known = _field_types(kind)
    unknown = sorted(data.keys() - known.keys() - {TAG})
    if unknown:
        raise CodecError(f"{place}: {kind.__name__} has no field {unknown[0]!r}")
    values = {}
    for name, (item, hint) in known.items():
        if name in data:
            values[name] = _decode(data[name], hint, f"{place}.{name}")
        elif item.default is MISSING and item.default_factory is MISSING:
            raise CodecError(f"{place}: {kind.__name__} lacks the field {name!r}")
    return kind(**values)


@cache
def _field_types(kind: type) -> dict[str, tuple[Field[Any], Any]]:
    hints = get_type_hints(kind)
    return {f.name: (f, hints[f.name]) for f in fields(kind)}


def _show(data: Any) -> str:
    if isinstance(data, dict):
        return f"an object {data.get(TAG)!r}"
    text = repr(data)
    return text if len(text) <= 40 else text[:37] + "..."
