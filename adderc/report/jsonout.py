"""Results as JSON values; operands and sums are decimal strings.

Takes: result records. Gives: dicts of plain values, and `dumps`.
May import: results.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from adderc.results import Failure, VerifyReport, VerifyResult


def dumps(value: Mapping[str, Any]) -> str:
    """One line of strict JSON; a number that is not finite becomes null."""
    return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False)


def verify_json(report: VerifyReport) -> dict[str, Any]:
    """Totals over all suites, then each suite on its own under `suites`."""
    return {
        "passed": report.passed,
        "total": report.total,
        "accuracy": report.accuracy,
        "qualifies": report.qualifies,
        "failures": [failure_json(failure) for failure in report.failures],
        "additions_per_second": report.additions_per_second,
        "seconds": report.seconds,
        "interrupted": report.interrupted,
        "suites": [suite_json(result) for result in report.results],
    }


def suite_json(result: VerifyResult) -> dict[str, Any]:
    """One suite's counts, without its failures."""
    return {
        "suite": result.suite,
        "planned": result.planned,
        "passed": result.passed,
        "total": result.total,
        "accuracy": result.accuracy,
        "method": result.method,
        "seconds": result.seconds,
    }


def failure_json(failure: Failure) -> dict[str, Any]:
    """A wrong sum; `got` is null where the answer was no number."""
    return {
        "operands": [str(value) for value in failure.operands],
        "expected": str(failure.expected),
        "got": None if failure.got is None else str(failure.got),
    }


def sums_json(sums: Sequence[int | None]) -> dict[str, Any]:
    """The answers of `add`; null where the answer was no number."""
    return {"sums": [None if value is None else str(value) for value in sums]}


def error_json(message: str) -> dict[str, Any]:
    """What `--json` prints where a command fails."""
    return {"error": message}


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
