"""Derived weights: from a checked spec to weights by the lowering alone.

    CheckedSpec -lower-> Circuit -align-> Alignment -flatten-> Circuit -place-> PlacedCircuit
        -derive-> Weights

Takes: a checked spec and its `Choices`. Gives: `derived` → placed circuit and `Weights`.
May import: errors, ir, lang, passes, realize.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from adderc.errors import Refusal
from adderc.ir.evaluate import evaluate
from adderc.ir.ops import Circuit, Fetch
from adderc.ir.parts import resolve
from adderc.lang.checked import CheckedSpec
from adderc.lang.explore import Window
from adderc.passes.align import Alignment, align
from adderc.passes.fetches import Grouping
from adderc.passes.flatten import flatten
from adderc.passes.lower import lower
from adderc.passes.place import PlacedCircuit, place
from adderc.passes.plan import ModelPlan
from adderc.passes.soften import soften
from adderc.realize.choices import Choices
from adderc.realize.derive import GivenValue, Weights, derive, refuse
from adderc.realize.place_choices import PlaceChoices
from adderc.realize.places import derive_places

Array = np.ndarray
GROUPINGS = 4
GOOD = 0.5  # share of the decode's full margin with which no other constant is tried


def lower_aligned(
    checked: CheckedSpec, choices: Choices
) -> Iterator[tuple[Circuit, Alignment]]:
    """Circuits whose fetches align, fewest heads first; Refusal where there is none.

    Where the spec leaves the heads free, fetches may be split until each reads one digit.
    """
    plan = choices.plan
    levels = range(1 if plan.declared else GROUPINGS)
    circuits = dict.fromkeys(lowered(checked, Grouping(n, plan.declared)) for n in levels)
    first: Refusal | None = None
    found = False
    for circuit in circuits:
        fetches = circuit.of(Fetch)
        for ring in choices.position.rings(fetches):
            try:
                alignment = align(fetches, checked.format, ring, checked.source,
                                  plan.span("position"))
            except Refusal as refusal:
                first = first or refusal
                continue
            found = True
            yield circuit, alignment
            break
    if not found:
        assert first is not None
        raise first


def lowered(checked: CheckedSpec, grouping: Grouping) -> Circuit:
    """The circuit of the algorithm, with no more steps than its decode needs."""
    circuit = lower(checked, grouping)
    return soften(circuit, context_values(checked, circuit))


def flattened(
    checked: CheckedSpec, circuit: Circuit, plan: ModelPlan, alignment: Alignment
) -> Circuit:
    """The circuit at the depth the model has."""
    assert checked.contexts is not None
    return flatten(circuit, context_values(checked, circuit), checked.contexts.index,
                   plan.layers, alignment.period, checked.source)


def derived(
    checked: CheckedSpec, choices: Choices | PlaceChoices, given: tuple[GivenValue, ...]
) -> tuple[PlacedCircuit, Weights]:
    """The first alignment whose inequalities hold; Refusal where all break and nothing was
    given, for the one that comes nearest. More heads that read one digit each are slower to
    leave a short dtype."""
    if isinstance(choices, PlaceChoices):
        return derive_places(checked, choices, given)
    best: tuple[PlacedCircuit, Weights] | None = None
    for circuit, alignment in lower_aligned(checked, choices):
        flat = flattened(checked, circuit, choices.plan, alignment)
        placed, weights = best_weights(flat, alignment, choices, given)
        if given or not weights.judgement.broken:
            return placed, weights
        if best is None or weights.judgement.margin > best[1].judgement.margin:
            best = placed, weights
    assert best is not None
    raise refuse(best[1], choices)


def best_weights(
    circuit: Circuit, alignment: Alignment, choices: Choices, given: tuple[GivenValue, ...]
) -> tuple[PlacedCircuit, Weights]:
    """Placed and weighed with the constant channels that leave the widest margin."""
    best: tuple[PlacedCircuit, Weights] | None = None
    values = context_values(choices.spec, circuit)
    refusal: Refusal | None = None
    for setting in choices.settings():
        try:
            placed = place(circuit, values, alignment, choices.plan, choices.spec,
                           choices.needs(setting))
        except Refusal as found:
            refusal = refusal or found
            continue
        weights = derive(placed, choices, setting.sharp, given)
        if best is None or weights.judgement.margin > best[1].judgement.margin:
            best = placed, weights
        if weights.judgement.margin > GOOD and not weights.judgement.broken:
            break
    if best is None:
        assert refusal is not None
        raise refusal
    return best


def context_values(checked: CheckedSpec, circuit: Circuit) -> dict[str, Array]:
    """Every node's value in every context, with the emitted digit and the step beside them."""
    contexts, algorithm = checked.contexts, checked.algorithm
    assert contexts is not None
    assert algorithm is not None
    low = Window.of(algorithm).low

    def read(name: str, offset: int) -> Array:
        if name == "s":
            back = contexts.answers.shape[1]
            return contexts.answers[:, back + offset] if back else np.zeros(len(contexts), int)
        return contexts.digits[:, checked.number.names.index(name), offset - low]

    values = evaluate(circuit, resolve(read, checked.number.base), contexts.index)
    full = {name: np.broadcast_to(v, len(contexts)) for name, v in values.items()}
    return full | {"emitted": contexts.emitted, "index of step": contexts.index}
