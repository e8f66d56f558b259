"""The driver: from a spec's text to weights, one line per stage.

    text -parse-> Spec -check-> CheckedSpec -lower-> Circuit -align-> Alignment
         -flatten-> Circuit -place-> PlacedCircuit -derive-> Weights

Takes: a `Source` and `Settings`. Gives: `check_spec` → `CheckReport`, `compile_spec` →
`Compiled` (which can be saved), `read_spec`, `list_specs`.
May import: every room but app.
"""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from adderc import __version__
from adderc.errors import NOWHERE, Fault, InputError, Refusal, Source, SpecError
from adderc.ir.evaluate import evaluate
from adderc.ir.ops import Circuit, Fetch
from adderc.ir.show import show_circuit
from adderc.lang.check import check_spec as check_parsed
from adderc.lang.check import diagnose
from adderc.lang.checked import CheckedSpec
from adderc.lang.constants import ConstantFault, exact, integer, real
from adderc.lang.explore import Window
from adderc.lang.parse import parse
from adderc.lang.settle import SETTINGS, constants_of
from adderc.lang.syntax import Expr, Sequence, Spec, WeightRule
from adderc.passes.align import Alignment, align
from adderc.passes.fetches import Grouping
from adderc.passes.flatten import flatten
from adderc.passes.lower import lower
from adderc.passes.place import PlacedCircuit, place
from adderc.passes.plan import ModelPlan, read_plan
from adderc.passes.soften import soften
from adderc.realize.choices import Choices, read_choices
from adderc.realize.derive import GivenValue, Weights, derive, refuse
from adderc.report.checking import CheckReport
from adderc.report.working import work_sum
from adderc.weights.file import save_model
from adderc.weights.structure import Structure

Array = np.ndarray
LARGEST_SPEC = 1_000_000
GROUPINGS = 3
GOOD = 0.5  # share of the decode's full margin with which no other constant is tried


