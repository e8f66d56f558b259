"""Alignment: the period, direction and phase at which a head meets its digits and no others.

Takes: the circuit's fetches, the format, and what the model part says of positions. Gives:
`align` → `Alignment`, or a `Refusal` that says which positions collide.
May import: errors, format, ir.

At step i the query stands at q = prompt_length - 1 + i. Digit i + o of an operand written
least significant first stands at q + r, of one written most significant first at r - q, for
a residue r that does not depend on i. A head with period P, direction d = +1 or -1 and
centre c scores position p by

    S * rho(p) * cos(2 pi (p - d q - c) / P)

where rho is the key gain of that position. Targets of one head may lie on one phase, or on
two (P then puts them on both sides of the centre; a shift of the centre weighs them:
they score -2 S sin(pi delta / P) sin(2 pi shift / P) apart, which is to be the logarithm
of the weights' ratio). All other digits must score less: the least difference is the gap.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np

from adderc.errors import Fault, Refusal, Source, Span
from adderc.format.prompt import DigitTuples, Format, OperandDigits
from adderc.ir.ops import Fetch, Node, Target
from adderc.ir.parts import is_answer, pair_terms
from adderc.passes.features import feature_of, feature_values

Array = np.ndarray
SHARP = 40.0  # score units of gap at which an aligned head has settled
HINT = ("let the period be searched, give each digit a head of its own, or put a symbol that is 0 "
        "before and behind the operands")
BACKWARDS = "would have to run backwards, but rotary positions show differences only"
SAME_ORDER = "write operands and answer in the same order"
EXHAUSTIVE = 160  # sequence length up to which every integer period is tried


@dataclass(frozen=True)
class Ring:
    """What the model part says of positions: a fixed period, or None to search one.

    Keys at positions from `low_from` on (None: nowhere) have a gain `low` times the others'.
    `codes` are the numbers that positions are known by (None: 0, 1, 2, …). With `forward` a
    head sees only differences of positions (rotary ones), so no head can run backwards.
    With `routes` there are no scores: a head sees fixed distances and averages over them.
    """

    period: Fraction | None = None
    low_from: int | None = None
    low: float = 0.25
    codes: tuple[int, ...] | None = None
    forward: bool = False
    routes: bool = False


@dataclass(frozen=True)
class HeadPhase:
    """Where one fetch resonates.

    `centre` in position units; two phases lie at centre ± `spread`/2 with the weights'
    natural log ratio `log_ratio` (near minus far side); `total` is the sum of coefficients.
    """

    fetch: str
    direction: int
    centre: Fraction
    spread: Fraction
    log_ratio: float
    total: Fraction
    gap: float

    def shift(self, period: Fraction, scale: float) -> float:
        """How far the centre moves so that the two phases are weighed as wanted."""
        if not self.spread or not self.log_ratio:
            return 0.0
        sine = -self.log_ratio / (2 * scale * math.sin(math.pi * float(self.spread / period)))
        return float(period) / (2 * math.pi) * math.asin(max(-1.0, min(1.0, sine)))


@dataclass(frozen=True)
class Alignment:
    """One period for all heads, and each fetch's phase; `gap` is the least over heads.

    On a ring of routes `spread` and `centre` are unused. Then `routes` are the distances
    query - key that each head sees, or `tables` the positions that each of its queries sees.
    """

    period: Fraction
    heads: tuple[HeadPhase, ...]
    ring: Ring = Ring()
    routes: tuple[tuple[int, ...], ...] = ()
    tables: tuple[tuple[tuple[int, ...], ...], ...] = ()

    @property
    def gap(self) -> float:
        return min((head.gap for head in self.heads), default=2.0)

    def head(self, fetch: str) -> HeadPhase:
        return next(head for head in self.heads if head.fetch == fetch)


@dataclass(frozen=True)
class Layout:
    """Where digits stand: per step and fetch, the positions to read with their coefficients.

    `codes` are the numbers by which a ring knows positions; without them, 0, 1, 2, …
    """

    format: Format
    codes: tuple[int, ...] | None = None

    @property
    def length(self) -> int:
        """Tokens that are ever read: all but the last answer token."""
        return self.format.prompt_length + self.steps - 1

    @cached_property
    def places(self) -> Array:
        """The code of every position [T]."""
        if self.codes is None:
            return np.arange(self.length)
        return np.array(self.codes[: self.length])

    @property
    def visible(self) -> Array:
        """Which positions a step sees [steps, T]."""
        return np.arange(self.length)[None, :] <= (
            np.arange(self.steps)[:, None] + self.first_query)

    @property
    def first_query(self) -> int:
        return self.format.prompt_length - 1

    @property
    def steps(self) -> int:
        return self.format.steps

    @cached_property
    def origins(self) -> dict[tuple[int, int], int]:
        """The position of each operand digit, by operand and place."""
        return {(cell.operand, cell.place): position
                for position, cell in enumerate(self.format.cells) if cell.kind == "digit"}

    @cached_property
    def pairs(self) -> dict[int, int]:
        """The position of each place's pair."""
        return {cell.place: position for position, cell in enumerate(self.format.cells)
                if cell.kind == "tuple"}

    def position(self, name: str, place: int) -> int | None:
        """The position of a digit; None where there is none."""
        if is_answer(name):
            inside = 0 <= place < self.steps
            return self.format.prompt_length + self.format.answer_place(place) if inside else None
        if pair_terms(name) is not None:
            return self.pairs.get(place)
        return self.origins.get((self.format.number.names.index(name), place))

    def direction(self, name: str) -> int:
        """+1 where the digit's code rises with its place, -1 where it falls."""
        if is_answer(name):
            return 1 if self.format.answer_order == "lsd" else -1
        if self.codes is not None:
            return 1
        if pair_terms(name) is not None:
            order = next(s.order for s in self.format.prompt if isinstance(s, DigitTuples))
            return 1 if order == "lsd" else -1
        operand = self.format.number.names.index(name)
        order = next(s.order for s in self.format.prompt
                     if isinstance(s, OperandDigits) and s.operand == operand)
        return 1 if order == "lsd" else -1

    def residue(self, target: Target) -> int:
        """code of the target - direction * code of the query, the same at every step."""
        origin = self.position(target.name, 0)
        assert origin is not None
        direction = self.direction(target.name)
        codes = self.places if origin < self.length else np.arange(origin + 1)
        return int(codes[origin]) + direction * (
            target.offset - int(self.places[self.first_query]))

    def values(self) -> Array:
        """Per position, 1 where its token may be worth something: 0 for a neutral symbol."""
        form, ids = self.format, np.arange(self.format.vocabulary)
        names = [f"({'+'.join(form.number.names)})"] if self.pairs else list(form.number.names)
        features = {feature_of(form, name) for name in (*names, "s")}
        worth = sum((np.abs(feature_values(form, f)) for f in features), 0 * ids) > 0
        prompt = [int(cell.kind != "symbol" or worth[form.ids[cell.text]])
                  for cell in form.cells]
        return np.array(prompt + [1] * (self.steps - 1))

    def wanted(self, targets: Iterable[Target]) -> Array:
        """Coefficients [steps, positions] that a fetch wants to read."""
        table = np.zeros((self.steps, self.length))
        for step in range(self.steps):
            for target in targets:
                position = self.position(target.name, step + target.offset)
                if position is not None and position <= self.first_query + step:
                    table[step, position] += float(target.coefficient)
        return table


