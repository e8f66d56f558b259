"""The kernel grade: constants at the values that torch computes, named, checked, not forged."""

import itertools
import json
import random

import numpy as np
import pytest
import torch
from enclosed import fitting
from modules import plain_format
from mutants import adds_everything, draw, undo
from sharp import Drifts, KnowsTheBatch, Paired, Tabled, Written
from test_certificate import rewrite

import adderc
from adderc.nn.greedy import last_logits
from adderc.prove import checker_kernel, run, session
from adderc.prove.certificate import write_certificate
from adderc.prove.checker import check_certificate
from adderc.prove.evaluate import Evaluator
from adderc.prove.kernel import Kernel
from adderc.prove.run import prove
from adderc.prove.search import Search
from adderc.prove.session import Session
from adderc.prove.steps import level_cases
from adderc.report.proving import check_text, proof_json, proof_text

FORM = plain_format(2)


@pytest.fixture(scope="module", autouse=True)
def short_search():
    """Nothing is to be found in most of these modules."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "_named_by", lambda *given: [])
        patch.setattr(Search, "close_in", lambda *given: None)
        patch.setattr(run, "LAST_SECONDS", 0.0)
        yield


@pytest.fixture
def no_search(monkeypatch):
    """What the bounds say by themselves, of wrong modules too."""
    for name in ("replay", "descend"):
        monkeypatch.setattr(Search, name, lambda *given, **more: None)


@pytest.fixture(scope="module")
def certified(tmp_path_factory, short_search):
    """A module, its result and its certificate of grade kernel."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    module, path = Paired(2), tmp_path_factory.mktemp("kernel") / "certificate.json"
    result = prove(module, FORM)
    write_certificate(path, result)
    torch.set_num_threads(before)
    return module, result, path


# ---------------------------------------------------------------- proofs


def test_constants_at_their_values_close_what_bounds_on_them_leave_open(certified):
    module, result, path = certified
    assert adds_everything(module, FORM)
    assert (result.verdict, result.grade) == ("PROVEN", "kernel"), result.reason
    assert result.margin > 0.9
    for word in (torch.__version__, "threads 1", "float32", "batch 1 of 7 to 9 tokens"):
        assert word in result.holds_for
    text = proof_text(result, FORM)
    assert text.startswith("PROVEN, kernel\n  holds for  torch")
    assert "batched decoding is not covered" in " ".join(text.split())
    assert proof_json(result)["holds_for"] == result.holds_for
    check = check_certificate(path, module, FORM)
    assert (check.accepted, check.grade) == (True, "kernel"), check.reason
    assert 0 < check.margin <= 1
    assert result.holds_for == check.holds_for
    assert check_text(check).startswith("accepted, kernel\n  holds for  torch")


@pytest.mark.parametrize("kind", [
    pytest.param(kind, marks=pytest.mark.slow) for kind in (Tabled, Written)])
def test_constants_of_other_styles_are_seen_too(kind, tmp_path):
    """Sums in tensors that hold tokens as well; writes in place."""
    module = kind(2)
    result = prove(module, FORM)
    assert (result.verdict, result.grade) == ("PROVEN", "kernel"), result.reason
    write_certificate(tmp_path / "certificate.json", result)
    check = check_certificate(tmp_path / "certificate.json", module, FORM)
    assert (check.accepted, check.grade) == (True, "kernel"), check.reason


def test_what_is_portable_stays_so():
    assert prove(Paired(2, 3e3), FORM).grade == "portable"


def test_values_are_taken_of_constants_only_and_hold_for_other_tokens(no_search):
    """Every logit of other sums lies in its enclosure; every value taken is no token's."""
    module, dice = Tabled(2), random.Random(0)
    proof = Session(module, FORM)
    proof.prove(np.inf)
    assert not proof.complete()
    proof.prove_on_kernel(np.inf)
    assert proof.kernel is not None
    graph = proof.subjects[0].graph
    taken = [node for node, op in enumerate(graph.op) if op == "kernel"]
    assert len(taken) > 20
    assert not any(graph.depends[node] for node in taken)
    cases = level_cases(proof.subjects[0].automaton, 0, 0, None)
    evaluator = Evaluator(graph, proof.subjects[0].automaton, np.dtype(np.float32), cases,
                          FORM.prompt_length, {})
    low, high = (np.stack(ends, 1) for ends in zip(*(
        evaluator.case_range(form) for form in evaluator.run(proof.roots[0])), strict=True))
    for row in [(dice.randrange(100), dice.randrange(100)) for _ in range(40)]:
        with torch.inference_mode():
            seen = last_logits(module(torch.from_numpy(FORM.encode([row])))).double().numpy()[0]
        case = int(np.flatnonzero(fitting(proof.subjects[0].automaton, cases, row))[0])
        assert ((low[case] <= seen) & (seen <= high[case])).all()


@pytest.mark.parametrize("kind", [KnowsTheBatch, Drifts])
def test_a_constant_that_changes_is_no_constant(kind, no_search):
    result = prove(kind(2), FORM)
    assert result.verdict == "UNDECIDED"
    assert "with the constants that torch computes here: the module does" in result.reason


def disturb(monkeypatch, name, change):
    """Change what a kernel sees at the nodes of a name."""
    opened = Kernel.open

    def disturbed(kernel, program, length):
        opened(kernel, program, length)
        for node, values in kernel.values.items():
            if node.name == name:
                kernel.values[node] = change(values)

    monkeypatch.setattr(Kernel, "open", disturbed)


