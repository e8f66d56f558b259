"""Write an exported file, but only one that computes what the module computes.

Takes: a module, a target, a path. Gives: `export` → `results.ExportResult`.
May import: errors, results, format, weights, nn, export.*.

The text is written beside its place, run in a namespace of its own, and its logits are
compared with the module's on random prefixes: prompts of random operands, each followed by
the right answer or by random digits, at every answer step. The file takes its place only if
no logit differs by more than rounding and every largest one is the same.
"""

from __future__ import annotations

import contextlib
import os
import runpy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adderc.errors import AddercError, InputError
from adderc.export.source import adderboard_source, python_source
from adderc.format.batches import prompts_of
from adderc.nn.module import AdderModule
from adderc.results import ExportResult

TARGETS: dict[str, Callable[..., str]] = {"py": python_source, "adderboard": adderboard_source}
LATER = ("onnx", "hf", "lens")
PREFIXES = 1000
ULPS = 64  # of the largest logit: what another order of the same sums may change
UNIT = {"float32": 2.0**-24, "float64": 2.0**-53}
TOGETHER = 32


class ExportFault(AddercError):
    """The written file would not compute what the module computes; nothing was written."""

    exit_code = 1


def export(
    module: AdderModule, target: str, path: str | os.PathLike[str],
    provenance: Mapping[str, Any] | None = None, seed: int = 0,
) -> ExportResult:
    """Write `path`; InputError for a target that is not known or a path that cannot be written.

    ExportFault where the file's logits differ from the module's.
    """
    if target not in TARGETS:
        later = " is not implemented yet" if target in LATER else " is no export target"
        raise InputError(f"{target}{later}", f"known: {', '.join(TARGETS)}")
    place = Path(path)
    _check_place(place)
    text = TARGETS[target](module.structure, module.leaf_values(), provenance or {})
    temporary = place.with_name(f".{place.stem}.{os.getpid()}.part.py")
    try:
        temporary.write_text(text, encoding="utf-8")
        found = compare(module, load_exported(temporary, target), seed)
        if found.largest_difference > found.allowed or not found.same_choice:
            raise ExportFault(
                f"the exported file differs from the model: logits by up to "
                f"{found.largest_difference:.3g}, allowed {found.allowed:.3g}"
                + ("" if found.same_choice else ", and another token wins somewhere"),
                "this is a fault of adderc; nothing was written")
        os.replace(temporary, place)
    except OSError as error:
        raise InputError(f"cannot write {place}: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return ExportResult(str(place), target, parameters, len(text.splitlines()), found.prefixes,
                        found.largest_difference, found.allowed)


def _check_place(place: Path) -> None:
    from adderc.weights.file import check_writable

    check_writable(place)
    if place.suffix != ".py":
        raise InputError(f"{place}: an exported model is a Python file", "name it something.py")


def load_exported(path: Path, target: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """The model of an exported file, run in a namespace of its own."""
    namespace = runpy.run_path(str(path), run_name="exported")
    model = namespace["model"] if target == "py" else namespace["build_model"]()[0]
    return model


class Comparison:
    """How two models' logits [N, V] agree, batch by batch."""

    def __init__(self, unit: float) -> None:
        self.unit, self.prefixes = unit, 0
        self.largest_difference, self.allowed, self.same_choice = 0.0, 0.0, True

    def take(self, ours: torch.Tensor, theirs: torch.Tensor) -> None:
        """Not a number on one side only counts as an infinite difference."""
        self.prefixes += len(ours)
        gap = (ours.double() - theirs.double()).abs()
        gap = torch.where(ours.isnan() & theirs.isnan() | (ours == theirs), 0.0, gap)
        worst = float(gap.nan_to_num(nan=float("inf")).max())
        self.largest_difference = max(self.largest_difference, worst)
        size = float(ours.double().abs().nan_to_num(0.0, 0.0, 0.0).max())
        self.allowed = max(self.allowed, ULPS * self.unit * size)
        self.same_choice &= bool((ours.argmax(-1) == theirs.argmax(-1)).all())


def compare(
    module: AdderModule, exported: Callable[[torch.Tensor], torch.Tensor], seed: int
) -> Comparison:
    """Logits on at least PREFIXES random prefixes, all answer steps of each sequence."""
    form = module.format
    rng = np.random.default_rng(seed)
    sequences = max(8, -(-PREFIXES // form.steps))
    found = Comparison(UNIT[module.structure.dtype])
    with torch.inference_mode():
        for first in range(0, sequences, TOGETHER):
            count = min(TOGETHER, sequences - first)
            tokens = torch.from_numpy(_sequences(module, rng, count))
            last = slice(form.prompt_length - 1, None)
            ours, theirs = module(tokens)[:, last], exported(tokens)[:, last]
            found.take(ours.flatten(0, 1), theirs.flatten(0, 1))
    return found


def _sequences(module: AdderModule, rng: np.random.Generator, count: int) -> np.ndarray:
    """Prompts with answers but for the last token: every other row right, the rest random."""
    form, number = module.format, module.number
    digits = rng.integers(0, number.base, (count, number.operands, number.width))
    operands = [[min(sum(int(d) * number.base**p for p, d in enumerate(row)), number.maximum)
                 for row in rows] for rows in digits]
    prompts = prompts_of(form, np.array(operands, dtype=object))
    limit = number.base * (number.operands if form.answer_kind == "states" else 1)
    answers = form.first_state + rng.integers(0, limit, (count, form.steps))
    for row in range(0, count, 2):
        answers[row] = form.expected(operands[row])
    return np.concatenate([prompts, answers[:, :-1]], axis=1)
