"""The public challenge's rules, each with a verdict and the evidence for it.

Takes: a `GraphCount`, a function that reruns the forward pass, notes on the source.
Gives: `RuleVerdict` records.
May import: results, audit.components, audit.flow, audit.graphcount.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from adderc.audit.components import applies_pattern
from adderc.audit.flow import Flow, operation
from adderc.results import AuditNote, RuleVerdict

PASS, FAIL, OPEN = "pass", "fail", "not shown"
Run = Callable[[Tensor], Sequence[Tensor]]  # tokens -> outputs


def attention_rule(flow: Flow) -> RuleVerdict:
    """Self-attention is there and what it mixes reaches the logits."""
    rule = "self-attention, present and used"
    mixes = [node.name for node in flow.traced.calls()
             if applies_pattern(flow, node, operation(node))]
    used = [name for name in mixes if name in flow.reach and name in flow.token]
    if used:
        kind = operation(flow.nodes[used[0]])
        return RuleVerdict(rule, PASS, f"{len(used)} attention operation(s) on the way to the "
                           f"logits, the first a {kind} of an attention pattern with values "
                           "that depend on tokens")
    if mixes:
        return RuleVerdict(rule, FAIL, "there is an attention pattern, but nothing that it "
                           "mixes reaches the logits")
    return RuleVerdict(rule, FAIL, "no attention pattern was found in the traced graph")


def autoregressive_rule(
    run: Run | None, tokens: Tensor | None, places: Sequence[int]
) -> RuleVerdict:
    """The outputs change when an earlier answer token, at one of `places`, is changed."""
    rule = "autoregressive: outputs depend on earlier outputs"
    if run is None or tokens is None or not places:
        return RuleVerdict(rule, OPEN, "no recorded call holds an earlier answer token")
    before = run(tokens)
    for place in places:
        for token in (1, 0, 5):
            other = tokens.clone()
            if int(other[..., place].reshape(-1)[0]) == token:
                continue
            other[..., place] = token
            if not all(torch.equal(a, b) for a, b in zip(before, run(other), strict=True)):
                return RuleVerdict(rule, PASS, "changing the answer token at position "
                                   f"{place} changes the logits")
    return RuleVerdict(rule, FAIL, "no change of an earlier answer token changed later logits")


def loop_rule(source: str | None) -> RuleVerdict:
    """One loop around the model, the same for every digit."""
    rule = "one generic decoding loop"
    if source is None:
        return RuleVerdict(rule, PASS, "adderc's own greedy loop decodes; the model brings none")
    add = next((n for n in ast.parse(source).body
                if isinstance(n, ast.FunctionDef) and n.name == "add"), None)
    if add is None:
        return RuleVerdict(rule, OPEN, "the file defines no add(model, a, b)")
    loops = [n for n in ast.walk(add) if isinstance(n, ast.For | ast.While)]
    model = add.args.args[0].arg if add.args.args else ""
    around = [n for n in loops if any(isinstance(m, ast.Name) and m.id == model
                                      for m in ast.walk(n))]
    if not around:
        return RuleVerdict(rule, OPEN, "no loop in add uses the model (it may decode elsewhere)")
    branches = [n.lineno for n in ast.walk(around[0])
                if isinstance(n, ast.If) and not _on_length(n.test)]
    if branches:
        return RuleVerdict(rule, OPEN, f"the loop at line {around[0].lineno} branches at line(s) "
                           + ", ".join(map(str, branches)))
    extra = f" ({len(around)} loops use the model)" if len(around) > 1 else ""
    return RuleVerdict(rule, PASS if len(around) == 1 else OPEN,
                       f"line {around[0].lineno}: one loop without branches{extra}")


def _on_length(test: ast.expr) -> bool:
    """A branch on how many tokens there are, not on which."""
    calls = [n for n in ast.walk(test) if isinstance(n, ast.Call)]
    return bool(calls) and all(isinstance(c.func, ast.Name) and c.func.id == "len" for c in calls)


def arithmetic_rule(
    findings: Sequence[AuditNote], compiled: bool, spelled: bool = True
) -> RuleVerdict:
    """Nothing outside the model computes with the operands or with the answer.

    `spelled`: the answers of the sums that were watched are what the chosen tokens spell.
    """
    rule = "no operand arithmetic outside the model"
    if compiled:
        return RuleVerdict(rule, PASS, "adderc encodes the digits of each operand and decodes "
                           "the answer; nothing else touches them")
    own = [note for note in findings if note.name == "add"]
    if not own and spelled:
        return RuleVerdict(rule, PASS, "add only writes the operands down, and its answers are "
                           "what the tokens with the largest logits spell")
    if not own:
        return RuleVerdict(rule, OPEN, "the answers are not what the tokens with the largest "
                           "logits spell")
    lines = "; ".join(f"line {note.line}: {note.reason}" for note in own[:3])
    returned = not spelled and any("returns" in note.reason for note in own)
    return RuleVerdict(rule, FAIL if returned else OPEN, lines)


def claim_rule(claimed: int | None, declared: int) -> RuleVerdict:
    """The author's number beside the declared one."""
    rule = "claimed parameters"
    if claimed is None:
        return RuleVerdict(rule, OPEN, f"no claim found; declared {declared}")
    same = claimed == declared
    return RuleVerdict(rule, PASS if same else OPEN,
                       f"claims {claimed}, declared {declared}")
