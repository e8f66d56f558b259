"""Conducts one solve: problem, backend, recheck, and again with what the recheck found.

Takes: a checked spec, a structure with known leaves, orders. Gives: `conduct` → `Solved`;
raises `Infeasible` (proved) or `Unsolved` (not found).
May import: errors, lang, weights, solve.

    structure -cases-> Problem -backend-> Answer -rounding to the dtype-> recheck

Where the recheck bounds a lead lower than the case has it, the difference is the leak of the
cases of that context and step, and the problem is solved again; contexts that were not among
the cases and lead least join them. Of all rechecked points, the lowering's own among them,
the one with the widest margin is taken.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from threadpoolctl import threadpool_limits

from adderc.errors import Fault, Infeasible, Refusal, Unsolved
from adderc.lang.checked import CheckedSpec, Contexts
from adderc.lang.contexts import every_context
from adderc.lang.explore import Window
from adderc.solve.backends import BACKENDS, chosen
from adderc.solve.cases import HIGH, LOW, Cases, cases_of
from adderc.solve.contexts import truth_table
from adderc.solve.executors import executor_of, many
from adderc.solve.problem import ROOM, Answer, Problem, Watch, Wording, no_watch
from adderc.solve.proof import proved_bound
from adderc.solve.recheck import Checked, recheck
from adderc.solve.sight import Table
from adderc.weights.expr import Leaf, leaves_of
from adderc.weights.file import DTYPES
from adderc.weights.structure import Structure

Array = np.ndarray
TOKENS = 60_000  # of all cases together, to begin with
JOINED, ROUNDS = 400, 3
TYPICAL = 0.8  # size of a leaf where nothing bounds the norm
LARGER = 3  # times ten
SMALL = 50_000  # tokens of all cases times unknowns; less is not worth processes
GROUPS = 8  # groups of starts where the first finds nothing


@dataclass(frozen=True)
class Orders:
    """What is asked for. `norm` bounds all leaves together; without it, and with a margin,
    the least norm is sought."""

    method: str = "auto"
    margin: float | None = None
    norm: float | None = None
    seed: int = 0
    restarts: int = 32
    executor: str | None = None


@dataclass(frozen=True, eq=False)
class Task:
    """A structure some of whose leaves are known. `start` are the lowering's values of the
    unknown ones, where there is a lowering."""

    checked: CheckedSpec
    structure: Structure
    unknown: tuple[Leaf, ...]
    known: Mapping[str, Array]
    start: Mapping[str, Array] | None = None

    @property
    def size(self) -> int:
        return sum(math.prod(leaf.shape) for leaf in self.unknown)

    @property
    def reads_tokens(self) -> bool:
        """Whether operand digits with equal sums can differ to the model, or to the recheck,
        which bounds each head for itself: a routing table may give each operand its own."""
        names = {leaf.name for leaf in self.unknown}
        embedded = {leaf.name for leaf in leaves_of(self.structure.embedding)}
        pairs = any(cell.kind == "tuple" for cell in self.structure.format.cells)
        first = self.structure.blocks[0].attention
        tables = first is not None and first.visible is not None
        return pairs or tables or bool(names & embedded)


@dataclass(frozen=True, eq=False)
class Solved:
    """Leaf values that passed the recheck. `lowering` is what the recheck says of the
    lowering's own values; `bound` a proved upper bound of the margin, where there is one."""

    values: dict[str, Array]
    checked: Checked
    method: str
    tried: int
    constraints: int
    stopped: bool
    lowering: Checked | None = None
    kept_lowering: bool = False
    bound: float | None = None
    first_exact: float = math.nan

    @property
    def margin(self) -> float:
        return self.checked.margin


def conduct(task: Task, orders: Orders, watch: Watch = no_watch) -> Solved:
    """The widest margin found; Infeasible or Unsolved where none is."""
    with threadpool_limits(1, user_api="blas"):  # small matrices: more threads only wait
        return _Conduct(task, orders, watch).run()