def align(
    fetches: tuple[Node, ...], form: Format, ring: Ring, source: Source, span: Span
) -> Alignment:
    """The period with the widest gap at which every fetch resonates with its targets alone."""
    layout = Layout(form, ring.codes)
    targets = {node.name: node.op.targets for node in fetches if isinstance(node.op, Fetch)}
    faults: list[str] = []
    best: Alignment | None = None
    if ring.routes:
        return _routed(targets, layout, ring, source, span)
    for period in _periods(layout, targets, ring):
        if best is not None and best.gap >= 1 - math.cos(2 * math.pi / period.numerator):
            break  # phases are multiples of 1/numerator turns: no later period does better
        heads: list[HeadPhase] = []
        for name, wanted in targets.items():
            found = _phase(name, wanted, layout, ring, period)
            if isinstance(found, str):
                faults.append(f"period {period}: {found}")
                break
            heads.append(found)
        else:
            aligned = Alignment(period, tuple(heads), ring)
            if best is None or aligned.gap > best.gap + 1e-9:
                best = aligned
    if best is not None:
        return best
    shown = faults[:1] if ring.period is not None else faults[-1:]
    raise Refusal(kind="positions collide", source=source, faults=tuple(
        Fault(f"no phase aligns the heads; {text}", span,
              SAME_ORDER if BACKWARDS in text else HINT) for text in shown))


