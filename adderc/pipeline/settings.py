"""What the command line and the spec's `given` rules set.

Takes: `Settings`, weight rules. Gives: number overrides, given values as arrays; InputError
for a bad --set, SpecError for a bad `given`.
May import: errors, lang, realize.derive.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from adderc.errors import NOWHERE, Fault, InputError, Source, SpecError
from adderc.lang.checked import CheckedSpec
from adderc.lang.constants import ConstantFault, exact, integer, real
from adderc.lang.parse import parse
from adderc.lang.settle import SETTINGS, constants_of
from adderc.lang.syntax import Expr, Sequence, WeightRule
from adderc.realize.derive import GivenValue


@dataclass(frozen=True)
class Settings:
    """What the command line says beside the spec; `set` are NAME=VALUE pairs."""

    width: int | None = None
    base: int | None = None
    dtype: str | None = None
    set: tuple[tuple[str, str], ...] = ()
    seed: int = 0


def overrides(settings: Settings) -> dict[str, int]:
    """Number settings from the command line."""
    found = {name: value for name, value in (("width", settings.width), ("base", settings.base))
             if value is not None}
    for rule in set_rules(settings, numbers=True):
        assert rule.value is not None
        try:
            found[rule.targets[0]] = integer(rule.value, {})
        except ConstantFault as fault:
            raise InputError(f"--set {rule.targets[0]}: {fault.message}", fault.hint) from None
    return found


def set_rules(settings: Settings, numbers: bool = False) -> list[WeightRule]:
    """The --set pairs as `given` rules: number settings, or leaves and scale symbols."""
    rules = []
    for name, text in settings.set:
        if not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", name):
            raise InputError(f"--set: {name!r} is no name")
        if (name in SETTINGS) != numbers:
            continue
        source = Source(f"--set {name}", (
            'adder set number { base 10 width 1 } format { prompt msd(a) msd(b) "="\n'
            f"answer lsd(s) }} model {{ layers 1 }} weights {{ given {name} = {text}\n }}"))
        try:
            rules.append(replace(parse(source).weights[0], span=NOWHERE))
        except SpecError:
            raise InputError(f"--set {name}={text}: {text!r} is not a value",
                             "a number, an expression such as 2*pi/11, or a list") from None
    return rules


def given_value(rule: WeightRule, checked: CheckedSpec) -> GivenValue:
    """A given value, evaluated; lists may be nested as the leaf's shape is."""
    names = constants_of(checked.number)
    assert rule.value is not None

    def numbers(expr: Expr) -> list[float]:
        if isinstance(expr, Sequence):
            return [value for item in expr.items for value in numbers(item)]
        return [real(expr, names)]

    try:
        value = None if isinstance(rule.value, Sequence) else exact(rule.value, names)
        fraction = value if isinstance(value, Fraction) else None
        return GivenValue(rule.targets[0], np.array(numbers(rule.value)), fraction, rule.span)
    except (ConstantFault, OverflowError) as fault:
        message = getattr(fault, "message", "the value is too large")
        if rule.span == NOWHERE:
            raise InputError(f"--set {rule.targets[0]}: {message}",
                             getattr(fault, "hint", "")) from None
        raise SpecError(source=checked.source, faults=(Fault(
            message, getattr(fault, "span", rule.span), getattr(fault, "hint", "")),)) from None


def scalars(given: tuple[GivenValue, ...]) -> dict[str, Fraction]:
    """Given scale symbols (names without a dot) by name."""
    return {g.name: g.exact for g in given if "." not in g.name and g.exact is not None}
