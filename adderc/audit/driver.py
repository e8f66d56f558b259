"""Reads the source of a model: what `add` does with its operands, what `forward` branches on.

Takes: source text. Gives: notes on lines that were not shown to be harmless, by line.
May import: results and the standard library.

A value is the operands' where it was computed from a parameter of `add` other than the
model, until it goes through the model: what the model returns is the model's.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field

from adderc.results import AuditNote

HARMLESS_CALLS = {
    "str", "int", "format", "list", "tuple", "reversed", "divmod", "range", "enumerate",
    "zip", "map", "ord", "chr", "tensor", "as_tensor", "LongTensor", "zeros", "empty", "full",
    "join", "zfill", "rjust", "ljust", "index", "append", "extend", "insert", "unsqueeze",
    "tolist", "get", "cat", "stack", "view", "reshape", "long", "to", "isinstance", "flip",
    "rstrip", "lstrip", "strip", "from_numpy", "array", "copy", "clone", "print", "device",
    "int64", "no_grad", "inference_mode", "eval", "range_check", "type", "next", "iter", "items",
    "encode", "split", "new_tensor", "cpu", "pop", "startswith", "endswith", "size", "shape",
}
MODEL_CALLS = {"argmax", "item", "softmax", "max", "topk", "squeeze", "float", "detach", "numpy"}
OPERAND, MODEL, CLEAN = 2, 1, 0
DEEPEST_CALL = 8
UNREAD = "add is no plain function add(model, …) of this file, so it was not read"


@dataclass
class _Reader:
    """Walks one function in order; `taint` is what each name carries."""

    functions: dict[str, ast.FunctionDef]
    model: str
    taint: dict[str, int] = field(default_factory=dict)
    notes: list[AuditNote] = field(default_factory=list)
    depth: int = 0
    returned: int = CLEAN
    methods: dict[str, ast.FunctionDef] = field(default_factory=dict)
    operands: frozenset[str] = frozenset()

    def note(self, node: ast.AST, reason: str) -> None:
        line = getattr(node, "lineno", 0)
        if not any(n.line == line and n.reason == reason for n in self.notes):
            self.notes.append(AuditNote("add", reason, line))

    # ------------------------------------------------------------ statements

    def run(self, body: list[ast.stmt]) -> None:
        for statement in body:
            self.statement(statement)

    def statement(self, node: ast.stmt) -> None:
        match node:
            case ast.Assign(targets=targets, value=value):
                carried = self.value(value)
                for target in targets:
                    self.bind(target, carried)
            case ast.AugAssign(target=target, value=value):
                carried = max(self.value(value), self.value(target))
                if carried == OPERAND and not self.is_text(target, value):
                    self.note(node, f"arithmetic on the operands: {ast.unparse(node)}")
                self.bind(target, carried)
            case ast.AnnAssign(target=target, value=value) if value is not None:
                self.bind(target, self.value(value))
            case ast.For(target=target, iter=iterated, body=body, orelse=orelse):
                self.bind(target, self.value(iterated))
                self.run(body)
                self.run(body + orelse)
            case ast.While(test=test, body=body, orelse=orelse):
                self.test(test, digits=True)
                self.run(body)
                self.run(body + orelse)
            case ast.If(test=test, body=body, orelse=orelse):
                if not _only_raises(body):
                    self.test(test)
                self.run(body)
                self.run(orelse)
            case ast.Return(value=value) if value is not None:
                carried = self.value(value)
                self.returned = max(self.returned, carried)
                if carried == OPERAND and self.depth == 0:
                    self.note(node, f"returns a value of the operands: {ast.unparse(node)}")
            case ast.With(body=body) | ast.Try(body=body):
                self.run(body)
                for handler in getattr(node, "handlers", []):
                    self.run(handler.body)
            case ast.FunctionDef():
                self.functions = {**self.functions, node.name: node}
            case ast.Expr(value=value):
                self.value(value)
            case _:
                pass

    def bind(self, target: ast.expr, carried: int) -> None:
        if isinstance(target, ast.Name):
            self.taint[target.id] = max(carried, self.taint.get(target.id, CLEAN)
                                        if carried == CLEAN and self.depth else CLEAN)
        elif isinstance(target, ast.Tuple | ast.List):
            for item in target.elts:
                self.bind(item, carried)
        elif isinstance(target, ast.Starred):
            self.bind(target.value, carried)
        elif isinstance(target, ast.Subscript | ast.Attribute):
            base = target.value
            if isinstance(base, ast.Name):
                self.taint[base.id] = max(carried, self.taint.get(base.id, CLEAN))

    def test(self, test: ast.expr, digits: bool = False) -> None:
        carried = self.value(test)
        harmless = _names_a_symbol(test) or (digits and isinstance(test, ast.Compare | ast.Name))
        if carried == OPERAND and not harmless:
            self.note(test, f"branches on the operands: {ast.unparse(test)}")
        if carried == MODEL and not _is_stop(test):
            self.note(test, f"branches on what the model wrote: {ast.unparse(test)}")

    # ------------------------------------------------------------ expressions

    def value(self, node: ast.expr | None) -> int:
        """What an expression carries; harmful operations in it are noted."""
        match node:
            case None | ast.Constant():
                return CLEAN
            case ast.Name(id=name):
                return self.taint.get(name, CLEAN)
            case ast.BinOp():
                return self.binary(node)
            case ast.Call():
                return self.call(node)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                self.test(test)
                return max(self.value(body), self.value(orelse))
            case ast.ListComp() | ast.GeneratorExp() | ast.SetComp():
                for part in node.generators:
                    self.bind(part.target, self.value(part.iter))
                    for condition in part.ifs:
                        self.test(condition)
                return self.value(node.elt)
            case ast.UnaryOp(op=op, operand=operand):
                carried = self.value(operand)
                if carried == OPERAND and not isinstance(op, ast.Not):
                    self.note(node, f"arithmetic on the operands: {ast.unparse(node)}")
                return carried
            case ast.Lambda():
                return CLEAN
            case ast.Subscript(value=value, slice=index):
                return max(self.value(value), self.value(index))
        parts = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]
        return max((self.value(part) for part in parts), default=CLEAN)

    def binary(self, node: ast.BinOp) -> int:
        left, right = self.value(node.left), self.value(node.right)
        carried = max(left, right)
        if carried != OPERAND:
            return carried
        if isinstance(node.op, ast.Add) and self.is_text(node.left, node.right):
            return carried
        if isinstance(node.op, ast.Mult) and _is_sequence(node):
            return carried
        if isinstance(node.op, ast.Mod | ast.FloorDiv) and right != OPERAND:
            return carried  # digits of one operand
        if isinstance(node.op, ast.Mod) and isinstance(node.left, ast.Constant):
            return carried  # "%010d" % a
        self.note(node, f"arithmetic on the operands: {ast.unparse(node)}")
        return carried

    def call(self, node: ast.Call) -> int:
        name = _called(node)
        given = [*node.args, *(k.value for k in node.keywords)]
        carried = max((self.value(a) for a in given), default=CLEAN)
        owner = node.func.value if isinstance(node.func, ast.Attribute) else None
        own = self.value(owner) if owner is not None else CLEAN
        through = _root(node.func) == self.model or any(
            isinstance(a, ast.Name) and a.id == self.model for a in node.args)
        if through and name not in self.functions:
            if name in self.methods and any(
                isinstance(a, ast.Name) and a.id in self.operands for a in node.args
            ):  # a method on the numbers themselves may do anything before it calls the model
                self.inside(self.methods[name], node, skip=1)
            return MODEL
        if name in ("append", "extend", "insert") and isinstance(owner, ast.Name):
            self.taint[owner.id] = max(carried, self.taint.get(owner.id, CLEAN))
            return CLEAN
        if name in self.functions and owner is None:
            return self.inside(self.functions[name], node)
        if name == "len":
            return CLEAN
        if name in ("sum", "pow", "eval", "exec"):
            pass
        elif name in HARMLESS_CALLS or (name in MODEL_CALLS and max(carried, own) <= MODEL):
            return max(carried, own)
        if max(carried, own) == OPERAND:
            self.note(node, f"call on the operands: {ast.unparse(node)}")
        return max(carried, own)

    def inside(self, function: ast.FunctionDef, node: ast.Call, skip: int = 0) -> int:
        """A helper of the same file, with what its arguments carry; `skip` 1 for `self`."""
        own, *_ = [a.arg for a in function.args.args] or [""]
        names = [a.arg for a in function.args.args][skip:]
        carried = {n: self.value(a) for n, a in zip(names, node.args, strict=False)}
        carried |= {k.arg: self.value(k.value) for k in node.keywords if k.arg}
        model = next((n for n, a in zip(names, node.args, strict=False)
                      if isinstance(a, ast.Name) and a.id == self.model),
                     own if skip else self.model)
        if self.depth > DEEPEST_CALL:
            return max(carried.values(), default=CLEAN)
        inner = _Reader(self.functions, model, carried, self.notes, self.depth + 1,
                        methods=self.methods, operands=frozenset(
                            n for n, c in carried.items() if c == OPERAND))
        inner.run(function.body)
        return inner.returned

    def is_text(self, *nodes: ast.expr) -> bool:
        """Whether a sum joins text or lists rather than numbers."""
        return any(_is_sequence_like(node) for node in nodes)


def inspect_add(source: str) -> list[AuditNote]:
    """What `add` does to its operands beyond writing them down; [] where there is none."""
    tree = ast.parse(source)
    functions = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef)}
    add = functions.get("add")
    if add is None or not add.args.args:
        bound = any(isinstance(n, ast.Name | ast.alias) and "add" in (
            getattr(n, "id", ""), getattr(n, "name", ""), getattr(n, "asname", ""))
            for n in ast.walk(tree))
        return [AuditNote("add", UNREAD)] if bound or add is not None else []
    methods = {m.name: m for n in tree.body if isinstance(n, ast.ClassDef)
               for m in n.body if isinstance(m, ast.FunctionDef)}
    names = [a.arg for a in add.args.args]
    reader = _Reader(functions, names[0], dict.fromkeys(names[1:], OPERAND),
                     methods=methods, operands=frozenset(names[1:]))
    reader.run(add.body)
    return sorted(reader.notes, key=lambda note: note.line)


def inspect_forward(source: str) -> list[AuditNote]:
    """Control flow on tensor values inside the model's functions."""
    notes = []
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef) or function.name in ("add", "build_model",
                                                                         "__init__", "main"):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.If | ast.While | ast.IfExp) and _reads_values(node.test):
                notes.append(AuditNote(function.name, "control flow on a tensor's value: "
                                       + ast.unparse(node.test), node.lineno))
    return notes


