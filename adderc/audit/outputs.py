"""What a forward pass returns and takes: its tensors, in whatever they are wrapped.

Takes: any value. Gives: `tensors_of`, `logits_of`, `listed_tokens`.
May import: torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

FEWEST_TOKENS = 3
DEEPEST = 6


def tensors_of(output: Any) -> list[Tensor]:
    """Every tensor of an output, the logits first: those named so, else the first of floats."""
    found: list[Tensor] = []
    _collect(output, found, 0)
    main = logits_of(output)
    return found if main is None else [main, *(t for t in found if t is not main)]


def logits_of(output: Any) -> Tensor | None:
    """The logits in whatever a forward returns; whole numbers where there are only those."""
    if isinstance(output, dict) and isinstance(output.get("logits"), Tensor):
        return output["logits"]
    if isinstance(getattr(output, "logits", None), Tensor):
        return output.logits
    found: list[Tensor] = []
    _collect(output, found, 0)
    floating = [t for t in found if t.is_floating_point() and t.ndim > 0]
    return floating[0] if floating else (found[0] if found else None)


def _collect(value: Any, found: list[Tensor], depth: int) -> None:
    if isinstance(value, Tensor):
        if not any(value is t for t in found):
            found.append(value)
        return
    if depth > DEEPEST or isinstance(value, type | nn.Module | str | bytes):
        return
    if isinstance(value, dict):
        inside = list(value.values())
    elif isinstance(value, list | tuple):
        inside = list(value)
    else:
        inside = list(vars(value).values()) if hasattr(value, "__dict__") else []
    for item in inside:
        _collect(item, found, depth + 1)


def listed_tokens(flat: Sequence[Any]) -> list[Tensor]:
    """Tokens given as Python numbers, as one tensor; nothing where there are too few."""
    numbers = [v for v in flat if isinstance(v, int) and not isinstance(v, bool)]
    return [torch.tensor(numbers)] if len(numbers) >= FEWEST_TOKENS else []
