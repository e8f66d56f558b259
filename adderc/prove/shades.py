"""Shadows: tensors of node numbers in the place of tensors of numbers.

Takes: tensors. Gives: `Shadow`, `lifted`.
May import: prove.algebra.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adderc.prove.algebra import Algebra


@dataclass(eq=False)
class Shadow:
    """`ids` holds the number of the scalar node at each place; `dtype` is the real tensor's."""

    ids: Tensor
    dtype: torch.dtype


def lifted(value: Any, algebra: Algebra, check: Callable[[torch.dtype], None]) -> Any:
    """Floating-point tensors, alone or in a list, as shadows of constants."""
    if isinstance(value, (list, tuple)):
        return type(value)(lifted(v, algebra, check) for v in value)
    if isinstance(value, Tensor) and value.is_floating_point():
        check(value.dtype)
        return Shadow(algebra.lift(value), value.dtype)
    return value
