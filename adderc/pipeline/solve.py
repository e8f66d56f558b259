"""Solved weights: from a checked spec to weights some of which a solver finds.

    CheckedSpec -derive | free structure-> Structure, known leaves -solve-> Weights

Takes: a checked spec, its choices and given values, what the command line asks of the
solver. Gives: `solve_rules`, `solved` → placed circuit (or none), `Weights`, `Solved`.
May import: errors, lang, passes, realize, solve, weights, pipeline.derived.

What is not to be solved is derived or given. Where a lowering exists its values are the
first start. A model that no lowering makes can be solved as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from adderc.errors import Fault, InputError, Refusal, SpecError, did_you_mean
from adderc.lang.checked import CheckedSpec
from adderc.lang.constants import ConstantFault, real
from adderc.lang.settle import constants_of
from adderc.lang.syntax import Entry, Name, WeightRule
from adderc.passes.place import PlacedCircuit
from adderc.passes.plan import ModelPlan
from adderc.pipeline.derived import derived
from adderc.realize.bounds import Judgement
from adderc.realize.choices import Choices
from adderc.realize.derive import GivenValue, Weights
from adderc.realize.free import free_structure
from adderc.solve.conduct import Orders, Solved, Task, conduct
from adderc.solve.problem import Watch, no_watch
from adderc.weights.expr import Leaf, leaves_of
from adderc.weights.structure import LeafInfo, Structure

Array = np.ndarray
METHODS = ("auto", "lp", "milp", "nlp", "adam")
OPTIONS = ("margin", "norm", "method", "restarts", "seed")
ALIASES = {"embedding": "embed"}


@dataclass(frozen=True)
class SolverOptions:
    """What the command line says of the solver; None leaves it to the spec."""

    method: str | None = None
    margin: float | None = None
    executor: str | None = None
    watch: Watch = no_watch


@dataclass(frozen=True)
class FreeChoices:
    """A model that no lowering makes, all of whose leaves are to be solved."""

    plan: ModelPlan
    spec: CheckedSpec


def solves_all(checked: CheckedSpec) -> bool:
    """Whether a rule asks for every leaf."""
    return any(not rule.targets for rule in solve_rules(checked))


def solve_rules(checked: CheckedSpec) -> tuple[WeightRule, ...]:
    """The spec's `solve` rules."""
    return tuple(rule for rule in checked.weights if rule.action == "solve")


def solved(
    checked: CheckedSpec, choices: Choices | FreeChoices, given: tuple[GivenValue, ...], seed: int,
    options: SolverOptions,
) -> tuple[PlacedCircuit | None, Weights, Solved]:
    """The weights that the rules ask for; Infeasible or Unsolved where there are none."""
    rules = solve_rules(checked)
    orders = orders_of(checked, rules, seed, options)
    placed, task = task_of(checked, choices, given, rules)
    found = conduct(task, orders, options.watch)
    names = {leaf.name for leaf in task.unknown}
    infos = {info.name: info for info in task.structure.leaves}
    marked = tuple(
        replace(infos.get(leaf.name, LeafInfo(leaf.name, "", 0, "")), how="solved")
        if leaf.name in names else infos[leaf.name]
        for leaf in task.structure.leaf_shapes())
    structure = replace(task.structure, leaves=marked)
    values = {leaf.name: np.asarray(found.values[leaf.name], dtype=np.float64)
              for leaf in structure.leaf_shapes()}
    weights = Weights(structure, values, Judgement((), found.margin),
                      tuple(item.name for item in given))
    return placed, weights, found


def task_of(
    checked: CheckedSpec, choices: Choices | FreeChoices, given: tuple[GivenValue, ...],
    rules: tuple[WeightRule, ...],
) -> tuple[PlacedCircuit | None, Task]:
    """What is unknown and what is known."""
    if isinstance(choices, FreeChoices):
        structure = free_structure(choices.plan, checked)
        return None, Task(checked, structure, structure.leaf_shapes(), {})
    placed, weights, usable = _lowered(checked, choices, given, rules)
    unknown = unknown_leaves(checked, weights.structure, rules, {item.name for item in given})
    names = {leaf.name for leaf in unknown}
    known = {name: value for name, value in weights.values.items() if name not in names}
    start = {name: weights.values[name] for name in names} if usable else None
    return placed, Task(checked, weights.structure, unknown, known, start)


