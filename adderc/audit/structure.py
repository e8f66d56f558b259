"""The first count of a compiled model: from its weight expressions, without running it.

Takes: `Structure`, leaf values. Gives: `StructureCount` and the choices that make it up.
May import: results, weights.

A place is a matrix of the structure ("blocks.0.attention.q"). Components are what a person
calls the places: embedding, positions, attention Q, K, V, O, FFN, norms, head.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from adderc.results import AuditConstant, AuditLeaf, Choice, Counts
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
    Scatter,
    Sin,
    Structural,
    Take,
    children,
    leaves_of,
    walk,
)
from adderc.weights.numeric import evaluate_numpy
from adderc.weights.structure import LeafInfo, PositionTable, Sinusoid, Structure

Values = Mapping[str, np.ndarray]
_NAMES = {
    "embedding": "embedding", "position": "positions", "q": "attention Q", "k": "attention K",
    "v": "attention V", "out": "attention O", "scale": "attention Q", "slopes": "positions",
    "up": "FFN in", "gate": "FFN gate", "down": "FFN out",
}
_SCORES_ONLY = (".slopes", ".scale")  # they act on attention scores: no weight matrices
_LARGEST_EPSILON = 1e-3


@dataclass(frozen=True)
class StructureCount:
    """Counts, leaves, constants and choices, all read from the expressions."""

    counts: Counts
    leaves: tuple[AuditLeaf, ...]
    constants: tuple[AuditConstant, ...]
    choices: tuple[Choice, ...]


def count_structure(structure: Structure, values: Values | None) -> StructureCount:
    """Count from the expressions; without values, what depends on them stays None."""
    leaves = _leaves(structure, values)
    constants = tuple(_constants(structure))
    declared = sum(leaf.elements for leaf in leaves)
    hidden = _magnitudes(constants, "hidden constant")
    positional = _magnitudes(constants, "positional") - hidden
    scalars = None
    if values is not None:
        scalars = len({abs(v) for leaf in leaves for v in leaf.values} - {0.0})
    counts = Counts(
        declared, scalars, declared + len(hidden), declared + len(hidden) + len(positional),
        None if values is None else _nonzero(structure, values), _dense(structure),
    )
    return StructureCount(counts, leaves, constants, tuple(_choices(structure)))


def component_of(place: str) -> str:
    """The component that a place of the structure belongs to."""
    parts = place.split(".")
    block = f" {parts[1]}" if parts[0] == "blocks" and parts[1] != "0" else ""
    if any("norm" in part for part in parts):
        return f"norms{block}"
    if parts[0] == "head":
        return "head"
    name = parts[-1]
    stem = name.removesuffix("_bias") if name.endswith("_bias") else name
    return _NAMES.get(stem, stem) + block


# ---------------------------------------------------------------- leaves


def _leaves(structure: Structure, values: Values | None) -> tuple[AuditLeaf, ...]:
    info = {item.name: item for item in structure.leaves}
    lines = _lines(structure)
    places: dict[str, list[str]] = {}
    for place, expr in structure.expressions():
        for leaf in leaves_of(expr):
            places.setdefault(leaf.name, []).append(place)
    found = []
    for leaf in structure.leaf_shapes():
        known = info.get(leaf.name, LeafInfo(leaf.name, "", 0, ""))
        line = lines[leaf.name]
        own = values[leaf.name].reshape(-1).tolist() if values is not None else []
        first, *rest = places[leaf.name]
        found.append(AuditLeaf(
            leaf.name, component_of(first), "parameter", leaf.shape,
            tuple(float(v) for v in own), line, known.how, known.meaning, tuple(rest)))
    return tuple(found)


# ---------------------------------------------------------------- constants


def _constants(structure: Structure) -> list[AuditConstant]:
    found = []
    for place, expr in structure.expressions():
        positional = place == "position" or place.endswith(".slopes")
        for numbers, note in _expression_constants(expr, structure.format.vocabulary):
            found.append(AuditConstant(numbers, "positional" if positional else
                                       "hidden constant", "weight expression", place, 0, note))
    found += _position_constants(structure)
    for number, block in enumerate(structure.blocks):
        norms = (("attention_norm", block.attention_norm),
                 ("feed_forward_norm", block.feed_forward_norm))
        found += [_epsilon(f"blocks.{number}.{name}", norm.epsilon)
                  for name, norm in norms if norm is not None]
    if structure.final_norm is not None:
        found.append(_epsilon("final_norm", structure.final_norm.epsilon))
    return found


def _epsilon(place: str, value: float) -> AuditConstant:
    role = "epsilon" if 0 <= value <= _LARGEST_EPSILON else "hidden constant"
    return AuditConstant((value,), role, "norm epsilon", place)


def _position_constants(structure: Structure) -> list[AuditConstant]:
    found = []
    if isinstance(signal := structure.position, Sinusoid):
        place = "position"
        found.append(_positional(_alias(signal.period), "period of the sinusoid", place))
        for first, gain in signal.gains:
            if first > 1:
                found.append(_positional(float(first), "position where the gain changes", place))
            if abs(gain) not in (0, 1):
                found.append(_positional(abs(float(gain)), f"gain from position {first}", place))
    for number, block in enumerate(structure.blocks):
        if (attention := block.attention) is None:
            continue
        place = f"blocks.{number}.attention"
        for period in attention.rope.periods if attention.rope is not None else ():
            found.append(_positional(_alias(period), "rotary period", f"{place}.rope"))
        for offset in sorted({o for route in attention.routes or () for o in route}):
            if offset > 1:
                found.append(_positional(float(offset), "offset that the mask lets through",
                                         f"{place}.routes"))
    return found


def _positional(value: float, note: str, place: str) -> AuditConstant:
    return AuditConstant((value,), "positional", "position signal", place, 0, note)


def _alias(period: Fraction) -> float:
    """The longest period that whole positions cannot tell from this one."""
    turn = (1 / abs(period)) % 1
    turn = min(turn, 1 - turn)
    return float(1 / turn) if turn else 1.0


def _expression_constants(expr: Expr, longest: int) -> list[tuple[tuple[float, ...], str]]:
    """Numbers written into an expression: of each largest part without leaves, the fewer of
    the constants in it and the distinct magnitudes of its value."""
    if leaves_of(expr):
        if isinstance(expr, Take) and isinstance(expr.operand, Arange):
            return []
        return [item for child in children(expr) for item in _expression_constants(child, longest)]
    known = _written(expr)
    written = sorted(set(known) - {0.0, 1.0})
    value = evaluate_numpy(expr, {}).reshape(-1)
    sizes = sorted({float(f"{abs(v):.9g}") for v in value.tolist()} - {0.0, 1.0})
    picked = any(isinstance(node, Take) and isinstance(node.operand, Arange)
                 and len(set(node.indices)) < node.operand.length for node in walk(expr))
    if not written and not picked:
        return []
    if picked or len(sizes) <= len(written):
        return [((size,), "constant part") for size in sizes]
    return [((size,), known[size]) for size in written]


def _written(expr: Expr) -> dict[float, str]:
    """Magnitudes of the constants of a part without leaves, each with what it is. A turn by
    equal angles has its period, an angle beside it what it has beyond quarter turns."""
    if isinstance(expr, Constant):
        return {abs(expr.value()): "constant"}
    if isinstance(expr, Cos | Sin):
        steps = {id(node.left): node.left.value() for node in walk(expr.operand)
                 if isinstance(node, Mul) and isinstance(node.left, Constant)
                 and isinstance(node.right, Arange)}
        rest = [node.value() for node in walk(expr.operand)
                if isinstance(node, Constant) and id(node) not in steps]
        if steps:
            return ({2 * math.pi / abs(step): "period of a turn" for step in steps.values() if step}
                    | {_beyond_quarters(angle): "phase" for angle in rest})
    return {size: note for child in children(expr) for size, note in _written(child).items()}


def _beyond_quarters(angle: float) -> float:
    rest = abs(math.remainder(angle, math.pi / 2))
    return rest if rest > 1e-9 else 0.0


def _magnitudes(constants: tuple[AuditConstant, ...], role: str) -> set[float]:
    return {float(f"{abs(v):.6g}") for c in constants if c.role == role for v in c.values}


# ---------------------------------------------------------------- matrices


def _nonzero(structure: Structure, values: Values) -> int:
    total = 0
    for place, expr in structure.expressions():
        if not place.endswith(_SCORES_ONLY):
            total += int(np.count_nonzero(evaluate_numpy(expr, values)))
    return total


def _dense(structure: Structure) -> int:
    """Plain tables and layers of the same shapes; a fixed sinusoid becomes a table [T, D], and
    a matrix of zeros (queries and keys of routed heads) is no layer."""
    total = sum(math.prod(expr.shape) for place, expr in structure.expressions()
                if not place.endswith(_SCORES_ONLY)
                and not (isinstance(expr, Structural) and not expr.entries))
    if isinstance(structure.position, Sinusoid):
        total += structure.format.length * structure.d_model
    return total


# ---------------------------------------------------------------- choices


def _choices(structure: Structure) -> list[Choice]:
    """What each matrix costs in the form it has, and as a plain matrix."""
    lines = _lines(structure)
    paid: dict[str, str] = {}
    found: list[Choice] = []
    joint: dict[Expr, int] = {}
    for place, expr in structure.expressions():
        leaves = leaves_of(expr)
        plain = math.prod(expr.shape)
        whole = expr.operand if isinstance(expr, Take) and expr.axis == 0 else None
        if whole in joint and isinstance(whole, MatMul | Leaf):  # rows of one matrix
            before = found[joint[whole]]
            found[joint[whole]] = replace(
                before, component=f"{before.component}, {component_of(place).split()[-1]}",
                form=f"{_form(whole)} together", plain=before.plain + plain)
            continue
        own = [leaf for leaf in leaves if leaf.name not in paid]
        tied = list(dict.fromkeys(paid[leaf.name] for leaf in leaves if leaf.name in paid))
        paid.update({leaf.name: _label(place) for leaf in own})
        form = _form(expr, place)
        if tied:
            form = f"tied to {', '.join(tied)}" + (f"; {form}" if own else "")
        if whole is not None and not tied:
            joint[whole] = len(found)
        line = next((lines[leaf.name] for leaf in leaves if lines[leaf.name]), 0)
        found.append(Choice(_label(place), place, form, _size(own), plain, line))
    if structure.position is not None and not isinstance(structure.position, PositionTable):
        found.append(Choice("positions", "position", "fixed sinusoid", 0,
                            structure.format.length * structure.d_model))
    found.extend(_absent(structure))
    return found


def _absent(structure: Structure) -> list[Choice]:
    """Biases that the model does without."""
    have = {place for place, _ in structure.expressions()}
    found = []
    for place, expr in structure.expressions():
        parent, _, name = place.rpartition(".")
        bias = f"{parent}.bias" if name == "weight" else f"{place}_bias"
        if (name in ("q", "k", "v", "out", "up", "gate", "down") or place == "head.weight") and (
            bias not in have
        ):
            found.append(Choice(component_of(place), bias, "no bias", 0, expr.shape[0]))
    return found


def _label(place: str) -> str:
    """The component, and of a norm which one it is."""
    stem = next((part for part in place.split(".") if "norm" in part), "")
    return {"attention_norm": "norm before attention", "feed_forward_norm": "norm before FFN",
            "final_norm": "final norm"}.get(stem, component_of(place))


def _lines(structure: Structure) -> dict[str, int]:
    """The spec line of each leaf; one that nobody wrote has that of its neighbours."""
    own = {item.name: item.line for item in structure.leaves}
    near: dict[str, int] = {}
    for name, line in own.items():
        if line:
            near.setdefault(name.rpartition(".")[0], line)
    names = [leaf.name for leaf in structure.leaf_shapes()]
    return {name: own.get(name, 0) or near.get(name.rpartition(".")[0], 0) for name in names}


def _size(leaves: list[Leaf]) -> int:
    return sum(math.prod(leaf.shape) for leaf in leaves)


def _form(expr: Expr, place: str = "") -> str:
    """How a matrix is made of its leaves, in a few words."""
    leaves = leaves_of(expr)
    nodes = list(walk(expr))
    if not leaves:
        return "fixed"
    if isinstance(expr, Leaf):
        return "dense"
    if any(isinstance(node, Cos) for node in nodes):
        return {"embedding": "circular arc", "position": "a curve, some rows of their own"}.get(
            place, "rotation")
    if any(isinstance(node, Arange) for node in nodes):
        return "polynomial in the digit"
    if isinstance(expr, MatMul) and leaves_of(expr.left) and leaves_of(expr.right):
        return f"rank {expr.left.shape[1]}"
    if isinstance(expr, Take) and len(set(expr.indices)) < len(expr.indices):
        return "rows shared" if expr.axis == 0 else "columns shared"
    if isinstance(expr, MatMul):
        return "rows selected or shared"
    if isinstance(expr, Scatter | Add | Concat):
        return "sparse"
    return "product" if isinstance(expr, Mul) else "rearranged"
