"""Greedy decoding: prompts in, answer tokens out.

Takes: a module from tokens to logits, a format, prompts. Gives: answer tokens.
May import: errors, format, nn.routed, nn.running.

The module may be any callable on tokens [N, T] that returns logits [N, T, V], those of the
last position only ([N, 1, V] or [N, V]), a tuple or list that begins with them, or an
object with `logits`. Ties go to the lowest token id. A row of logits with a NaN in it has
no largest entry: its token is NOT_A_TOKEN, which no format takes for a digit, and token 0
is fed on in its place.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from adderc.errors import InputError
from adderc.format.prompt import Format
from adderc.nn.routed import TooManyDoubts, routed_decoder
from adderc.nn.running import has_bounds, running_decoder

NOT_A_TOKEN = -1
WORTH_TABLES = 4  # prompts from which on the tables are worth their making
SHORT = 256  # tokens up to which a few sums go through the plain loop
_SCORES_A_BATCH = 2**20  # about as many attention scores as fit a processor's cache


@runtime_checkable
class Incremental(Protocol):
    """A module that can continue a sequence without computing its beginning again."""

    def open_cache(self, batch: int, capacity: int) -> Any: ...

    def advance(self, tokens: Tensor, cache: Any) -> Tensor: ...

    def peak_scores(self, capacity: int) -> int: ...

    def hook_points(self) -> dict[str, Any]: ...


def decode_greedy(
    module: Callable[..., Any],
    format: Format,
    prompts: np.ndarray,
    batch_size: int | None = None,
    incremental: bool = True,
) -> np.ndarray:
    """Answer tokens [N, steps] int64 of prompts [N, P].

    For every module of ours in its own dtype these are the answers of the plain loop: batch
    1, the whole sequence run at each step. A few short prompts go through that loop. Where
    heads look at positions only there are tables (nn.routed), elsewhere bounds run beside
    the values (nn.running); digits too close to call are asked of the module in either case.
    A module whose numbers may overflow goes through the loop.

    Only a module in another dtype (half precision, or TF32 products) is run incrementally
    without that promise. With hooks set, or `incremental` False, and for other people's
    modules the whole sequence is run at each step, `batch_size` prompts at a time.
    """
    if batch_size is not None and batch_size < 1:
        raise InputError(f"batch size {batch_size} is not positive")
    incremental = incremental and isinstance(module, Incremental) and not _is_hooked(module)
    if incremental and has_bounds(module):
        if format.length <= SHORT and len(prompts) < WORTH_TABLES:
            return _one_by_one(module, format, prompts)
        with torch.inference_mode():
            return _bounded(module, format, prompts, batch_size)
    size = batch_size or _batch_size(module, format, incremental)
    answers = np.empty((len(prompts), format.steps), dtype=np.int64)
    device = _device(module)
    with torch.inference_mode():
        for first in range(0, len(prompts), size):
            batch = torch.tensor(prompts[first : first + size], dtype=torch.int64, device=device)
            step = _stepper(module, batch, format, incremental)
            answers[first : first + size] = _decode_batch(step, batch, format).cpu().numpy()
    return answers


def decode_one(
    module: Callable[..., Any], format: Format, operands: Sequence[int]
) -> int | None:
    """The sum, one token at a time through the module's own forward; None if no number.

    InputError for operands that the format does not take.
    """
    return format.decode(_answer(module, format, format.encode([operands])[0].tolist()))


def _answer(module: Callable[..., Any], format: Format, prompt: list[int]) -> list[int]:
    """Answer tokens of one prompt, the whole sequence run at each step."""
    sequence, device, answer = list(prompt), _device(module), []
    with torch.inference_mode():
        for _ in range(format.steps):
            tokens = torch.tensor([sequence], dtype=torch.int64, device=device)
            token = _next_token(module, tokens)
            answer.append(token)
            sequence.append(max(token, 0))
    return answer


def _bounded(
    module: Any, format: Format, prompts: np.ndarray, batch_size: int | None
) -> np.ndarray:
    """Answer tokens [N, steps] with bounds, the plain loop's own."""
    device, threads = _device(module), torch.get_num_threads()
    frozen = module.frozen()

    def ask(tokens: Tensor) -> int:
        with _threads(threads):
            return _next_token(frozen, tokens.to(device))

    with _threads(1):  # the tensors are small, and on a busy machine threads wait long
        if (routed := routed_decoder(module)) is not None:
            with contextlib.suppress(TooManyDoubts):
                return routed.decode(prompts, ask, batch_size)
        if (running := running_decoder(module)) is not None:
            return running.decode(prompts, ask, batch_size)
    return _one_by_one(module, format, prompts)


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Torch on `count` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _one_by_one(module: Callable[..., Any], format: Format, prompts: np.ndarray) -> np.ndarray:
    """Answer tokens [N, steps] by the plain loop, one prompt at a time."""
    rows = [_answer(module, format, prompt) for prompt in prompts.tolist()]
    return np.array(rows, dtype=np.int64).reshape(len(prompts), format.steps)


