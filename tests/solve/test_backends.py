"""Backends: what each takes, what it finds, and what the proofs of none are worth."""

from dataclasses import replace

import numpy as np
import pytest
from solving import spec_with

from adderc import pipeline
from adderc.errors import InputError
from adderc.solve.adam import Adam
from adderc.solve.backends import chosen
from adderc.solve.cases import cases_of
from adderc.solve.executors import many
from adderc.solve.lp import Lp
from adderc.solve.milp import Milp
from adderc.solve.nlp import Nlp
from adderc.solve.problem import Field, Problem, Wording
from adderc.solve.proof import proved_bound
from adderc.solve.recheck import recheck

HEAD = ("decode    parabola", "decode parabola { weight dense }")


def head_problem(base=3, norm=20.0, keep=None):
    """The dense head and bias of a small model, everything before it derived; `keep` slots."""
    made = pipeline.compile_spec(spec_with("nanogpt58", "derive", replace=[HEAD]),
                                 pipeline.Settings(width=3, base=base))
    unknown = tuple(leaf for leaf in made.structure.leaf_shapes()
                    if leaf.name in ("decode.weight", "decode.bias"))
    if keep is not None:
        unknown = tuple(leaf for leaf in unknown if leaf.name == keep)
    names = {leaf.name for leaf in unknown}
    known = {n: v * (n not in ("decode.weight", "decode.bias"))
             for n, v in made.values.items() if n not in names}
    cases = cases_of(made.spec, made.spec.contexts, made.structure, range(4))
    contexts = made.spec.contexts
    wording = Wording(("a", "b"), -1, contexts.digits, contexts.answers, 0)
    return Problem(made.structure, unknown, known, cases, np.zeros(len(cases)), norm, wording)


def test_lp_finds_the_optimum_and_its_bound_is_proved():
    problem = head_problem()
    answer = Lp().solve(problem, 0)
    assert answer.found
    assert np.linalg.norm(answer.point) <= problem.norm * (1 + 1e-9)
    proved = proved_bound(problem, answer.bound)
    assert answer.margin <= proved <= 1.02 * answer.margin
    other = Nlp().solve(problem, 0)
    assert other.margin <= proved
    assert other.margin >= 0.95 * answer.margin


def test_a_false_bound_is_not_believed():
    problem = head_problem()
    bound = Lp().solve(problem, 0).bound
    shuffled = replace(bound, tokens=bound.tokens[::-1].copy(), value=-1.0)
    assert proved_bound(problem, shuffled) > 0
    assert proved_bound(problem, replace(bound, weights=-bound.weights)) == np.inf


def test_a_bias_alone_is_proved_infeasible():
    """Logits that no digit moves: two contexts with different right tokens are in conflict."""
    problem = head_problem(keep="decode.bias")
    answer = Lp().solve(problem, 0)
    assert not answer.found
    assert proved_bound(problem, answer.bound) <= 1e-9
    assert 2 <= len(answer.conflict) <= problem.size + 1
    assert {c.right for c in answer.conflict} == {c.token for c in answer.conflict}


def test_milp_gives_whole_numbers_and_the_fewest():
    problem = replace(head_problem(base=2, norm=4.0), margin=0.5)
    few = Milp().solve(problem, 0)
    assert few.margin >= 0.5 - 1e-9
    assert np.array_equal(few.point, np.rint(few.point))
    assert np.linalg.norm(few.point) <= problem.norm + 1e-9
    assert np.count_nonzero(few.point) < problem.size / 2


def test_an_interrupted_milp_keeps_its_best_point():
    problem, seen = replace(head_problem(base=2, norm=4.0), margin=0.5), []

    def watch(margin, tried):
        seen.append(margin)
        if len(seen) > 1 and max(seen[:-1]) > 0:
            raise KeyboardInterrupt

    found = Milp().solve(problem, 0, watch)
    assert found.stopped == (len(seen) > 1 and max(seen[:-1]) > 0)
    if found.stopped:
        assert found.margin == max(seen[:-1])
        leads = Field(problem).margins(found.point[None])
        assert float(leads[0]) == pytest.approx(found.margin)

    def at_once(margin, tried):
        raise KeyboardInterrupt

    stopped = Milp().solve(problem, 0, at_once)
    assert stopped.stopped
    assert not stopped.found


