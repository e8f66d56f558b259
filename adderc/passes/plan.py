"""Reads the model part: which model is to run the algorithm, as typed choices.

Takes: `CheckedSpec` and overrides. Gives: `read_plan` → `ModelPlan`, raising `SpecError`
with all faults. Names of realizations stay words; `realize` knows which exist.
May import: errors, format, lang.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from adderc.errors import NOWHERE, FaultList, Span
from adderc.lang.checked import CheckedSpec
from adderc.lang.constants import ConstantFault, integer, rational
from adderc.lang.settle import constants_of
from adderc.lang.syntax import Call, Entry, Expr, Item, Name, Number, Option
from adderc.passes.fetches import Declared

TOP = ("layers", "d_model", "dtype", "embed", "position", "residual", "heads", "head_dim",
       "attention", "ffn", "decode", "norm", "projections")
PROJECTIONS = ("attention.q", "attention.k", "attention.v", "attention.out", "ffn.up", "ffn.down")
MATRICES = {"attention": ("q", "k", "v", "qkv", "out", "softmax"),
            "ffn": ("rows", "up", "gate", "bias", "down", "out"),
            "decode": ("weight", "bias"),
            "norm": ("weight", "bias")}
DTYPES = ("float32", "float64")
SIZE_LIMIT = 65536  # hidden units, ranks
MODEL_LIMITS = {"layers": (1, 64), "d_model": (1, 4096), "head_dim": (1, 4096)}


@dataclass(frozen=True)
class Choice:
    """A realization or a matrix form by name: `rank 1`, `sinusoid(period = 11)`, `relu 4`."""

    name: str
    number: int | None = None
    args: tuple[Expr, ...] = ()
    options: tuple[Option, ...] = ()
    span: Span = field(default=NOWHERE, compare=False)

    def option(self, name: str) -> Option | None:
        return next((option for option in self.options if option.name == name), None)


@dataclass(frozen=True)
class ModelPlan:
    """The model part. `forms` maps "attention.q" and the like to the form of that matrix;
    `residual` are the sums of signals that share each residual dimension, where given.

    A model whose heads no algorithm names has `head_count` heads of width `head_dim`, and
    `parts` may say how many residual dimensions tokens and positions have to themselves.
    With `cut_units` a feed-forward layer keeps the number of units it is given, even where
    the algorithm needs more: its weights are to be solved, not derived.
    """

    layers: int
    d_model: int | None
    dtype: str
    embed: Choice
    position: Choice
    heads: tuple[Choice, ...] | None
    feed_forward: Choice
    decode: Choice
    norm: Choice
    forms: Mapping[str, Choice]
    residual: tuple[Expr, ...] | None
    spans: Mapping[str, Span]
    projections: Choice | None = None
    head_count: int | None = None
    head_dim: int | None = None
    parts: tuple[tuple[str, int], ...] = ()
    cut_units: bool = False

    def form(self, matrix: str, default: str) -> Choice:
        """The form asked for a matrix, that of all projections, or the default one."""
        if matrix in PROJECTIONS and matrix not in self.forms and self.projections is not None:
            return self.projections
        return self.forms.get(matrix, Choice(default, span=self.span(matrix.split(".")[0])))

    def span(self, key: str) -> Span:
        return self.spans.get(key, self.spans["model"])

    @property
    def declared(self) -> tuple[Declared, ...]:
        """The quantities that the spec's heads read, in the order of the heads."""
        return tuple(
            Declared(arg.name, arg.span)
            for head in self.heads or () for arg in head.args if isinstance(arg, Name)
        )


def read_plan(spec: CheckedSpec, dtype: str | None = None) -> ModelPlan:
    """The plan of the spec's model part; `dtype` wins over the spec's."""
    return _Reader(spec, FaultList(spec.source)).read(dtype)


