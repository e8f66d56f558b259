"""The independent checker: does a certificate prove what it says of this model?

Takes: a certificate file, a module, its format. Gives: `check_certificate` -> CheckResult.
May import: errors, format, results, prove.checker_balls, prove.checker_digits,
prove.checker_reader, the standard library, numpy, torch, flint.

It shares no code with the prover: graph reader, carry automaton and bounds are its own, and
the bounds are balls with outward rounding. It does not search: the certificate says which
cases are split, every remaining case is evaluated once. What it does not understand it
refuses; a refusal says nothing against the model.
"""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flint import arb

from adderc.format.prompt import Format
from adderc.prove.checker_balls import (
    ZERO,
    Arithmetic,
    Column,
    Mixed,
    look_up,
    plus_minus,
    softmax_weights,
)
from adderc.prove.checker_digits import LARGEST, NEVER, Case, Places, Profile
from adderc.prove.checker_reader import NotUnderstood, Reader, Term
from adderc.results import CheckResult

KEYS = {"kind", "version", "grade", "model", "format", "dtype", "steps", "assumptions", "digest"}
IMPOSSIBLE = NEVER // 4
Tables = dict[int, np.ndarray]


def check_certificate(path: str | Path, model: Any, format: Format | None = None,
                      progress: Callable[[str], None] | None = None) -> CheckResult:
    """Accept only what every case's own bound confirms; else a reason."""
    started = time.monotonic()
    form = format or model.format
    try:
        certificate = _load(Path(path), model, form)
        margin, cases = _Check(certificate, model, form, progress or (lambda line: None)).run()
    except NotUnderstood as reason:
        return CheckResult(False, str(reason), seconds=time.monotonic() - started)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, RuntimeError) as error:
        reason_text = f"the checker cannot follow this: {type(error).__name__}: {error}"
        return CheckResult(False, reason_text, seconds=time.monotonic() - started)
    return CheckResult(True, "", "portable", margin, cases, time.monotonic() - started,
                       tuple(certificate["assumptions"]))