def _periods(
    layout: Layout, targets: dict[str, tuple[Target, ...]], ring: Ring
) -> list[Fraction]:
    """Candidate periods: what makes two targets coincide or stand side by side.

    In order of numerator, the number of distinct phases, then of denominator.
    """
    if ring.period is not None:
        return [ring.period]
    length, prompt = layout.format.length, layout.format.prompt_length
    found = {Fraction(p) for p in (length, length + 1, prompt, prompt + 1)}
    if layout.codes is not None:
        return [Fraction(int(layout.places.max()) + 1)]
    if length <= EXHAUSTIVE:
        found |= {Fraction(p) for p in range(2, length)}
    for wanted in targets.values():
        residues = [layout.residue(t) for t in wanted]
        for distance in {abs(a - b) for a in residues for b in residues}:
            for beside in (Fraction(0), Fraction(1, 2), Fraction(1)):
                for turns in range(1, 5):
                    found |= {(distance + beside) / turns, (distance - beside) / turns}
    return sorted((p for p in found if p >= Fraction(3, 2)),
                  key=lambda p: (p.numerator, p.denominator))


def _phase(
    name: str, targets: tuple[Target, ...], layout: Layout, ring: Ring, period: Fraction
) -> HeadPhase | str:
    """The phase of one fetch at this period, or why there is none."""
    directions = {layout.direction(t.name) for t in targets}
    if len(directions) > 1:
        return f"{name} reads digits of both directions; each needs a head of its own"
    direction = directions.pop()
    if ring.forward and direction < 0:
        return f"{name} {BACKWARDS}"
    groups: dict[Fraction, set[Fraction]] = {}
    for target in targets:
        groups.setdefault(Fraction(layout.residue(target)) % period, set()).add(
            target.coefficient)
    if any(len(coefficients) > 1 for coefficients in groups.values()):
        return f"{name} weighs digits on one phase differently"
    if len(groups) > 2:
        return f"{name} needs {len(groups)} phases, a head has two at most"
    phases = sorted(groups)
    near, far = phases[0], phases[-1]
    if far - near > period / 2:
        near, far = far, near + period
    spread = far - near
    ratio = groups[near % period].copy().pop() / groups[far % period].copy().pop()
    total = sum((t.coefficient for t in targets), Fraction(0))
    head = HeadPhase(name, direction, (near + far) / 2 % period, spread, math.log(ratio), total,
                     0.0)
    return _gap(head, layout.wanted(targets), layout, ring, period)


def distances(head: HeadPhase, layout: Layout, period: Fraction, shift: float) -> Array:
    """Phase of every position [steps, positions] from the head's centre, in radians."""
    unit = period.denominator * head.centre.denominator
    ring = int(period * unit)
    queries = layout.places[layout.first_query :][:, None]
    exact = (layout.places[None, :] - head.direction * queries) * unit - int(head.centre * unit)
    return 2 * math.pi * ((exact % ring) / ring - shift / float(period))