def _reads_values(test: ast.expr) -> bool:
    names = {"item", "any", "all", "tolist", "equal", "allclose"}
    return any(isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)
               and n.func.attr in names for n in ast.walk(test))


def _called(node: ast.Call) -> str:
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute | ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def _is_sequence_like(node: ast.expr) -> bool:
    if isinstance(node, ast.JoinedStr | ast.List | ast.ListComp | ast.Tuple):
        return True
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str)
    if isinstance(node, ast.Call):
        return _called(node) in ("str", "format", "list", "zfill", "join", "rjust", "reversed")
    if isinstance(node, ast.BinOp):
        return _is_sequence_like(node.left) or _is_sequence_like(node.right)
    return isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice)


def _is_sequence(node: ast.BinOp) -> bool:
    return _is_sequence_like(node.left) or _is_sequence_like(node.right)


def _only_raises(body: list[ast.stmt]) -> bool:
    return all(isinstance(s, ast.Raise | ast.Pass) for s in body)


def _names_a_symbol(test: ast.expr) -> bool:
    """`token == "+"`: text compared with text that holds no digit."""
    return isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(
        test.ops[0], ast.Eq | ast.NotEq) and any(
        isinstance(side, ast.Constant) and isinstance(side.value, str)
        and not any(c.isdigit() for c in side.value)
        for side in (test.left, *test.comparators))


def _is_stop(test: ast.expr) -> bool:
    """`token == END`: one comparison of a whole value with a fixed one."""
    return isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(
        test.ops[0], ast.Eq | ast.NotEq)
