"""State machines through the whole compiler: derived, verified, proven, shown."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from adderc.audit.run import audit_structure
from adderc.errors import Refusal, Source
from adderc.export.write import export
from adderc.ir.evaluate import run
from adderc.ir.show import read_circuit, show_circuit
from adderc.nn.greedy import decode_one
from adderc.nn.module import AdderModule
from adderc.pipeline import (
    Compiled,
    Settings,
    check_spec,
    compile_spec,
    planned_spec,
    read_spec,
)
from adderc.prove.run import prove
from adderc.reference import Reference
from adderc.trace import trace
from adderc.verify.run import verify
from adderc.verify.suites import adversarial, exhaustive
from specs import spec_text

SHARED = '"start" -> 0'
APART = '"start" -> base^operands, states -> base^operands'


def machine(
    base: int, width: int, operands: int = 2, model: str = "position routes",
    tokens: str = SHARED, order: str = "lsd",
) -> str:
    names = "abcd"[:operands]
    return spec_text(
        algorithm=f"t = {' + '.join(f'{n}[i]' for n in names)} + carry(s[i-1])\n"
                  "emit (t mod base, t div base)",
        number=f"base {base} width {width} operands {operands}",
        format=f'prompt {order}(pair({", ".join(names)})) "start"; answer lsd(s)\n'
               f"tokens {tokens}",
        model=model)


def compiled(text: str) -> Compiled:
    return compile_spec(Source("t", text))


def all_right(text: str, samples: int = 300) -> Compiled:
    """Every sum where there are few, else hard ones; circuit and interpreter say the same."""
    found = compiled(text)
    number, form = found.spec.number, found.structure.format
    few = (number.maximum + 1) ** number.operands <= 7000
    suite = exhaustive(number) if few else adversarial(number, samples)
    result = verify(AdderModule(found.structure, found.values), form, suite)
    assert not result.failures
    assert result.total == suite.total
    assert found.margin > 0
    circuit, reference = found.placed.circuit, Reference(found.spec)
    for row in next(suite.batches())[:5].tolist():
        written = run(circuit, number, row, form.steps)
        assert written == [step.emitted for step in reference.work(row)]
        assert [state + form.first_state for state in written] == form.expected(row)
    return found


@pytest.mark.parametrize(("base", "width", "operands"), [
    (2, 6, 2), (2, 4, 3), (2, 3, 4), (3, 4, 2), (3, 2, 4), (10, 1, 2), (10, 2, 2), (16, 1, 2),
    (2, 35, 2), (10, 12, 2), (16, 9, 2), (3, 20, 3), (10, 3, 3),
])
def test_bases_widths_and_operands(base: int, width: int, operands: int) -> None:
    found = all_right(machine(base, width, operands))
    assert not found.placed.units  # the state is a sum: nothing bends


@pytest.mark.parametrize("position", ["routes", "sinusoid", "rope", "table"])
@pytest.mark.parametrize("tokens", [SHARED, APART])
def test_positions_and_token_ids(position: str, tokens: str) -> None:
    all_right(machine(3, 3, 2, f"position {position}", tokens))
    all_right(machine(10, 12, 2, f"position {position}", tokens), 100)


@pytest.mark.parametrize("model", [
    "position routes; d_model 2", "position routes; decode vshape", "position rope; norm rms",
    "position sinusoid; norm layer; dtype float64", "position sinusoid; embed rank 2",
    "position routes; heads route(x); attention { v sparse; out sparse }",
    "position sinusoid; decode parabola { weight rank 1; bias dense }",
])
@pytest.mark.parametrize("tokens", [SHARED, APART])
def test_forms(model: str, tokens: str) -> None:
    text = machine(3, 4, 2, model, tokens).replace("t = a[i] + b[i]", "x = a[i] + b[i]\nt = x")
    all_right(text)


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "swiglu"])
def test_states_with_a_carry_of_their_own(activation: str) -> None:
    """The carry from the sum before and the digit written, as a step."""
    text = machine(10, 5, 2, f"position sinusoid; ffn {activation}").replace(
        "carry(s[i-1])", "(a[i-1] + b[i-1] > digit(s[i-1]))")
    assert len(all_right(text).placed.units) == 1


@pytest.mark.parametrize("position", ["routes", "rope"])
def test_a_carry_from_two_places_back(position: str) -> None:
    """Attention moves the carry of a written state, and the digit sum of a pair."""
    text = machine(3, 5, 2, f"position {position}").replace(
        "carry(s[i-1])", "(a[i-1] + b[i-1] + carry(s[i-2])) div base")
    text = text.replace("prompt lsd", 'prompt "start" lsd').replace(') "start";', ') "start" * 2;')
    found = all_right(text)
    assert {"s.carry", "(a+b)"} <= {feature for _, feature in found.placed.sources}


def test_operands_run_from_the_top() -> None:
    all_right(machine(3, 4, 2, "position sinusoid", order="msd"))


def test_states_behind_plain_digits() -> None:
    text = spec_text(
        algorithm="t = a[i] + b[i] + carry(s[i-1])\nemit (t mod base, t div base)",
        number="base 10 width 8", model="position sinusoid")
    all_right(text)


def test_digits_behind_pairs() -> None:
    text = spec_text(number="base 10 width 6", model="position sinusoid; ffn gelu",
                     format='prompt lsd(pair(a, b)) "="; answer lsd(s); tokens "=" -> 0')
    all_right(text)


def test_a_weighted_pair() -> None:
    """x + 2 a - 2 a: the pair's worth is any sum of its digits."""
    text = machine(3, 3).replace("a[i] + b[i] +", "(2*a[i] - b[i]) + (2*b[i] - a[i]) +")
    all_right(text)