def _lowered(
    checked: CheckedSpec, choices: Choices, given: tuple[GivenValue, ...],
    rules: tuple[WeightRule, ...],
) -> tuple[PlacedCircuit, Weights, bool]:
    """The lowering, and whether its values are a start: a feed-forward layer that is to be
    solved may have fewer hidden units than the lowering needs."""
    try:
        return *derived(checked, choices, given), True
    except Refusal as refusal:
        if not any(target.split(".")[0] == "ffn" for rule in rules for target in rule.targets):
            raise
        plan = replace(choices.plan, cut_units=True)
        try:
            return *derived(checked, replace(choices, plan=plan), given), False
        except Refusal:
            raise refusal from None


def unknown_leaves(
    checked: CheckedSpec, structure: Structure, rules: tuple[WeightRule, ...], given: set[str]
) -> tuple[Leaf, ...]:
    """The leaves that the targets name, given ones left out."""
    leaves, faults = structure.leaf_shapes(), []
    chosen: set[str] = set()
    for rule in rules:
        for target in rule.targets or ("",):
            found = {leaf.name for leaf in leaves if _named(leaf.name, target)}
            if target == "decode" and not found:
                found = _deciding(structure)
            if not found:
                names = [leaf.name for leaf in leaves]
                faults.append(Fault(f"there is no leaf or block {target!r} to solve", rule.span,
                                    did_you_mean(target, names) or f"leaves: {', '.join(names)}"))
            chosen |= found
    if not faults and not chosen - given:
        faults.append(Fault("nothing is left to solve: every leaf is given", rules[0].span))
    if faults:
        raise SpecError(source=checked.source, faults=tuple(faults))
    return tuple(leaf for leaf in leaves if leaf.name in chosen - given)


def _named(leaf: str, target: str) -> bool:
    """Whether `target` names the leaf or a block that it belongs to, of any layer."""
    first, _, rest = target.partition(".")
    target = ALIASES.get(first, first) + (f".{rest}" if rest else "")
    plain = leaf.partition(".")[2] if leaf.startswith("layer") else leaf
    return not target or any(n == target or n.startswith(f"{target}.") for n in (leaf, plain))


def _deciding(structure: Structure) -> set[str]:
    """The leaves of a head that has none of its own: what it is tied to, and the last norm."""
    exprs: list[Any] = [structure.head.weight, structure.head.bias]
    if structure.final_norm is not None:
        exprs += [structure.final_norm.weight, structure.final_norm.bias]
    return {leaf.name for leaf in leaves_of(*exprs)}


# ---------------------------------------------------------------- options


def orders_of(
    checked: CheckedSpec, rules: tuple[WeightRule, ...], seed: int, options: SolverOptions
) -> Orders:
    """The rules' options, the command line's before them."""
    found: dict[str, Any] = {}
    faults: list[Fault] = []
    for rule in rules:
        for entry in rule.block:
            try:
                found[entry.key] = _READERS[entry.key](checked, entry)
            except KeyError:
                faults.append(Fault(f"solve has no option {entry.key!r}", entry.span,
                                    f"known: {', '.join(OPTIONS)}"))
            except (ConstantFault, ValueError) as fault:
                faults.append(Fault(f"{entry.key}: {getattr(fault, 'message', fault)}",
                                    entry.span))
    if faults:
        raise SpecError(source=checked.source, faults=tuple(faults))
    margin = options.margin if options.margin is not None else found.get("margin")
    if margin is not None and not 0 < margin < math.inf:
        raise InputError(f"--margin {margin:g}: a margin is a positive number")
    return Orders(options.method or found.get("method", "auto"), margin, found.get("norm"),
                  seed or int(found.get("seed", 0)), int(found.get("restarts", 32)),
                  options.executor)


def _number(checked: CheckedSpec, entry: Entry) -> float:
    if len(entry.items) != 1 or len(entry.items[0].atoms) != 1:
        raise ValueError("one number is expected")
    value = real(entry.items[0].atoms[0], constants_of(checked.number))
    if not 0 < value < math.inf:
        raise ValueError("a positive number is expected")
    return float(value)


def _whole(checked: CheckedSpec, entry: Entry) -> int:
    value = _number(checked, entry)
    if value != int(value) or value > 1_000_000:
        raise ValueError("a whole number is expected")
    return int(value)


def _method(checked: CheckedSpec, entry: Entry) -> str:
    atom = entry.items[0].atoms[0] if entry.items else None
    if not isinstance(atom, Name) or atom.name not in METHODS:
        raise ValueError(f"known methods: {', '.join(METHODS)}")
    return atom.name


_READERS: dict[str, Callable[[CheckedSpec, Entry], Any]] = {
    "margin": _number, "norm": _number, "restarts": _whole, "seed": _whole, "method": _method}

