"""Joins the counts of a model that runs in several ways, say by the length of its input.

Takes: a `GraphCount` for each way. Gives: one `GraphCount`.
May import: results, audit.capture, audit.classify, audit.graphcount, audit.literals.

A number that stands at the same place in every way but differs from each to each is a
function of the length, and counts once; one that the source writes down counts each time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from adderc.audit.capture import Call, tensors_in
from adderc.audit.graphcount import GraphCount, counted_with
from adderc.audit.literals import Literals
from adderc.audit.patterns import magnitude
from adderc.results import AuditConstant

Places = dict[Any, AuditConstant]  # form, where, line, how manieth there


def merged(
    counts: Sequence[tuple[Call, GraphCount]], calls: Sequence[Call], literals: Literals
) -> GraphCount:
    """The first count, with the numbers that only the others have."""
    main = counts[0][1]
    if len(counts) == 1:
        return main
    places = [_places(count.constants) for _, count in counts]
    constants = list(main.constants)
    for key in dict.fromkeys(key for found in places for key in found):
        others = [(call, found[key]) for (call, _), found in zip(counts, places, strict=True)
                  if key in found and found[key].counted]
        constants += _more(places[0].get(key), others, calls, literals)
    dead = [note for note in main.dead
            if all(note.name in {n.name for n in count.dead} for _, count in counts)]
    remarks = (*main.remarks, f"the forward pass runs in {len(counts)} ways, all of them counted")
    return replace(main, constants=tuple(constants), dead=tuple(dead), remarks=remarks,
                   counts=counted_with(main.counts, constants, literals))


def _places(constants: Sequence[AuditConstant]) -> Places:
    seen: dict[Any, int] = defaultdict(int)
    found = {}
    for constant in constants:
        place = (constant.form, constant.where, constant.line)
        found[(*place, seen[place])] = constant
        seen[place] += 1
    return found


def _more(
    main: AuditConstant | None, others: Sequence[tuple[Call, AuditConstant]],
    calls: Sequence[Call], literals: Literals,
) -> list[AuditConstant]:
    """What one place adds in the other ways."""
    others = [(call, found) for call, found in others if not _is_offset(found, call, calls)]
    known = [_sizes(main)] if main is not None and main.counted else []
    new = []
    for _, found in others:
        if _sizes(found) not in known:
            known.append(_sizes(found))
            new.append(found)
    written = [found for found in new if all(literals.writes(v) for v in found.values)]
    if len(known) < 3 or len(known) < len(others) or len(written) == len(new):
        return new
    first = [] if main is not None and main.counted else new[:1]
    return [*first, *(found for found in written if found not in first)]


def _sizes(constant: AuditConstant) -> tuple[float, ...]:
    return tuple(magnitude(v) for v in constant.values)


def _is_offset(found: AuditConstant, call: Call, calls: Sequence[Call]) -> bool:
    """The number of tokens that earlier calls of the sum were given: a position."""
    before = sum(tensors_in(other)[0].shape[-1] for other in calls
                 if other.sum == call.sum and other.step < call.step
                 and tensors_in(other) and tensors_in(other)[0].ndim)
    return before > 0 and found.values == (float(before),)
