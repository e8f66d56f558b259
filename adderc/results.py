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
