"""Place-value adders: the algorithm's proof, the circuit, the weights, their error budget."""

import importlib.util
import itertools
from fractions import Fraction
from pathlib import Path

import pytest

import adderc
from adderc import pipeline
from adderc.audit.structure import count_structure
from adderc.errors import Refusal, Source, SpecError, WrongAlgorithm
from adderc.format.number import NumberFormat
from adderc.ir.ops import Affine, Circuit, Decode, Floor, Node, Prefix
from adderc.ir.place_values import run_places
from adderc.ir.rules import IllFormed, check_circuit
from adderc.ir.show import read_circuit, show_circuit
from adderc.nn.module import AdderModule
from adderc.passes.lower_places import lower_places, spread_prefixes
from adderc.realize.places import place_weights, widest_of
from adderc.reference import Reference
from adderc.verify.run import verify
from adderc.verify.suites import adversarial

ROOT = Path(__file__).resolve().parents[2]
TEXTS = {name: (ROOT / "specs" / f"{name}.adder").read_text(encoding="utf-8")
         for name in ("placevalue", "tinyadder9", "prefix33")}


def benchmark():
    """benchmarks/places.py, whose boundary sums and builder the tests share."""
    path = ROOT / "benchmarks" / "places.py"
    spec = importlib.util.spec_from_file_location("benchmark_places", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def source(name, *changes):
    text = TEXTS[name]
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return Source(name, text)


def compiled(name, *changes, **settings):
    return pipeline.compile_spec(source(name, *changes), pipeline.Settings(**settings))


def module_of(result):
    return AdderModule(result.structure, result.values)


def settled(name, *changes, **settings):
    return pipeline.settle(pipeline.parse(source(name, *changes)), pipeline.Settings(**settings),
                           unchecked=False)


# ---------------------------------------------------------------- the algorithm


def test_the_check_proves_the_algorithm_at_every_width():
    report = pipeline.check_spec(source("placevalue"), pipeline.Settings(width=400))
    assert "at every width" in " ".join(report.text().split())
    assert report.as_json()["adds"] is True


@pytest.mark.parametrize(("wrong", "failing"), [
    ("place(a) + place(b)", (0, 10)),
    ("place(a) - place(s)", (0, 1)),
    ("place(a) + place(b) - 2 * place(s)", (0, 10)),
    ("place(a) + 2 * place(b) - place(s)", (0, 1)),
    ("place(a) + place(b) - place(s) + 1", (0, 0)),
    ("place(a) + place(b[i]) - place(s)", (0, 10)),
])
def test_a_wrong_rule_is_told_with_the_smallest_sum_that_fails(wrong, failing):
    with pytest.raises(WrongAlgorithm) as found:
        settled("placevalue", ("place(a) + place(b) - place(s)", wrong))
    assert found.value.operands == failing
    assert "<- wrong" in found.value.report
    spec = pipeline.settle(
        pipeline.parse(source("placevalue", ("place(a) + place(b) - place(s)", wrong))),
        pipeline.Settings(width=2), unchecked=True)
    reference = Reference(spec)
    by_sum = sorted(itertools.product(range(100), repeat=2), key=lambda pair: (sum(pair), pair))
    assert next(p for p in by_sum if reference.digits(p) != digits(sum(p), 3)) == failing


def digits(value, count, base=10):
    return [value // base**place % base for place in range(count)]


def test_a_third_operand_that_is_left_out_is_named():
    text = ('number { base 10  width 10  operands 2 }', 'number { base 10  width 4  operands 3 }')
    with pytest.raises(WrongAlgorithm, match="operand c does not occur") as found:
        settled("placevalue", text, ('msd(b) "="', 'msd(b) "+" msd(c) "="'))
    assert found.value.operands == (0, 0, 1)


@pytest.mark.parametrize(("emit", "message"), [
    ("emit rest", "a place value is a fraction"),
    ("emit floor(rest) + floor(rest)", "one floor"),
    ("emit floor(rest) mod 7", "a floor mod base"),
    ("emit floor(place(a * 2))", "place takes an operand or the answer"),
    ("emit floor(place(x))", "place takes an operand or the answer"),
    ("emit floor(place(a), 1)", "floor takes one value"),
    ("emit floor(rest div 2)", "only place values, digits and constants"),
])
def test_what_is_no_floor_of_place_values_is_refused(emit, message):
    with pytest.raises(SpecError, match=message):
        settled("placevalue", ("emit floor(rest)", emit))


@pytest.mark.parametrize(("base", "width", "operands"), [(2, 4, 2), (10, 1, 2), (3, 1, 3),
                                                        (2, 2, 4)])
def test_reference_and_circuits_add_exhaustively(base, width, operands):
    names = "abcd"[:operands]
    change = (("place(a) + place(b)", " + ".join(f"place({n})" for n in names)),
              ('msd(a) "+" msd(b)', ' "+" '.join(f"msd({n})" for n in names)),
              ("base 10  width 10  operands 2", f"base {base}  width {width} operands {operands}"))
    spec = settled("placevalue", *change)
    circuit = lower_places(spec)
    spread = spread_prefixes(circuit, spec)
    for pair in itertools.product(range(base**width), repeat=operands):
        right = digits(sum(pair), spec.number.answer_digits, base)
        assert Reference(spec).digits(pair) == right
        assert run_places(circuit, spec.number, "msd", pair) == right
        assert run_places(spread, spec.number, "msd", pair) == right


def test_the_rule_that_wraps_is_the_same_in_steps():
    spec = settled("prefix33", width=2, base=5)
    circuit = lower_places(spec)
    for pair in itertools.product(range(25), repeat=2):
        assert run_places(circuit, spec.number, "lsd", pair) == digits(sum(pair), 3, 5)


# ---------------------------------------------------------------- the circuit


@pytest.mark.parametrize("name", TEXTS)
def test_circuits_read_back_equal(name):
    spec = settled(name)
    circuit = lower_places(spec)
    assert read_circuit(show_circuit(circuit)) == circuit
    if name != "prefix33":
        spread = spread_prefixes(circuit, spec)
        assert read_circuit(show_circuit(spread)) == spread
        with pytest.raises(IllFormed):
            check_circuit(spread, "places")


def test_a_place_value_without_a_ratio_is_ill_formed():
    for prefix in (Prefix(("a",), 1), Prefix((), 10), Prefix(("a", "a"), 10)):
        nodes = (Node("p", prefix), Node("z", Affine((("p", Fraction(1)),))),
                 Node("d", Floor("z")), Node("out", Decode("d")))
        with pytest.raises(IllFormed):
            check_circuit(Circuit(nodes), "places")


# ---------------------------------------------------------------- derived constants


def wrong_sums(module, samples=100):
    bench = benchmark()
    return bench.wrong_sums(module, samples)


def test_the_derived_model_is_right_with_five_numbers():
    result = compiled("placevalue")
    module = module_of(result)
    assert result.parameters == 5
    assert result.margin > 0.02
    assert wrong_sums(module)[0] == 0
    for pair in ((6_000_000_000, 0), (600_000_000, 0), (9_999_999_999, 1), (0, 0)):
        assert module.add(*pair) == sum(pair)
    counts = count_structure(result.structure, result.values).counts
    assert (counts.declared, counts.strict, counts.strict_positional) == (5, 5, 6)


@pytest.mark.parametrize(("base", "width", "dtype"), [
    (10, 13, "float64"), (10, 4, "float32"), (10, 1, "float64"), (2, 20, "float64"),
    (2, 12, "float32"), (8, 4, "float64"), (16, 3, "float64"), (36, 2, "float64"),
])
def test_it_is_right_at_other_bases_widths_and_dtypes(base, width, dtype):
    module = module_of(compiled("placevalue", base=base, width=width, dtype=dtype))
    assert wrong_sums(module, 40)[0] == 0


@pytest.mark.parametrize(("base", "dtype", "widest"), [
    (10, "float64", 13), (10, "float32", 4),
])
def test_the_widest_numbers_are_stated_and_wider_ones_refused(base, dtype, widest):
    explained = compiled("placevalue", base=base, width=widest, dtype=dtype)
    assert f"{dtype} holds width 1 to {widest} in base {base}" in (
        explained.weights.judgement.held)
    with pytest.raises(Refusal, match=f"{dtype} cannot hold") as found:
        compiled("placevalue", base=base, width=widest + 1, dtype=dtype)
    assert found.value.kind == "dtype bound"
    assert f"width 1 to {widest}" in str(found.value)


@pytest.mark.slow
def test_beyond_its_bound_the_model_does_fail():
    """The bound is not far below what really happens."""
    spec = settled("placevalue", width=16)
    choices, given = pipeline.read_model(spec, pipeline.Settings())
    weights = place_weights(spec, choices, given)[1]
    assert weights.judgement.broken
    assert wrong_sums(AdderModule(weights.structure, weights.values), 100)[0] > 0


def test_the_budget_adds_up_to_the_inequalities():
    judgement = compiled("placevalue").weights.judgement
    below, above = judgement.inequalities
    sizes = {name: size for name, size, _ in judgement.budget}
    assert {"older symbols", "weights", "exponentials", "softmax", "products", "sum", "candidates",
            "race"} == set(sizes)
    assert sum(sizes.values()) == pytest.approx(max(below.left, above.left))
    assert below.right + above.right == pytest.approx(1, abs=1e-3)
    # "bos" counts 10^-11 behind "+", on an operand of up to 10^10
    assert sizes["older symbols"] == pytest.approx(0.1, rel=1e-6)
    assert sizes["weights"] < 0.01


def test_three_and_four_operands():
    for names, base in (("abc", 10), ("abcd", 6)):
        change = (("place(a) + place(b)", " + ".join(f"place({n})" for n in names)),
                  ('msd(a) "+" msd(b)', ' "+" '.join(f"msd({n})" for n in names)),
                  ("base 10  width 10  operands 2",
                   f"base {base}  width 3  operands {len(names)}"))
        module = module_of(compiled("placevalue", *change))
        suite = adversarial(module.number, samples=400, seed=2)
        found = verify(module, module.format, suite)
        assert found.passed == found.total


def test_four_operands_in_base_2_cannot_share_their_symbols():
    names = "abcd"
    change = (("place(a) + place(b)", " + ".join(f"place({n})" for n in names)),
              ('msd(a) "+" msd(b)', ' "+" '.join(f"msd({n})" for n in names)),
              ("base 10  width 10  operands 2", "base 2  width 5  operands 4"))
    with pytest.raises(Refusal) as found:
        compiled("placevalue", *change)
    assert found.value.kind == "dtype bound"
    assert "the largest: older symbols" in str(found.value)


@pytest.mark.parametrize(("change", "kind", "message"), [
    (('"bos" msd(a) "+" msd(b) "="', 'msd(a) "+" msd(b) "="'), None, ""),
    (('msd(b) "="', "msd(b)"), "positions collide", "must end in a symbol"),
    (('tokens  "+" -> "bos"', 'tokens "+" -> "bos", "=" -> "bos"'), "positions collide",
     "share a token id"),
    (('tokens  "+" -> "bos"', 'tokens "+" -> 0'), "positions collide", "different distances"),
    (('"bos" msd(a)', '"bos" lsd(a)'), "algorithm impossible", "least significant first"),
    (("softmax softmax1", "softmax softmax"), "algorithm impossible", "sum to 1"),
    (("softmax softmax1", "softmax softmax2"), None, ""),
    (("layers 2", "layers 3"), "algorithm impossible", "take 2 layers"),
    (("heads     gated(rest)", "heads prefix(rest)\n embed slim\n ffn relu\n decode parabola"),
     None, ""),
])
def test_formats_and_models_that_cannot_be_are_refused_with_a_reason(change, kind, message):
    with pytest.raises(SpecError) as found:
        compiled("placevalue", change)
    assert found.value.exit_code == 2
    if kind is not None:
        assert isinstance(found.value, Refusal)
        assert found.value.kind == kind
        assert message in str(found.value)


def test_an_answer_from_the_bottom_is_refused_or_wrong():
    with pytest.raises(WrongAlgorithm):
        settled("placevalue", ("answer  msd(s)", "answer  lsd(s)"))


# ---------------------------------------------------------------- published constants


def test_the_published_constants_fail_where_they_are_known_to():
    result = compiled("tinyadder9")
    module = module_of(result)
    assert module.add(6_000_000_000, 0) == 5_999_999_999
    assert module.add(600_000_000, 0) == 599_999_999
    assert module.add(1_234_567_890, 9_876_543_210) == 11_111_111_100
    found = verify(module, module.format, adversarial(module.number, samples=300, seed=0))
    assert 0 < found.total - found.passed < found.total / 5
    counts = count_structure(result.structure, result.values).counts
    assert (counts.scalars, counts.strict, counts.strict_positional) == (9, 12, 13)


def test_what_breaks_is_told():
    result = compiled("tinyadder9")
    sizes = {name: size for name, size, _ in result.weights.judgement.budget}
    assert sizes["kept residual"] == pytest.approx(500, rel=0.01)  # 10^9 / 2,000,000
    assert max(sizes, key=sizes.get) == "kept residual"
    assert any("500" in warning for warning in result.warnings)


def test_a_sharper_race_would_have_saved_it():
    """With the scale of the V-shape equal to that of the products it adds."""
    result = compiled("tinyadder9", ("vshape(scale = 1e4)", "vshape(scale = 1e10)"))
    assert not result.warnings
    assert wrong_sums(module_of(result))[0] == 0
    counts = count_structure(result.structure, result.values).counts
    assert counts.strict == 11


def test_a_given_name_that_no_leaf_has_is_a_fault():
    with pytest.raises(SpecError, match=r"no leaf 'place\.anker'"):
        compiled("placevalue", ("weights { derive }", "weights { derive; given place.anker = 1 }"))


# ---------------------------------------------------------------- prefix heads


# the null key of softmax1 in place of the anchor token
NULL_KEY = (('"," ";" * (width + 1) "="', '","'), ("softmax softmax;", "softmax softmax1;"),
            ('    tokens  "," -> 0, "=" -> 0\n', ""), ("embed     sparse", "embed     slim"))
OWN_SLOT = (("residual  cancelled", "residual plain"), ("d_model 2", "d_model 3"))


@pytest.mark.parametrize(("changes", "kind", "leaves"), [
    ((), "softmax", 31), (NULL_KEY, "softmax1", 32), (OWN_SLOT, "softmax", 31),
])
def test_three_prefix_heads_of_dimension_1_add_in_one_layer(changes, kind, leaves):
    result = compiled("prefix33", *changes)
    assert result.parameters == leaves
    assert len(result.structure.blocks) == 1
    attention = result.structure.blocks[0].attention
    assert (attention.heads, attention.head_dim, attention.kind) == (3, 1, kind)
    assert result.margin > 0.9
    assert wrong_sums(module_of(result))[0] == 0


@pytest.mark.parametrize("changes", [(), NULL_KEY, (*NULL_KEY, *OWN_SLOT)])
@pytest.mark.parametrize("settings", [
    {"base": 2, "width": 16}, {"base": 16, "width": 3}, {"width": 2, "dtype": "float32"},
])
def test_prefix_heads_in_other_residuals_bases_and_dtypes(changes, settings):
    assert wrong_sums(module_of(compiled("prefix33", *changes, **settings)), 100)[0] == 0


def test_prefix_heads_with_three_operands():
    change = (("place(a[i]) + place(b[i])", "place(a[i]) + place(b[i]) + place(c[i])"),
              ('lsd(b) ","', 'lsd(b) "," * width lsd(c) ","'), ("ffn       relu 4", "ffn relu"),
              ("operands 2", "operands 3"), ("rows sparse", "rows dense"))
    result = compiled("prefix33", *change, width=4)
    assert result.structure.blocks[0].attention.heads == 4
    module = module_of(result)
    found = verify(module, module.format, adversarial(module.number, samples=400, seed=2))
    assert found.passed == found.total


def test_prefix_heads_need_room_between_the_operands():
    with pytest.raises(Refusal, match="stands there too") as found:
        compiled("prefix33", ('lsd(a) "," * width', 'lsd(a) ","'))
    assert found.value.kind == "positions collide"
    with pytest.raises(Refusal, match='";", the digit 10, stands there too at step 10'):
        compiled("prefix33", ('"," ";" * (width + 1)', '";" * (width + 1)'))


@pytest.mark.parametrize("change", [
    ('";" * (width + 1) "="', '";" * width "="'),  # too short a run
    ('";" * (width + 1) "="', '"=" ";" * (width + 2)'),  # the query itself would be an anchor
    ('tokens  "," -> 0', 'tokens ";" -> 0, "," -> 0'),  # a digit cannot be one
])
def test_an_anchor_stands_at_one_distance_from_every_query(change):
    with pytest.raises(Refusal, match="no symbol stands at one distance") as found:
        compiled("prefix33", change)
    assert found.value.kind == "algorithm impossible"
    assert "softmax1" in str(found.value)


# ---------------------------------------------------------------- the whole range


@pytest.mark.slow
@pytest.mark.parametrize("name", ["placevalue", "prefix33"])
@pytest.mark.parametrize("base", [2, 8, 10, 16])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_width_fails_inside_its_bound(name, base, dtype):
    choices, _ = pipeline.read_model(settled(name, base=base, width=1), pipeline.Settings())
    bound = widest_of(choices)[dtype]
    for width in range(1, bound + 1):
        module = module_of(compiled(name, base=base, width=width, dtype=dtype))
        assert wrong_sums(module, 100)[0] == 0, width


@pytest.mark.slow
@pytest.mark.parametrize("name", ["placevalue", "prefix33"])
def test_they_are_proven_portable(name, tmp_path):
    from adderc.prove.run import prove

    module = module_of(compiled(name))
    result = prove(module, module.format)
    assert (result.verdict, result.grade) == ("PROVEN", "portable")


def test_a_saved_model_adds_alike(tmp_path):
    result = compiled("placevalue", width=3)
    path = tmp_path / "model.safetensors"
    result.save(str(path))
    model = adderc.load(path)
    assert model.number == NumberFormat(10, 3)
    assert [model.add(a, b) for a, b in ((999, 1), (600, 0), (0, 0))] == [1000, 600, 0]
