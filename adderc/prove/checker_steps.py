"""One answer step of a certificate: the cases that its splits leave, and their margins.

Takes: a check in progress, what the certificate says of the step. Gives: `Step`.
May import: prove.checker_digits, prove.checker_reader, prove.checker_scaled,
prove.checker_values, the standard
library, numpy.

Every carry and digit sum is a case; a split replaces a case by all its parts, so whatever a
certificate splits, its cases cover everything. A row of "near" is [carry, digit sum]: split
by the total at the place of the token written last. A row of "tuples" is [carry, digit sum,
total]: split by digit tuple. A row of "splits" is [carry, digit sum, total, number of the
digit tuple, [[position, token], …], position]: split by the token at that position, after
those that are held already. -1 stands for what is not known. Digit tuples are numbered by
their sum, equal sums in the order of their digits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from adderc.prove.checker_digits import Case, Reach
from adderc.prove.checker_reader import NotUnderstood, Term
from adderc.prove.checker_scaled import least_margins
from adderc.prove.checker_values import Evaluator

Group = tuple[int | None, tuple[tuple[int, int], ...]]  # the last token, tokens that are held


class Step:
    """One answer step: its cases, settled group by group."""

    def __init__(self, check: Any, number: int, claim: dict[str, Any]) -> None:
        if claim.keys() - {"splits"} != {"margin", "near", "tuples"}:
            raise NotUnderstood("a step of another kind")
        self.check, self.number, self.margin = check, number, claim["margin"]
        if not isinstance(self.margin, float) or not 0 < self.margin < np.inf:
            raise NotUnderstood(f"step {number + 1}: a certificate with no margin")
        places, form = check.places, check.form
        self.last = form.prompt_length + number - 1
        self.place = form.answer_place(number)
        near = places.place_of[self.last] if self.last in places.written else None
        self.near_place = near if near is not None and abs(near - self.place) == 1 else None
        self.near, self.tuples, self.splits = (
            self._rows(claim.get(name, []), size)
            for name, size in (("near", 2), ("tuples", 3), ("splits", 6)))

    # ------------------------------------------------------------ cases

    def _rows(self, rows: Any, size: int) -> dict[Any, int]:
        """The rows of a list, each once; for a split the position that it asks for."""
        found: dict[Any, int] = {}
        for row in rows if isinstance(rows, list) else [rows]:
            key = _frozen(row)
            if not isinstance(key, tuple) or len(key) != size:
                raise NotUnderstood(f"step {self.number + 1}: a split of another kind")
            key, position = (key[:5], key[5]) if size == 6 else (key, 0)
            if key in found:
                raise NotUnderstood(f"step {self.number + 1}: a case is split twice")
            found[key] = position
        return found

    def cases(self) -> list[Case]:
        """The cases that the certificate's splits leave; together they cover everything."""
        unused = {*self.near, *self.tuples, *self.splits}
        found: list[Case] = []
        todo = self.possible(self.check.places.all_cases())
        while todo:
            parts: list[Case] = []
            for case in todo:
                key, own = self._split(case)
                unused.discard(key)
                (found if own is None else parts).extend([case] if own is None else own)
            todo = self.possible(parts)
        if unused:
            raise NotUnderstood(f"step {self.number + 1}: a split of no case that there is")
        return found

    def _split(self, case: Case) -> tuple[Any, list[Case] | None]:
        """The row that splits the case, and its parts; None where it is not split."""
        places = self.check.places
        key: tuple[Any, ...] = (case.carry, case.digit_sum)
        if case.near is None and not case.pins and case.digits is None and key in self.near:
            if self.near_place is None:
                raise NotUnderstood(f"step {self.number + 1}: no written token is near")
            return key, self.by_total(case)
        key = (*key, -1 if case.near is None else case.near)
        if case.digits is None and not case.pins and key in self.tuples:
            return key, [replace(case, digits=digits) for digits in places.tuples
                         if sum(digits) == case.digit_sum]
        key = (*key, -1 if case.digits is None else places.tuples.index(case.digits), case.pins)
        position = self.splits.get(key)
        if position is None:
            return None, None
        if position not in places.place_of or not 0 <= position <= self.last or (
                position in dict(case.pins)):
            raise NotUnderstood(f"step {self.number + 1}: a split by no token")
        return key, [replace(case, pins=(*case.pins, (position, token)))
                     for token in range(places.tokens(position))]

    def by_total(self, case: Case) -> list[Case]:
        return [replace(case, near=total) for total in range(self.check.places.totals)]

    def possible(self, cases: Iterable[Case]) -> list[Case]:
        """Those that some operands fit."""
        found: list[Case] = []
        for (_, pins), group in self.groups(cases, by_token=False).items():
            fits = self._reach(group, pins).possible()
            found += [case for case, possible in zip(group, fits, strict=True) if possible]
        return found

    def groups(self, cases: Iterable[Case], by_token: bool = True) -> dict[Group, list[Case]]:
        """Cases that know the same tokens."""
        found: dict[Group, list[Case]] = {}
        for case in cases:
            known = by_token and case.near is not None
            token = self.check.places.token(case.near) if known else None
            found.setdefault((token, case.pins), []).append(case)
        return found

    # ------------------------------------------------------------ margins

    def settle(self, logits: list[Term]) -> tuple[float, int]:
        """The smallest margin over all cases, and how many there are."""
        order, uses = ordered(logits)
        groups = self.groups(self.cases())
        margins: list[float] = []
        free: Group = (None, ())
        if free in groups:
            found, left = self._first(groups.pop(free), order, uses, logits)
            margins += found
            parts = self.possible([part for case in left for part in self.by_total(case)])
            for key, cases in self.groups(parts).items():
                groups.setdefault(key, []).extend(cases)
        for key, cases in groups.items():
            margins += self._group(key, cases, order, uses, logits)
        worst = min(margins)
        if not worst >= self.margin:
            raise NotUnderstood(f"step {self.number + 1}: the bound found is {worst:.4g}, the "
                                f"certificate says {self.margin}")
        return worst, len(margins)

    def _first(self, cases: list[Case], order: list[Term], uses: dict[int, int],
               logits: list[Term]) -> tuple[list[float], list[Case]]:
        """Margins of the cases that need no split, and the other cases."""
        if self.near_place is None:
            return self._group((None, ()), cases, order, uses, logits), []
        try:
            margins = self._group((None, ()), cases, order, uses, logits)
        except NotUnderstood:
            return [], cases
        good = [margin >= self.margin for margin in margins]
        return ([m for m, fine in zip(margins, good, strict=True) if fine],
                [case for case, fine in zip(cases, good, strict=True) if not fine])

    def _group(self, key: Group, cases: list[Case], order: list[Term], uses: dict[int, int],
               logits: list[Term]) -> list[float]:
        """The margin of each case; all of them know the same tokens."""
        evaluator = self.evaluator(key, cases, uses)
        evaluator.run(order)
        right = [self.check.places.token(case.carry + case.digit_sum) for case in cases]
        if max(right) >= len(logits):
            raise NotUnderstood(f"there is no logit for token {max(right)}")
        margins = least_margins(evaluator, [evaluator.value(term) for term in logits], right)
        return [_downward(margin) for margin in margins]

    def evaluator(self, key: Group, cases: list[Case], uses: dict[int, int]) -> Evaluator:
        check, (token, pins) = self.check, key
        known = dict(pins) if token is None else {**dict(pins), self.last: token}
        return Evaluator(check.arithmetic, check.places, self._reach(cases, pins), known,
                         check.kept, uses)

    def _reach(self, cases: Sequence[Case], pins: tuple[tuple[int, int], ...]) -> Reach:
        return Reach(self.check.places, self.place, self.near_place, cases, dict(pins))


def _frozen(row: Any) -> Any:
    """A row of whole numbers and rows as a tuple that can be looked up."""
    if isinstance(row, list):
        return tuple(_frozen(part) for part in row)
    if type(row) is not int:
        raise NotUnderstood("a split that is no list of whole numbers")
    return row


def ordered(roots: list[Term]) -> tuple[list[Term], dict[int, int]]:
    """Every term the roots are computed from, arguments first, and how often each is read."""
    found, todo = {root.number: root for root in roots}, list(roots)
    while todo:
        for arg in todo.pop().args:
            if arg.number not in found:
                found[arg.number] = arg
                todo.append(arg)
    uses = dict.fromkeys(found, 0)
    for term in [*roots, *(arg for other in found.values() for arg in other.args)]:
        uses[term.number] += 1
    return [found[number] for number in sorted(found)], uses


def _downward(value: Any) -> float:
    """A float no larger than the ball; -inf for NaN."""
    if not value.is_finite():
        return -np.inf
    near = float(value.lower().mid())
    while not value.lower() >= near:
        near = float(np.nextafter(near, -np.inf))
    return near


__all__ = ["Step", "ordered"]