@dataclass
class _Reader:
    spec: CheckedSpec
    faults: FaultList

    def read(self, dtype: str | None) -> ModelPlan:
        entries = self.entries(self.spec.model, TOP, "the model part")
        numbers = {key: self.number(entries.get(key), key) for key in MODEL_LIMITS}
        count = self.head_count(entries.get("heads"))
        heads = None if count is not None else self.heads(entries.get("heads"))
        forms: dict[str, Choice] = {}
        for key in MATRICES:
            if key in entries:
                forms |= self.forms(key, entries[key])
        spans = {key: entry.span for key, entry in entries.items()}
        spans["model"] = self.spec.model[0].span if self.spec.model else NOWHERE
        residual = entries.get("residual")
        parts = self.parts(residual)
        plan = ModelPlan(
            layers=numbers["layers"] or 1,
            d_model=numbers["d_model"],
            dtype=dtype or self.dtype(entries.get("dtype")),
            embed=self.single(entries, "embed", "table"),
            position=self.single(entries, "position", "sinusoid"),
            heads=heads,
            feed_forward=self.single(entries, "ffn", "relu"),
            decode=self.single(entries, "decode", "parabola"),
            norm=self.single(entries, "norm", "none"),
            forms=forms,
            residual=(tuple(self.expression(i) for i in residual.items)
                      if residual and not parts else None),
            spans=spans,
            projections=(self.single(entries, "projections", "dense")
                         if "projections" in entries else None),
            head_count=count,
            head_dim=numbers["head_dim"],
            parts=parts,
        )
        self.faults.raise_if_any()
        return plan

    def entries(
        self, entries: tuple[Entry, ...], known: tuple[str, ...], where: str
    ) -> dict[str, Entry]:
        found: dict[str, Entry] = {}
        for entry in entries:
            if entry.key not in known:
                self.faults.add(f"{entry.key!r} has no place in {where}", entry.span,
                                f"known there: {', '.join(known)}")
            elif entry.key in found:
                self.faults.add(f"{entry.key} is given twice", entry.span)
            found[entry.key] = entry
        return found

    def number(self, entry: Entry | None, key: str) -> int | None:
        if entry is None:
            return None
        low, high = MODEL_LIMITS[key]
        try:
            value = integer(self.expression(entry.items[0]), constants_of(self.spec.number))
        except (ConstantFault, IndexError) as fault:
            span = getattr(fault, "span", entry.span)
            self.faults.add(f"{key} takes a whole number", span)
            return None
        if not low <= value <= high:
            self.faults.add(f"{key} {value} is out of range: {low} to {high}", entry.span)
        return value

    def dtype(self, entry: Entry | None) -> str:
        if entry is None:
            return "float32"
        choice = self.choice(entry.items[0]) if entry.items else Choice("")
        if choice.name not in DTYPES:
            self.faults.add(f"unknown dtype {choice.name!r}", entry.span,
                            f"known: {', '.join(DTYPES)}")
        return choice.name

    def single(self, entries: Mapping[str, Entry], key: str, default: str) -> Choice:
        entry = entries.get(key)
        if entry is None or not entry.items:
            return Choice(default, span=entry.span if entry else NOWHERE)
        if len(entry.items) > 1:
            self.faults.add(f"{key} takes one realization", entry.items[1].span)
        return self.choice(entry.items[0])

    def head_count(self, entry: Entry | None) -> int | None:
        """`heads 2`: a plain number; None where the heads are named."""
        if entry is None or len(entry.items) != 1:
            return None
        match entry.items[0].atoms:
            case (Number(value),) if value.denominator == 1 and value >= 1:
                return int(value)
        return None

    def parts(self, entry: Entry | None) -> tuple[tuple[str, int], ...]:
        """`residual token 2, position 3`; empty where signals are named instead."""
        found = []
        for item in entry.items if entry is not None else ():
            match item.atoms:
                case (Name(name), Number(value)) if value.denominator == 1 and value >= 1:
                    found.append((name, int(value)))
                case _:
                    return ()
        return tuple(found)

    def heads(self, entry: Entry | None) -> tuple[Choice, ...] | None:
        if entry is None:
            return None
        heads = tuple(self.choice(item) for item in entry.items)
        algorithm = self.spec.algorithm
        known = algorithm.order if algorithm else ()
        for head in heads:
            for arg in head.args:
                if not isinstance(arg, Name):
                    self.faults.add("a head reads a quantity", arg.span,
                                    "define one, as x = a[i] + b[i], and write rotation(x)")
                elif arg.name not in known:
                    self.faults.add(f"unknown quantity {arg.name!r}", arg.span,
                                    f"known: {', '.join(known)}")
            if len(head.args) != 1:
                self.faults.add("a head reads one quantity", head.span)
        return heads

    def forms(self, key: str, entry: Entry) -> dict[str, Choice]:
        block = self.entries(entry.block, MATRICES[key], f"{key} {{ … }}")
        found = {}
        for name, inner in block.items():
            if len(inner.items) != 1:
                self.faults.add(f"{key} {name} takes one form", inner.span,
                                "for example: rank 1")
                continue
            name = {"rows": "up", "out": "down"}.get(name, name) if key == "ffn" else name
            found[f"{key}.{name}"] = self.choice(inner.items[0])
        return found

    def expression(self, item: Item) -> Expr:
        if len(item.atoms) != 1:
            self.faults.add("expected one expression", item.span)
        return item.atoms[0]

    def choice(self, item: Item) -> Choice:
        """`NAME`, `NAME NUMBER`, `NAME(args, option = value)`, `NAME NAME NUMBER`."""
        words: list[str] = []
        number: int | None = None
        args: tuple[Expr, ...] = ()
        options: tuple[Option, ...] = ()
        for atom in item.atoms:
            match atom:
                case Name(name):
                    words.append(name)
                case Call(name, call_args, call_options):
                    words.append(name)
                    args, options = call_args, call_options
                case Number(value) if value.denominator == 1:
                    number = int(value)
                    if not 1 <= number <= SIZE_LIMIT:
                        self.faults.add(f"{' '.join(words)} {number} is out of range: "
                                        f"1 to {SIZE_LIMIT}", item.span)
                case _:
                    self.faults.add("expected a realization's name", atom.span,
                                    "for example: rank 1, or sinusoid(period = width + 1)")
        return Choice(" ".join(words), number, args, options, item.span)


def option_value(spec: CheckedSpec, option: Option | None) -> Fraction | None:
    """The exact value of a constant option; raises SpecError where it has none."""
    if option is None:
        return None
    faults = FaultList(spec.source)
    try:
        return rational(option.value, constants_of(spec.number))
    except ConstantFault as fault:
        faults.add(fault.message, fault.span, fault.hint)
    faults.raise_if_any()
    return None
