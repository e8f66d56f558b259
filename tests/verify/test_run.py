"""Running a suite: the counts, the failures told, greedy and teacher-forced alike."""

import numpy as np
import pytest
import torch

from adderc.format.number import NumberFormat
from adderc.format.prompt import DigitTuples, Format, OperandDigits, Symbols
from adderc.verify.run import batch_size, expected_tokens, prompts_of, right_sums, verify
from adderc.verify.suites import adversarial, exhaustive


def digits_format(number, order="lsd"):
    prompt = []
    for operand in range(number.operands):
        prompt += [OperandDigits(operand, "msd"), Symbols("+")]
    return Format(number, (*prompt, Symbols("=")), answer_order=order,
                  tokens=(("+", number.base), ("=", number.base + 1)))


def states_format(number):
    return Format(number, (DigitTuples("lsd"), Symbols("start")), answer_kind="states",
                  tokens=(("start", number.base**number.operands),))


class Oracle(torch.nn.Module):
    """Predicts every answer token from the prompt; `break_row(operands, tokens)` spoils some."""

    def __init__(self, form, break_row=lambda operands, tokens: tokens):
        super().__init__()
        self.form, self.break_row, self.calls = form, break_row, 0

    def answers(self, prompts):
        number, rows = self.form.number, []
        for prompt in prompts.tolist():
            values = [0] * number.operands
            for cell, token in zip(self.form.cells, prompt, strict=True):
                if cell.kind == "digit":
                    values[cell.operand] += token * number.base**cell.place
                elif cell.kind == "tuple":
                    for operand in reversed(range(number.operands)):
                        token, digit = divmod(token, number.base)
                        values[operand] += digit * number.base**cell.place
            rows.append(self.break_row(tuple(values), self.form.expected(values)))
        return np.array(rows)

    def forward(self, tokens):
        self.calls += 1
        start = self.form.prompt_length
        answers = torch.from_numpy(self.answers(tokens[:, :start].numpy()))
        logits = torch.zeros(*tokens.shape, self.form.vocabulary)
        steps = tokens.shape[1] - start + 1
        logits[:, start - 1 :] = torch.nn.functional.one_hot(
            answers[:, :steps], self.form.vocabulary
        ).float()
        return logits


def run(form, suite, break_row=lambda operands, tokens: tokens, **options):
    oracle = Oracle(form, break_row)
    return verify(oracle, form, suite, decode=oracle.answers, **options)


FORMATS = [
    digits_format(NumberFormat(10, 2)), digits_format(NumberFormat(3, 2, 3), "msd"),
    digits_format(NumberFormat(10, 20)), digits_format(NumberFormat(36, 20, 4), "msd"),
    states_format(NumberFormat(4, 3)), states_format(NumberFormat(10, 25)),
]


@pytest.mark.parametrize("form", FORMATS)
def test_prompts_and_expected_tokens_are_the_formats_own(form):
    batch = next(adversarial(form.number, 40).batches())
    rows = batch.tolist()
    assert prompts_of(form, batch).tolist() == form.encode(rows).tolist()
    assert expected_tokens(form, batch).tolist() == [form.expected(row) for row in rows]


@pytest.mark.parametrize("method", ["greedy", "forced"])
@pytest.mark.parametrize("form", FORMATS)
def test_a_right_model_passes(form, method):
    result = run(form, adversarial(form.number, 150), method=method)
    assert (result.passed, result.total, result.failures) == (150, 150, ())


@pytest.mark.parametrize("method", ["greedy", "forced"])
def test_every_failure_is_counted_and_the_first_are_told(method):
    form = digits_format(NumberFormat(10, 2))

    def drop_last_carry(operands, tokens):
        return [*tokens[:-1], 0]

    result = run(form, exhaustive(form.number), drop_last_carry, method=method, keep=3)
    wrong = [(a, b) for a in range(100) for b in range(100) if a + b >= 100]
    assert result.total == 10_000
    assert result.failed == len(wrong)
    assert len(result.failures) == 3
    for failure in result.failures:
        assert failure.expected == sum(failure.operands) == failure.got + 100
    if method == "greedy":
        assert [failure.operands for failure in result.failures] == wrong[:3]


def test_an_answer_that_is_no_number_fails():
    form = digits_format(NumberFormat(10, 1))
    result = run(form, exhaustive(form.number), lambda operands, tokens: [10, 0])
    assert result.passed == 0
    assert result.failures[0].got is None


