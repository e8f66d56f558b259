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
from adderc.passes.prove_places import diagnose_places, prove_places
from adderc.pipeline.derived import derived
from adderc.pipeline.records import Compiled, provenance, solve_record, warnings_of
from adderc.pipeline.settings import Settings, given_value, overrides, scalars, set_rules
from adderc.pipeline.solve import (
    FreeChoices,
    SolverOptions,
    solve_rules,
    solved,
    solves_all,
)
from adderc.realize.choices import Choices, read_choices
from adderc.realize.derive import GivenValue
from adderc.realize.free import free_structure
from adderc.realize.place_choices import PlaceChoices, read_place_choices
from adderc.report.checking import CheckReport
from adderc.report.working import work_sum
from adderc.train.plan import read_train
from adderc.weights.structure import Structure


def check_spec(source: Source, settings: Settings | None = None) -> CheckReport:
    """Settle the spec and prove its algorithm; WrongAlgorithm if it does not add."""
    settings = settings or Settings()
    checked = settle(parse(source), settings, unchecked=False)
    structure = planned(checked, settings)
    if structure is None:
        read_model(checked, settings)
    elif any(rule.action == "train" for rule in checked.weights):
        read_train(checked)
    return CheckReport(checked, structure)


def planned_spec(source: Source, settings: Settings) -> Structure | None:
    """The structure that a spec's model part says alone; None where weights are derived."""
    return planned(check_parsed(parse(source), overrides(settings)), settings)


def planned(checked: CheckedSpec, settings: Settings) -> Structure | None:
    """The structure of a model whose weights are all solved for, or all trained."""
    rules = checked.weights
    if not rules or any(rule.targets or rule.action not in ("solve", "train") for rule in rules):
        return None
    return free_structure(read_plan(checked, settings.dtype), checked)


def compile_spec(
    source: Source, settings: Settings | None = None, unchecked: bool = False,
    solver: SolverOptions | None = None,
) -> Compiled:
    """A spec becomes weights; SpecError, WrongAlgorithm, Refusal, Infeasible or Unsolved say
    why it cannot. With `solver`, something must be left to solve."""
    settings = settings or Settings()
    started = time.perf_counter()
    spec = parse(source)
    checked = settle(spec, settings, unchecked)
    choices, given = read_model(checked, settings)
    if solve_rules(checked):
        return _solved(source, settings, checked, choices, given, solver, started)
    if solver is not None:
        raise InputError(f"{source.name}: nothing is to be solved",
                         "write weights { solve … }, or use adderc compile")
    assert not isinstance(choices, FreeChoices)
    placed, weights = derived(checked, choices, given)
    seconds = time.perf_counter() - started
    return Compiled(checked, placed, weights, provenance(source, settings, placed.circuit, weights),
                    warnings_of(weights), seconds)


def _solved(
    source: Source, settings: Settings, checked: CheckedSpec,
    choices: Choices | PlaceChoices | FreeChoices, given: tuple[GivenValue, ...],
    solver: SolverOptions | None, started: float,
) -> Compiled:
    """The weights that the spec's solve rules ask for."""
    if isinstance(choices, PlaceChoices):
        raise Refusal(kind="not implemented", source=checked.source, faults=(Fault(
            "solving takes algorithms that see a few digits at a time",
            solve_rules(checked)[0].span, "derive all weights"),))
    placed, weights, found = solved(
        checked, choices, given, settings.seed, solver or SolverOptions())
    circuit = placed.circuit if placed is not None else None
    record = provenance(source, settings, circuit, weights) | {
        "solve": solve_record(found, weights.norm)}
    return Compiled(checked, placed, weights, record, warnings_of(weights),
                    time.perf_counter() - started, f"solve, {found.method}", found)


def settle(spec: Spec, settings: Settings, unchecked: bool) -> CheckedSpec:
    """The checked spec; its algorithm must add unless `unchecked`."""
    checked = check_parsed(spec, overrides(settings))
    if checked.places is not None:
        checked = prove_places(checked)
    if checked.adds is False and not unchecked:
        fault = diagnose(checked) if checked.places is None else diagnose_places(checked)
        raise replace(fault, report=work_sum(checked, fault.operands))
    return checked


def read_model(
    checked: CheckedSpec, settings: Settings
) -> tuple[Choices | PlaceChoices | FreeChoices, tuple[GivenValue, ...]]:
    """The realizations and the given values that the spec and the command line ask for."""
    if any(rule.action == "train" for rule in checked.weights):
        raise InputError(f"{checked.source.name}: its weights are to be trained",
                         "use adderc train")
    if checked.algorithm is None:
        raise SpecError(source=checked.source, faults=(Fault(
            "a spec without an algorithm can only be trained",
            hint="write weights { train { … } }, or an algorithm"),))
    plan = read_plan(checked, settings.dtype)
    given = [given_value(rule, checked) for rule in checked.weights if rule.action == "given"]
    for rule in set_rules(settings):
        try:
            given.append(replace(given_value(rule, checked), span=NOWHERE))
        except SpecError as error:
            raise InputError(f"--set {rule.targets[0]}: {error.faults[0].message}",
                             error.faults[0].hint) from None
    values = tuple(given)
    if checked.places is not None:
        return read_place_choices(plan, checked), values
    try:
        return read_choices(plan, checked, scalars(values)), values
    except Refusal:
        if not solves_all(checked) or values:
            raise
        free_structure(plan, checked)  # its faults are the spec's
        return FreeChoices(plan, checked), values
