"""Many starts side by side: the standard library's Executor interface.

Takes: an executor's URL, or nothing. Gives: `executor_of`, `attempt`, `many`.
May import: errors, solve backends.

Nothing: processes on this machine. dask://HOST:PORT: the executor of a Dask cluster, whose
workers have adderc installed (the extra adderc[dask]).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import replace

from threadpoolctl import threadpool_limits

from adderc.errors import InputError
from adderc.solve.backends import BACKENDS
from adderc.solve.problem import Answer, Problem, Watch

SCHEME = "dask://"


@contextmanager
def executor_of(url: str | None) -> Iterator[Executor]:
    """An executor for the time of a solve; InputError where there is none at the URL."""
    if url is None:
        with ProcessPoolExecutor() as pool:
            yield pool
        return
    if not url.startswith(SCHEME) or not url[len(SCHEME):].rpartition(":")[2].isdigit():
        raise InputError(f"--executor {url!r} is not known", f"write {SCHEME}HOST:PORT")
    try:
        from dask.distributed import Client
    except ImportError:
        raise InputError("--executor dask needs the dask package",
                         "pip install 'adderc[dask]'") from None
    try:
        client = Client(f"tcp://{url[len(SCHEME):]}", timeout="10s")
    except (OSError, TimeoutError) as error:
        raise InputError(f"no Dask scheduler answers at {url}: {error}") from None
    with client:
        yield client.get_executor()


def attempt(method: str, problem: Problem, seed: int) -> Answer:
    """One group of starts, as a worker runs it."""
    with threadpool_limits(1, user_api="blas"):
        return BACKENDS[method].solve(problem, seed)


def many(
    executor: Executor, method: str, problem: Problem, seeds: list[int], watch: Watch
) -> Answer:
    """The best answer of one group per seed; the lowest seed's among equals.

    An interrupt keeps what is done.
    """
    futures = {executor.submit(attempt, method, problem, seed): seed for seed in seeds}
    done: dict[int, Answer] = {}
    stopped = False
    try:
        for future in as_completed(futures):
            done[futures[future]] = future.result()
            best = max(done.values(), key=lambda a: a.margin)
            watch(best.margin, sum(a.tried for a in done.values()))
    except KeyboardInterrupt:
        stopped = True
        for future in futures:
            future.cancel()
    if not done:
        raise KeyboardInterrupt
    answers = [done[seed] for seed in sorted(done)]
    best = max(answers, key=lambda a: -math.inf if math.isnan(a.margin) else a.margin)
    return replace(best, tried=sum(a.tried for a in answers),
                   stopped=stopped or any(a.stopped for a in answers))