def test_milp_says_when_no_whole_numbers_do():
    answer = Milp().solve(replace(head_problem(norm=1.0), margin=5.0), 0)
    assert not answer.found


def test_affine_backends_refuse_what_bends(binary):
    problem, _ = binary
    assert "affine" in Lp().refuses(problem)
    assert chosen("auto", problem) == "nlp"
    assert chosen("auto", head_problem()) == "lp"
    with pytest.raises(InputError, match="affine"):
        chosen("milp", problem)


def test_the_binary_state_machine(binary):
    problem, table = binary
    answer = Nlp().solve(problem, 0)
    assert answer.margin >= 2.2
    assert np.linalg.norm(answer.point) <= 5.417 * (1 + 1e-9)
    assert answer.margin == pytest.approx(float(Field(problem).margins(answer.point[None])[0]))
    values = {n: v.astype(np.float32).astype(float)
              for n, v in problem.values(answer.point).items()}
    checked = recheck(problem.structure, values, table)
    assert answer.margin - 1e-3 <= checked.margin <= answer.margin + 1e-3


def test_the_same_seed_gives_the_same_bits(binary):
    problem = replace(binary[0], enough=1.5)
    assert np.array_equal(Nlp().solve(problem, 3).point, Nlp().solve(problem, 3).point)


def test_a_goal_ends_the_search(binary):
    problem, _ = binary
    answer = Nlp().solve(replace(problem, enough=1.0), 1)
    assert answer.margin >= 1.0


def test_the_least_norm_for_a_margin(binary):
    problem, _ = binary
    answer = Nlp().solve(replace(problem, margin=1.0, norm=542.0, restarts=8), 0)
    assert answer.margin >= 1.0 - 1e-5
    assert answer.margin <= 1.01
    assert np.linalg.norm(answer.point) < 4.8  # 5.417 gives 2.466


def test_the_baseline_stops_at_the_first_exact_table(binary):
    problem, _ = binary
    answer = Adam().solve(problem, 0)
    assert 0 < answer.margin < 1.0


def test_a_table_out_of_reach_is_told_with_its_conflict(binary, monkeypatch):
    from adderc.solve import nlp

    monkeypatch.setattr(nlp, "DOUBLINGS", 1)
    problem, _ = binary
    answer = Nlp().solve(replace(problem, norm=0.3, leak=problem.leak + 1.0), 0)
    assert not answer.found
    assert answer.conflict
    assert all(c.right != c.token for c in answer.conflict)


def test_groups_on_an_executor_give_the_best(binary):
    from concurrent.futures import ThreadPoolExecutor

    problem, _ = binary
    problem = replace(problem, enough=1.0, restarts=8)
    with ThreadPoolExecutor(2) as pool:
        answer = many(pool, "nlp", problem, [3, 4], lambda *_: None)
    single = [Nlp().solve(problem, seed).margin for seed in (3, 4)]
    assert answer.margin == max(single)


def test_dask_runs_the_groups(binary):
    distributed = pytest.importorskip("distributed")
    from adderc.solve.executors import executor_of

    problem, _ = binary
    problem = replace(problem, enough=1.0, restarts=8)
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False,
                                  protocol="tcp", dashboard_address=None) as cluster:
        address = cluster.scheduler_address.removeprefix("tcp://")
        with executor_of(f"dask://{address}") as pool:
            assert type(pool).__module__.startswith("distributed")
            answer = many(pool, "nlp", problem, [3], lambda *_: None)
    assert answer.margin >= 1.0


def test_an_unknown_executor_is_bad_input():
    from adderc.solve.executors import executor_of

    for url in ("http://x:1", "dask://nohost", "dask://"):
        with pytest.raises(InputError), executor_of(url):
            pass
