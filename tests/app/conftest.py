"""A stand-in model and a stand-in pipeline, so that the commands are tested on their own."""

import json
import sys
from dataclasses import dataclass, field
from types import ModuleType

import numpy as np
import pytest

import adderc
from adderc import app, app_models
from adderc.format.number import NumberFormat
from adderc.format.prompt import Format, OperandDigits, Symbols


class Adder:
    """Adds right but for the pairs in `wrong`, for which it answers all zeros."""

    def __init__(self, width=10, base=10, operands=2, limit=None, wrong=()):
        self.number = NumberFormat(base, width, operands, limit)
        segments = tuple(OperandDigits(k, "msd") for k in range(operands))
        self.format = Format(self.number, (*segments, Symbols("=")), tokens=(("=", base),))
        self.wrong = set(wrong)

    def decode(self, prompts):
        rows = []
        for prompt in prompts.tolist():
            values = [0] * self.number.operands
            for cell, token in zip(self.format.cells, prompt, strict=True):
                if cell.kind == "digit":
                    values[cell.operand] += token * self.number.base**cell.place
            right = self.format.expected(values)
            rows.append([0] * len(right) if tuple(values) in self.wrong else right)
        return np.array(rows)


@pytest.fixture
def use_model(monkeypatch):
    """`use_model(Adder(…))`: every model file is this one."""
    fake = ModuleType("adderc.nn.greedy")
    fake.decode_greedy = lambda module, form, prompts: module.decode(prompts)
    monkeypatch.setitem(sys.modules, "adderc.nn.greedy", fake)

    def use(model):
        monkeypatch.setattr(app_models, "load_module", lambda path: model)

    return use


@dataclass(frozen=True)
class Settings:
    width: int | None = None
    base: int | None = None
    dtype: str | None = None
    set: tuple = ()
    seed: int = 0


@dataclass
class Pipeline(ModuleType):
    """Stands in for adderc.pipeline; what it was asked is in `calls`."""

    Settings: type = Settings
    calls: list = field(default_factory=list)
    compiled: object = None
    report: object = None
    error: BaseException | None = None

    def read_spec(self, name):
        return f"source of {name}"

    def check_spec(self, source, settings):
        return self._answer("check", source, settings, self.report)

    def compile_spec(self, source, settings, unchecked=False):
        return self._answer("compile", source, (settings, unchecked), self.compiled)

    def list_specs(self):
        return [("first", "Adds, " + "and tells at length how, " * 8, "specs/first.adder"),
                ("second-one", "Adds too.", "specs/second-one.adder")]

    def _answer(self, what, source, asked, answer):
        self.calls.append((what, source, asked))
        if self.error is not None:
            raise self.error
        return answer


@pytest.fixture
def pipeline(monkeypatch):
    fake = Pipeline.__new__(Pipeline, "adderc.pipeline")
    ModuleType.__init__(fake, "adderc.pipeline")
    Pipeline.__init__(fake)
    monkeypatch.setitem(sys.modules, "adderc.pipeline", fake)
    monkeypatch.setattr(adderc, "pipeline", fake, raising=False)
    return fake


@dataclass
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self):
        assert self.out.count("\n") == 1
        return json.loads(self.out)


@pytest.fixture
def adder(capsys):
    """`adder("add", "m", "1", "2")`: run the command line, get code, stdout, stderr."""

    def run(*arguments):
        code = app.run([str(a) for a in arguments])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


@pytest.fixture
def adder_class():
    return Adder