@dataclass(frozen=True)
class Settings:
    """What the command line says beside the spec; `set` are NAME=VALUE pairs."""

    width: int | None = None
    base: int | None = None
    dtype: str | None = None
    set: tuple[tuple[str, str], ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class Compiled:
    """Weights with what is recorded beside them; every stage's result is kept."""

    spec: CheckedSpec
    placed: PlacedCircuit
    weights: Weights
    provenance: dict[str, Any]
    warnings: tuple[str, ...]
    seconds: float
    method: str = "derive"

    @property
    def structure(self) -> Structure:
        return self.weights.structure

    @property
    def values(self) -> dict[str, Array]:
        return self.weights.values

    @property
    def parameters(self) -> int:
        return self.weights.parameters

    @property
    def norm(self) -> float:
        return self.weights.norm

    @property
    def margin(self) -> float:
        """Bound on the least logit margin, rounding included; not positive if one breaks."""
        return self.weights.judgement.margin

    def save(self, path: str) -> None:
        """Write the model file."""
        save_model(path, self.structure, self.values, self.provenance)


# ---------------------------------------------------------------- the stages


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


def lower_aligned(
    checked: CheckedSpec, choices: Choices
) -> Iterator[tuple[Circuit, Alignment]]:
    """Circuits whose fetches align, fewest heads first; Refusal where there is none.

    Where the spec leaves the heads free, fetches may be split until each reads one digit.
    """
    plan = choices.plan
    levels = range(1 if plan.declared else GROUPINGS)
    circuits = dict.fromkeys(lowered(checked, Grouping(n, plan.declared)) for n in levels)
    first: Refusal | None = None
    found = False
    for circuit in circuits:
        fetches = circuit.of(Fetch)
        for ring in choices.position.rings(fetches):
            try:
                alignment = align(fetches, checked.format, ring, checked.source,
                                  plan.span("position"))
            except Refusal as refusal:
                first = first or refusal
                continue
            found = True
            yield circuit, alignment
            break
    if not found:
        assert first is not None
        raise first


def lowered(checked: CheckedSpec, grouping: Grouping) -> Circuit:
    """The circuit of the algorithm, with no more steps than its decode needs."""
    circuit = lower(checked, grouping)
    return soften(circuit, context_values(checked, circuit))


def flattened(
    checked: CheckedSpec, circuit: Circuit, plan: ModelPlan, alignment: Alignment
) -> Circuit:
    """The circuit at the depth the model has."""
    assert checked.contexts is not None
    return flatten(circuit, context_values(checked, circuit), checked.contexts.index,
                   plan.layers, alignment.period, checked.source)


def derived(
    checked: CheckedSpec, choices: Choices, given: tuple[GivenValue, ...]
) -> tuple[PlacedCircuit, Weights]:
    """The first alignment whose inequalities hold; Refusal where all break and nothing was
    given. More heads that read one digit each are slower to leave a short dtype."""
    first: tuple[PlacedCircuit, Weights] | None = None
    for circuit, alignment in lower_aligned(checked, choices):
        flat = flattened(checked, circuit, choices.plan, alignment)
        placed, weights = best_weights(flat, alignment, choices, given)
        if given or not weights.judgement.broken:
            return placed, weights
        first = first or (placed, weights)
    assert first is not None
    raise refuse(first[1], choices)


def best_weights(
    circuit: Circuit, alignment: Alignment, choices: Choices, given: tuple[GivenValue, ...]
) -> tuple[PlacedCircuit, Weights]:
    """Placed and weighed with the constant channels that leave the widest margin."""
    best: tuple[PlacedCircuit, Weights] | None = None
    values = context_values(choices.spec, circuit)
    refusal: Refusal | None = None
    for setting in choices.settings():
        try:
            placed = place(circuit, values, alignment, choices.plan, choices.spec,
                           choices.needs(setting))
        except Refusal as found:
            refusal = refusal or found
            continue
        weights = derive(placed, choices, setting.sharp, given)
        if best is None or weights.judgement.margin > best[1].judgement.margin:
            best = placed, weights
        if weights.judgement.margin > GOOD and not weights.judgement.broken:
            break
    if best is None:
        assert refusal is not None
        raise refusal
    return best


def context_values(checked: CheckedSpec, circuit: Circuit) -> dict[str, Array]:
    """Every node's value in every context, with the emitted digit and the step beside them."""
    contexts, algorithm = checked.contexts, checked.algorithm
    assert contexts is not None
    assert algorithm is not None
    low = Window.of(algorithm).low

    def read(name: str, offset: int) -> Array:
        if name == "s":
            back = contexts.answers.shape[1]
            return contexts.answers[:, back + offset] if back else np.zeros(len(contexts), int)
        return contexts.digits[:, checked.number.names.index(name), offset - low]

    values = evaluate(circuit, read, contexts.index)
    full = {name: np.broadcast_to(v, len(contexts)) for name, v in values.items()}
    return full | {"emitted": contexts.emitted, "index of step": contexts.index}


# ---------------------------------------------------------------- what the spec asks for


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


def overrides(settings: Settings) -> dict[str, int]:
    """Number settings from the command line."""
    found = {name: value for name, value in (("width", settings.width), ("base", settings.base))
             if value is not None}
    for rule in set_rules(settings, numbers=True):
        assert rule.value is not None
        try:
            found[rule.targets[0]] = integer(rule.value, {})
        except ConstantFault as fault:
            raise InputError(f"--set {rule.targets[0]}: {fault.message}", fault.hint) from None
    return found


def set_rules(settings: Settings, numbers: bool = False) -> list[WeightRule]:
    """The --set pairs as `given` rules: number settings, or leaves and scale symbols."""
    rules = []
    for name, text in settings.set:
        if not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", name):
            raise InputError(f"--set: {name!r} is no name")
        if (name in SETTINGS) != numbers:
            continue
        source = Source(f"--set {name}", (
            'adder set number { base 10 width 1 } format { prompt msd(a) msd(b) "="\n'
            f"answer lsd(s) }} model {{ layers 1 }} weights {{ given {name} = {text}\n }}"))
        try:
            rules.append(replace(parse(source).weights[0], span=NOWHERE))
        except SpecError:
            raise InputError(f"--set {name}={text}: {text!r} is not a value",
                             "a number, an expression such as 2*pi/11, or a list") from None
    return rules


def given_value(rule: WeightRule, checked: CheckedSpec) -> GivenValue:
    """A given value, evaluated; lists may be nested as the leaf's shape is."""
    names = constants_of(checked.number)
    assert rule.value is not None

    def numbers(expr: Expr) -> list[float]:
        if isinstance(expr, Sequence):
            return [value for item in expr.items for value in numbers(item)]
        return [real(expr, names)]

    try:
        value = None if isinstance(rule.value, Sequence) else exact(rule.value, names)
        fraction = value if isinstance(value, Fraction) else None
        return GivenValue(rule.targets[0], np.array(numbers(rule.value)), fraction, rule.span)
    except (ConstantFault, OverflowError) as fault:
        message = getattr(fault, "message", "the value is too large")
        if rule.span == NOWHERE:
            raise InputError(f"--set {rule.targets[0]}: {message}",
                             getattr(fault, "hint", "")) from None
        raise SpecError(source=checked.source, faults=(Fault(
            message, getattr(fault, "span", rule.span), getattr(fault, "hint", "")),)) from None


def scalars(given: tuple[GivenValue, ...]) -> dict[str, Fraction]:
    """Given scale symbols (names without a dot) by name."""
    return {g.name: g.exact for g in given if "." not in g.name and g.exact is not None}


# ---------------------------------------------------------------- records


def provenance(
    source: Source, settings: Settings, circuit: Circuit, weights: Weights
) -> dict[str, Any]:
    """What a model file tells of how it was made."""
    return {
        "spec": {"name": Path(source.name).name, "text": source.text},
        "settings": {"width": settings.width, "base": settings.base, "dtype": settings.dtype,
                     "set": [list(pair) for pair in settings.set]},
        "seed": settings.seed,
        "versions": {"adderc": __version__, "numpy": np.__version__,
                     "python": platform.python_version()},
        "circuit": show_circuit(circuit),
        "leaves": {info.name: info.how for info in weights.structure.leaves},
        "margin": weights.judgement.margin,
        "broken": [f"{i.name}: {i.text}: {i.left:.6g} <= {i.right:.6g}"
                   for i in weights.judgement.broken],
    }


def warnings_of(weights: Weights) -> tuple[str, ...]:
    """The inequalities that given values break."""
    return tuple(
        f"{i.name}" + (f" (line {i.line})" if i.line else "")
        + f": {i.text}, but {i.left:.6g} is not at most {i.right:.6g}"
        for i in weights.judgement.broken)


# ---------------------------------------------------------------- specs as files


@dataclass(frozen=True)
class SpecFolder:
    """The specs that come with the package, or stand beside a checkout."""

    paths: tuple[Path, ...] = field(default_factory=lambda: (
        Path(__file__).parent / "specs", Path(__file__).parent.parent / "specs"))

    def files(self) -> list[Path]:
        folder = next((path for path in self.paths if path.is_dir()), None)
        return sorted(folder.glob("*.adder")) if folder else []


def list_specs() -> list[tuple[str, str, Path]]:
    """(name, first sentence, path) of every spec that comes with the package."""
    found = []
    for path in SpecFolder().files():
        comment = []
        for line in path.read_text(encoding="utf-8").splitlines():
            if not line.startswith("#"):
                break
            comment.append(line.lstrip("# ").strip())
        sentence = " ".join(comment).partition(". ")[0].rstrip(".")
        found.append((path.stem, sentence + "." if sentence else "", path))
    return found


def read_spec(path_or_name: str) -> Source:
    """The text of a spec file, or of a packaged spec by its name."""
    path = Path(path_or_name)
    if not path.exists() and path.suffix in ("", ".adder"):
        path = next((file for file in SpecFolder().files() if file.stem == path.stem
                     and path.parent in (Path("."), Path("specs"))), path)
    try:
        if path.is_file() and path.stat().st_size > LARGEST_SPEC:
            raise InputError(f"{path_or_name}: too large for a spec")
        data = path.read_bytes()
    except FileNotFoundError:
        known = ", ".join(file.stem for file in SpecFolder().files())
        raise InputError(f"{path_or_name}: no such spec file",
                         f"specs that come with the package: {known}" if known else "") from None
    except IsADirectoryError:
        raise InputError(f"{path_or_name} is a folder, not a spec file") from None
    except OSError as error:
        raise InputError(f"{path_or_name}: {error.strerror}") from None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path_or_name} is not text (byte {error.start} is not UTF-8)",
                         "a spec is a UTF-8 text file") from None
    return Source(path_or_name, text)

