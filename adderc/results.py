"""Inert records of what a judge found; nothing here runs or judges a model.

Takes: nothing. Gives: the records of verify, audit, trace and export.
May import: the standard library only; every other room may import this one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

QUALIFYING_ACCURACY = 0.99


@dataclass(frozen=True)
class Failure:
    """One wrong sum; `got` is None where the model answered with tokens that are no number."""

    operands: tuple[int, ...]
    expected: int
    got: int | None


@dataclass(frozen=True)
class VerifyResult:
    """What one suite found.

    `planned` tuples were to be run, `total` were run (fewer after an interrupt), `passed`
    were right. `failures` holds the first of the `failed` ones. `method` says how the
    model was run; `seconds` is the time of generating, running and comparing.
    """

    suite: str
    planned: int
    total: int
    passed: int
    failures: tuple[Failure, ...]
    seconds: float
    method: str = "greedy"
    interrupted: bool = False

    @property
    def failed(self) -> int:
        return self.total - self.passed

    @property
    def accuracy(self) -> float:
        """Right ones among those run; 0 where none was run."""
        return self.passed / self.total if self.total else 0.0

    @property
    def additions_per_second(self) -> float:
        return self.total / self.seconds if self.seconds > 0 else 0.0

    @property
    def qualifies(self) -> bool | None:
        """The public leaderboard's bar, at least 99%; None for any other suite."""
        if self.suite != "adderboard":
            return None
        return not self.interrupted and self.accuracy >= QUALIFYING_ACCURACY


@dataclass(frozen=True)
class VerifyReport:
    """The suites that were run on one model, in order."""

    results: tuple[VerifyResult, ...]

    @property
    def total(self) -> int:
        return sum(result.total for result in self.results)

    @property
    def passed(self) -> int:
        return sum(result.passed for result in self.results)

    @property
    def accuracy(self) -> float:
        return self.passed / self.total if self.total else 0.0

    @property
    def seconds(self) -> float:
        return sum(result.seconds for result in self.results)

    @property
    def additions_per_second(self) -> float:
        return self.total / self.seconds if self.seconds > 0 else 0.0

    @property
    def qualifies(self) -> bool | None:
        """The leaderboard's verdict where its suite was run, else None."""
        verdicts = [r.qualifies for r in self.results if r.qualifies is not None]
        return all(verdicts) if verdicts else None

    @property
    def failures(self) -> tuple[Failure, ...]:
        return tuple(failure for result in self.results for failure in result.failures)

    @property
    def interrupted(self) -> bool:
        return any(result.interrupted for result in self.results)

    @property
    def clean(self) -> bool:
        """Every planned tuple was run and was right."""
        return not self.interrupted and self.total > 0 and self.passed == self.total


# ---------------------------------------------------------------- audit

CONVENTIONS = ("declared", "scalars", "strict", "strict_positional", "nonzero", "dense")


@dataclass(frozen=True)
class Counts:
    """One model by every convention; None where a convention cannot be applied."""

    declared: int
    scalars: int | None
    strict: int
    strict_positional: int
    nonzero: int | None
    dense: int | None


@dataclass(frozen=True)
class AuditLeaf:
    """One declared tensor: where it belongs, what it holds, where it comes from.

    `kind` is "parameter", "frozen parameter" or "held tensor"; `ties` are the other places
    that use it; `line` is a line of the spec or of the source file, 0 where unknown.
    """

    name: str
    component: str
    kind: str
    shape: tuple[int, ...]
    values: tuple[float, ...]
    line: int = 0
    how: str = ""
    meaning: str = ""
    ties: tuple[str, ...] = ()

    @property
    def elements(self) -> int:
        size = 1
        for length in self.shape:
            size *= length
        return size


@dataclass(frozen=True)
class AuditConstant:
    """Numbers at one place that are no declared parameter: magnitudes, each once.

    `role` is "hidden constant" or "positional" (both counted), or the reason why it is not:
    "structural", "mask fill", "epsilon", "squaring", "internal", "index", "unused".
    """

    values: tuple[float, ...]
    role: str
    form: str
    where: str
    line: int = 0
    note: str = ""

    @property
    def counted(self) -> bool:
        return self.role in ("hidden constant", "positional")


@dataclass(frozen=True)
class AuditNote:
    """Something about a tensor (dead, insensitive, equal to another) or about a source line."""

    name: str
    reason: str
    line: int = 0


@dataclass(frozen=True)
class RuleVerdict:
    """`verdict` is "pass", "fail" or "not shown"."""

    rule: str
    verdict: str
    evidence: str


@dataclass(frozen=True)
class Choice:
    """What one choice of the structure costs beside the plain dense matrix."""

    component: str
    place: str
    form: str
    cost: int
    plain: int
    line: int = 0


