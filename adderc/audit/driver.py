"""Reads the source of a model: what `add` does with its operands, what `forward` branches on.

Takes: source text. Gives: notes on lines that were not shown to be harmless, by line.
May import: results, audit.pieces.

A value is the operands' where it was computed from a parameter of `add` other than the
model, until it goes through the model: what the model returns is the model's, and may be
read digit by digit. Where the answers were seen to be what the chosen tokens spell, a value
behind the last use of the model is the model's too.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import Any

from adderc.audit.pieces import (
    called,
    is_base,
    is_placed,
    is_sequence,
    is_sequence_like,
    is_stop,
    names_a_symbol,
    only_raises,
    reads_model,
    root,
)
from adderc.results import AuditNote

HARMLESS_CALLS = {
    "str", "int", "format", "list", "tuple", "reversed", "divmod", "range", "enumerate",
    "zip", "map", "ord", "chr", "tensor", "as_tensor", "LongTensor", "zeros", "empty", "full",
    "join", "zfill", "rjust", "ljust", "index", "append", "extend", "insert", "unsqueeze",
    "tolist", "get", "cat", "stack", "view", "reshape", "long", "to", "isinstance", "flip",
    "rstrip", "lstrip", "strip", "from_numpy", "array", "copy", "clone", "print", "device",
    "int64", "no_grad", "inference_mode", "type", "next", "iter", "items", "parameters",
    "encode", "split", "isdigit", "isnumeric", "isdecimal", "new_tensor", "cpu", "pop",
    "startswith", "endswith", "size", "shape",
}
MODEL_CALLS = {"argmax", "item", "softmax", "max", "topk", "squeeze", "float", "detach", "numpy"}
UNREADABLE = {"exec", "eval", "compile", "__import__", "globals", "locals", "vars", "setattr",
              "getattr", "import_module"}
HIGHER = ("map", "filter", "sorted", "reduce", "min", "max")
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
    shadowed: frozenset[str] = frozenset()
    nested: set[str] = field(default_factory=set)
    texts: set[str] = field(default_factory=set)
    behind: bool = False  # behind the last use of the model
    spelled: bool = True

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
                self.assign(targets, value)
            case ast.AugAssign():
                self.add_to(node)
            case ast.AnnAssign(target=target, value=value) if value is not None:
                self.bind(target, self.value(value))
            case ast.For(target=target, iter=iterated, body=body, orelse=orelse):
                self.bind_loop(target, iterated)
                self.run(body)
                self.run(body + orelse)
            case ast.While(test=test, body=body, orelse=orelse):
                self.test(test, digits=True)
                self.run(body)
                self.run(body + orelse)
            case ast.If(test=test, body=body, orelse=orelse):
                if not only_raises(body):
                    self.test(test)
                self.run(body)
                self.run(orelse)
            case ast.Return(value=value) if value is not None:
                carried = self.value(value)
                self.returned = max(self.returned, carried)
                if carried == OPERAND and self.depth == 0:
                    self.note(node, f"returns a value of the operands: {ast.unparse(node)}")
            case ast.FunctionDef():
                self.functions = {**self.functions, node.name: node}
                self.nested.add(node.name)
            case ast.ClassDef():
                self.note(node, f"defines a class, which was not read: {node.name}")
            case ast.Assert() | ast.Raise() | ast.Global() | ast.Nonlocal() | ast.Import():
                pass
            case _:
                self.parts(node)

    def assign(self, targets: list[ast.expr], value: ast.expr) -> None:
        carried = self.value(value)
        for target in targets:
            self.bind(target, carried)
            if isinstance(target, ast.Name) and self.is_text(value):
                self.texts.add(target.id)

    def add_to(self, node: ast.AugAssign) -> None:
        """`x += y` and the like."""
        target, value = node.target, node.value
        carried = max(self.value(value), self.value(target))
        text = self.is_text(target, value)
        placed = isinstance(node.op, ast.Mult) or (isinstance(node.op, ast.Add)
                                                   and is_placed(value))
        if carried and not text and not (carried == MODEL and placed):
            self.computes(node, carried)
        self.bind(target, carried)
        if text and isinstance(target, ast.Name):
            self.texts.add(target.id)

    def parts(self, node: ast.AST) -> None:
        """Every expression and statement inside any other statement, in order."""
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.value(child)
            elif isinstance(child, ast.stmt):
                self.statement(child)
            else:
                self.parts(child)

    def computes(self, node: ast.expr | ast.stmt, carried: int) -> None:
        """Arithmetic on the operands or on what the model wrote."""
        if carried == OPERAND:
            self.note(node, f"arithmetic on the operands: {ast.unparse(node)}")
        elif carried == MODEL:
            self.note(node, f"arithmetic on what the model wrote: {ast.unparse(node)}")

    def bind_loop(self, target: ast.expr, iterated: ast.expr) -> None:
        """The names of a loop; the number of a round carries nothing."""
        carried = self.value(iterated)
        if (isinstance(iterated, ast.Call) and called(iterated) == "enumerate"
                and isinstance(target, ast.Tuple) and len(target.elts) == 2):
            self.bind(target.elts[0], CLEAN)
            target = target.elts[1]
        self.bind(target, carried)

    def bind(self, target: ast.expr, carried: int) -> None:
        if isinstance(target, ast.Name):
            self.texts.discard(target.id)
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
        inner = test.operand if isinstance(test, ast.UnaryOp) else test
        if isinstance(inner, ast.Name) and inner.id in self.texts:
            return  # whether there is any
        harmless = names_a_symbol(test) or (digits and isinstance(test, ast.Compare | ast.Name))
        if carried == OPERAND and not harmless:
            self.note(test, f"branches on the operands: {ast.unparse(test)}")
        if carried == MODEL and not is_stop(test):
            self.note(test, f"branches on what the model wrote: {ast.unparse(test)}")

    # ------------------------------------------------------------ expressions

    def value(self, node: ast.expr | None) -> int:
        """What an expression carries; harmful operations in it are noted."""
        match node:
            case None | ast.Constant():
                return CLEAN
            case ast.Name(id=name):
                return min(self.taint.get(name, CLEAN), MODEL if self.behind else OPERAND)
            case ast.BinOp():
                return self.binary(node)
            case ast.Call():
                return self.call(node)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                self.test(test)
                return max(self.value(body), self.value(orelse))
            case ast.ListComp() | ast.GeneratorExp() | ast.SetComp() | ast.DictComp():
                for part in node.generators:
                    self.bind_loop(part.target, part.iter)
                    for condition in part.ifs:
                        self.test(condition)
                if isinstance(node, ast.DictComp):
                    return max(self.value(node.key), self.value(node.value))
                return self.value(node.elt)
            case ast.NamedExpr(target=target, value=value):
                carried = self.value(value)
                self.bind(target, carried)
                return carried
            case ast.Compare():
                return max(self.value(part) for part in (node.left, *node.comparators))
            case ast.UnaryOp(op=op, operand=operand):
                carried = self.value(operand)
                if not isinstance(op, ast.Not):
                    self.computes(node, carried)
                return carried
            case ast.Lambda(body=body):
                return self.value(body)
            case ast.Subscript(value=value, slice=index):
                return max(self.value(value), self.value(index))
        parts = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]
        return max((self.value(part) for part in parts), default=CLEAN)

    def binary(self, node: ast.BinOp) -> int:
        left, right = self.value(node.left), self.value(node.right)
        carried = max(left, right)
        if carried == CLEAN:
            return carried
        if isinstance(node.op, ast.Add) and self.is_text(node.left, node.right):
            return carried
        if isinstance(node.op, ast.Mult) and is_sequence(node):
            return carried
        if isinstance(node.op, ast.Mod | ast.FloorDiv) and right != OPERAND and is_base(
            node.right
        ):
            return carried  # digits of one operand
        if isinstance(node.op, ast.Mod) and isinstance(node.left, ast.Constant):
            return carried  # "%010d" % a
        if carried == MODEL and (is_placed(node) or (isinstance(node.op, ast.Add) and (
            is_placed(node.left) or is_placed(node.right)
        ))):
            return carried  # digits put in their places
        self.computes(node, carried)
        return carried

    def call(self, node: ast.Call) -> int:
        name = called(node)
        given = [*node.args, *(k.value for k in node.keywords)]
        self.bind_lambdas(name, given)
        carried = max((self.value(a) for a in given), default=CLEAN)
        owner = node.func.value if isinstance(node.func, ast.Attribute) else None
        own = self.value(owner) if owner is not None else CLEAN
        if isinstance(node.func, ast.Lambda | ast.Call):
            own = self.value(node.func)
        if name in UNREADABLE and owner is None and not reads_model(node, self.model):
            self.note(node, f"may do anything: {ast.unparse(node)}")
            return OPERAND
        through = root(node.func) == self.model or any(
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
        if name in self.methods and owner is not None:
            return max(own, self.inside(self.methods[name], node, skip=1))
        if name == "len" and owner is None:
            return CLEAN
        return self.foreign(node, name, owner, max(carried, own))

    def foreign(
        self, node: ast.Call, name: str, owner: ast.expr | None, carried: int
    ) -> int:
        """A call of something that is not in the file."""
        plain = owner is not None or name not in self.shadowed
        if plain and (name in HARMLESS_CALLS or (name in MODEL_CALLS and carried <= MODEL)):
            return carried
        if name == "sum" and carried == MODEL and all(
            isinstance(a, ast.GeneratorExp | ast.ListComp) and is_placed(a.elt)
            for a in node.args
        ):
            return carried
        if carried == OPERAND:
            self.note(node, f"call on the operands: {ast.unparse(node)}")
        elif carried == MODEL and not self.spelled:
            self.note(node, f"call on what the model wrote: {ast.unparse(node)}")
        return carried

    def bind_lambdas(self, name: str, given: list[ast.expr]) -> None:
        """What a function passed to map and the like is called on."""
        if name not in HIGHER:
            return
        carried = max((self.value(a) for a in given if not isinstance(a, ast.Lambda)),
                      default=CLEAN)
        for argument in given:
            if isinstance(argument, ast.Lambda):
                for parameter in argument.args.args:
                    self.taint[parameter.arg] = carried
            elif isinstance(argument, ast.Name) and argument.id in self.functions:
                function = self.functions[argument.id]
                call = ast.Call(argument, [a for a in given if a is not argument]
                                * len(function.args.args), [])
                self.inside(function, ast.copy_location(call, argument))

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
        if function.args.vararg:
            carried[function.args.vararg.arg] = max((self.value(a) for a in node.args),
                                                    default=CLEAN)
        if function.name in self.nested:  # it sees what is around it
            carried = {**self.taint, **carried}
        inner = _Reader(self.functions, model, carried, self.notes, self.depth + 1,
                        methods=self.methods, operands=frozenset(
                            n for n, c in carried.items() if c == OPERAND),
                        shadowed=self.shadowed, nested=set(self.nested), spelled=self.spelled)
        inner.run(function.body)
        return inner.returned

    def is_text(self, *nodes: ast.expr) -> bool:
        """Whether a sum joins text or lists rather than numbers."""
        return any(is_sequence_like(node) or (isinstance(node, ast.Name)
                                               and node.id in self.texts) for node in nodes)


def inspect_add(source: str, add: Any = None, spelled: bool = False) -> list[AuditNote]:
    """What `add` does to its operands beyond writing them down; [] where there is none.

    `add` is the function that runs: one that is not the text's own was not read. `spelled`
    says that answers were seen to be what the chosen tokens spell.
    """
    tree = ast.parse(source)
    functions = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef)}
    read = functions.get("add")
    if add is None and read is None:
        bound = any(isinstance(n, ast.Name | ast.alias) and "add" in (
            getattr(n, "id", ""), getattr(n, "name", ""), getattr(n, "asname", ""))
            for n in ast.walk(tree))
        return [AuditNote("add", UNREAD)] if bound else []
    if read is None or not _is_written(add, read):
        return [AuditNote("add", UNREAD)]
    arguments = read.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    names += [a.arg for a in (arguments.vararg, arguments.kwarg) if a is not None]
    methods = {m.name: m for n in tree.body if isinstance(n, ast.ClassDef)
               for m in n.body if isinstance(m, ast.FunctionDef)}
    reader = _Reader(functions, names[0], dict.fromkeys(names[1:], OPERAND), methods=methods,
                     operands=frozenset(names[1:]), shadowed=_shadowed(tree), spelled=spelled)
    last = max((n for n, s in enumerate(read.body) if reads_model(s, names[0])),
               default=len(read.body) - 1)
    reader.run(read.body[: last + 1])
    reader.behind = spelled
    reader.run(read.body[last + 1:])
    returns = "returns a value of the operands"
    notes = [n for n in reader.notes if not (spelled and n.reason.startswith(returns))]
    return sorted(notes, key=lambda note: note.line)


def _is_written(add: Any, read: ast.FunctionDef) -> bool:
    """Whether the function that runs is the one in the text."""
    inner = getattr(add, "__wrapped__", add)  # torch.no_grad() and the like
    code = getattr(inner, "__code__", None)
    lines = {read.lineno, *(d.lineno for d in read.decorator_list)}
    return add is None or (code is not None and code.co_name == "add"
                           and code.co_firstlineno in lines)


def _shadowed(tree: ast.Module) -> frozenset[str]:
    """Names that the file gives a meaning of its own."""
    found = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)
             and isinstance(n.ctx, ast.Store)}
    found |= {alias.asname for n in ast.walk(tree) if isinstance(n, ast.ImportFrom | ast.Import)
              for alias in n.names if alias.asname}
    return frozenset(found)


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
