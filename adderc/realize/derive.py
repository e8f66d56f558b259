"""Derivation: a placed circuit and the chosen realizations become weights.

Takes: `PlacedCircuit`, `Choices`, given values. Gives: `derive` → `Weights`: structure, leaf
values, and the judgement of every inequality; `refuse`, why none of several would do.
May import: errors, format, lang, passes, realize, weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from adderc.errors import Fault, Refusal, Span, SpecError, did_you_mean
from adderc.passes.align import Layout
from adderc.passes.place import PlacedCircuit
from adderc.passes.plan import ModelPlan
from adderc.realize.attention import heads_of
from adderc.realize.bounds import Judgement, judge
from adderc.realize.choices import Choices
from adderc.realize.decode import DECODES
from adderc.realize.embedding import embedding_of
from adderc.realize.feedforward import Layer
from adderc.realize.norm import Norms
from adderc.realize.scales import solve_scale, tolerance
from adderc.realize.store import Store
from adderc.weights.structure import Attention, Block, LeafInfo, Structure

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
    placed: PlacedCircuit, choices: Choices, sharp: float, given: tuple[GivenValue, ...]
) -> Weights:
    """Weights for the model, with every inequality judged; broken ones are not raised here."""
    plan, spec = choices.plan, choices.spec
    store = Store(plan, spec.source)
    fetches = tuple(placed.circuit[name] for name in placed.fetches)
    gains = choices.position.gains(placed, fetches)
    order = head_order(placed, plan)
    layout = Layout(spec.format, placed.alignment.ring.codes)
    norms = Norms(choices.norm, choices.norm_shared, placed)
    embedding = embedding_of(placed, spec.format, plan.embed.name).build(store)
    signal = choices.position.signal(placed, gains, plan.dtype, store)
    layers = [Layer(placed, number, choices.activation, choices.gated, choices.biased,
                    float(gains[-1][1]), layout.first_query, placed.copy_row is not None)
              for number in range(1, placed.layers + 1)]
    attention = None
    if order:
        heads = heads_of(placed, gains, order, choices.position.rope(placed.alignment))
        error = tolerance([rows for layer in layers for rows in layer.steps()], placed, sharp)
        attention = heads.build(solve_scale(heads, layout, plan.dtype, error), store)
    blocks = _blocks(attention, layers, norms, store)
    decode = DECODES[plan.decode.name](placed, spec.format, choices.activation,
                                       choices.decode_biased)
    if (front := decode.front(store)) is not None:
        blocks.append(Block(None, front, None, norms.build("decode", store)))
    final = norms.build("final", store)
    structure = Structure(
        spec.number, spec.format, plan.dtype, placed.d_model,
        tuple(slot.name for slot in placed.slots), embedding, signal, tuple(blocks), final,
        decode.build(embedding, store), tuple(store.infos))
    values = {leaf.name: store.values[leaf.name] for leaf in structure.leaf_shapes()}
    structure, values = _take_given(structure, values, given, choices)
    values = {name: value.astype(plan.dtype).astype(np.float64)
              for name, value in values.items()}
    judgement = (judge(structure, values, placed, order, layers) if not plan.cut_units
                 else Judgement((), -math.inf))  # its steps are incomplete: nothing to judge
    return Weights(structure, values, judgement, tuple(g.name for g in given))


def _blocks(
    attention: Attention | None, layers: list[Layer], norms: Norms, store: Store
) -> list[Block]:
    """One block a layer; attention stands in the first."""
    blocks = []
    for layer in layers:
        prefix = "" if len(layers) == 1 else f"layer{layer.number}."
        first = attention if layer.number == 1 else None
        before = norms.build(f"{prefix}attention", store) if first is not None else None
        ffn = layer.build(store, f"{prefix}ffn")
        after = norms.build(f"{prefix}ffn", store) if ffn is not None else None
        blocks.append(Block(first, ffn, before, after))
    return blocks


def head_order(placed: PlacedCircuit, plan: ModelPlan) -> tuple[str, ...]:
    """The fetches in the order of the heads: the spec's, else that of the circuit."""
    named = [head.name for head in plan.declared if head.name in placed.fetches]
    return (*named, *(name for name in placed.fetches if name not in named))


def _take_given(
    structure: Structure, values: dict[str, Array], given: tuple[GivenValue, ...],
    choices: Choices,
) -> tuple[Structure, dict[str, Array]]:
    """Given values in place of derived ones, flat or nested lists of the leaf's size."""
    values, faults, taken = dict(values), [], set()
    for item in given:
        if choices.position.takes(item.name):
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
        raise SpecError(faults=tuple(faults), source=choices.spec.source)
    infos = tuple(
        LeafInfo(i.name, "given" if i.name in taken else i.how, i.line, i.meaning)
        for i in structure.leaves)
    return replace(structure, leaves=infos), values


def refuse(weights: Weights, choices: Choices) -> Refusal:
    """Which inequalities the best scales still break, and what would help."""
    dtype, number = choices.plan.dtype, choices.spec.number
    other = {"float32": "float64"}.get(dtype)
    broken = weights.judgement.broken
    shown = [i for i in broken if i.name != "decode"] or list(broken)
    faults = [
        Fault(f"{i.name}" + (f" (line {i.line})" if i.line else "")
              + f": {i.text}: {i.left:.6g} is not at most {i.right:.6g}")
        for i in shown[:4]]
    hint = f"try --dtype {other}, or a smaller width" if other else "try a smaller width"
    faults[-1] = replace(faults[-1], hint=hint)
    head = Fault(f"{dtype} cannot hold width {number.width} in base {number.base}: with the best "
                 "scales these inequalities break")
    return Refusal(kind="dtype bound", source=choices.spec.source, faults=(head, *faults))
