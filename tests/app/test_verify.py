"""`adderc verify`: suites, exit codes, the JSON keys."""

import numpy as np
import pytest

from adderc.app_models import choose_suites
from adderc.format.number import NumberFormat


def test_a_right_model(adder, use_model, adder_class):
    use_model(adder_class())
    ran = adder("verify", "m", "--suite", "adderboard")
    assert ran.code == 0
    assert ran.out.startswith("adderboard: 10,010 of 10,010 right (100%), ")
    assert "qualifies (at least 99%)" in ran.out


def test_json_keys(adder, use_model, adder_class):
    use_model(adder_class(wrong=[(9999999999, 1)]))
    ran = adder("verify", "m", "--suite", "adderboard", "--json")
    found = ran.json
    assert ran.code == 1
    assert found["failures"] == [
        {"operands": ["9999999999", "1"], "expected": "10000000000", "got": "0"}
    ]
    assert (found["passed"], found["total"], found["qualifies"]) == (10_009, 10_010, True)
    assert 0.999 < found["accuracy"] < 1
    assert found["additions_per_second"] > 0


def test_without_a_suite_small_ranges_are_exhausted_too(adder, use_model, adder_class):
    use_model(adder_class(width=2))
    found = adder("verify", "m", "--samples", 500, "--json").json
    assert [(s["suite"], s["total"]) for s in found["suites"]] == [
        ("adversarial", 500), ("exhaustive", 10_000)
    ]
    assert found["total"] == 10_500
    use_model(adder_class(width=4))
    found = adder("verify", "m", "--samples", 500, "--json").json
    assert [(s["suite"], s["total"]) for s in found["suites"]] == [("adversarial", 500)]
    assert found["qualifies"] is None


@pytest.mark.parametrize(("base", "width", "operands", "count"), [
    (10, 3, 2, 2), (10, 4, 2, 1), (2, 9, 2, 2), (2, 10, 2, 1), (10, 1, 4, 2), (10, 2, 4, 1),
])
def test_a_million_tuples_are_the_bound(base, width, operands, count):
    number = NumberFormat(base, width, operands)
    assert len(choose_suites(number, None, None, 0)) == count


def test_failures_are_shown_in_eighty_columns(adder, use_model, adder_class):
    use_model(adder_class(width=2, wrong=[(a, 99) for a in range(1, 40)]))
    ran = adder("verify", "m", "--suite", "exhaustive")
    assert ran.code == 1
    assert "exhaustive: 9,961 of 10,000 right (99.61%)" in ran.out
    assert "the first 10 of 39 wrong:" in ran.out
    assert max(map(len, ran.out.splitlines())) <= 80


@pytest.mark.parametrize("operands", [2, 4])
def test_long_numbers_are_shortened_in_the_table(adder, use_model, adder_class, operands):
    model = adder_class(width=100, operands=operands)
    model.decode = lambda prompts: np.ones((len(prompts), model.format.steps), dtype=int)
    use_model(model)
    ran = adder("verify", "m", "--samples", 30)
    assert ran.code == 1
    assert "…" in ran.out
    assert max(map(len, ran.out.splitlines())) <= 80
    failure = adder("verify", "m", "--samples", 30, "--json").json["failures"][0]
    assert failure["got"] == "1" * model.format.steps
    assert sum(map(int, failure["operands"])) == int(failure["expected"])


def test_quiet_says_it_by_the_exit_code(adder, use_model, adder_class):
    use_model(adder_class(width=1))
    ran = adder("verify", "m", "-q")
    assert (ran.code, ran.out, ran.err) == (0, "", "")


@pytest.mark.parametrize(("arguments", "words"), [
    (["m", "--suite", "adderboard"], "use --suite adversarial"),
    (["m", "--suite", "exhaustive"], "10,000,000"),
    (["m", "--suite", "exhaustive", "--samples", "5"], "--samples goes with"),
    (["m", "--suite", "likely"], "'likely' is not one of"),
    (["m", "--samples", "0"], "0 is not in the range"),
    ([], "Missing argument"),
])
def test_bad_usage(adder, use_model, adder_class, arguments, words):
    use_model(adder_class(width=9))
    for extra in ([], ["--json"]):
        ran = adder("verify", *arguments, *extra)
        assert ran.code == 2
        assert words in ran.err
        if extra:
            assert words in ran.json["error"]
        else:
            assert ran.out == ""


def test_an_interrupt_reports_what_was_run(adder, use_model, adder_class):
    model = adder_class()
    decode, calls = model.decode, []

    def once(prompts):
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return decode(prompts)

    model.decode = once
    use_model(model)
    ran = adder("verify", "m", "--suite", "adderboard", "--json")
    assert ran.code == 130
    assert ran.json["interrupted"] is True
    assert 0 < ran.json["total"] < 10_010
    assert ran.json["qualifies"] is False
    calls.clear()
    assert "interrupted:" in adder("verify", "m", "--suite", "adderboard").out


def test_python_models_need_a_format_and_trust(adder):
    ran = adder("verify", "model.py")
    assert ran.code == 2
    assert "needs --format SPEC" in ran.err
    ran = adder("trace", "model.py", "1", "2")
    assert ran.code == 2
    assert "not a model file" in ran.err
