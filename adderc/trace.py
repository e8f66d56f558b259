"""Follows one sum through a model, answer token by answer token.

Takes: a module of ours, operands. Gives: `trace` → `results.Trace`, an inert record.
May import: format, results, nn.

The answer is decoded by the module's own forward, one token after the other. One more pass
over prompt and answer, with every hook point watched, then shows all steps at once: the
model is causal, so what a step saw is what stands at its position in that pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from adderc.format.prompt import Cell, Format
from adderc.nn.greedy import decode_greedy
from adderc.nn.module import AdderModule
from adderc.results import Trace, TraceHead, TraceHidden, TraceRead, TraceStep

READS = 4  # positions that are named per head
FAINT = 5e-4  # weight below which a position is not named
LONG_ANSWER = 64  # steps from which on decoding keeps what it computed

Quantities = Mapping[int, Sequence[tuple[str, int | Fraction]]]  # place -> the spec's values there
Values = Mapping[str, np.ndarray]


def trace(
    module: AdderModule, operands: Sequence[int], quantities: Quantities | None = None
) -> Trace:
    """What the model does with `operands`; InputError where it does not take them."""
    form = module.format
    prompt = form.encode([operands])
    answer = decode_greedy(module, form, prompt, incremental=form.steps > LONG_ANSWER)[0]
    tokens = np.concatenate([prompt[0], np.maximum(answer[:-1], 0)])
    values = watch(module, tokens)
    labels = [cell_label(cell, form) for cell in form.cells]
    labels += [f"s[{form.answer_place(step)}]" for step in range(form.steps)]
    right = form.expected(operands)
    steps = [
        _step(module, values, step, tokens, labels, int(answer[step]), right[step],
              tuple((quantities or {}).get(form.answer_place(step), ())))
        for step in range(form.steps)
    ]
    return Trace(
        tuple(operands), sum(operands), form.decode(answer.tolist()), form.number.base,
        module.structure.slots,
        tuple(zip(labels[: form.prompt_length], prompt[0].tolist(), strict=True)), tuple(steps))


def watch(module: AdderModule, tokens: np.ndarray) -> dict[str, np.ndarray]:
    """Every interior value of one pass over tokens [T] by hook name, without the batch axis."""
    found: dict[str, np.ndarray] = {}
    with _hooked(module, found), torch.inference_mode():
        module(torch.from_numpy(tokens).unsqueeze(0).to(module.device))
    return found


@contextmanager
def _hooked(module: AdderModule, found: dict[str, np.ndarray]) -> Iterator[None]:
    def keeper(name: str, batched: bool):  # type: ignore[no-untyped-def]
        def keep(_point: object, _inputs: object, value: Tensor) -> None:
            found[name] = (value[0] if batched else value).double().cpu().numpy()
        return keep

    handles = [point.register_forward_hook(keeper(name, point.shape.startswith("B")))
               for name, point in module.hook_points().items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def cell_label(cell: Cell, form: Format) -> str:
    """`a[3]` for a digit, `(a,b)[3]` for a tuple of digits, the symbol itself."""
    if cell.kind == "symbol":
        return cell.text
    if cell.kind == "tuple":
        return f"({','.join(form.number.names)})[{cell.place}]"
    return f"{form.number.names[cell.operand]}[{cell.place}]"


def _step(
    module: AdderModule, values: Values, step: int, tokens: np.ndarray, labels: list[str],
    written: int, right: int, quantities: tuple[tuple[str, int | Fraction], ...],
) -> TraceStep:
    form = module.format
    at = form.prompt_length - 1 + step
    logits = values["logits"][at]
    runner_up, margin = _runner_up(logits, written)
    return TraceStep(
        step, form.answer_place(step), at, labels[at], int(tokens[at]),
        tuple(_heads(module, values, at, tokens, labels)), tuple(_residual(module, values, at)),
        tuple(_hidden(module, values, at)), tuple(logits.tolist()),
        written if written >= 0 else None, runner_up, margin, right, quantities)


def _runner_up(logits: np.ndarray, written: int) -> tuple[int | None, float]:
    """The best other token and how far the written one leads; None and NaN without one."""
    if written < 0 or len(logits) < 2:
        return None, float("nan")
    others = logits.copy()
    others[written] = -np.inf
    best = int(np.argmax(others))
    return best, float(logits[written] - logits[best])


def _heads(
    module: AdderModule, values: Values, at: int, tokens: np.ndarray, labels: list[str]
) -> Iterator[TraceHead]:
    for number, block in enumerate(module.structure.blocks):
        if block.attention is None:
            continue
        pattern = values[f"blocks.{number}.attention.pattern"]
        for head in range(block.attention.heads):
            weights = pattern[head, at, : at + 1]
            order = np.argsort(-weights, kind="stable")[:READS]
            chosen = [int(p) for p in order if weights[p] >= FAINT]
            reads = tuple(TraceRead(p, labels[p], int(tokens[p]), float(weights[p]))
                          for p in chosen)
            rest = float(weights.sum() - sum(read.weight for read in reads))
            yield TraceHead(number, head, reads, max(0.0, rest))


def _residual(
    module: AdderModule, values: Values, at: int
) -> Iterator[tuple[str, tuple[float, ...]]]:
    """The residual stream at the start, after each half block, and after the last norm."""
    structure, several = module.structure, len(module.structure.blocks) > 1

    def row(name: str) -> tuple[float, ...]:
        return tuple(values[name][at].tolist())

    yield "start", row("start")
    for number, block in enumerate(structure.blocks):
        suffix = f" {number}" if several else ""
        if block.attention is not None:
            yield f"+ attention{suffix}", row(f"blocks.{number}.mid")
        if block.feed_forward is not None:
            yield f"+ feed-forward{suffix}", row(f"blocks.{number}.out")
    if structure.final_norm is not None:
        yield "norm", row("final_norm")


def _hidden(module: AdderModule, values: Values, at: int) -> Iterator[TraceHidden]:
    for number, block in enumerate(module.structure.blocks):
        if block.feed_forward is not None:
            before, after = (values[f"blocks.{number}.ffn.{name}"][at] for name in ("pre", "post"))
            yield TraceHidden(number, tuple(before.tolist()), tuple(after.tolist()))
