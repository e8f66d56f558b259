"""Audits a Python file by the traced graphs of its forward pass.

Takes: a `PythonModel`, sums to sample with. Gives: `AuditReport`.
May import: errors, results, format, nn, the rest of this room.

What the file does is foreign: whatever goes wrong in it is told as "not audited: …".
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from adderc.audit import rules as rule
from adderc.audit.capture import Call, Capture, tensors_in, token_inputs, watch_add, watch_calls
from adderc.audit.driver import inspect_add, inspect_forward
from adderc.audit.graphcount import Example, GraphCount, count_graph
from adderc.audit.holders import Held, find_held, plain
from adderc.audit.literals import Literals
from adderc.audit.outputs import tensors_of
from adderc.audit.paths import merged
from adderc.audit.recording import Origin, Recording, storage_key
from adderc.audit.run import Sums, batch_answers, component_totals, sample, sample_size
from adderc.audit.sampling import Answers, find_duplicates, find_insensitive
from adderc.audit.trace import evaluate
from adderc.errors import AddercError, InputError, Undecided
from adderc.format.prompt import Format
from adderc.nn.greedy import decode_greedy
from adderc.nn.thirdparty import (
    MODULE_NAME,
    PythonModel,
    ThirdPartyModule,
    callable_of,
    foreign_error,
    quiet_stdout,
    run_add,
)
from adderc.results import AuditNote, AuditReport, RuleVerdict

SLOW_SUMS = 40  # sums for a model that can only be asked one at a time
MOST_PATHS = 24  # different computations of one model
CLAIMS = ("params", "parameters", "param_count", "n_params", "num_params", "total_params")
PROBES = 3


def audit_python(
    python: PythonModel, recording: Recording, form: Format | None, sums: Sums = (),
    with_rules: bool = False,
) -> AuditReport:
    """The audit of a third-party model from one traced call for each of its computations.

    The calls are taken from the file's own `add`; without one, from `form`. Undecided where
    nothing can be called or traced.
    """
    with quiet_stdout():
        try:
            return _audit(python, recording, form, sums, with_rules)
        except AddercError:
            raise
        except (Exception, SystemExit) as error:
            told = foreign_error(python.path, "following the model", error)
            raise Undecided(f"not audited: {told.message}") from error


@contextlib.contextmanager
def own_settings() -> Iterator[None]:
    """Torch's defaults as they were before foreign code set others."""
    dtype, gradients = torch.get_default_dtype(), torch.is_grad_enabled()
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(gradients)


def _audit(
    python: PythonModel, recording: Recording, form: Format | None, sums: Sums, with_rules: bool
) -> AuditReport:
    model = python.model
    if isinstance(model, torch.nn.Module):
        model.eval()
    literals = Literals(python.source)
    held, capture = _captured(python, form)
    origins = _origins(held, recording)
    found = _count_paths(python, capture, held, origins, literals)
    findings = (*inspect_add(python.source, python.add, capture.spelled),
                *inspect_forward(python.source))
    declared = [h for h, o in zip(held, origins, strict=True) if h.is_parameter and o is None]
    answers, total = _answers(python, form, sums)
    dead = {note.name for note in found.dead}
    claimed = next((v for k in CLAIMS if isinstance(v := python.metadata.get(k), int)), None)
    return AuditReport(
        python.name, "python", found.counts, found.leaves, found.constants, found.dead,
        tuple(find_insensitive(declared, answers, total, dead | _sources(origins))),
        tuple(find_duplicates(declared)), found.derived, findings,
        rules=_rules(python, capture, found, findings, claimed) if with_rules else (),
        components=component_totals(found.leaves), remarks=found.remarks, claimed=claimed)


# ---------------------------------------------------------------- calls


def _captured(python: PythonModel, form: Format | None) -> tuple[list[Held], Capture]:
    """What the model holds once it has run, and its calls on a few sums."""
    if python.add is not None:
        sums = _probe_sums(python, form)
        held = find_held(python.model, python.namespace, MODULE_NAME)
        return held, watch_add(python, sums, [item.tensor for item in held])
    if form is None:
        raise Undecided(f"not audited: {python.path} has no add(model, a, b), so that the shape "
                        "of its input is not known", "give its number and format parts with "
                        "--format SPEC")
    function = callable_of(python)
    prompts = torch.from_numpy(form.encode([sample(form, seed) for seed in range(PROBES)]))
    answers = torch.from_numpy(decode_greedy(ThirdPartyModule(python, form), form,
                                             prompts.numpy())).clamp(min=0)
    whole = torch.cat([prompts, answers], 1)
    lengths = range(prompts.shape[1], whole.shape[1])
    held = find_held(python.model, python.namespace, MODULE_NAME)
    batches = [[row[None, :length].contiguous() for length in lengths] for row in whole]
    return held, watch_calls(function, batches)