@dataclass(frozen=True)
class AuditReport:
    """Everything that an audit of one model found.

    `second` says how the independent second count came out; `remarks` are what the counts
    rest on; `findings` are lines of the source that were not shown to be harmless.
    """

    name: str
    kind: str
    counts: Counts
    leaves: tuple[AuditLeaf, ...]
    constants: tuple[AuditConstant, ...]
    dead: tuple[AuditNote, ...] = ()
    insensitive: tuple[AuditNote, ...] = ()
    duplicates: tuple[AuditNote, ...] = ()
    derived: tuple[AuditNote, ...] = ()
    findings: tuple[AuditNote, ...] = ()
    rules: tuple[RuleVerdict, ...] = ()
    choices: tuple[Choice, ...] = ()
    components: tuple[tuple[str, int], ...] = ()
    remarks: tuple[str, ...] = ()
    second: str = ""
    agrees: bool = True
    claimed: int | None = None


# ---------------------------------------------------------------- trace


@dataclass(frozen=True)
class TraceRead:
    """One position that a head looked at: what stands there, its token, its weight."""

    position: int
    label: str
    token: int
    weight: float


@dataclass(frozen=True)
class TraceHead:
    """One head at one step: its strongest reads, and the weight left for all others."""

    block: int
    head: int
    reads: tuple[TraceRead, ...]
    rest: float


@dataclass(frozen=True)
class TraceHidden:
    """The units of one feed-forward half: sums before the activation, values after it."""

    block: int
    before: tuple[float, ...]
    after: tuple[float, ...]


@dataclass(frozen=True)
class TraceStep:
    """One answer token: what the model looked at, held and chose.

    `place` is the digit's place (0 = least significant); `label` and `token` are what
    stands at the query's `position`. `residual` are the stages of the residual stream,
    (name, one value per dimension). `right` is the token that would continue the right
    sum, `token_written` the one the model wrote, None for no token at all; `margin` is the
    winner's logit less the runner-up's. `quantities` are the spec's own values, where it
    was given.
    """

    step: int
    place: int
    position: int
    label: str
    token: int
    heads: tuple[TraceHead, ...]
    residual: tuple[tuple[str, tuple[float, ...]], ...]
    hidden: tuple[TraceHidden, ...]
    logits: tuple[float, ...]
    token_written: int | None
    runner_up: int | None
    margin: float
    right: int
    quantities: tuple[tuple[str, int | Fraction], ...] = ()

    @property
    def wrong(self) -> bool:
        return self.token_written != self.right


@dataclass(frozen=True)
class Trace:
    """One sum followed through a model, step by step in order of writing.

    `slots` name the residual dimensions; `first_wrong` is the first step whose token is
    not the right one. `base` is that of the digits.
    """

    operands: tuple[int, ...]
    expected: int
    got: int | None
    base: int
    slots: tuple[str, ...]
    prompt: tuple[tuple[str, int], ...]
    steps: tuple[TraceStep, ...]

    @property
    def first_wrong(self) -> int | None:
        return next((step.step for step in self.steps if step.wrong), None)


@dataclass(frozen=True)
class ProofResult:
    """The verdict of a proof or of a search for a counterexample.

    `verdict` is "PROVEN", "REFUTED" or "UNDECIDED"; `grade` "portable" or "kernel" for a
    PROVEN. `margin` is the smallest proven gap between the right token's logit and another
    one, or for UNDECIDED the bound that stayed open; `step`, `case` and `competing_token` say
    where, `margin_ulp` the same in units in the last place of the largest logit,
    `rounding_share` the part of the exact margin there that rounding may use up. `holds_for`
    names the build and shapes of a proof of grade kernel. `evidence` is the certificate of a
    PROVEN, as plain JSON data; it is not part of the answer shown.
    """

    verdict: str
    grade: str | None = None
    counterexample: Failure | None = None
    margin: float | None = None
    margin_ulp: float | None = None
    rounding_share: float | None = None
    step: int | None = None
    case: str | None = None
    competing_token: int | None = None
    reason: str = ""
    cases: int = 0
    seconds: float = 0.0
    assumptions: tuple[str, ...] = ()
    holds_for: str = ""
    evidence: dict[str, object] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class CheckResult:
    """What an independent checker says of a certificate: accepted, or why not."""

    accepted: bool
    reason: str = ""
    grade: str | None = None
    margin: float | None = None
    cases: int = 0
    seconds: float = 0.0
    assumptions: tuple[str, ...] = ()
    holds_for: str = ""


# ---------------------------------------------------------------- export


@dataclass(frozen=True)
class ExportResult:
    """A file that was written after its logits were compared with the module's.

    `largest_difference` over `prefixes` prefixes is at most `allowed`; 0 is bit-equal.
    """

    path: str
    target: str
    parameters: int
    lines: int
    prefixes: int
    largest_difference: float
    allowed: float