def test_the_circuit_reads_back() -> None:
    text = machine(3, 5).replace("carry(s[i-1])", "(a[i-1] + b[i-1] + carry(s[i-2])) div base")
    circuit = compiled(text).placed.circuit
    shown = show_circuit(circuit)
    assert read_circuit(shown) == circuit
    assert "(a+b)[i-1]" in shown
    assert "s.carry[i-2]" in shown


def test_one_changed_column_is_wrong() -> None:
    """So that a right verdict means something: the carry's column is what carries."""
    found = compiled(machine(2, 6, tokens=APART, model="position routes; d_model 2"))
    values = {name: value.copy() for name, value in found.values.items()}
    column = np.flatnonzero([not row[:4].any() and row[4:].any()
                             for row in values["embed"].T])
    assert len(column) == 1
    values["embed"][4:, column] = 0
    result = verify(AdderModule(found.structure, values), found.structure.format,
                    exhaustive(found.spec.number))
    assert 0 < result.passed < result.total


# ---------------------------------------------------------------- the judges


@pytest.mark.parametrize("tokens", [SHARED, APART])
def test_trace_and_export(tokens: str, tmp_path: Path) -> None:
    found = compiled(machine(3, 4, 2, tokens=tokens))
    module = AdderModule(found.structure, found.values)
    traced = trace(module, (50, 31))
    assert traced.got == traced.expected == 81
    assert [step.right for step in traced.steps] == found.structure.format.expected((50, 31))
    assert [step.token_written for step in traced.steps] == [step.right for step in traced.steps]
    assert decode_one(module, found.structure.format, (80, 80)) == 160
    for target in ("py", "adderboard"):
        export(module, target, tmp_path / f"{target}.py")


@pytest.mark.parametrize("tokens", [SHARED, APART])
def test_proof(tokens: str) -> None:
    found = compiled(machine(2, 3, 2, "position sinusoid", tokens))
    module = AdderModule(found.structure, found.values)
    assert prove(module, found.structure.format).verdict == "PROVEN"


# ---------------------------------------------------------------- refusals and the public one


def test_what_cannot_be_derived() -> None:
    with pytest.raises(Refusal, match="by one digit, and these hold several"):
        compiled(machine(2, 3, model="position routes; embed quadratic; decode tied"))
    with pytest.raises(Refusal, match="two things a token is worth"):
        compiled(machine(2, 3, model="position routes; heads route(t)"))


def test_the_public_state_machine() -> None:
    source = read_spec("gpt46")
    report = check_spec(source)
    spec = report.spec
    assert spec.contexts is not None
    assert spec.contexts.adds
    assert "35 answer states" in report.text()
    assert json.dumps(report.as_json())
    top = 9_999_999_999
    assert Reference(spec).add(top, top) == 2 * top
    assert spec.number.maximum == top
    structure = planned_spec(source, Settings())
    assert structure is not None
    assert audit_structure(structure, "g").counts.declared == 46
    sizes: dict[str, int] = {}
    for leaf in structure.leaf_shapes():
        part = leaf.name.split(".")[0]
        sizes[part] = sizes.get(part, 0) + int(np.prod(leaf.shape))
    assert sizes == {"embed": 8, "attention": 16, "ffn": 22}
    attention = structure.blocks[0].attention
    assert attention is not None
    assert attention.routes == ((0, 35),)


def test_a_derived_twin_of_the_public_one() -> None:
    """The same algorithm and format with derived weights, at its own width."""
    text = read_spec("gpt46").text
    model = text.index("model {")
    found = all_right(text[:model] + "model { position routes; d_model 2 }\nweights { derive }")
    assert found.parameters == 4 * 2 + 2 + 2 + 3
