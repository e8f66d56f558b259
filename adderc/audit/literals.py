"""Numbers in a model's source: where each is written, and which are obtained from others.

Takes: source text. Gives: `Literals`.
May import: audit.patterns, networkx and the standard library.
"""

from __future__ import annotations

import ast
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import networkx as nx

from adderc.audit.patterns import magnitude

Roots = frozenset[tuple[float, int]]  # literals that an expression is made of: value, line
DEEPEST = 16


@dataclass(frozen=True)
class Known:
    """The value of a constant expression, the literals in it, what it is computed from.

    `key` is equal for equal expressions; a name stands for what is bound to it.
    """

    value: float
    roots: Roots
    key: Any
    parts: tuple[Known, ...] = ()


class Literals:
    """Every constant expression of a file with its value and the literals in it."""

    def __init__(self, source: str) -> None:
        self.tree = ast.parse(source)
        self._bound: dict[str, list[ast.expr]] = defaultdict(list)
        self._form: dict[tuple[float, int], str] = {}
        self._names: dict[int, list[str]] = defaultdict(list)
        self._collect()
        self.known: dict[float, Known] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.BinOp | ast.UnaryOp | ast.Call | ast.Constant | ast.Name
                          | ast.Attribute):
                found = self._value(node, 0)
                if found is not None and found.roots:
                    size = magnitude(found.value)
                    if size not in self.known or len(found.roots) < len(self.known[size].roots):
                        self.known[size] = found

    def form(self, value: float, line: int) -> str:
        """How a number is written: default argument, module constant, …; "" if unknown."""
        size = magnitude(value)
        for name in self._names.get(line, ()):
            for bound in self._bound.get(name, []):
                found = self._value(bound, 0)
                if found is not None and magnitude(found.value) == size:
                    form = self._form.get((size, bound.lineno), "")
                    return f"{form}, line {bound.lineno}" if form else ""
        here = self._form.get((size, line))
        if here:
            return here
        forms = [f"{form}, line {where}" for (v, where), form in self._form.items() if v == size]
        if forms:
            return forms[0]
        known = self.known.get(size)
        roots = [r for r in known.roots if magnitude(r[0]) not in (0.0, 1.0)] if known else []
        return ("computed from " + ", ".join(f"{v:g} (line {n})" for v, n in sorted(roots))
                if roots else "")

    def writes(self, value: float) -> bool:
        """Whether a constant expression of the source has this magnitude."""
        return magnitude(value) in self.known

    def independent(self, sizes: Iterable[float]) -> int:
        """From how few numbers all of these can be obtained by expressions of the source.

        Each may stand for itself, or follow from others that it is computed from: the
        smallest cut between the literals and the numbers in the graph of expressions.
        """
        graph = nx.DiGraph()
        alone = 0
        for size in set(sizes):
            known = self.known.get(size)
            if known is None or not self._join(graph, known, set()):
                alone += 1
            else:
                graph.add_edge((known.key, "out"), "sink")
        return alone + (int(nx.maximum_flow_value(graph, "source", "sink")) if graph else 0)

    def _join(self, graph: nx.DiGraph, known: Known, seen: set[Any]) -> bool:
        """Enter an expression with what it is made of; False if no literal is in it."""
        if known.key in seen or graph.has_edge((known.key, "in"), (known.key, "out")):
            return graph.has_edge((known.key, "in"), (known.key, "out"))
        seen.add(known.key)
        if not known.parts and (not known.roots or magnitude(known.value) in (0.0, 1.0)):
            return False
        inner = [part for part in known.parts if self._join(graph, part, seen)]
        if known.parts and not inner:
            return False
        graph.add_edge((known.key, "in"), (known.key, "out"), capacity=1)
        for part in inner:
            graph.add_edge((part.key, "out"), (known.key, "in"))
        if not known.parts:
            graph.add_edge("source", (known.key, "in"))
        return True

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

    def _value(self, node: ast.expr, depth: int) -> Known | None:
        """The number a constant expression stands for; None where it is no such thing."""
        if depth > DEEPEST:
            return None
        match node:
            case ast.Constant(value=value) if isinstance(value, int | float) and not isinstance(
                value, bool
            ):
                return _literal(value, node.lineno)
            case ast.Name(id=name) | ast.Attribute(attr=name):
                if name in ("pi", "e", "tau"):
                    return Known(getattr(math, name), frozenset(), name)
                bound = self._bound.get(name, [])
                return self._value(bound[0], depth + 1) if len(bound) == 1 else None
            case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
                inner = self._value(operand, depth + 1)
                return inner and Known(-inner.value, inner.roots, inner.key, inner.parts)
            case ast.BinOp(left=left, op=op, right=right):
                first, second = self._value(left, depth + 1), self._value(right, depth + 1)
                return _combined(op, first, second) if first and second else None
            case ast.Call(func=func, args=[argument]):
                return _called(func, self._value(argument, depth + 1))
        return None


def _combined(op: ast.operator, first: Known, second: Known) -> Known | None:
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
    return Known(value, first.roots | second.roots,
                 (type(op).__name__, first.key, second.key), (first, second))


def _literal(value: float, line: int) -> Known | None:
    try:
        number = float(value)
    except OverflowError:  # an integer of hundreds of digits
        return None
    return Known(number, frozenset({(number, line)}), magnitude(number))


def _called(func: ast.expr, inner: Known | None) -> Known | None:
    name = func.attr if isinstance(func, ast.Attribute) else (
        func.id if isinstance(func, ast.Name) else "")
    known = {"sqrt": math.sqrt, "exp": math.exp, "log": math.log, "float": float, "abs": abs,
             "int": int, "sin": math.sin, "cos": math.cos, "tensor": float, "log2": math.log2}
    if inner is None or name not in known:
        return None
    try:
        value = float(known[name](inner.value))  # type: ignore[operator]
    except (ArithmeticError, ValueError):
        return None
    if name in ("float", "tensor"):
        return inner
    return Known(value, inner.roots, (name, inner.key), (inner,))