def last_logits(output: Any) -> Tensor:
    """The logits [N, V] of the last position, whatever form a module returns them in."""
    if isinstance(output, tuple | list) and output:
        output = output[0]
    if not isinstance(output, Tensor) and isinstance(getattr(output, "logits", None), Tensor):
        output = output.logits
    if not isinstance(output, Tensor) or output.ndim not in (2, 3):
        shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise InputError(f"the model returned {shape}, not logits [N, T, V] or [N, V]")
    return output[:, -1] if output.ndim == 3 else output


def choose_token(logits: Tensor) -> Tensor:
    """The greedy token [N] of logits [N, V]; NOT_A_TOKEN where one of them is NaN."""
    invalid = torch.isnan(logits).any(-1)
    return torch.where(invalid, NOT_A_TOKEN, torch.argmax(logits, -1))


def _next_token(module: Callable[..., Any], tokens: Tensor) -> int:
    """The token after one sequence [1, T], by the module's own forward."""
    return int(choose_token(last_logits(module(tokens)))[0])


def _decode_batch(step: Callable[[Tensor], Tensor], prompts: Tensor, format: Format) -> Tensor:
    """`step` takes the tokens that are new, [N, P] at first and [N, 1] after, to logits."""
    answers = prompts.new_empty((len(prompts), format.steps))
    new = prompts
    for number in range(format.steps):
        token = choose_token(step(new))
        answers[:, number] = token
        new = token.clamp(min=0).unsqueeze(1)
    return answers


def _stepper(
    module: Any, prompts: Tensor, format: Format, incremental: bool
) -> Callable[[Tensor], Tensor]:
    if incremental:
        capacity = prompts.shape[1] + format.steps
        cache = module.open_cache(len(prompts), capacity)
        return lambda new: module.advance(new, cache)
    seen: list[Tensor] = []

    def rerun(new: Tensor) -> Tensor:
        seen.append(new)
        return last_logits(module(torch.cat(seen, dim=1)))

    return rerun


def _batch_size(module: Any, format: Format, incremental: bool) -> int:
    """As many sequences as keep the largest tensor of attention scores small."""
    capacity = format.prompt_length + format.steps
    scores = module.peak_scores(capacity) if incremental else capacity**2
    return max(1, min(4096, _SCORES_A_BATCH // max(1, scores)))


def _is_hooked(module: Any) -> bool:
    """Whether someone watches or changes interior values, and so expects whole sequences."""
    points = [module, *module.hook_points().values()]
    return any(point._forward_hooks or point._forward_pre_hooks for point in points)


def _device(module: Callable[..., Any]) -> torch.device:
    if isinstance(module, torch.nn.Module):
        for tensor in (*module.parameters(), *module.buffers()):
            return tensor.device
    return torch.device("cpu")
