"""How a spec's train rule says to train, as typed settings.

Takes: `CheckedSpec`. Gives: `TrainPlan` and `read_train`, raising SpecError with all faults.
May import: errors, format, lang, train.data.

    steps N · batch N · optimizer adamw(lr = …, beta1 = …, beta2 = …, epsilon = …)
    schedule cosine(floor = 0.1) | constant · warmup N · clip X
    every N · keep best
    decay X, or decay dropping(X, factor = 0.1, at = [0.02, 0.2], tokens = 0.7)
    curriculum digits(3, steps = 2000), digits(width), or mixed(…) for numbers of all lengths
    carry mix(share, from = step, to = step): a share of sums that carry a lot, faded out
    carry none(from = step, to = step), mix(…): before that, only sums in which no place
        carries until `from`, fewer and fewer until `to` · stop exact(evaluations) · seed N
    restarts race(N, steps = M, keep = K): N seeds for M steps, the best K go on
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction

from adderc.errors import FaultList, did_you_mean
from adderc.lang.checked import CheckedSpec
from adderc.lang.constants import ConstantFault, rational
from adderc.lang.settle import constants_of
from adderc.lang.syntax import Call, Entry, Expr, Name, Sequence
from adderc.train.data import Draw

KEYS = ("steps", "batch", "optimizer", "schedule", "warmup", "decay", "curriculum", "carry",
        "clip", "keep", "every", "stop", "seed", "restarts")
ENDLESS = 10**12


@dataclass(frozen=True)
class Phase:
    """Operands of at most `most` digits until step `until`; `mixed`: of all lengths up to it."""

    most: int
    until: int
    mixed: bool = False


@dataclass(frozen=True)
class Decay:
    """Weight decay; with `at`, each share of exact sums reached multiplies it by `factor`,
    once a share `tokens` of the answer tokens is right."""

    amount: float = 0.01
    factor: float = 1.0
    at: tuple[float, ...] = ()
    tokens: float = 0.7

    def now(self, exact: float, tokens: float) -> float:
        reached = sum(exact >= share for share in self.at) if tokens >= self.tokens else 0
        return self.amount * self.factor**reached


@dataclass(frozen=True)
class Race:
    """`seeds` seeds are trained for `steps` steps; the `keep` with the least loss go on."""

    seeds: int = 1
    steps: int = 0
    keep: int = 1


@dataclass(frozen=True)
class TrainPlan:
    """One training run, apart from its seed."""

    steps: int = 20_000
    batch: int = 256
    rate: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    schedule: str = "cosine"
    floor: float = 0.1
    warmup: int = 0
    decay: Decay = Decay()
    clip: float = 1.0
    phases: tuple[Phase, ...] = ()
    carry: tuple[float, int, int] = (0.0, 0, 0)
    calm: tuple[int, int] = (0, 0)
    every: int = 1000
    stop: int = 3
    seed: int | None = None
    race: Race = Race()

    def rate_at(self, step: int) -> float:
        """Linear warm-up, then the schedule down to floor x rate."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        if self.schedule == "constant":
            return self.rate
        gone = (step - self.warmup) / max(1, self.steps - self.warmup)
        wave = 0.5 * (1 + math.cos(math.pi * min(1.0, gone)))
        return self.rate * (self.floor + (1 - self.floor) * wave)

    def draw_at(self, step: int) -> Draw:
        """How the sums of a step are drawn."""
        phase = next((p for p in self.phases if step < p.until), self.phases[-1])
        share, first, last = self.carry
        share = 0.0 if step < self.calm[0] else share * (1 - faded(step, first, last))
        calm = 0.0 if self.calm == (0, 0) else 1 - faded(step, *self.calm)
        return Draw(phase.most, phase.mixed, share, calm)


def faded(step: int, first: int, last: int) -> float:
    """How far a fade from step `first` to step `last` has gone; 0 for one that has no length."""
    return 0.0 if last <= first else min(1.0, max(0.0, (step - first) / (last - first)))