def _probe_sums(python: PythonModel, form: Format | None) -> list[tuple[int, ...]]:
    """Sums of unlike digits that the model takes; it has run on one of them after this."""
    wide: list[tuple[int, ...]] = [
        (1234567890, 9876543210), (5555555555, 4444444444), (9999999999, 1)]
    narrow: list[tuple[int, ...]] = [(12, 34), (55, 44), (99, 1)]
    if form is not None:
        wide = [sample(form, seed) for seed in range(PROBES)]
    try:
        run_add(python, *wide[0])
    except InputError:
        if form is not None:
            raise
        run_add(python, *narrow[0])
        return narrow
    return wide


def _length(call: Call) -> int:
    sizes = [v.shape[-1] for v in tensors_in(call) if v.ndim and not v.is_floating_point()]
    return max(sizes, default=0)


def _choose(capture: Capture, held: list[Held]) -> Call:
    """A late and long call of the first sum, of a length that no held tensor has if possible."""
    first = [call for call in capture.calls if call.sum == 0] or capture.calls
    sizes = {size for item in held for size in item.tensor.shape}
    sizes |= {size for call in first for size in call.logits.shape[-1:]}
    long = [call for call in first if _length(call) > 1] or first
    free = [call for call in long if _length(call) not in sizes]
    return (free or long)[-1]


def _example(capture: Capture, call: Call, own: list[Tensor]) -> Example:
    tensors, tokens = tensors_in(call, own), token_inputs(capture, call, own)
    longest = max(_length(c) for c in capture.calls)
    vocabulary = int(call.logits.shape[-1]) if call.logits.is_floating_point() else 0
    return Example(call.args, call.kwargs, tensors, tokens, _length(call), vocabulary, longest)


# ---------------------------------------------------------------- graphs


def _count_paths(
    python: PythonModel, capture: Capture, held: list[Held], origins: Sequence[Origin | None],
    literals: Literals,
) -> GraphCount:
    """One graph for each computation that the recorded calls of a sum go through."""
    own = [item.tensor for item in held]
    main = _choose(capture, held)
    counts: list[tuple[Call, GraphCount]] = []
    for call in _different(capture, main, own):
        counts.append((call, count_graph(capture.function, _example(capture, call, own), held,
                                         origins, python.path, literals)))
        if len(counts) > MOST_PATHS:
            raise Undecided(f"not audited: the forward pass runs in more than {MOST_PATHS} ways")
    check_traces(counts, capture, own)
    return merged(counts, capture.calls, literals)


def _different(capture: Capture, main: Call, own: list[Tensor]) -> Iterator[Call]:
    """The chosen call, then one for every other way in which calls of its sum were computed."""
    seen: set[Any] = set()
    for call in (main, *(c for c in capture.calls if c.sum == main.sum)):
        fixed = [t for t, varies in zip(tensors_in(call, own), token_inputs(capture, call, own),
                                        strict=True) if not varies]
        way = (call.path, *(_values(tensor) for tensor in fixed))
        if way not in seen:
            seen.add(way)
            yield call


def _values(tensor: Tensor) -> Any:
    """What a fixed argument holds; an arange of any length is the same argument."""
    values = plain(tensor).flatten().tolist()
    return "arange" if values == list(range(len(values))) else tuple(values)


def check_traces(
    counts: Sequence[tuple[Call, GraphCount]], capture: Capture, own: list[Tensor]
) -> None:
    """The graphs must do what the model did, on all tokens that it was seen with.

    Undecided where one does not: something went past the trace. A call that ran in a way
    of its own must be repeated by some graph.
    """
    known = {call.path for call, _ in counts}
    repeated = set(known)
    for call in capture.calls:
        given = tensors_in(call, own)
        fit = [found for traced, found in counts
               if [t.shape for t in found.subject.arguments] == [t.shape for t in given]
               and (call.path not in known or call.path == traced.path)]
        if not fit:
            continue
        if not any(_repeats(found, call, given, own) for found in fit):
            raise Undecided("not audited: the traced graph does not repeat what the model does",
                            "something in the forward pass goes past the trace: state that it "
                            "keeps, numpy, or Python numbers made from tokens")
        repeated.add(call.path)
    if any(call.path not in repeated for call in capture.calls):
        raise Undecided("not audited: the forward pass runs in another way for other operands")


