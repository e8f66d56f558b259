"""Numbers in a model's source: where each is written, and which are obtained from others.

Takes: source text. Gives: `Literals`.
May import: audit.patterns and the standard library.
"""

from __future__ import annotations

import ast
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from adderc.audit.patterns import magnitude

Roots = frozenset[tuple[float, int]]  # literals that an expression is made of: value, line
DEEPEST = 16


@dataclass(frozen=True)
class _Known:
    value: float
    roots: Roots


class Literals:
    """Every constant expression of a file with its value and the literals in it."""

    def __init__(self, source: str) -> None:
        self.tree = ast.parse(source)
        self._bound: dict[str, list[ast.expr]] = defaultdict(list)
        self._form: dict[tuple[float, int], str] = {}
        self._names: dict[int, list[str]] = defaultdict(list)
        self._collect()
        self.roots: dict[float, Roots] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.BinOp | ast.UnaryOp | ast.Call | ast.Constant | ast.Name
                          | ast.Attribute):
                found = self._value(node, 0)
                if found is not None and found.roots:
                    size = magnitude(found.value)
                    if size not in self.roots or len(found.roots) < len(self.roots[size]):
                        self.roots[size] = found.roots

    def form(self, value: float, line: int) -> str:
        """How a number is written: default argument, module constant, …; "" if unknown."""
        size = magnitude(value)
        for name in self._names.get(line, ()):
            for bound in self._bound.get(name, []):
                known = self._value(bound, 0)
                if known is not None and magnitude(known.value) == size:
                    form = self._form.get((size, bound.lineno), "")
                    return f"{form}, line {bound.lineno}" if form else ""
        here = self._form.get((size, line))
        if here:
            return here
        forms = [f"{form}, line {where}" for (v, where), form in self._form.items() if v == size]
        if forms:
            return forms[0]
        roots = [r for r in self.roots.get(size, ()) if magnitude(r[0]) not in (0.0, 1.0)]
        return ("computed from " + ", ".join(f"{v:g} (line {n})" for v, n in sorted(roots))
                if roots else "")

    def independent(self, sizes: Iterable[float]) -> int:
        """How many numbers there are once those obtained from one another count once.

        In each group of numbers that share a literal: the fewer of numbers and literals.
        """
        groups: list[tuple[set[float], set[tuple[float, int]]]] = []
        alone = 0
        for size in set(sizes):
            own = {r for r in self.roots.get(size, ()) if magnitude(r[0]) not in (0.0, 1.0)}
            if not own:
                alone += 1
                continue
            joined = ({size}, set(own))
            rest = []
            for group in groups:
                if {v for v, _ in group[1]} & {v for v, _ in joined[1]}:
                    joined = (joined[0] | group[0], joined[1] | group[1])
                else:
                    rest.append(group)
            groups = [*rest, joined]
        return alone + sum(min(len(s), len({magnitude(v) for v, _ in r})) for s, r in groups)

    # ------------------------------------------------------------ reading

    def _collect(self) -> None:
        for node in ast.walk(self.tree):
            match node:
                case ast.Assign(targets=[target], value=value):
                    self._bind(target, value, "assigned")
                case ast.AnnAssign(target=target, value=value) if value is not None:
                    self._bind(target, value, "assigned")
                case ast.FunctionDef(args=args) | ast.Lambda(args=args):
                    named = [*args.posonlyargs, *args.args]
                    pairs = list(zip(named[len(named) - len(args.defaults):], args.defaults,
                                     strict=True))
                    pairs += [(a, d) for a, d in zip(args.kwonlyargs, args.kw_defaults,
                                                     strict=True) if d is not None]
                    for argument, default in pairs:
                        self._bound[argument.arg].append(default)
                        self._mark(default, f"default argument {argument.arg}")
                case ast.Constant():
                    self._mark(node, "literal")
                case ast.Name(id=name) | ast.Attribute(attr=name):
                    self._names[node.lineno].append(name)
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self._mark(node.value, f"module constant {node.targets[0].id}")

    def _bind(self, target: ast.expr, value: ast.expr, form: str) -> None:
        name = target.id if isinstance(target, ast.Name) else (
            target.attr if isinstance(target, ast.Attribute) else "")
        if name:
            self._bound[name].append(value)
            self._mark(value, f"{form} to {name}")

    def _mark(self, node: ast.expr, form: str) -> None:
        """Remember how the number that `node` is was written; later words win over "literal"."""
        value = self._value(node, 0) if not isinstance(node, ast.Name | ast.Attribute) else None
        if value is not None:
            key = (magnitude(value.value), node.lineno)
            if form != "literal" or key not in self._form:
                self._form[key] = form

    def _value(self, node: ast.expr, depth: int) -> _Known | None:
        """The number a constant expression stands for; None where it is no such thing."""
        if depth > DEEPEST:
            return None
        match node:
            case ast.Constant(value=value) if isinstance(value, int | float) and not isinstance(
                value, bool
            ):
                return _Known(float(value), frozenset({(float(value), node.lineno)}))
            case ast.Name(id=name) | ast.Attribute(attr=name):
                if name in ("pi", "e", "tau"):
                    return _Known(getattr(math, name), frozenset())
                bound = self._bound.get(name, [])
                return self._value(bound[0], depth + 1) if len(bound) == 1 else None
            case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
                inner = self._value(operand, depth + 1)
                return inner and _Known(-inner.value, inner.roots)
            case ast.BinOp(left=left, op=op, right=right):
                first, second = self._value(left, depth + 1), self._value(right, depth + 1)
                return _combined(op, first, second) if first and second else None
            case ast.Call(func=func, args=[argument], keywords=[]):
                return _called(func, self._value(argument, depth + 1))
        return None


def _combined(op: ast.operator, first: _Known, second: _Known) -> _Known | None:
    a, b = first.value, second.value
    try:
        match op:
            case ast.Add():
                value = a + b
            case ast.Sub():
                value = a - b
            case ast.Mult():
                value = a * b
            case ast.Div():
                value = a / b
            case ast.Pow():
                value = float(a**b)
            case _:
                return None
    except (ArithmeticError, TypeError, ValueError):
        return None
    return _Known(value, first.roots | second.roots)


def _called(func: ast.expr, inner: _Known | None) -> _Known | None:
    name = func.attr if isinstance(func, ast.Attribute) else (
        func.id if isinstance(func, ast.Name) else "")
    known = {"sqrt": math.sqrt, "exp": math.exp, "log": math.log, "float": float, "abs": abs,
             "int": int, "sin": math.sin, "cos": math.cos, "tensor": float, "log2": math.log2}
    if inner is None or name not in known:
        return None
    try:
        return _Known(float(known[name](inner.value)), inner.roots)  # type: ignore[operator]
    except (ArithmeticError, ValueError):
        return None
