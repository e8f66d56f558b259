"""The backends by name, and which one takes a problem.

Takes: a problem. Gives: BACKENDS, `chosen`. May import: errors, solve backends.

A backend says in `refuses` why it does not take a problem, or nothing.
"""

from __future__ import annotations

from typing import Protocol

from adderc.errors import InputError
from adderc.solve.adam import Adam
from adderc.solve.lp import Lp
from adderc.solve.milp import Milp
from adderc.solve.nlp import Nlp
from adderc.solve.problem import Answer, Problem, Watch, no_watch


class Backend(Protocol):
    """What solves a problem."""

    name: str

    def refuses(self, problem: Problem) -> str:
        """Why it does not take this problem; empty where it does."""

    def solve(self, problem: Problem, seed: int, watch: Watch = no_watch) -> Answer:
        """Its best point."""


BACKENDS: dict[str, Backend] = {b.name: b for b in (Lp(), Milp(), Nlp(), Adam())}
AUTO = ("lp", "nlp")


def chosen(method: str, problem: Problem) -> str:
    """The backend asked for, or the first that takes the problem; InputError where the one
    asked for does not."""
    if method != "auto":
        if reason := BACKENDS[method].refuses(problem):
            raise InputError(f"--method {method}: {reason}", "use --method nlp, or auto")
        return method
    return next(name for name in AUTO if not BACKENDS[name].refuses(problem))