@pytest.mark.parametrize("form", [digits_format(NumberFormat(3, 2)),
                                  states_format(NumberFormat(2, 3)),
                                  states_format(NumberFormat(3, 2))])
def test_right_sums_agrees_with_decoding_one_by_one(form):
    rng = np.random.default_rng(0)
    batch = np.concatenate(list(exhaustive(form.number).batches()))
    tokens = expected_tokens(form, batch)
    spoiled = rng.random(tokens.shape) < 0.3
    tokens = np.where(spoiled, rng.integers(-1, form.vocabulary, tokens.shape), tokens)
    alone = [form.decode(row) == sum(operands)
             for row, operands in zip(tokens.tolist(), batch.tolist(), strict=True)]
    assert right_sums(form, batch, tokens).tolist() == alone
    assert 0 < sum(alone) < len(alone)


def test_long_answers_are_teacher_forced_and_confirmed():
    form = digits_format(NumberFormat(10, 80))
    oracle = Oracle(form)
    oracle.peak_scores = lambda capacity: 8 * capacity**2  # all scores at once: slow to decode
    decoded = []

    def decode(prompts):
        decoded.append(len(prompts))
        return oracle.answers(prompts)

    result = verify(oracle, form, adversarial(form.number, 300), decode=decode)
    assert result.method == "teacher-forced, 64 confirmed greedily"
    assert result.passed == result.total == 300
    assert sum(decoded) == 64
    assert oracle.calls > 0


def test_short_answers_and_modules_of_others_are_decoded():
    for width, peak in ((80, None), (80, lambda capacity: 8 * capacity), (5, lambda c: c**3)):
        form = digits_format(NumberFormat(10, width))
        oracle = Oracle(form)
        if peak:
            oracle.peak_scores = peak
        result = verify(oracle, form, adversarial(form.number, 50), decode=oracle.answers)
        assert (result.method, result.passed, oracle.calls) == ("greedy", 50, 0)


def test_the_rooms_own_decoding_is_the_default():
    form = digits_format(NumberFormat(10, 3))
    oracle = Oracle(form, lambda operands, tokens: [*tokens[:-1], 7] if max(operands) > 900
                    else tokens)
    suite = adversarial(form.number, 60)
    result = verify(oracle, form, suite)
    assert oracle.calls == form.steps
    large = sum(max(row) > 900 for batch in suite.batches() for row in batch.tolist())
    assert 0 < result.failed == large


def test_a_row_with_a_nan_is_wrong_in_one_pass_too():
    form = digits_format(NumberFormat(10, 3))

    class Spoiled(Oracle):
        def forward(self, tokens):
            return super().forward(tokens) * float("nan")

    result = verify(Spoiled(form), form, adversarial(form.number, 20), method="forced")
    assert result.passed == 0
    assert result.failures[0].got is None


def test_greedy_decoding_has_the_last_word():
    """Where the one pass and the decoding disagree, the decoding counts."""
    form = digits_format(NumberFormat(10, 3))
    right, wrong = Oracle(form), Oracle(form, lambda operands, tokens: [*tokens[:-1], 5])
    suite = adversarial(form.number, 100)
    rescued = verify(wrong, form, suite, method="forced", decode=right.answers)
    assert rescued.passed == 100
    caught = verify(right, form, suite, method="forced", decode=wrong.answers, confirmations=20)
    assert caught.passed == 80


def test_an_interrupt_gives_what_was_run():
    form = digits_format(NumberFormat(10, 6))
    oracle, calls = Oracle(form), []

    def decode(prompts):
        if calls:
            raise KeyboardInterrupt
        calls.append(len(prompts))
        return oracle.answers(prompts)

    result = verify(oracle, form, adversarial(form.number, 9000), decode=decode)
    assert result.interrupted
    assert result.total == result.passed == calls[0] < result.planned == 9000


def test_progress_ends_at_the_total():
    form, seen = digits_format(NumberFormat(10, 6)), []
    run(form, adversarial(form.number, 5000), progress=lambda done, all: seen.append((done, all)))
    assert seen[-1] == (5000, 5000)
    assert seen == sorted(seen)


def test_batches_shrink_as_the_scores_grow():
    sizes = [batch_size(None, digits_format(NumberFormat(10, w))) for w in (5, 40, 512, 9000)]
    assert sizes == sorted(sizes, reverse=True)
    assert 1000 < sizes[0] <= 4096
    assert 1 <= sizes[2] < 16
    assert sizes[3] == 1
