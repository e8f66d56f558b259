"""Questions about pieces of Python text, asked while an `add` is read.

Takes: syntax trees. Gives: yes or no, or the name that is called.
May import: the standard library.
"""

from __future__ import annotations

import ast

BASES = (2, 8, 10, 16, 100, 1000)


def reads_model(node: ast.AST, model: str) -> bool:
    return any(isinstance(n, ast.Name) and n.id == model for n in ast.walk(node))


def is_placed(node: ast.expr) -> bool:
    """`digit * 10 ** place` and the like: a product with a power, a base or a name."""
    if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Mult):
        return False
    return any(isinstance(side, ast.Name) or (isinstance(side, ast.Constant)
                                              and side.value in BASES)
               or (isinstance(side, ast.BinOp) and isinstance(side.op, ast.Pow))
               for side in (node.left, node.right))


def is_base(node: ast.expr) -> bool:
    """A number that digits are cut with: a base, a power of something, a name."""
    if isinstance(node, ast.Constant):
        return node.value in BASES
    return not isinstance(node, ast.BinOp) or isinstance(node.op, ast.Pow)


def called(node: ast.Call) -> str:
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute | ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def is_sequence_like(node: ast.expr) -> bool:
    if isinstance(node, ast.JoinedStr | ast.List | ast.ListComp | ast.Tuple):
        return True
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str)
    if isinstance(node, ast.Call):
        return called(node) in ("str", "format", "list", "zfill", "join", "rjust", "reversed")
    if isinstance(node, ast.BinOp):
        return is_sequence_like(node.left) or is_sequence_like(node.right)
    return isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice)


def is_sequence(node: ast.BinOp) -> bool:
    return is_sequence_like(node.left) or is_sequence_like(node.right)


def only_raises(body: list[ast.stmt]) -> bool:
    return all(isinstance(s, ast.Raise | ast.Pass) for s in body)


def names_a_symbol(test: ast.expr) -> bool:
    """`token == "+"` or `token.isdigit()`: text compared with text that holds no digit."""
    if isinstance(test, ast.Call):
        return called(test) in ("isdigit", "isnumeric", "isdecimal", "isinstance")
    return isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(
        test.ops[0], ast.Eq | ast.NotEq) and any(
        isinstance(side, ast.Constant) and isinstance(side.value, str)
        and not any(c.isdigit() for c in side.value)
        for side in (test.left, *test.comparators))


def is_stop(test: ast.expr) -> bool:
    """`token == END`: one comparison of a whole value with a fixed one."""
    return isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(
        test.ops[0], ast.Eq | ast.NotEq)
