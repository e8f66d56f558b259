"""Judges a place-value algorithm: by its algebra for every width, and on all small sums.

Takes: a `CheckedSpec` with `places`. Gives: `prove_places` → the same with its `PlaceProof`;
`diagnose_places`, what to say of one that does not add. SpecError where neither the algebra
nor a failing sum settles it.
May import: errors, format, lang, reference.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

from adderc.errors import Fault, Refusal, WrongAlgorithm
from adderc.format.number import NumberFormat
from adderc.lang.checked import CheckedSpec
from adderc.lang.linear import Definitions
from adderc.lang.places import PlaceProof, proof_of
from adderc.lang.settle import constants_of
from adderc.reference import Reference

SMALL = 300  # sums a width may have to be worked one by one
SEARCHED = 6_000  # sums in which a failing one is looked for, from 0 up
BASES = (2, 3)


def prove_places(checked: CheckedSpec) -> CheckedSpec:
    """`checked` with the verdict on its algorithm."""
    total, number = checked.places, checked.number
    assert total is not None
    reason = proof_of(total, number, checked.format.answer_order)
    if reason is None:
        failing = next((t for t in _by_sum(number) if not _right(checked, t)), None)
        if failing is None:
            raise Refusal(kind="not implemented", source=checked.source, faults=(Fault(
                f"no sum among the {SEARCHED:,} least fails, but the algebra of this rule is "
                "not one that is known to add", checked.algorithm.emit.span,  # type: ignore[union-attr]
                "write emit floor(place(a) + place(b) - place(s)), or floor(…) mod base"),))
        return replace(checked, place_proof=PlaceProof(total, "", failing))
    tried = 0
    for small in _small(checked):
        for operands in itertools.product(range(small.number.maximum + 1),
                                          repeat=small.number.operands):
            assert _right(small, operands), f"the algebra is wrong at {operands}"
            tried += 1
    return replace(checked, place_proof=PlaceProof(total, reason, None, tried))


def diagnose_places(checked: CheckedSpec) -> WrongAlgorithm:
    """The least sum that the algorithm gets wrong."""
    proof, algorithm = checked.place_proof, checked.algorithm
    assert proof is not None
    assert proof.failing is not None
    assert algorithm is not None
    missing = [n for n in checked.number.names if n not in proof.total.names]
    hint = f"operand {', '.join(missing)} does not occur" if missing else ""
    if not hint and not proof.total.wrapped and "s" not in proof.total.names:
        hint = "the digits already written are not taken off: subtract place(s)"
    text = " + ".join(map(str, proof.failing))
    return WrongAlgorithm(
        source=checked.source, operands=proof.failing,
        faults=(Fault(f"the algorithm does not add: {text} is the smallest failing sum",
                      algorithm.emit.span, hint),))


def _right(checked: CheckedSpec, operands: tuple[int, ...]) -> bool:
    reference, total = Reference(checked), sum(operands)
    digits = reference.digits(operands)
    base = checked.number.base
    return all(digit == total // base**place % base for place, digit in enumerate(digits))


def _by_sum(number: NumberFormat) -> Iterator[tuple[int, ...]]:
    """Operand tuples by sum, then in order; at most SEARCHED of them."""

    def tuples(total: int, count: int) -> Iterator[tuple[int, ...]]:
        if count == 1:
            if total <= number.maximum:
                yield (total,)
            return
        for first in range(min(total, number.maximum) + 1):
            for rest in tuples(total - first, count - 1):
                yield (first, *rest)

    largest = number.operands * number.maximum
    every = (t for total in range(largest + 1) for t in tuples(total, number.operands))
    yield from itertools.islice(every, SEARCHED)


def _small(checked: CheckedSpec) -> Iterator[CheckedSpec]:
    """The algorithm at every small width, in its own base and in the smallest ones."""
    operands = checked.number.operands
    for base in dict.fromkeys((checked.number.base, *BASES)):
        for width in range(1, 8):
            if base ** (width * operands) > SMALL:
                break
            yield _resized(checked, NumberFormat(base, width, operands))


def _resized(checked: CheckedSpec, number: NumberFormat) -> CheckedSpec:
    """The algorithm in another number format; its prompt does not matter here."""
    algorithm = checked.algorithm
    assert algorithm is not None
    definitions = Definitions(algorithm.definitions.quantities,
                              tuple(constants_of(number).items()))
    return replace(checked, number=number, format=replace(checked.format, number=number),
                   algorithm=replace(algorithm, definitions=definitions))
