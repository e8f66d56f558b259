"""The check stage: settles numbers, format and names, and proves the algorithm on integers.

Takes: a parsed `Spec` and overrides. Gives: `check_spec` → `CheckedSpec`, raising
`SpecError` with all faults; `diagnose`, what to say of an algorithm that does not add.
May import: errors, format, lang.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from adderc.errors import Fault, FaultList, Refusal, SpecError, WrongAlgorithm
from adderc.format.number import NumberFormat
from adderc.lang.arrays import evaluate
from adderc.lang.checked import Algorithm, CheckedSpec, Contexts
from adderc.lang.explore import Explorer, OutOfDigits, Window, explore, lookup
from adderc.lang.failing import ambiguous, smallest_failing
from adderc.lang.limits import Limit
from adderc.lang.names import settle_algorithm
from adderc.lang.places import place_sum, uses_places
from adderc.lang.settle import settle_format, settle_number
from adderc.lang.states import writes_states
from adderc.lang.syntax import Name, Spec

LIMITED_WIDTH = 128  # up to which a limit on the operands is looked at


def check_spec(
    spec: Spec, overrides: Mapping[str, int] | None = None
) -> CheckedSpec:
    """Settle `spec`; whether its algorithm adds is then `contexts.adds`."""
    faults = FaultList(spec.source)
    number = settle_number(spec, overrides or {}, faults)
    algorithm = None
    if number is not None:
        form = settle_format(spec.format, number, writes_states(spec.algorithm), faults)
        if spec.algorithm is not None:
            algorithm = settle_algorithm(spec.algorithm, number, faults)
    faults.raise_if_any()
    assert number is not None
    assert form is not None
    if algorithm is not None and form.answer_order == "msd" and algorithm.answer_offsets:
        faults.add("s[i-1] is not written yet: the answer is written most significant first",
                   spec.format.span, "write the answer with lsd(s)")
        faults.raise_if_any()
    checked = CheckedSpec(spec.name, number, form, algorithm, spec.model, spec.weights,
                          spec.source)
    if algorithm is None:
        return checked
    if uses_places(spec.algorithm):
        return _with_places(checked, algorithm)
    return _tabulate(checked, algorithm)


def _with_places(checked: CheckedSpec, algorithm: Algorithm) -> CheckedSpec:
    """The sum of place values whose floor is emitted; no local rule, so it has no contexts."""
    total = place_sum(algorithm.definitions, algorithm.emit, checked.number.base)
    if isinstance(total, str):
        raise Refusal(kind="not implemented", source=checked.source, faults=(Fault(
            total, algorithm.emit.span,
            "write for example: emit floor(place(a) + place(b) - place(s))"),))
    return replace(checked, places=total)


def _tabulate(checked: CheckedSpec, algorithm: Algorithm) -> CheckedSpec:
    try:
        contexts = _contexts(Explorer(algorithm, checked.number, checked.source))
    except OutOfDigits as fault:
        raise SpecError(source=checked.source,
                        faults=(_no_digit(fault, checked.number, algorithm),)) from None
    except ZeroDivisionError:
        raise SpecError(source=checked.source, faults=(Fault(
            "a division by zero can occur", algorithm.emit.span),)) from None
    values = _value_sets(algorithm, checked.number, contexts)
    return replace(checked, contexts=contexts, values=values)


def _contexts(explorer: Explorer) -> Contexts:
    """The contexts of all operands of the width; where it does not add those, of the operands
    that the spec allows. The latter are gone through place by place, so not at every width."""
    bounded = _bounded(explorer)
    try:
        contexts = explore(explorer)
    except OutOfDigits:
        if bounded is explorer:
            raise
        return explore(bounded)
    return contexts if contexts.adds or bounded is explorer else explore(bounded)


def _bounded(explorer: Explorer) -> Explorer:
    """The explorer with the limit on the operands, if there is one that it can go through."""
    number = explorer.number
    limit = Limit.of(number) if number.width <= LIMITED_WIDTH else None
    return explorer if limit is None else replace(explorer, limit=limit)


def _no_digit(fault: OutOfDigits, number: NumberFormat, algorithm: Algorithm) -> Fault:
    """What is emitted and is no digit, or no carry."""
    if algorithm.parts is None:
        return Fault(f"emit can be {fault.value}, which is no digit of base {number.base}",
                     algorithm.emit.span, "write … mod base, or min(…, base - 1)")
    digit, carry = algorithm.parts
    if fault.carry:
        return Fault(f"the carry can be {fault.value}; that of {number.operands} operands is "
                     f"0 to {number.operands - 1}", carry.span, "write … div base")
    return Fault(f"the digit can be {fault.value}, which is no digit of base {number.base}",
                 digit.span, "write … mod base")


def _value_sets(
    algorithm: Algorithm, number: NumberFormat, contexts: Contexts
) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Each quantity's exact set of values over all contexts."""
    find = lookup(number, algorithm, contexts.digits, contexts.answers, contexts.index,
                  Window.of(algorithm).low)
    named = [
        (name, tuple(int(v) for v in np.unique(evaluate(Name(name), find))))
        for name in algorithm.order
    ]
    return (*named, ("emit", tuple(int(v) for v in np.unique(contexts.emitted))))


def diagnose(checked: CheckedSpec) -> WrongAlgorithm:
    """The smallest sum the algorithm gets wrong, and whether any such rule could be right."""
    algorithm = checked.algorithm
    assert algorithm is not None
    explorer = _bounded(Explorer(algorithm, checked.number, checked.source))
    operands = smallest_failing(explorer)
    assert operands is not None, "an algorithm that adds has no failing sum"
    if max(operands) > checked.number.maximum:
        text = " + ".join(map(str, operands))
        raise Refusal(kind="not implemented", source=checked.source, faults=(Fault(
            f"the algorithm gets {text} wrong, which max excludes", algorithm.emit.span,
            f"max is looked at up to width {LIMITED_WIDTH}"),))
    pair = ambiguous(explorer)
    hint = ""
    if pair is not None:
        first, second = (" + ".join(map(str, sums)) for sums in pair)
        hint = (f"no rule on these digits can add {checked.number.operands} operands in base "
                f"{checked.number.base}: {first} and {second} agree in every digit sum and "
                "answer digit it sees, and need different digits")
    text = " + ".join(map(str, operands))
    message = f"the algorithm does not add: {text} is the smallest failing sum"
    if algorithm.parts is not None:
        message = (f"the algorithm does not add: {text} is the smallest sum in which a digit or "
                   "a carry is wrong")
    return WrongAlgorithm(
        source=checked.source, operands=operands,
        faults=(Fault(message, algorithm.emit.span, hint),),
    )
