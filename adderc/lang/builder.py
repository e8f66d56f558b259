"""From lark's tree to the syntax tree, with the faults that a grammar cannot say.

Takes: the lark tree of a text, a `FaultList`. Gives: `build` → `Spec`, or None after faults:
parts and keys given twice or missing, expressions nested too deeply.
May import: errors, lang.syntax, lang.expressions.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

from lark import Token, Tree, v_args
from lark.tree import Meta

from adderc.errors import FaultList, Span
from adderc.lang import syntax
from adderc.lang.expressions import ExpressionBuilder, Piece

MAX_DEPTH = 100
REQUIRED = {
    "adder": "expected a line such as: adder ripple",
    "number": "expected a part such as: number { base 10  width 10  operands 2 }",
    "format": 'expected a part such as: format { prompt msd(a) "+" msd(b) "="; answer lsd(s) }',
    "model": "expected a part such as: model { layers 1  d_model 4  dtype float32 }",
}
RESERVED = frozenset({
    "if", "then", "else", "and", "or", "not", "div", "mod", "until", "through",
})
REPEATABLE_KEYS = frozenset({"layer"})


def build(tree: Tree[Token], faults: FaultList, complete: bool,
          needed: Iterable[str] = tuple(REQUIRED)) -> syntax.Spec | None:
    """The `Spec`, or None where there are faults.

    What is missing of the parts `needed` counts as a fault only where `complete`, that is,
    where no stretch of the text was left out of the tree.
    """
    builder = _Builder(faults, complete)
    if not _is_shallow(tree, builder):
        return None
    parts: dict[str, Any] = builder.transform(tree)
    for name in needed:
        if complete and name not in parts:
            faults.add(f'"{name}" is missing', hint=REQUIRED[name])
    if faults.faults:
        return None
    held = {name: parts[name].children if name in parts else ()
            for name in ("adder", "number", "model", "weights")}
    return syntax.Spec(
        next(iter(held["adder"]), ""), held["number"], parts["format"],
        parts.get("algorithm"), held["model"], held["weights"], faults.source,
        builder.span(0, len(faults.source.text)),
    )


def _is_shallow(tree: Tree[Token], builder: _Builder) -> bool:
    """Whether recursion over the tree is safe; else the place where it gets too deep."""
    depths: dict[int, int] = {}
    for subtree in tree.iter_subtrees():  # children first
        inner = (depths[id(c)] for c in subtree.children if isinstance(c, Tree))
        depths[id(subtree)] = depth = 1 + max(inner, default=0)
        if depth > MAX_DEPTH:
            builder.faults.add(f"the expression is nested deeper than {MAX_DEPTH} levels",
                               builder.at(subtree.meta),
                               "expected parts of it as quantities of their own")
            return False
    return True


@v_args(meta=True)
class _Builder(ExpressionBuilder):
    """The rules for parts and entries."""

    def __init__(self, faults: FaultList, complete: bool) -> None:
        super().__init__(faults)
        self.complete = complete

    def once(self, pieces: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        """The pieces by name; a name that comes again is a fault and is left out."""
        found: dict[str, Any] = {}
        for name, piece in pieces:
            if name in found and name not in REPEATABLE_KEYS:
                self.faults.add(f'"{name}" is given twice', piece.span,
                                f"expected once; it stands in line {found[name].span.line}")
            found.setdefault(name, piece)
        return found

    def require(self, found: dict[str, Any], names: tuple[str, ...], span: Span) -> None:
        for name in names:
            if self.complete and name not in found:
                self.faults.add(f'expected one "{name}" in this part', span)

    def start(self, meta: Meta, children: list[Any]) -> dict[str, Any]:
        names = {syntax.FormatPart: "format", syntax.AlgorithmPart: "algorithm"}
        return self.once((names.get(type(c)) or c.name, c) for c in children)

    def adder(self, meta: Meta, children: list[Any]) -> Piece:
        return Piece("adder", (str(children[0]),), self.at(meta))

    def keyword(self, meta: Meta, children: list[Token]) -> str:
        return str(children[0])

    number_key = order = token_kind = model_key = action = option_key = keyword

    # ------------------------------------------------------------ number and format

    def number(self, meta: Meta, children: list[Any]) -> Piece:
        self.once((setting.name, setting) for setting in children)
        return Piece("number", tuple(children), self.at(meta))

    def setting(self, meta: Meta, children: list[Any]) -> syntax.Setting:
        return syntax.Setting(children[0], children[1], self.at(meta))

    def format(self, meta: Meta, children: list[Any]) -> syntax.FormatPart:
        found = self.once((line.name, line) for line in children)
        self.require(found, ("prompt", "answer"), self.at(meta))
        prompt, answer, tokens = (
            found[name].children if name in found else ()
            for name in ("prompt", "answer", "tokens")
        )
        return syntax.FormatPart(prompt, answer, tokens, self.at(meta))

    def token_rule(self, meta: Meta, children: list[Any]) -> syntax.TokenRule:
        kind = children[0] if isinstance(children[0], str) else "symbol"
        text = "" if isinstance(children[0], str) else children[0].name
        return syntax.TokenRule(text, children[1], self.at(meta), kind)

    def symbol(self, meta: Meta, children: list[Any]) -> syntax.Segment:
        count = children[1] if len(children) > 1 else syntax.Number(Fraction(1))
        return syntax.Segment("symbol", children[0].name, count=count, span=self.at(meta))

    def digits(self, meta: Meta, children: list[Any]) -> syntax.Segment:
        return self._segment("digits", meta, children)

    def pairs(self, meta: Meta, children: list[Any]) -> syntax.Segment:
        return self._segment("pairs", meta, children)

    def _segment(self, kind: str, meta: Meta, children: list[Any]) -> syntax.Segment:
        operands = tuple(operand.name for operand in children[1:])
        return syntax.Segment(kind, order=children[0], operands=operands, span=self.at(meta))

    # ------------------------------------------------------------ algorithm

    def algorithm(self, meta: Meta, children: list[Any]) -> syntax.AlgorithmPart:
        definitions = tuple(c for c in children if isinstance(c, syntax.Definition))
        found = self.once(("emit", c) for c in children if isinstance(c, Piece))
        self.require(found, ("emit",), self.at(meta))
        value = found["emit"].children[0] if found else syntax.Number(Fraction(0))
        return syntax.AlgorithmPart(definitions, value, self.at(meta))

    def definition(self, meta: Meta, children: list[Any]) -> syntax.Definition:
        name, value = children
        if name.name in RESERVED:
            self.faults.add(f'expected a quantity name, got "{name.name}"', name.span,
                            "it is a word of the expressions")
        return syntax.Definition(name.name, value, self.at(meta))

    # ------------------------------------------------------------ model and weights

    def model(self, meta: Meta, children: list[Any]) -> Piece:
        self.once((entry.key, entry) for entry in children)
        return Piece("model", tuple(children), self.at(meta))

    def block(self, meta: Meta, children: list[Any]) -> Piece:
        self.once((entry.key, entry) for entry in children)
        return Piece("block", tuple(children), self.at(meta))

    options = block

    def entry(self, meta: Meta, children: list[Any]) -> syntax.Entry:
        items = tuple(child for child in children if isinstance(child, syntax.Item))
        block = next((child.children for child in children if isinstance(child, Piece)), ())
        return syntax.Entry(children[0], items, block, self.at(meta))

    option_entry = entry

    def item(self, meta: Meta, children: list[Any]) -> syntax.Item:
        return syntax.Item(tuple(children), self.at(meta))

    def word(self, meta: Meta, children: list[Any]) -> syntax.Name:
        return syntax.Name(children[0].name, self.at(meta))

    def rule(self, meta: Meta, children: list[Any]) -> syntax.WeightRule:
        targets = tuple(c.children[0] for c in children[1:] if c.name == "target")
        block = next((c.children for c in children[1:] if c.name == "block"), ())
        return syntax.WeightRule(children[0], targets, block=block, span=self.at(meta))

    def given(self, meta: Meta, children: list[Any]) -> syntax.WeightRule:
        target, value = children
        return syntax.WeightRule("given", target.children, value, span=self.at(meta))

    def target(self, meta: Meta, children: list[Any]) -> Piece:
        return Piece("target", (".".join(piece.name for piece in children),), self.at(meta))
