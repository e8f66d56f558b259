"""Runs: the same bits after an interrupt, over processes, and from a race of seeds."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from training import task_for

from adderc.errors import InputError
from adderc.train.conduct import Shelf, conduct, early_loss
from adderc.train.evaluate import judge, margins_of, tokens_for
from adderc.train.finish import finish
from adderc.train.plan import Race
from adderc.train.run import Run, RunState
from adderc.train.widen import _State, better, failures_of, widen


def silent(seed, row):
    pass


def same(one, two):
    return (all(np.array_equal(getattr(one, n), getattr(two, n)) for n in RunState.ARRAYS)
            and one.losses == two.losses and one.history == two.history)


def test_a_run_goes_on_after_an_interrupt_to_the_same_bits(small, tmp_path):
    whole = conduct(small, [3], None, 1, Shelf(None), silent).states[3]

    def interrupt(seed, row):
        if row["step"] == 200:
            raise KeyboardInterrupt

    shelf = Shelf(tmp_path / "states")
    cut = conduct(small, [3], None, 1, shelf, interrupt)
    assert cut.stopped
    assert cut.states[3].step == 200
    seen = []
    again = conduct(small, [3], None, 1, replace(shelf, resume=True),
                    lambda seed, row: seen.append(row["step"]))
    assert seen == [300]
    assert same(again.states[3], whole)


def test_a_state_of_another_run_is_refused(small, tmp_path):
    conduct(small, [3], None, 1, Shelf(tmp_path), silent)
    other = replace(small, plan=replace(small.plan, rate=0.5))
    with pytest.raises(InputError, match="another spec, settings or seed"):
        conduct(other, [3], None, 1, Shelf(tmp_path, resume=True), silent)
    next(tmp_path.glob("*.npz")).write_bytes(b"nothing")
    with pytest.raises(InputError, match="no state of a run"):
        conduct(small, [3], None, 1, Shelf(tmp_path, resume=True), silent)


def test_processes_come_to_the_same_bits(small):
    alone = conduct(small, [1, 2], None, 1, Shelf(None), silent)
    with ProcessPoolExecutor(2) as pool:
        together = conduct(small, [1, 2], pool, 2, Shelf(None), silent)
    assert alone.winner == together.winner
    for seed in (1, 2):
        assert same(alone.states[seed], together.states[seed])


def test_a_race_keeps_the_seeds_with_the_least_loss(small):
    plan = replace(small.plan, race=Race(4, 100, 1))
    found = conduct(replace(small, plan=plan), [5, 6, 7, 8], None, 1, Shelf(None), silent)
    losses = {seed: early_loss(state, 100) for seed, state in found.states.items()}
    kept = min(losses, key=losses.get)
    assert set(found.raced) == {5, 6, 7, 8} - {kept}
    assert found.states[kept].step == 300
    assert all(found.states[seed].step == 100 for seed in found.raced)


def test_training_learns_and_keeps_the_best():
    """Two digits, plain matrices: the loss falls, and the kept weights are those of the best
    evaluation, whichever that was."""
    task = task_for("ranks")
    run = Run(task.structure, replace(task.plan, steps=1500, rate=0.03), 1, task.sets)
    while not run.done:
        run.advance()
    assert np.mean(run.state.losses[:20]) > 1.5 * run.state.history[-1]["loss"]
    shares = [np.mean(list(row["exact"].values())) for row in run.state.history]
    assert run.state.best_score == pytest.approx(max(shares))
    scores = [judge(run.forward, run.state.best, tokens).exact for tokens in task.sets.values()]
    assert np.mean(scores) == pytest.approx(max(shares))


def test_decay_drops_as_sums_become_exact(small):
    decay = small.plan.decay
    assert decay.now(0.0, 0.99) == pytest.approx(0.01)
    assert decay.now(0.05, 0.5) == pytest.approx(0.01)
    assert decay.now(0.05, 0.8) == pytest.approx(0.001)
    assert decay.now(0.5, 0.8) == pytest.approx(0.0001)


def test_finishing_never_makes_a_model_worse(small):
    run = Run(small.structure, small.plan, 1, small.sets)
    run.advance()
    rng = np.random.default_rng(0)
    batches = [rng.integers(0, 100, (400, 2)) for _ in range(4)]
    found = finish(small, 1, run.state.theta.copy(), lambda n: batches[n], 3, 100, 0.01, silent)
    tokens = np.concatenate([tokens_for(run.forward.form, b) for b in batches], axis=1)

    def failures(vector):
        return int((margins_of(run.forward, vector, tokens).min(axis=1) <= 0).sum())

    assert found.met == tokens.shape[1]
    assert found.failures == failures(found.vector) <= failures(run.state.theta)
    assert len(found.rounds) == 4
    assert "linear_programs" in found.rounds[-1]


def test_linear_programs_widen_the_margin_within_the_norm(small):
    run = Run(small.structure, small.plan, 1, small.sets)
    while not run.done:
        run.advance()
    tokens = np.concatenate(list(small.sets.values()), axis=1)
    before = margins_of(run.forward, run.state.theta, tokens)
    vector, row = widen(run.forward, run.state.theta, tokens, rounds=20)
    after = margins_of(run.forward, vector, tokens)
    assert row["linear_programs"] > 0
    assert (row["failures_before"], row["failures"]) == (failures_of(before), failures_of(after))
    assert better(after, before)
    assert not better(before, after)
    assert np.linalg.norm(vector) < 1.001 * np.linalg.norm(run.state.theta)


def test_margins_are_linear_to_first_order(small):
    run = Run(small.structure, small.plan, 1, small.sets)
    run.advance()
    tokens, vector = small.sets["random"], run.state.theta
    state = _State(run.forward, tokens, vector, margins_of(run.forward, vector, tokens))
    at = np.divmod(state.working, state.margins.shape[1])
    margins, slopes = state.linear(*at)
    assert margins == pytest.approx(state.margins[at], abs=1e-5)
    move = 1e-3 * np.random.default_rng(0).normal(size=len(vector)) * np.abs(vector)
    moved = margins_of(run.forward, (vector + move).astype(vector.dtype), tokens)[at]
    change = moved - margins
    assert np.abs(change - slopes @ move).max() < 0.05 * np.abs(change).max()


def test_an_interrupt_of_the_finish_keeps_the_best(small):
    run = Run(small.structure, small.plan, 1, small.sets)
    run.advance()
    batch = np.random.default_rng(0).integers(0, 100, (400, 2))

    def stop(seed, row):
        if "program" in row or row.get("round") == 2:
            raise KeyboardInterrupt

    found = finish(small, 1, run.state.theta.copy(), lambda n: batch, 3, 100, 0.01, stop)
    assert found.stopped
    tokens = tokens_for(run.forward.form, batch)
    assert failures_of(margins_of(run.forward, found.vector, tokens)) <= failures_of(
        margins_of(run.forward, run.state.theta, tokens))


def test_a_task_needs_something_to_train():
    with pytest.raises(InputError, match="nothing is to be trained"):
        task_for_text_without_training()


def task_for_text_without_training():
    from training import checked_of, text_of

    from adderc.pipeline import Settings
    from adderc.pipeline.train import TrainOptions, task_of

    text = text_of("small").partition("weights")[0] + "weights { derive }"
    return task_of(checked_of(text), Settings(), TrainOptions(), text)


def test_the_first_exact_run_ends_it(small):
    """Judged on one sum that it always gets right, a run stops after `stop` evaluations and
    no other seed is begun."""
    run = Run(small.structure, small.plan, 1, small.sets)
    run.advance()
    forward, tokens = run.forward, next(iter(small.sets.values()))
    easy = None
    for column in range(tokens.shape[1]):
        one = {"one": tokens[:, [column]]}
        task = replace(small, sets=one, plan=replace(small.plan, stop=1))
        if judge(forward, run.state.theta, one["one"]).exact == 1.0:
            easy = task
            break
    if easy is None:
        pytest.skip("no sum was right after the first evaluation")
    found = conduct(easy, [1, 2], None, 1, Shelf(None), silent)
    assert found.states[1].step == 100
    assert 2 not in found.states
    assert found.winner == 1
