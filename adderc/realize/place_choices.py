"""Which realizations a place-value spec asks for, and what mathematics rules out.

Takes: the plan and the checked spec. Gives: `read_place_choices` → `PlaceChoices`; SpecError
for unknown names, Refusal for what cannot be.
May import: errors, lang, passes.

    gated     two layers: a head gives every position its place value, a gated unit multiplies
              it with the digit there, uniform attention sums; candidates race in V-shapes
    prefix    one layer: a head that weighs digits by ratio^(-distance) sums them itself;
              steps take carry and wrap from the sum; a parabola decodes
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from adderc.errors import Fault, FaultList, Refusal, did_you_mean
from adderc.lang.checked import CheckedSpec
from adderc.lang.constants import ConstantFault, exact
from adderc.lang.settle import constants_of
from adderc.lang.syntax import Name
from adderc.passes.plan import Choice, ModelPlan

SOFTMAX = ("softmax1", "softmax")
EMBEDDINGS = ("slim", "sparse", "table")  # of prefix heads
KINDS: dict[str, dict[str, str]] = {
    "gated": {"embed": "flags", "position": "alibi", "ffn": "reglu", "decode": "vshape",
              "layers": "2"},
    "prefix": {"embed": "slim", "position": "alibi", "ffn": "relu", "decode": "parabola",
               "layers": "1"},
}
OPTIONS = {"gated": ("offset",), "reglu": ("scale",), "vshape": ("scale",)}


@dataclass(frozen=True)
class PlaceChoices:
    """The realizations of one place-value spec; `kind` is a key of KINDS.

    `options` are the numbers that the model part writes into the structure itself: they are
    constants of the architecture, no leaves.
    """

    plan: ModelPlan
    spec: CheckedSpec
    kind: str
    wide: bool
    cancels: bool
    options: tuple[tuple[str, float], ...]

    @property
    def anchored(self) -> bool:
        """Plain softmax: a token of the prompt stands in for the null key of softmax1."""
        return self.plan.forms.get("attention.softmax", Choice("softmax1")).name == "softmax"

    def option(self, name: str) -> float | None:
        """A number such as "vshape.scale"; None where the spec does not give it."""
        return dict(self.options).get(name)

    def is_fixed(self, matrix: str) -> bool:
        """Whether a matrix form is `fixed`: 0 and ±1 only."""
        return self.plan.forms.get(matrix, Choice("")).name == "fixed"

    def is_tied(self, matrix: str) -> bool:
        return self.plan.forms.get(matrix, Choice("")).name == "tied"


def read_place_choices(plan: ModelPlan, spec: CheckedSpec) -> PlaceChoices:
    """The realizations that the model part names; all unknown names are reported at once."""
    faults = FaultList(spec.source)
    assert spec.places is not None
    heads = plan.heads or (Choice("prefix" if spec.places.wrapped else "gated"),)
    kinds = [head.name for head in heads if head.name in KINDS]
    kind = kinds[0] if kinds else "gated"
    for head in heads:
        if head.name not in (*KINDS, "route"):
            faults.add(f"unknown head {head.name!r}", head.span,
                       did_you_mean(head.name, KINDS) or f"known: {', '.join(KINDS)}, route")
    chosen = {"embed": plan.embed, "position": plan.position, "ffn": plan.feed_forward,
              "decode": plan.decode}
    defaults = {"embed": "table", "position": "sinusoid", "ffn": "relu", "decode": "parabola"}
    for key, choice in chosen.items():
        given = key in plan.spans
        name = choice.name.split()[0]
        if key == "embed" and kind == "prefix" and name in EMBEDDINGS:
            continue
        if (given or choice.name != defaults[key]) and name != KINDS[kind][key]:
            faults.add(f"{key} {choice.name} does not go with {kind} place values", choice.span,
                       f"write {key} {KINDS[kind][key]}")
    options = [*_options(heads, spec, faults), *_options(tuple(chosen.values()), spec, faults)]
    softmax = plan.forms.get("attention.softmax", Choice("softmax1"))
    if softmax.name not in SOFTMAX:
        faults.add(f"unknown softmax {softmax.name!r}", softmax.span,
                   did_you_mean(softmax.name, SOFTMAX) or f"known: {', '.join(SOFTMAX)}")
    residual = plan.residual[0] if plan.residual else Name("plain")
    known = ("wide", "plain") if kind == "gated" else ("plain", "cancelled")
    if residual not in tuple(map(Name, known)):
        faults.add(f"the residual of {kind} place values is {known[0]} or {known[1]}",
                   plan.span("residual"))
    faults.raise_if_any()
    choices = PlaceChoices(plan, spec, kind, residual == Name("wide"),
                           residual == Name("cancelled"), tuple(options))
    _refuse(choices)
    return choices


def _options(
    choices: tuple[Choice, ...], spec: CheckedSpec, faults: FaultList
) -> list[tuple[str, float]]:
    """`gated(rest, offset = 15)`: numbers by "realization.option"."""
    found = []
    for choice in choices:
        known = OPTIONS.get(choice.name, ())
        for option in choice.options:
            if option.name not in known:
                faults.add(f"{choice.name} has no option {option.name!r}", option.span,
                           did_you_mean(option.name, known)
                           or f"options: {', '.join(known) or 'none'}")
                continue
            try:
                value = exact(option.value, constants_of(spec.number))
                found.append((f"{choice.name}.{option.name}",
                              float(value if isinstance(value, Fraction) else value.evalf(40))))
            except ConstantFault as fault:
                faults.add(fault.message, fault.span, fault.hint)
    return found


def _refuse(choices: PlaceChoices) -> None:
    """Combinations that mathematics rules out, or that are not built."""
    plan, spec, places = choices.plan, choices.spec, choices.spec.places
    assert places is not None
    wanted = KINDS[choices.kind]
    reason, kind, span, hint = "", "algorithm impossible", plan.span("heads"), ""
    if places.wrapped and choices.kind == "gated":
        reason = "gated heads write the digit from the top, and this rule takes it mod base"
        hint = "use heads prefix(…), or write emit floor(place(a) + … - place(s)), answer msd(s)"
    elif not places.wrapped and choices.kind == "prefix":
        reason, kind = "prefix heads that read whole place values are not built", "not implemented"
        hint = "use heads gated(…), or floor(place(a[i]) + …) mod base with answer lsd(s)"
    elif choices.anchored and choices.wide:
        reason, kind = "plain softmax beside a wide residual is not built", "not implemented"
        hint = "use residual plain, or attention { softmax softmax1 }"
    elif plan.norm.name != "none":
        reason, kind, span = "place values behind a norm", "not implemented", plan.norm.span
    elif "layers" in plan.spans and str(plan.layers) != wanted["layers"]:
        reason = f"{choices.kind} place values take {wanted['layers']} layers, not {plan.layers}"
        span = plan.span("layers")
    if reason:
        raise Refusal(kind=kind, source=spec.source, faults=(Fault(reason, span, hint),))
