"""Export of modules that branch on their own constants.

Takes: a module, tokens. Gives: `export`, and `export_deciding`, an exported program whose
branches are asserted in its graph; `assertions` counts those; `QUESTIONS`.
May import: torch.

torch.export refuses `if mask.any()` even where no token reaches the mask, because parameters
and buffers are inputs of the graph it makes. Here the module runs once as it is and the
answers are noted; during export each such question gets its noted answer, and the graph gets
an assertion that this is the answer. Nothing need be believed: whoever reads the graph must
find every assertion true for all inputs, and refuse it otherwise.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

ASSERTION = "a branch goes as it went when the module was exported"
QUESTIONS = frozenset(("__bool__", "__int__", "__index__", "item"))  # of a tensor's value


def _is_question(function: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    """Whether Python asks for the value of a tensor of integers or booleans."""
    return getattr(function, "__name__", "") in QUESTIONS and (
        isinstance(args[0], Tensor) and not args[0].is_floating_point())


class _Noted(TorchFunctionMode):
    """Notes what a module asks of its tensors of integers and booleans."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[Any] = []

    def __torch_function__(self, function: Callable[..., Any], types: Any,
                           args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        answer = function(*args, **(kwargs or {}))
        if _is_question(function, args):
            self.answers.append(answer)
        return answer


class _Answered(TorchFunctionMode):
    """Gives the noted answers in their order, each with an assertion."""

    def __init__(self, answers: list[Any]) -> None:
        super().__init__()
        self.answers, self.asked = answers, 0

    def __torch_function__(self, function: Callable[..., Any], types: Any,
                           args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if not self.answers or not _is_question(function, args):
            return function(*args, **(kwargs or {}))
        answer = self.answers[self.asked % len(self.answers)]
        self.asked += 1
        truth = args[0].ne(0).eq(answer) if isinstance(answer, bool) else args[0].eq(answer)
        torch._assert_async(truth.reshape(()), ASSERTION)
        return answer


def assertions(program: Any) -> int:
    """How many branches the graph asserts."""
    return sum(ASSERTION in node.args for node in program.graph.nodes)


def export(module: torch.nn.Module, tokens: Tensor, shapes: Any = None) -> Any:
    """torch.export's program, with assertions only where there is none without; its error."""
    try:
        return torch.export.export(module, (tokens,), dynamic_shapes=shapes)
    except Exception:
        with contextlib.suppress(Exception):  # then it does not help to answer for constants
            return export_deciding(module, tokens, shapes)
        raise


def export_deciding(module: torch.nn.Module, tokens: Tensor, shapes: Any = None) -> Any:
    """torch.export's program for tokens [1, T]; its errors where it still refuses.

    RuntimeError where an answer was given and no assertion is left of it.
    """
    with _Noted() as noted:
        module(tokens)
    with _Answered(noted.answers) as answered:
        program = torch.export.export(module, (tokens,), dynamic_shapes=shapes)
    if assertions(program) != answered.asked:
        raise RuntimeError("torch.export dropped the assertion of a branch")
    return program