def _gap(
    head: HeadPhase, wanted: Array, layout: Layout, ring: Ring, period: Fraction
) -> HeadPhase | str:
    """The head with its gap, if it settles on its targets at every step."""
    seen = layout.visible
    keys = np.ones(wanted.shape[1])
    if ring.low_from is not None:
        keys[ring.low_from :] = ring.low
    cosine = np.where(seen, np.cos(distances(head, layout, period, 0.0)) * keys, -np.inf)
    level = math.cos(math.pi * float(head.spread / period))
    resonant = cosine >= level - 1e-9
    others = np.where(resonant | ~seen, -np.inf, cosine).max(axis=1)
    top = np.where(resonant.any(axis=1), level, np.nan)
    gap = float(np.nanmin(np.where(np.isfinite(others), top - others, 2.0)))
    empty = np.flatnonzero(~resonant.any(axis=1))
    if len(empty):
        loudest = int(np.argmax(cosine[empty[0]]))
        if layout.values()[loudest] or wanted[empty[0]].any():
            return (f"at step {empty[0]} nothing stands where {head.fetch} looks, "
                    f"position {loudest} would be read instead")
        gap = min(gap, 1e-3)
    if gap < 1e-9:
        return f"{head.fetch} cannot tell its digits from others"
    scale = SHARP / gap
    score = scale * np.where(
        seen, np.cos(distances(head, layout, period, head.shift(period, scale))) * keys, -np.inf)
    weights = np.exp(score - score.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    wrong = np.abs(weights * float(head.total) - wanted) * (layout.values() > 0)
    if wrong.max() > 1e-3:
        step, position = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
        what = "is not read" if wanted[step, position] else "is read too"
        return f"at step {step} position {position} {what} by {head.fetch}"
    return HeadPhase(head.fetch, head.direction, head.centre, head.spread, head.log_ratio,
                     head.total, gap)


def _routed(
    targets: dict[str, tuple[Target, ...]], layout: Layout, ring: Ring, source: Source, span: Span
) -> Alignment:
    """Heads that see fixed distances where averaging over them reads the digits; else heads
    that see fixed positions at every step."""
    heads: list[HeadPhase] = []
    routes: list[tuple[int, ...] | None] = []
    tables: list[tuple[tuple[int, ...], ...]] = []
    for name, wanted in targets.items():
        found: tuple[tuple[int, ...], ...] | str = (
            "it weighs digits differently, a route averages")
        if len({t.coefficient for t in wanted}) == 1:
            routes.append(_distances(wanted, layout))
            found = _table(wanted, layout)
        if isinstance(found, str):
            raise Refusal(kind="positions collide", source=source, faults=(Fault(
                f"no fixed route reads {name}: {found}", span, HINT),))
        tables.append(found)
        total = sum((t.coefficient for t in wanted), Fraction(0))
        heads.append(HeadPhase(name, 1, Fraction(0), Fraction(0), 0.0, total, 2.0))
    if None in routes:
        return Alignment(Fraction(1), tuple(heads), ring, (), tuple(tables))
    return Alignment(Fraction(1), tuple(heads), ring, tuple(r for r in routes if r is not None))


def _distances(wanted: tuple[Target, ...], layout: Layout) -> tuple[int, ...] | None:
    """The distances query - key of the digits, if averaging over them reads the digits."""
    offsets = {-layout.residue(t) for t in wanted}
    if any(layout.direction(t.name) < 0 for t in wanted) or min(offsets) < 0:
        return None
    pattern = distance_pattern(offsets, layout)
    return tuple(sorted(offsets)) if _reads(pattern, wanted, layout) else None


def _table(wanted: tuple[Target, ...], layout: Layout) -> tuple[tuple[int, ...], ...] | str:
    """The positions that each query sees, in the prompt none: the digits that exist; where
    only some do, symbols that count 0 beside them, so that the average stays one over the
    number of digits."""
    steps: list[tuple[int, ...]] = [()] * layout.first_query
    for step, row in enumerate(layout.wanted(wanted)):
        found = np.flatnonzero(row)
        if 0 < len(found) < len(wanted):
            neutral = np.flatnonzero(layout.visible[step] & (layout.values() == 0))
            found = np.concatenate([found, neutral[: len(wanted) - len(found)]])
            if len(found) < len(wanted):
                return f"at step {step} only some of its digits exist, and no symbol is 0"
        steps.append(tuple(int(p) for p in sorted(found)))
    return tuple(steps)


def distance_pattern(offsets: Iterable[int], layout: Layout) -> Array:
    """Uniform average over the positions at these distances that exist [steps, T]."""
    queries = np.arange(layout.steps)[:, None] + layout.first_query
    seen = np.isin(queries - np.arange(layout.length)[None, :], list(offsets)) & layout.visible
    return seen / np.maximum(seen.sum(axis=1, keepdims=True), 1)


def route_pattern(alignment: Alignment, fetch: str, layout: Layout) -> Array:
    """What a routed head averages over [steps, T]."""
    number = [head.fetch for head in alignment.heads].index(fetch)
    if alignment.routes:
        return distance_pattern(alignment.routes[number], layout)
    pattern = np.zeros((layout.steps, layout.length))
    for step, places in enumerate(alignment.tables[number][layout.first_query :]):
        pattern[step, list(places)] = 1 / max(1, len(places))
    return pattern


def _reads(pattern: Array, wanted: tuple[Target, ...], layout: Layout) -> bool:
    table = layout.wanted(wanted)
    wrong = np.abs(pattern * table.sum(axis=1).max() - table) * (layout.values() > 0)
    return float(wrong.max(initial=0.0)) <= 1e-9
