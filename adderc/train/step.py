"""One training step in torch: what runs where there is no kernel.

Takes: a `Structure`, a batch size. Gives: `Stepper`, what both offer; `TorchStep`; and
`stepper_of`, the fastest at hand. May import: train, weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from adderc.train.forward import Forward
from adderc.train.kernel import build_kernel
from adderc.weights.structure import Structure

Array = np.ndarray


class Stepper(Protocol):
    """Runs training steps on arrays in place."""

    compiler: str

    def gradient(self, theta: Array, tokens: Array) -> tuple[float, Array]:
        """Mean loss of one batch, tokens [length, B], and its gradient."""

    def train(
        self, theta: Array, first: Array, second: Array, done: int, tokens: Array,
        rates: Array, decays: Array, clip: float, betas: tuple[float, float], eps: float,
    ) -> Array:
        """Steps of AdamW on tokens [steps, length, B]; the loss before each step."""


@dataclass
class TorchStep:
    """The same step through autograd: any structure, several times slower."""

    forward: Forward
    compiler: str = ""

    def gradient(self, theta: Array, tokens: Array) -> tuple[float, Array]:
        rows = torch.from_numpy(np.ascontiguousarray(tokens.T).astype(np.int64))
        vectors = torch.from_numpy(theta.copy()).unsqueeze(0).requires_grad_()
        loss = self.forward.losses(vectors, rows[:, :-1], rows[:, self.forward.first + 1 :]).sum()
        (found,) = torch.autograd.grad(loss, vectors)
        return loss.item(), found[0].numpy()

    def train(
        self, theta: Array, first: Array, second: Array, done: int, tokens: Array,
        rates: Array, decays: Array, clip: float, betas: tuple[float, float], eps: float,
    ) -> Array:
        losses = np.zeros(len(tokens))
        for number, batch in enumerate(tokens):
            losses[number], gradient = self.gradient(theta, batch)
            size = float(np.sqrt((gradient.astype(np.float64) ** 2).sum()))
            scale = clip / (size + 1e-6) if clip > 0 and size > clip else 1.0
            g = gradient.astype(np.float64) * scale
            first[:] = betas[0] * first.astype(np.float64) + (1 - betas[0]) * g
            second[:] = betas[1] * second.astype(np.float64) + (1 - betas[1]) * g * g
            step = done + number + 1
            move = (first / (1 - betas[0] ** step)) / (
                np.sqrt(second.astype(np.float64) / (1 - betas[1] ** step)) + eps)
            kept = theta.astype(np.float64) * (1 - rates[number] * decays[number])
            theta[:] = kept - rates[number] * move
        return losses


def stepper_of(structure: Structure, batch: int) -> Stepper:
    """The compiled step where there is one, else that of torch."""
    return build_kernel(structure, batch) or TorchStep(Forward(structure))
