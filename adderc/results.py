"""Inert records of what a judge found; nothing here runs or judges a model.

Takes: nothing. Gives: `Failure`, `VerifyResult`, `VerifyReport`.
May import: the standard library only; every other room may import this one.
"""

from __future__ import annotations

from dataclasses import dataclass

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
