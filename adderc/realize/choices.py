"""Which realizations a spec asks for, and what they need in the residual.

Takes: the plan and the checked spec. Gives: `Choices` with `needs`; SpecError for names
that no file of this room knows. May import: errors, lang, passes, realize.

Every file of this room is imported before names are looked up, so that a new activation is
known once its file is there.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import adderc.realize as room
from adderc.errors import Fault, FaultList, Refusal, did_you_mean
from adderc.lang.checked import CheckedSpec
from adderc.passes.needs import Needs
from adderc.passes.plan import Choice, ModelPlan
from adderc.realize.activations import ACTIVATIONS, Activation
from adderc.realize.decode import DECODES
from adderc.realize.embedding import EMBEDDINGS, Embedding
from adderc.realize.forms import FORMS
from adderc.realize.norm import KINDS, height_of
from adderc.realize.position import Position, position_of
from adderc.realize.scales import SHARP

GATED = {"reglu": "relu", "swiglu": "silu", "geglu": "gelu"}
FULL = Fraction(181, 128)  # squares of such heights lie just below a power of two: no other
#                            numbers of that size are rounded to smaller units
HEADS = {"sinusoid": "rotation", "table": "rotation", "rope": "rotation", "routes": "route"}


@dataclass(frozen=True)
class Setting:
    """Heights of the constant channel and of the curve, and how sharp heads must read."""

    one: Fraction | None
    curve: Fraction | None
    sharp: float = SHARP


@dataclass(frozen=True)
class Choices:
    """The realizations of one spec."""

    plan: ModelPlan
    spec: CheckedSpec
    position: Position
    activation: Activation
    gated: bool
    biased: bool
    decode_biased: bool
    norm: str
    norm_shared: bool

    @property
    def curved(self) -> bool:
        return self.plan.embed.name in EMBEDDINGS

    @property
    def needs_one(self) -> bool:
        """Whether a constant channel carries something."""
        return (self.position.NEEDS_ONE or self.norm != "none"
                or not self.biased or not self.decode_biased)

    def settings(self) -> Iterator[Setting]:
        """Constant channels and sharpness worth trying, the usual ones first.

        A low curve bends much beside its height, which a head can resolve in few bits, but
        the token that is still in it moves the decode; a tied head wants the balance. Where
        the curve is the only constant, it moves the scores too, less if they are lower, and
        logits are as large as its square: heights in between come last.
        """
        one = height_of(self.norm, self.plan.dtype) if self.needs_one else None
        lows = [one] if self.norm != "layer" or one is None else [one, one * 4, one / 4]
        if not self.curved:
            yield from (Setting(low, None) for low in lows)
            return
        usual = Fraction(2 ** (8 if self.plan.dtype == "float32" else 12))
        powers = (0, 1, -1, 2, 3) if self.plan.decode.name == "tied" else (0,)
        yield from (Setting(low, usual * Fraction(2) ** p) for low in lows for p in powers)
        if one is not None and self.norm != "layer" and self.plan.d_model is not None:
            for factors in ((Fraction(1), Fraction(3, 2)), (FULL,)):
                for sharp in (SHARP, 16 * SHARP, 256 * SHARP):
                    yield from (Setting(None, usual * 2**p * f, sharp) for p in range(5)
                                for f in factors)

    def needs(self, setting: Setting) -> Needs:
        """What goes into the residual beside the algorithm's signals."""
        return Needs(
            position=self.position.IN_RESIDUAL,
            one=setting.one,
            curve=setting.curve,
            centred=self.norm == "layer",
            token_sign=EMBEDDINGS.get(self.plan.embed.name, Embedding).SIGN,
            tied=(EMBEDDINGS[self.plan.embed.name].TIED
                  if self.plan.decode.name == "tied" else 0),
            scaled=self.norm != "none",
            logits=self.spec.format.vocabulary if self.plan.decode.name == "vshape" else 0,
        )


def know_room() -> None:
    """Import every file of this room."""
    for module in pkgutil.iter_modules(room.__path__):
        importlib.import_module(f"{room.__name__}.{module.name}")


def read_choices(plan: ModelPlan, spec: CheckedSpec, given: dict[str, Fraction]) -> Choices:
    """The realizations that the model part names; all unknown names are reported at once."""
    know_room()
    faults = FaultList(spec.source)
    _known(plan.embed, {*FORMS, *EMBEDDINGS}, "embedding", faults)
    _known(plan.feed_forward, {*ACTIVATIONS, *GATED}, "activation", faults)
    _known(plan.decode, DECODES, "decode", faults)
    norm = plan.norm.name.split()
    _known(Choice(norm[0], span=plan.norm.span), KINDS, "norm", faults)
    for head in plan.heads or ():
        kind = HEADS.get(plan.position.name.split()[0], "rotation")
        if head.name not in ("rotation", "route", "head"):
            faults.add(f"unknown head {head.name!r}", head.span,
                       did_you_mean(head.name, ("rotation", "route")) or f"write {kind}(x)")
    faults.raise_if_any()
    name = plan.feed_forward.name
    biased = plan.forms.get("ffn.bias", Choice("dense")).name != "none"
    choices = Choices(
        plan, spec, position_of(plan.position, spec, given), ACTIVATIONS[GATED.get(name, name)],
        name in GATED, biased,
        plan.forms.get("decode.bias", Choice("dense" if biased else "none")).name != "none",
        norm[0], "shared" in norm[1:])
    _refuse(choices)
    return choices


def _known(choice: Choice, known: object, what: str, faults: FaultList) -> None:
    names = tuple(sorted(known))  # type: ignore[call-overload]
    if choice.name not in names:
        faults.add(f"unknown {what} {choice.name!r}", choice.span,
                   did_you_mean(choice.name, names) or f"known: {', '.join(names)}")


def _refuse(choices: Choices) -> None:
    """Combinations that mathematics rules out, or that are not built."""
    plan, spec = choices.plan, choices.spec
    reason, kind = "", "algorithm impossible"
    apart = [spec.format.answer_kind == "states",
             any(cell.kind == "tuple" for cell in spec.format.cells)]
    if choices.curved and any(apart):
        raise Refusal(kind=kind, source=spec.source, faults=(Fault(
            f"embed {plan.embed.name} puts tokens on a curve by one digit, and these hold "
            "several", plan.embed.span, "write embed table"),))
    if plan.decode.name == "tied":
        if not choices.curved:
            reason = ("a tied head needs tokens on a curve: on a line only the ends can win; "
                      "write embed quadratic, or embed arc")
        elif choices.activation.copies is None:
            reason, kind = (f"a tied head needs an activation that can copy, "
                            f"{choices.activation.name} cannot"), "not implemented"
    if reason:
        raise Refusal(kind=kind, source=spec.source, faults=(Fault(reason, plan.decode.span),))
