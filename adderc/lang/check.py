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
from adderc.lang.names import settle_algorithm
from adderc.lang.settle import settle_format, settle_number
from adderc.lang.syntax import Call, Name, Sequence, Spec, walk


def check_spec(
    spec: Spec, overrides: Mapping[str, int] | None = None
) -> CheckedSpec:
    """Settle `spec`; whether its algorithm adds is then `contexts.adds`."""
    faults = FaultList(spec.source)
    number = settle_number(spec, overrides or {}, faults)
    algorithm = None
    if number is not None:
        states = spec.algorithm is not None and isinstance(spec.algorithm.emit, Sequence)
        form = settle_format(spec.format, number, states, faults)
        if spec.algorithm is not None:
            _refuse_unbuilt(spec)
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
    return checked if algorithm is None else _tabulate(checked, algorithm)


def _refuse_unbuilt(spec: Spec) -> None:
    assert spec.algorithm is not None
    faults = []
    for part in (spec.algorithm.emit, *(d.value for d in spec.algorithm.definitions)):
        for node in walk(part):
            if (isinstance(node, Sequence) and node.bracket == "(") or (
                isinstance(node, Call) and node.name in ("place", "floor")
            ):
                what = f"{node.name}(…)" if isinstance(node, Call) else "a state answer"
                faults.append(Fault(f"{what} is not implemented yet", node.span,
                                    "local rules on digits are"))
    if faults:
        raise Refusal(kind="not implemented", faults=tuple(faults), source=spec.source)


def _tabulate(checked: CheckedSpec, algorithm: Algorithm) -> CheckedSpec:
    explorer = Explorer(algorithm, checked.number, checked.source)
    try:
        contexts = explore(explorer)
    except OutOfDigits as fault:
        raise SpecError(source=checked.source, faults=(Fault(
            f"emit can be {fault.value}, which is no digit of base {checked.number.base}",
            algorithm.emit.span, "write … mod base, or min(…, base - 1)"),)) from None
    except ZeroDivisionError:
        raise SpecError(source=checked.source, faults=(Fault(
            "a division by zero can occur", algorithm.emit.span),)) from None
    values = _value_sets(algorithm, checked.number, contexts)
    return replace(checked, contexts=contexts, values=values)


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
    explorer = Explorer(algorithm, checked.number, checked.source)
    operands = smallest_failing(explorer)
    assert operands is not None, "an algorithm that adds has no failing sum"
    pair = ambiguous(explorer)
    hint = ""
    if pair is not None:
        first, second = (" + ".join(map(str, sums)) for sums in pair)
        hint = (f"no rule on these digits can add {checked.number.operands} operands in base "
                f"{checked.number.base}: {first} and {second} agree in every digit sum and "
                "answer digit it sees, and need different digits")
    text = " + ".join(map(str, operands))
    return WrongAlgorithm(
        source=checked.source, operands=operands,
        faults=(Fault(f"the algorithm does not add: {text} is the smallest failing sum",
                      algorithm.emit.span, hint),),
    )