def _repeats(found: GraphCount, call: Call, given: list[Tensor], own: list[Tensor]) -> bool:
    outputs = evaluate(found.subject.flow.traced, own, given)
    return len(outputs) == len(call.outputs) and all(
        a.shape == b.shape and torch.allclose(plain(a), plain(b), rtol=1e-4, atol=1e-6,
                                              equal_nan=True)
        for a, b in zip(outputs, call.outputs, strict=True))


def _origins(held: list[Held], recording: Recording) -> list[Origin | None]:
    """Where each tensor came from; parameters of a module stand for themselves.

    A tensor may only be derived from tensors that are held too; one that looks at the memory
    of a parameter is that parameter.
    """
    keys = {storage_key(item.tensor): item.name for item in reversed(held)}
    shared = {storage_key(item.tensor): item.name for item in reversed(held)
              if isinstance(item.tensor, torch.nn.Parameter)}
    found: list[Origin | None] = []
    for item in held:
        origin = None
        if not isinstance(item.tensor, torch.nn.Parameter):
            owner = shared.get(storage_key(item.tensor))
            origin = Origin((owner,), ()) if owner else recording.origin(item.tensor, keys)
        if origin is not None and not origin.held and (
            (item.is_parameter and origin.numbers)
            or (not origin.numbers and item.tensor.numel() == 1)
        ):
            origin = None  # filled with numbers, or one number picked out of a shape
        found.append(origin)
    return found


def _sources(origins: Sequence[Origin | None]) -> set[str]:
    """Tensors from which others were computed: scaling one alone would mean nothing."""
    return {name for origin in origins if origin is not None for name in origin.held}


# ---------------------------------------------------------------- answers and rules


def _answers(python: PythonModel, form: Format | None, sums: Sums) -> tuple[Answers, int]:
    if not sums:
        return (lambda first, last: []), 0
    if form is not None:
        return batch_answers(ThirdPartyModule(python, form), form, sums[: sample_size(form)])
    if python.add is None:
        return (lambda first, last: []), 0
    few = list(itertools.islice(sums, SLOW_SUMS))

    def ask(first: int, last: int) -> list[object]:
        answers: list[object] = []
        for operands in few[first:last]:
            try:
                answers.append(run_add(python, *operands))
            except InputError:
                answers.append(None)
        return answers

    return ask, len(few)


def _rules(
    python: PythonModel, capture: Capture, found: GraphCount,
    findings: Sequence[AuditNote], claimed: int | None,
) -> tuple[RuleVerdict, ...]:
    run = tokens = None
    places: list[int] = []
    first, *_, last = [call for call in capture.calls if call.sum == 0] * 2
    given = _token_tensor(last)
    if given is not None and (start := _token_tensor(first)) is not None:
        tokens, places = given, _written(start, given)

        def run(changed: Tensor) -> list[Tensor]:
            with torch.no_grad():
                return tensors_of(capture.function(changed))

    source = python.source if python.add is not None else None
    return (
        rule.attention_rule(found.subject.flow),
        rule.autoregressive_rule(run, tokens, places),
        rule.loop_rule(source),
        rule.arithmetic_rule(findings, source is None, capture.spelled),
        rule.claim_rule(claimed, found.counts.declared),
    )


def _token_tensor(call: Call) -> Tensor | None:
    """The only tensor of a call, where it is one of whole numbers."""
    given = tensors_in(call)
    alone = len(given) == 1 and not call.kwargs and not given[0].is_floating_point()
    return given[0] if alone and given[0].ndim else None


def _written(first: Tensor, last: Tensor) -> list[int]:
    """Positions of the last call whose tokens the first call did not have."""
    common = min(first.shape[-1], last.shape[-1])
    head = [n for n in range(common) if not torch.equal(first[..., n], last[..., n])]
    return [*head, *range(common, last.shape[-1])]