def test_another_value_for_other_tokens_is_refused(monkeypatch, no_search):
    """As a kernel would that looks at its neighbours."""
    disturb(monkeypatch, "softmax", lambda seen: [*seen[:-1], seen[-1] * (1 + 2**-20)])
    result = prove(Tabled(2), FORM)
    assert result.verdict == "UNDECIDED"
    assert "gives other bits for other tokens" in result.reason


def test_a_value_outside_its_bounds_is_refused(monkeypatch, no_search):
    disturb(monkeypatch, "cos", lambda seen: [value + 1e-3 for value in seen])
    result = prove(Paired(2), FORM)
    assert result.verdict == "UNDECIDED"
    assert "outside its bounds" in result.reason


# ---------------------------------------------------------------- mutants


def at_the_border(count, seed):
    """Gains and phases at which two scores are nearly equal, then mutants of all kinds."""
    yield from itertools.product((3e6,), (0.01, 0.2))
    yield from draw(Paired(2), count, seed)


def test_a_wrong_one_at_the_border_is_not_proven(no_search):
    module = Paired(1)
    with torch.no_grad():
        module.gain.fill_(3e6)
        module.phase.fill_(0.2)
    assert not adds_everything(module, plain_format(1))
    assert prove(module, plain_format(1), budget=20).verdict == "UNDECIDED"


@pytest.mark.slow
@pytest.mark.parametrize("count", [40])
def test_no_wrong_mutant_is_proven(count, no_search, exported_once):
    module = Paired(2)
    right, wrong, proven = 0, 0, 0
    for mutant in at_the_border(count, 5):
        if isinstance(mutant, tuple):
            with torch.no_grad():
                module.gain.fill_(mutant[0])
                module.phase.fill_(mutant[1])
        else:
            with torch.no_grad():
                module.gain.fill_(1e6)
                module.phase.zero_()
            old = mutant.apply(module)
        truth, result = adds_everything(module, FORM), prove(module, FORM, budget=20)
        right, wrong = right + truth, wrong + (not truth)
        assert truth or result.verdict != "PROVEN", mutant
        proven += result.grade == "kernel"
        if not isinstance(mutant, tuple):
            undo(module, mutant, old)
    assert right >= 2
    assert wrong >= 2
    assert proven >= 1


# ---------------------------------------------------------------- certificates


def forged(name, value):
    """A change of one entry under "kernel"."""
    def change(data):
        data["kernel"][name].update(value)
    return change


def test_an_edited_kernel_is_refused(certified, tmp_path):
    module, _, path = certified
    said = json.loads(path.read_text())["kernel"]["values"]
    changes = {
        "other constants at 7 tokens": forged("values", {"7": said["8"]}),
        "another build of torch": forged("build", {"torch": "2.0.0"}),
        "threads: 8 there, 1 here": forged("build", {"threads": 8}),
        "no length that there is": forged("values", {"99": said["7"]}),
        "a kernel of another kind": lambda data: data["kernel"].update(batch=2),
        "step 1: the bound found is": lambda data: data["steps"][0].update(margin=1.0),
        "step 2: ": lambda data: data["kernel"]["values"].pop("8"),
        "this is no certificate": lambda data: data.update(grade="portable"),
    }
    for number, (reason, change) in enumerate(changes.items()):
        edited = rewrite(path, tmp_path / f"{number}.json", change)
        check = check_certificate(edited, module, FORM)
        assert not check.accepted
        assert reason in check.reason, check.reason


def test_a_kernel_proof_called_portable_is_refused(certified, tmp_path):
    module, _, path = certified

    def change(data):
        data["grade"] = "portable"
        del data["kernel"]

    check = check_certificate(rewrite(path, tmp_path / "c.json", change), module, FORM)
    assert not check.accepted
    assert check.reason.startswith("step 1: ")


def test_other_threads_are_refused_in_a_sentence(certified):
    module, _, path = certified
    torch.set_num_threads(2)
    check = check_certificate(path, module, FORM)
    assert not check.accepted
    assert "number of threads (threads: 1 there, 2 here), where constants" in check.reason


def test_other_constants_of_the_same_name_are_refused(certified, monkeypatch):
    """The checker looks for itself; what it sees must have the certificate's digest."""
    module, _, path = certified
    prompts = checker_kernel._prompts
    monkeypatch.setattr(checker_kernel, "_prompts", lambda form, length: prompts(form, length)[1:])
    check = check_certificate(path, module, FORM)
    assert "torch computes other constants at 7 tokens" in check.reason


def test_the_checker_takes_no_value_that_a_token_can_change(certified, monkeypatch):
    """Each value that it took was asked for tokens, and none mattered."""
    module, _, path = certified
    taken, matters = [], checker_kernel.Observed.matters

    def asked(observed, reader, term):
        found = matters(observed, reader, term)
        if not found:
            taken.append(term)
        return found

    monkeypatch.setattr(checker_kernel.Observed, "matters", asked)
    assert check_certificate(path, module, FORM).accepted
    assert taken
    assert not any(term.sees for term in taken if term.op in ("cos", "weight"))


def test_modules_of_ours_are_proven_portable_and_need_no_kernel(small, monkeypatch):
    monkeypatch.setattr(session.Session, "prove_on_kernel", lambda *given: pytest.fail("asked"))
    assert prove(small).grade == "portable"
    assert adderc.__version__