def model_identity(model: Any) -> str:
    """A digest of every parameter and buffer by name, type and content."""
    digest = hashlib.sha256()
    for name, tensor in sorted([*model.named_parameters(), *model.named_buffers()]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _load(path: Path, model: Any, form: Format) -> dict[str, Any]:
    try:
        certificate = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NotUnderstood(f"the certificate cannot be read: {error}") from None
    if not isinstance(certificate, dict) or certificate.keys() != KEYS:
        raise NotUnderstood("this is no certificate")
    body = {key: value for key, value in certificate.items() if key != "digest"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    if hashlib.sha256(text.encode()).hexdigest() != certificate["digest"]:
        raise NotUnderstood("the certificate was edited: its digest is wrong")
    if (certificate["kind"], certificate["version"], certificate["grade"]) != (
            "adderc certificate", 1, "portable"):
        raise NotUnderstood("a certificate of another kind or version")
    if certificate["model"] != model_identity(model):
        raise NotUnderstood("the certificate is for other weights")
    if certificate["format"] != repr(form):
        raise NotUnderstood("the certificate is for another format")
    return certificate


@dataclass
class _Step:
    """One answer step: cases to settle, values found so far."""

    length: int
    place: int
    near_place: int | None
    cases: list[Case]


class _Check:
    def __init__(self, certificate: dict[str, Any], model: Any, form: Format,
                 progress: Callable[[str], None]) -> None:
        self.certificate, self.model, self.form = certificate, model, form
        self.progress = progress
        floats = {t.dtype for t in (*model.parameters(), *model.buffers())
                  if t.is_floating_point()}
        if len(floats) != 1 or str(next(iter(floats))) != certificate["dtype"]:
            raise NotUnderstood("numbers of another type than certified")
        self.dtype = floats.pop()
        if self.dtype not in (torch.float32, torch.float64):
            raise NotUnderstood(f"numbers of {self.dtype}")
        self.kind = np.float32 if self.dtype == torch.float32 else np.float64
        self.arithmetic, self.reader = Arithmetic(self.kind), Reader(self.dtype)
        self.places = Places(form)
        self.tokens = [
            Term("known token", (), self.places.known[p]) if p in self.places.known
            else Term("token", (), p) for p in range(form.length)
        ]
        self.kept: dict[int, Any] = {}
        self.rows: dict[int, list[Column]] = {}

    # ------------------------------------------------------------ driving

    def run(self) -> tuple[float, int]:
        steps = self.certificate["steps"]
        if not isinstance(steps, list) or len(steps) != self.form.steps:
            raise NotUnderstood("the certificate does not cover every answer step")
        least, count = np.inf, 0
        program = self._export()
        for number, claim in enumerate(steps):
            length = self.form.prompt_length + number
            logits = self.reader.read_logits(program(length), self.tokens[:length])
            step = self._step(number, claim, length)
            margin = self._margin(step, logits)
            if not isinstance(claim["margin"], float) or not margin >= claim["margin"] > 0:
                raise NotUnderstood(
                    f"step {number + 1}: the bound found is {margin:.4g}, the certificate says "
                    f"{claim['margin']}")
            least, count = min(least, margin), count + len(step.cases)
            self.progress(f"step {number + 1} of {len(steps)}: margin {margin:.4g}")
        return float(least), count

    def _export(self) -> Callable[[int], Any]:
        """Programs by length; one with a symbolic length where its guards take every length."""
        lengths = [self.form.prompt_length + n for n in range(self.form.steps)]

        def export(length: int, shapes: Any = None) -> Any:
            tokens = torch.zeros((1, length), dtype=torch.int64)
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                try:
                    return torch.export.export(self.model, (tokens,), dynamic_shapes=shapes)
                except Exception as error:
                    raise NotUnderstood(f"torch.export refuses the module: {error}") from None

        if len(lengths) > 1:
            try:
                whole = export(lengths[-1], ({1: torch.export.Dim.AUTO},))
                run = whole.module()
                with torch.no_grad():
                    for length in lengths:
                        run(torch.zeros((1, length), dtype=torch.int64))
                return lambda length: whole
            except Exception:
                return export
        return export

    def _step(self, number: int, claim: dict[str, Any], length: int) -> _Step:
        """The cases that the certificate's splits leave; together they cover everything."""
        if claim.keys() != {"margin", "near", "tuples"}:
            raise NotUnderstood("a step of another kind")
        near = {tuple(row) for row in claim["near"]}
        tuples = {tuple(row) for row in claim["tuples"]}
        before = length - 1
        place = self.form.answer_place(number)
        near_place = self.places.shows[before][0] if before >= self.form.prompt_length else None
        if near_place is not None and abs(near_place - place) != 1:
            near_place = None
        cases: list[Case] = []
        for case in self.places.all_cases():
            totals: Sequence[int | None] = [None]
            if (case.carry, case.digit_sum) in near and near_place is not None:
                totals = range(self.places.k * self.places.base)
            for total in totals:
                if (case.carry, case.digit_sum, -1 if total is None else total) in tuples:
                    cases += [Case(case.carry, case.digit_sum, total, digits)
                              for digits in self.places.tuples
                              if sum(digits) == case.digit_sum]
                else:
                    cases.append(Case(case.carry, case.digit_sum, total))
        profile = Profile(self.places, {}, 1, place)
        possible = [case for case in cases
                    if profile.largest(case, near_place)[0] > IMPOSSIBLE]
        return _Step(length, place, near_place, possible)

    # ------------------------------------------------------------ values

    def _margin(self, step: _Step, logits: list[Term]) -> float:
        order = _ordered(logits)
        return self._settle(step, order, 0, {}, list(range(len(step.cases))), logits)

    def _settle(self, step: _Step, order: list[Term], start: int, values: dict[int, Any],
                group: list[int], logits: list[Term]) -> float:
        """Evaluate the terms from `start` on for a group of cases; split it at a ReLU whose
        sign differs; the smallest margin of the group."""
        for index in range(start, len(order)):
            term = order[index]
            if term.number in self.kept:
                continue
            if term.op == "relu" and isinstance(x := self._value(values, term.args[0]), Mixed):
                signs = self._signs(step, x, group)
                parts = {sign: [c for c, s in zip(group, signs, strict=True) if s == sign]
                         for sign in set(signs)}
                if 0 in parts:
                    raise NotUnderstood("a ReLU whose sign is not settled by its case")
                if len(parts) > 1:
                    return min(self._settle(step, order, index + 1,
                                            {**values, term.number: self._side(x, sign)},
                                            part, logits)
                               for sign, part in parts.items())
                values[term.number] = self._side(x, next(iter(parts)))
                continue
            value = self._evaluate(term, values)
            if all(arg.number in self.kept for arg in term.args):
                self.kept[term.number] = value  # no case has a part in it
            else:
                values[term.number] = value
        return self._group_margin(step, values, group, logits)

    def _side(self, x: Mixed, sign: int) -> Any:
        return x if sign > 0 else Column(-1, [ZERO])

    def _value(self, values: dict[int, Any], term: Term) -> Any:
        return self.kept[term.number] if term.number in self.kept else values[term.number]

    def _evaluate(self, term: Term, values: dict[int, Any]) -> Any:
        if term.op == "constant":
            if term.data == -np.inf:
                return None
            ball = arb(float(term.data))
            self.arithmetic.finite(ball)
            if not self.arithmetic.is_exact(ball):
                ball = ball + plus_minus(self.arithmetic.tiny)  # subnormal: may be flushed
            return Column(-1, [ball])
        if term.op in ("token", "known token"):
            return None
        if term.op == "mean of":
            return Column(-1, [1 / arb(term.data)])
        if term.op == "look up":
            return self._look_up(term, values)
        args = [self._value(values, arg) for arg in term.args]
        if term.op == "row":
            self.rows[term.number] = self._row(args)
            return None
        if term.op == "weight":
            return self.rows[term.args[0].number][term.data]
        if any(arg is None for arg in args):
            raise NotUnderstood("arithmetic on minus infinity")
        if term.op == "sum":
            mean = any(arg.op == "mean of" for arg in term.args)
            pairs = list(zip(args[::2], args[1::2], strict=True))
            return self.arithmetic.sum_of(pairs, term.number, int(mean))
        if all(isinstance(arg, Column) for arg in args) and _one_token(args):
            return self.arithmetic.elementwise(term.op, args, term.number)
        return self._linear(term, args)

    def _look_up(self, term: Term, values: dict[int, Any]) -> Column:
        token, *entries = term.args
        if token.op == "known token":
            if not 0 <= token.data < len(entries):
                raise NotUnderstood("a token outside its table")
            found = self._value(values, entries[token.data])
            if not isinstance(found, Column):
                raise NotUnderstood("a table of values that depend on tokens")
            return found
        count = self.places.tokens(token.data)
        if count > len(entries):
            raise NotUnderstood("a token outside its table")
        return look_up(self.arithmetic, token.data,
                       [self._value(values, entry) for entry in entries[:count]])

    def _row(self, args: list[Any]) -> list[Column]:
        for arg in args:
            if arg is not None and (not isinstance(arg, Column) or arg.position >= 0):
                raise NotUnderstood("attention scores that depend on tokens")
        return softmax_weights(self.arithmetic, args)

    def _linear(self, term: Term, args: list[Any]) -> Mixed:
        """add, sub, neg and mul where several tokens meet."""
        exact: Mixed
        a, number = self.arithmetic, term.number
        if term.op == "neg":
            return a.add_mixed(Mixed(ZERO, {}), a.mixed(args[0], number), arb(-1))
        if term.op in ("add", "sub"):
            sign = arb(1 if term.op == "add" else -1)
            exact = a.add_mixed(a.mixed(args[0], number), a.mixed(args[1], term.args[1].number),
                                sign)
        elif term.op == "mul":
            return a.sum_of([(args[0], args[1])], number)
        else:
            raise NotUnderstood(f"{term.op} of values of several tokens")
        return a.noisy(exact, exact.magnitude() * a.unit + a.tiny, number)

    # ------------------------------------------------------------ ranges

    def _integers(self, values: list[Mixed]) -> tuple[Tables, Tables, int]:
        """All tables rounded down and up to multiples of 2^-shift, as integers [F, n]."""
        size = sum((entry for value in values for entry in _sizes(value)), ZERO).abs_upper()
        shift = 40
        while shift > -40 and not 2 * size * arb(2) ** shift < LARGEST:
            shift -= 4
        if shift <= -40:
            raise NotUnderstood("values too large for exact sums")
        low: Tables = {}
        high: Tables = {}
        for position in {position for value in values for position in value.tables}:
            count = self.places.tokens(position)
            down, up = np.zeros((2, len(values), count), dtype=np.int64)
            for row, value in enumerate(values):
                if position in value.tables:
                    entries = value.tables[position].entries()[:count]
                    up[row] = [_upward(entry, shift) for entry in entries]
                    down[row] = [-_upward(-entry, shift) for entry in entries]
            low[position], high[position] = down, up
        return low, high, shift

    def _signs(self, step: _Step, x: Mixed, group: list[int]) -> list[int]:
        """1 where x >= 0 in a case, -1 where x <= 0, 0 where neither is shown."""
        low, high, shift = self._integers([x])
        tables = {p: np.concatenate([high[p], -low[p]]) for p in high}
        profile = Profile(self.places, tables, 2, step.place)
        aside, scale = x.aside(), arb(2) ** -shift
        found = []
        for index in group:
            top, bottom = profile.largest(step.cases[index], step.near_place).tolist()
            most = x.base + arb(top) * scale + aside
            least = x.base - arb(bottom) * scale - aside
            found.append(1 if least >= 0 else -1 if most <= 0 else 0)
        return found

    def _group_margin(self, step: _Step, values: dict[int, Any], group: list[int],
                      logits: list[Term]) -> float:
        """The smallest gap between the right logit and another, over a group of cases."""
        forms = [self.arithmetic.mixed(self._value(values, term), term.number)
                 for term in logits]
        low, high, shift = self._integers(forms)
        least = np.inf
        by_token: dict[int, list[Case]] = {}
        for index in group:
            case = step.cases[index]
            by_token.setdefault(self.places.expected(case), []).append(case)
        for token, cases in by_token.items():
            if token >= len(forms):
                raise NotUnderstood(f"there is no logit for token {token}")
            tables = {p: high[p] - low[p][token] for p in high}
            profile = Profile(self.places, tables, len(forms), step.place)
            tops = np.max([profile.largest(case, step.near_place) for case in cases], axis=0)
            for other, (form, top) in enumerate(zip(forms, tops.tolist(), strict=True)):
                if other != token:
                    gap = _difference(forms[token], form) - arb(top) * arb(2) ** -shift
                    least = min(least, _downward(gap))
        return float(least)


def _difference(left: Mixed, right: Mixed) -> Any:
    """Base and noise of left - right, at worst."""
    total = left.base - right.base
    for number in left.noise.keys() | right.noise.keys():
        total -= (left.noise.get(number, ZERO) - right.noise.get(number, ZERO)).abs_upper()
    return total


def _ordered(roots: list[Term]) -> list[Term]:
    """Every term the roots are computed from, arguments first."""
    found, todo = {root.number: root for root in roots}, list(roots)
    while todo:
        for arg in todo.pop().args:
            if arg.number not in found:
                found[arg.number] = arg
                todo.append(arg)
    return [found[number] for number in sorted(found)]


def _one_token(args: list[Any]) -> bool:
    return len({arg.position for arg in args if arg.position >= 0}) <= 1


def _sizes(value: Mixed) -> list[Any]:
    return [max((entry.abs_upper() for entry in table.entries()), default=ZERO)
            for table in value.tables.values()]


def _upward(entry: Any, shift: int) -> int:
    """The least integer >= entry * 2^shift."""
    mantissa, exponent = entry.upper().man_exp()
    power = int(exponent) + shift
    return int(mantissa) << power if power >= 0 else -((-int(mantissa)) >> -power)


def _downward(value: Any) -> float:
    """A float no larger than the ball; -inf for NaN."""
    if not value.is_finite():
        return -np.inf
    near = float(value.lower().mid())
    while not arb(near) <= value:
        near = float(np.nextafter(near, -np.inf))
    return near


__all__ = ["check_certificate", "model_identity"]