def read_train(checked: CheckedSpec, steps: int | None = None) -> TrainPlan:
    """The plan of the spec's train rule; `steps` wins over the spec's."""
    faults = FaultList(checked.source)
    rule = next((rule for rule in checked.weights if rule.action == "train"), None)
    block = rule.block if rule is not None else ()
    plan = _Reader(checked, faults).read(block)
    faults.raise_if_any()
    return replace(plan, steps=steps) if steps is not None else plan


@dataclass
class _Reader:
    checked: CheckedSpec
    faults: FaultList
    names: Mapping[str, Fraction] = field(init=False)

    def __post_init__(self) -> None:
        self.names = constants_of(self.checked.number)

    def read(self, block: tuple[Entry, ...]) -> TrainPlan:
        found: dict[str, Entry] = {}
        for entry in block:
            if entry.key not in KEYS:
                self.faults.add(f"{entry.key!r} has no place in train {{ … }}", entry.span,
                                did_you_mean(entry.key, KEYS) or f"known: {', '.join(KEYS)}")
            elif entry.key in found:
                self.faults.add(f"{entry.key} is given twice", entry.span)
            found[entry.key] = entry
        usual = TrainPlan()
        optimizer = self.call(found, "optimizer", ("adamw",))
        schedule = self.call(found, "schedule", ("cosine", "constant"))
        stop = self.call(found, "stop", ("exact",))
        self.call(found, "keep", ("best",))
        return TrainPlan(
            steps=self.whole(found, "steps", usual.steps, 1),
            batch=self.whole(found, "batch", usual.batch, 1),
            rate=self.option(optimizer, "lr", usual.rate),
            betas=(self.option(optimizer, "beta1", 0.9), self.option(optimizer, "beta2", 0.999)),
            epsilon=self.option(optimizer, "epsilon", usual.epsilon),
            schedule=schedule.name if schedule is not None else usual.schedule,
            floor=self.option(schedule, "floor", 0.0),
            warmup=self.whole(found, "warmup", 0, 0),
            decay=self.decay(found),
            clip=self.single(found, "clip", usual.clip),
            phases=self.phases(found),
            carry=self.carry(found),
            calm=self.calm(found),
            every=self.whole(found, "every", usual.every, 1),
            stop=int(self.argument(stop, usual.stop)),
            seed=self.whole(found, "seed", -1, 0) if "seed" in found else None,
            race=self.race(found),
        )

    def number(self, expr: Expr) -> float:
        try:
            return float(rational(expr, self.names))
        except ConstantFault as fault:
            self.faults.add(fault.message, fault.span, fault.hint)
            return 1.0

    def single(self, found: Mapping[str, Entry], key: str, usual: float) -> float:
        """`clip 1`."""
        entry = found.get(key)
        if entry is None:
            return usual
        if len(entry.items) != 1 or len(entry.items[0].atoms) != 1:
            self.faults.add(f"{key} takes one number", entry.span)
            return usual
        return self.number(entry.items[0].atoms[0])

    def whole(self, found: Mapping[str, Entry], key: str, usual: int, least: int) -> int:
        value = self.single(found, key, usual)
        if key in found and (value != int(value) or value < least):
            self.faults.add(f"{key} takes a whole number from {least} on", found[key].span)
        return int(value)

    def call(
        self, found: Mapping[str, Entry], key: str, known: tuple[str, ...]
    ) -> Call | None:
        """`optimizer adamw(lr = 0.02)`: one of the known words, with options."""
        entry = found.get(key)
        if entry is None:
            return None
        calls = self.calls(entry, known)
        if len(calls) != 1:
            self.faults.add(f"{key} takes one of: {', '.join(known)}", entry.span)
            return None
        return calls[0]

    def calls(self, entry: Entry, known: tuple[str, ...]) -> list[Call]:
        found = []
        for item in entry.items:
            atom = item.atoms[0]
            call = Call(atom.name, span=atom.span) if isinstance(atom, Name) else atom
            if len(item.atoms) != 1 or not isinstance(call, Call) or call.name not in known:
                self.faults.add(f"{entry.key} does not know this", item.span,
                                f"known: {', '.join(known)}")
                continue
            found.append(call)
        return found

    def option(self, call: Call | None, name: str, usual: float) -> float:
        chosen = self.chosen(call, name)
        return usual if chosen is None else self.number(chosen)

    def chosen(self, call: Call | None, name: str) -> Expr | None:
        options = call.options if call is not None else ()
        return next((option.value for option in options if option.name == name), None)

    def argument(self, call: Call | None, usual: float) -> float:
        if call is None:
            return usual
        if len(call.args) != 1:
            self.faults.add(f"{call.name} takes one number", call.span)
            return usual
        return self.number(call.args[0])

    def decay(self, found: Mapping[str, Entry]) -> Decay:
        """`decay 0.01`, or `decay dropping(0.01, factor = 0.1, at = [0.02, 0.2])`."""
        entry = found.get("decay")
        if entry is None:
            return Decay()
        if not (len(entry.items) == 1 and isinstance(entry.items[0].atoms[0], Call)):
            return Decay(self.single(found, "decay", 0.01))
        call = self.call(found, "decay", ("dropping",))
        at = self.chosen(call, "at")
        shares = at.items if isinstance(at, Sequence) else () if at is None else (at,)
        return Decay(self.argument(call, 0.01), self.option(call, "factor", 0.1),
                     tuple(self.number(share) for share in shares) or (0.02, 0.2),
                     self.option(call, "tokens", 0.7))

    def phases(self, found: Mapping[str, Entry]) -> tuple[Phase, ...]:
        """`curriculum digits(3, steps = 2000), digits(width)`."""
        width = self.checked.number.width
        entry = found.get("curriculum")
        calls = self.calls(entry, ("digits", "mixed")) if entry is not None else []
        phases, until = [], 0
        for number, call in enumerate(calls):
            most, steps = self.argument(call, width), self.chosen(call, "steps")
            if most != int(most) or most < 1:
                self.faults.add("digits takes a number of digits", call.span)
            if (steps is None) != (number == len(calls) - 1):
                self.faults.add("every phase but the last has its steps", call.span,
                                "for example: digits(3, steps = 2000), digits(width)")
            until = ENDLESS if steps is None else until + int(self.number(steps))
            phases.append(Phase(min(int(most), width), until, call.name == "mixed"))
        return tuple(phases) or (Phase(width, ENDLESS),)

    def carry(self, found: Mapping[str, Entry]) -> tuple[float, int, int]:
        """`carry mix(0.8, from = 15000, to = 45000)`, also behind `none(…)`."""
        call = self.carries(found, "mix")
        if call is None:
            return 0.0, 0, 0
        return (self.argument(call, 0.0), int(self.option(call, "from", 0)),
                int(self.option(call, "to", 0)))

    def calm(self, found: Mapping[str, Entry]) -> tuple[int, int]:
        """`carry none(from = 800, to = 2400)`."""
        call = self.carries(found, "none")
        first, last = int(self.option(call, "from", 0)), int(self.option(call, "to", 0))
        if call is not None and not 0 <= first < last:
            self.faults.add("none fades from one step to a later one", call.span,
                            "for example: none(from = 800, to = 2400)")
        return first, last

    def carries(self, found: Mapping[str, Entry], name: str) -> Call | None:
        """The one call of that name in the carry entry."""
        entry = found.get("carry")
        calls = self.calls(entry, ("none", "mix")) if entry is not None else []
        named = [call for call in calls if call.name == name]
        if len(named) > 1:
            self.faults.add(f"carry takes one {name}(…)", named[1].span)
        return named[0] if named else None

    def race(self, found: Mapping[str, Entry]) -> Race:
        """`restarts race(24, steps = 4000, keep = 3)`, or `restarts 3` without a race."""
        entry = found.get("restarts")
        if entry is None:
            return Race()
        if not (len(entry.items) == 1 and isinstance(entry.items[0].atoms[0], Call)):
            count = self.whole(found, "restarts", 1, 1)
            return Race(count, 0, count)
        call = self.call(found, "restarts", ("race",))
        return Race(int(self.argument(call, 1)), int(self.option(call, "steps", 0)),
                    int(self.option(call, "keep", 1)))
