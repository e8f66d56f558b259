"""The driver: from a spec's text to weights, one line per stage.

    text -parse-> Spec -check-> CheckedSpec -derive | solve | train-> Weights

Takes: a `Source` and `Settings`. Gives: `check_spec` → `CheckReport`, `compile_spec` →
`Compiled` (which can be saved). May import: every room but app.
"""

from __future__ import annotations

import time
from dataclasses import replace

from adderc.errors import NOWHERE, Fault, InputError, Refusal, Source, SpecError
from adderc.lang.check import check_spec as check_parsed
from adderc.lang.check import diagnose
from adderc.lang.checked import CheckedSpec
from adderc.lang.parse import parse
from adderc.lang.syntax import Spec
from adderc.passes.plan import read_plan
from adderc.pipeline.derived import derived
from adderc.pipeline.records import Compiled, provenance, warnings_of
from adderc.pipeline.settings import Settings, given_value, overrides, scalars, set_rules
from adderc.realize.choices import Choices, read_choices
from adderc.realize.derive import GivenValue
from adderc.report.checking import CheckReport
from adderc.report.working import work_sum


def check_spec(source: Source, settings: Settings | None = None) -> CheckReport:
    """Settle the spec and prove its algorithm; WrongAlgorithm if it does not add."""
    settings = settings or Settings()
    checked = settle(parse(source), settings, unchecked=False)
    read_model(checked, settings)
    return CheckReport(checked)


def compile_spec(
    source: Source, settings: Settings | None = None, unchecked: bool = False
) -> Compiled:
    """A spec becomes weights; SpecError, WrongAlgorithm or Refusal say why it cannot."""
    settings = settings or Settings()
    started = time.perf_counter()
    spec = parse(source)
    checked = settle(spec, settings, unchecked)
    choices, given = read_model(checked, settings)
    placed, weights = derived(checked, choices, given)
    seconds = time.perf_counter() - started
    return Compiled(checked, placed, weights, provenance(source, settings, placed.circuit, weights),
                    warnings_of(weights), seconds)


def settle(spec: Spec, settings: Settings, unchecked: bool) -> CheckedSpec:
    """The checked spec; its algorithm must add unless `unchecked`."""
    checked = check_parsed(spec, overrides(settings))
    wrong = checked.contexts is not None and not checked.contexts.adds
    if wrong and not unchecked:
        fault = diagnose(checked)
        raise replace(fault, report=work_sum(checked, fault.operands))
    return checked


def read_model(
    checked: CheckedSpec, settings: Settings
) -> tuple[Choices, tuple[GivenValue, ...]]:
    """The realizations and the given values that the spec and the command line ask for."""
    if checked.algorithm is None:
        raise Refusal(kind="not implemented", source=checked.source, faults=(Fault(
            "a spec without an algorithm can only be trained, which is not implemented yet"),))
    plan = read_plan(checked, settings.dtype)
    for rule in checked.weights:
        if rule.action in ("solve", "train"):
            raise Refusal(kind="not implemented", source=checked.source, faults=(Fault(
                f"{rule.action} is not implemented yet", rule.span, "derive all weights"),))
    given = [given_value(rule, checked) for rule in checked.weights if rule.action == "given"]
    for rule in set_rules(settings):
        try:
            given.append(replace(given_value(rule, checked), span=NOWHERE))
        except SpecError as error:
            raise InputError(f"--set {rule.targets[0]}: {error.faults[0].message}",
                             error.faults[0].hint) from None
    values = tuple(given)
    return read_choices(plan, checked, scalars(values)), values
