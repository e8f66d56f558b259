"""Derivation: a placed circuit and a model plan become weights.

Takes: `PlacedCircuit`, `ModelPlan`, `CheckedSpec`, given values. Gives: `derive` →
`Weights`: structure, leaf values, and the judgement of every inequality.
May import: errors, format, lang, passes, realize, weights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from adderc.errors import Fault, Refusal, Span, SpecError, did_you_mean
from adderc.lang.checked import CheckedSpec
from adderc.passes.align import Layout
from adderc.passes.place import PlacedCircuit
from adderc.passes.plan import Choice, ModelPlan
from adderc.realize.attention import RotationHeads
from adderc.realize.bounds import Judgement, judge
from adderc.realize.decode import Parabola
from adderc.realize.embedding import embed
from adderc.realize.feedforward import HingePairs
from adderc.realize.position import SinusoidPosition
from adderc.realize.scales import solve_scale, tolerance
from adderc.realize.store import Store
from adderc.weights.structure import Block, LeafInfo, Structure

Array = np.ndarray


@dataclass(frozen=True)
class GivenValue:
    """`given NAME = VALUE`: the value as float64, and where it stands."""

    name: str
    value: Array
    exact: Fraction | None
    span: Span


@dataclass(frozen=True)
class Weights:
    """A structure with the values of its leaves (rounded to the dtype)."""

    structure: Structure
    values: dict[str, Array]
    judgement: Judgement
    given: tuple[str, ...]

    @property
    def parameters(self) -> int:
        """Declared count: elements of the leaves."""
        return sum(int(np.prod(leaf.shape)) for leaf in self.structure.leaf_shapes())

    @property
    def norm(self) -> float:
        """L2 norm of all leaves."""
        return float(np.sqrt(sum(float((v**2).sum()) for v in self.values.values())))


def derive(
    placed: PlacedCircuit, plan: ModelPlan, spec: CheckedSpec, position: SinusoidPosition,
    given: tuple[GivenValue, ...],
) -> Weights:
    """Weights for the model; Refusal where the dtype cannot hold it and nothing is given."""
    store = Store(plan, spec.source)
    fetches = tuple(placed.circuit[name] for name in placed.fetches)
    gains = position.gains(placed, fetches)
    signal = position.signal(placed, placed.alignment, gains, plan.dtype)
    order = head_order(placed, plan)
    embedding = embed(placed, spec.format, store)
    layout = Layout(spec.format)
    layers = [HingePairs(placed, layer, float(gains[-1][1]), layout.first_query)
              for layer in range(1, placed.layers + 1)]
    attention = None
    if order:
        heads = RotationHeads(placed, signal, order)
        sharp = tolerance([hinge for pairs in layers for hinge in pairs.hinges()], placed)
        attention = heads.build(solve_scale(heads, layout, plan.dtype, sharp), store)
    blocks = []
    for pairs in layers:
        prefix = "ffn" if placed.layers == 1 else f"layer{pairs.layer}.ffn"
        blocks.append(Block(attention if pairs.layer == 1 else None, pairs.build(store, prefix)))
    head = Parabola(placed, spec.format).build(store)
    structure = Structure(
        spec.number, spec.format, plan.dtype, placed.d_model,
        tuple(slot.name for slot in placed.slots), embedding, signal, tuple(blocks), None, head,
        tuple(store.infos))
    values = {leaf.name: store.values[leaf.name] for leaf in structure.leaf_shapes()}
    structure, values = _take_given(structure, values, given, position, spec)
    values = {name: value.astype(plan.dtype).astype(np.float64)
              for name, value in values.items()}
    judgement = judge(structure, values, placed, order)
    weights = Weights(structure, values, judgement, tuple(g.name for g in given))
    if judgement.broken and not given:
        raise _refusal(weights, plan, spec)
    return weights


def head_order(placed: PlacedCircuit, plan: ModelPlan) -> tuple[str, ...]:
    """The fetches in the order of the heads: the spec's, else that of the circuit."""
    named = [head.name for head in plan.declared if head.name in placed.fetches]
    return (*named, *(name for name in placed.fetches if name not in named))


def _take_given(
    structure: Structure, values: dict[str, Array], given: tuple[GivenValue, ...],
    position: SinusoidPosition, spec: CheckedSpec,
) -> tuple[Structure, dict[str, Array]]:
    """Given values in place of derived ones, flat or nested lists of the leaf's size."""
    values, faults, taken = dict(values), [], set()
    for item in given:
        if item.name in position.given:
            continue
        if item.name not in values:
            faults.append(Fault(
                f"there is no leaf {item.name!r}", item.span,
                did_you_mean(item.name, values) or f"leaves: {', '.join(values)}"))
            continue
        size = values[item.name].size
        if item.value.size != size:
            faults.append(Fault(
                f"{item.name} has {size} numbers, {item.value.size} are given", item.span,
                f"its shape is {list(values[item.name].shape)}"))
            continue
        values[item.name] = item.value.reshape(values[item.name].shape)
        taken.add(item.name)
    if faults:
        raise SpecError(faults=tuple(faults), source=spec.source)
    infos = tuple(
        LeafInfo(i.name, "given" if i.name in taken else i.how, i.line, i.meaning)
        for i in structure.leaves)
    return replace(structure, leaves=infos), values


def _refusal(weights: Weights, plan: ModelPlan, spec: CheckedSpec) -> Refusal:
    """Which inequality the best scales still break, and what would help."""
    other = {"float32": "float64"}.get(plan.dtype)
    shown = [i for i in weights.judgement.broken if i.name != "decode"] or list(
        weights.judgement.broken)
    faults = []
    for broken in shown[:4]:
        faults.append(Fault(
            f"{broken.name} (line {broken.line}): {broken.text}: {broken.left:.6g} is not at "
            f"most {broken.right:.6g}"))
    hint = f"try --dtype {other}, or a smaller width" if other else "try a smaller width"
    faults[-1] = replace(faults[-1], hint=hint)
    number = spec.number
    head = Fault(f"{plan.dtype} cannot hold width {number.width} in base {number.base}: with the "
                 "best scales these inequalities break")
    return Refusal(kind="dtype bound", source=spec.source, faults=(head, *faults))


def known_choice(choice: Choice, known: tuple[str, ...], what: str, spec: CheckedSpec) -> None:
    """SpecError unless the realization's name is one of `known`."""
    if choice.name not in known:
        raise SpecError(source=spec.source, faults=(Fault(
            f"unknown {what} {choice.name!r}", choice.span,
            did_you_mean(choice.name, known) or f"known: {', '.join(known)}"),))