@dataclass
class _Conduct:
    task: Task
    orders: Orders
    watch: Watch
    cases: Cases = field(init=False)
    table: Table = field(init=False)

    def __post_init__(self) -> None:
        task = self.task
        if task.checked.format.answer_end is not None:
            raise Refusal(kind="not implemented", source=task.checked.source, faults=(Fault(
                "solving takes answers without an end symbol"),))
        every = task.reads_tokens
        self.contexts: Contexts = every_context(task.checked) if every else _own(task.checked)
        self.table = truth_table(task.checked, self.contexts, every)
        first = task.structure.blocks[0].attention
        self.routed = first is not None and first.routes is not None
        fills = (LOW,) if self.routed else (LOW, HIGH)  # what no head sees cannot leak
        self.cases = cases_of(task.checked, self.contexts, task.structure, self.steps(), fills)

    def steps(self) -> list[int]:
        """Answer steps that stand for all: the ends and the middle."""
        last = self.task.checked.format.steps - 1
        if self.routed and self.task.structure.position is None:
            return sorted({0, min(1, last), min(2, last), last})
        return sorted({0, min(1, last), min(2, last), last // 2, max(last - 1, 0), last})

    def run(self) -> Solved:
        lowering = self.lowering()
        best: tuple[Array, Checked] | None = None
        kept = False
        if lowering is not None and lowering.holds:
            best, kept = (self.start(), lowering), True
        working = self.first_cases()
        problem = self.problem(working, lowering)
        method, answer = chosen(self.orders.method, problem), None
        for _ in range(ROUNDS):
            problem, answer = self.grown(method, problem)
            if not answer.found:
                break
            point = self.rounded(problem, answer.point)
            checked = recheck(self.task.structure, problem.values(point), self.table)
            if best is None or self.worth(checked) > self.worth(best[1]):
                best, kept = (point, checked), False
            if answer.stopped or answer.margin - checked.margin <= 1e-3 * abs(answer.margin):
                break
            problem = self.next(problem, point, checked)
        assert answer is not None
        if best is None or not best[1].holds:
            raise self.failure(problem, answer, best)
        bound = None
        if answer.bound is not None and not kept:
            bound = proved_bound(problem, answer.bound)
        return Solved(problem.values(best[0]), best[1], method, answer.tried,
                      problem.constraints, answer.stopped, lowering, kept, bound,
                      answer.first_exact)

    # ------------------------------------------------------------ the problem

    def problem(self, working: Array, lowering: Checked | None) -> Problem:
        """Without a bound on the norm: the lowering's, or that of typical leaves."""
        task, orders, contexts = self.task, self.orders, self.contexts
        known = {name: np.asarray(value, dtype=np.float64) for name, value in task.known.items()}
        assert task.checked.algorithm is not None
        wording = Wording(task.checked.number.names, Window.of(task.checked.algorithm).low,
                          contexts.digits, contexts.answers, task.checked.format.first_state)
        usable = lowering is not None and lowering.holds
        start = self.start() if usable else None
        fixed = sum(float((value**2).sum()) for value in known.values())
        margin, enough = orders.margin, None
        if orders.norm is not None:
            norm, margin, enough = math.sqrt(max(orders.norm**2 - fixed, 0.0)), None, margin
            if not norm:
                raise Refusal(kind="algorithm impossible", source=task.checked.source, faults=(
                    Fault(f"norm {orders.norm:g} is less than that of the known leaves, "
                          f"{math.sqrt(fixed):.6g}"),))
        elif start is not None:
            norm = float(np.linalg.norm(start))
        else:
            norm = TYPICAL * math.sqrt(task.size)
        if margin is not None:
            norm *= ROOM
        ceiling = lowering.largest if usable and lowering is not None else None
        return Problem(
            task.structure, task.unknown, known, self.cases.take(working),
            np.zeros(len(working)), norm, wording, margin, enough,
            None if orders.norm is not None or margin is not None else ceiling, start,
            orders.restarts)

    def start(self) -> Array:
        assert self.task.start is not None
        return np.concatenate([np.asarray(self.task.start[leaf.name], dtype=np.float64).ravel()
                               for leaf in self.task.unknown])

    def lowering(self) -> Checked | None:
        if self.task.start is None:
            return None
        values = {**self.task.known, **self.task.start}
        return recheck(self.task.structure, values, self.table)

    def first_cases(self) -> Array:
        """All cases, or a sample that is not too large."""
        most = max(200, TOKENS // self.cases.tokens.shape[1])
        if len(self.cases) <= most:
            return np.arange(len(self.cases))
        chance = np.random.default_rng(self.orders.seed)
        return np.sort(chance.choice(len(self.cases), most, replace=False))

    def next(self, problem: Problem, point: Array, checked: Checked) -> Problem:
        """With the leak that the recheck saw, and the contexts that lead least."""
        bounds = np.full((self.task.checked.format.steps, len(self.table)), np.inf)
        for step, rows, lead, _ in checked.bounds:
            bounds[step, rows] = lead
        known = bounds[self.cases.step, self.cases.row]
        worst = np.argsort(known, kind="stable")[:JOINED]
        have = set(map(bytes, _keys(problem.cases)))
        fresh = [at for at in worst if bytes(_keys(self.cases.take(np.array([at])))[0])
                 not in have]
        cases = problem.cases
        if fresh:
            more = self.cases.take(np.array(fresh))
            cases = Cases(*(np.concatenate([getattr(cases, n), getattr(more, n)])
                            for n in Cases.__dataclass_fields__))
        grown = replace(problem, cases=cases, leak=np.zeros(len(cases)))
        seen = np.concatenate([
            _margins(grown.take(np.arange(at, min(at + 2000, len(cases)))), point)
            for at in range(0, len(cases), 2000)])
        bound = bounds[cases.step, cases.row]
        leak = np.where(np.isfinite(bound), np.maximum(seen - bound, 0.0), 0.0)
        return replace(grown, leak=leak, start=point)

    # ------------------------------------------------------------ solving

    def grown(self, method: str, problem: Problem) -> tuple[Problem, Answer]:
        """The answer; where nobody set the norm and a proof says that it is too small, that
        within a larger one."""
        answer = self.solve(method, problem)
        free = self.orders.norm is None and problem.start is None
        for _ in range(LARGER if free else 0):
            if answer.found or answer.stopped or answer.bound is None:
                break
            problem = replace(problem, norm=10 * problem.norm)
            answer = self.solve(method, problem)
        return problem, answer

    def solve(self, method: str, problem: Problem) -> Answer:
        """One group of starts here; more on an executor where it is asked for or needed."""
        orders = self.orders
        if orders.executor is None:
            answer = BACKENDS[method].solve(problem, orders.seed, self.watch)
            if answer.found or answer.stopped or method not in ("nlp", "adam"):
                return answer
            if problem.cases.tokens.size * problem.size < SMALL:
                other = BACKENDS[method].solve(problem, orders.seed + 1000, self.watch)
                return max(answer, other, key=lambda a: a.margin)
        groups = max(1, os.cpu_count() or 1) if orders.executor is None else GROUPS
        with executor_of(orders.executor) as executor:
            return many(executor, method, problem,
                        [orders.seed + 1000 * k for k in range(1, groups + 1)], self.watch)

    def rounded(self, problem: Problem, point: Array) -> Array:
        """The point in the model's dtype, still within the norm."""
        dtype = DTYPES[self.task.structure.dtype]
        rounded = point.astype(dtype).astype(np.float64)
        if np.linalg.norm(rounded) > problem.norm:
            rounded = (point * (1 - 2.0**-20)).astype(dtype).astype(np.float64)
        return np.asarray(rounded)

    def worth(self, checked: Checked) -> float:
        """The margin; where a lowering is the measure, in units of the largest |logit|."""
        if not checked.holds:
            return -math.inf
        if self.task.start is None or self.orders.margin is not None:
            return checked.margin
        return checked.margin / checked.largest

    # ------------------------------------------------------------ failing

    def failure(
        self, problem: Problem, answer: Answer, best: tuple[Array, Checked] | None
    ) -> BaseException:
        """Why there is no solution, and what would free it."""
        lines = [c.text() for c in answer.conflict]
        if answer.stopped:
            return KeyboardInterrupt()
        if answer.found:
            assert best is not None
            where = self.context(best[1])
            return Unsolved(
                f"not found: the recheck bounds the least lead at {best[1].margin:.4g}, while "
                f"the backend has {answer.margin:.4g} ({where})",
                "try --dtype float64, a larger norm, or another seed")
        if answer.bound is not None:
            bound = proved_bound(problem, answer.bound)
            if bound <= 0:
                return Infeasible(
                    f"proved infeasible: no values of {self.names()} with norm at most "
                    f"{problem.norm:.4g} have a lead of more than {bound:.3g}"
                    + _listed(lines, "these stand against each other"), self.freeing())
        if answer.exhausted:
            return Infeasible(
                f"infeasible by an exhausted search: no whole numbers for {self.names()} with "
                f"norm at most {problem.norm:.4g}"
                + _listed(lines, "tightest in the linear relaxation"), self.freeing())
        return Unsolved(
            f"not found: the best of {answer.tried} starts still has a lead of "
            f"{answer.margin:.4g}" + _listed(lines, "these stand against each other there"),
            self.freeing())

    def names(self) -> str:
        return ", ".join(leaf.name for leaf in self.task.unknown)

    def context(self, checked: Checked) -> str:
        first = self.task.checked.format.first_state
        text = Wording(self.task.checked.number.names, self.table.low, self.contexts.digits,
                       self.contexts.answers, first).context(checked.row)
        return f"step {checked.step}, {text}"

    def freeing(self) -> str:
        """What more there could be, by what the unknown block is."""
        tips = []
        for block in self.task.structure.blocks:
            if (ffn := block.feed_forward) is None:
                continue
            own = {leaf.name for leaf in leaves_of(ffn.up, ffn.down, ffn.up_bias)}
            if own & {leaf.name for leaf in self.task.unknown}:
                tips.append(f"one more hidden unit (ffn {ffn.activation} {ffn.up.shape[0] + 1})")
                if ffn.up_bias is None or ffn.down_bias is None:
                    tips.append("a bias")
                tips.append("another activation")
        tips.append("a larger norm")
        return "what could free it: " + ", ".join(tips)


def _own(checked: CheckedSpec) -> Contexts:
    assert checked.contexts is not None
    return checked.contexts


def _keys(cases: Cases) -> Array:
    return np.ascontiguousarray(np.hstack([
        cases.tokens, cases.positions, cases.seen.reshape(len(cases), -1)]).astype(np.int64))


def _margins(problem: Problem, point: Array) -> Array:
    from adderc.solve.problem import Field

    field_ = Field(problem)
    return np.asarray(field_.leads(field_.logits(point[None])).min(axis=(0, 2)))


def _listed(lines: list[str], title: str) -> str:
    return "".join(f"\n    {line}" for line in ([f"{title}:", *lines] if lines else []))
