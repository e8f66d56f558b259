"""The ledger of an audit, as text and as JSON.

Takes: `AuditReport`. Gives: `audit_text`, `audit_json`, `comparison_text`.
May import: results, report.text.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from adderc.report.text import COLUMNS
from adderc.results import (
    CONVENTIONS,
    AuditConstant,
    AuditLeaf,
    AuditNote,
    AuditReport,
    Choice,
)

MEANINGS = {
    "declared": "elements of distinct parameters, ties once",
    "scalars": "distinct magnitudes of the leaves other than 0",
    "strict": "declared, and every hidden constant",
    "strict_positional": "strict, and constants of fixed positions",
    "nonzero": "nonzero elements of the weights written out",
    "dense": "elements of plain tables and layers instead",
}
FEW_VALUES, FEW_CONSTANTS = 4, 30


def audit_text(report: AuditReport, wide: int = COLUMNS) -> str:
    """One model's ledger in at most `wide` columns."""
    head = f"{report.name}: " + {
        "compiled": "compiled model", "python": "Python model", "spec": "specification",
    }.get(report.kind, report.kind)
    parts = [head, _counts(report), _ledger(report, wide)]
    parts.append(_constants(report.constants, wide))
    if report.choices:
        parts.append(_choices(report.choices, wide))
    for title, notes in (
        ("dead: cannot change the logits", report.dead),
        ("insensitive in a sample", report.insensitive),
        ("duplicates", report.duplicates),
        ("derived, holding no number of their own", report.derived),
        ("not shown harmless", report.findings),
    ):
        parts.append(_notes(title, notes, wide))
    parts.append(_rules(report, wide))
    parts.append(_closing(report, wide))
    return "\n\n".join(part for part in parts if part)


def _counts(report: AuditReport) -> str:
    lines = []
    for name in CONVENTIONS:
        value = getattr(report.counts, name)
        shown = "-" if value is None else f"{value:,}"
        lines.append(f"  {name:<18}{shown:>9}  {MEANINGS[name]}")
    if report.claimed is not None:
        lines.append(f"  {'claimed':<18}{report.claimed:>9,}  by the author")
    return "\n".join(lines)


# ---------------------------------------------------------------- leaves


def _ledger(report: AuditReport, wide: int) -> str:
    """Leaves by component, with subtotals."""
    if not report.leaves:
        return "no parameters"
    long = min(max(len(leaf.name) for leaf in report.leaves), 32)
    lines = []
    for component, total in report.components:
        lines.append(f"{component:<{long + 4}}{total:>7,}")
        for leaf in report.leaves:
            if leaf.component == component:
                lines += _leaf_lines(leaf, long, wide)
                if leaf.ties:
                    lines += _wrapped("also in " + ", ".join(leaf.ties), wide, long + 25)
    return "\n".join(lines)


def _leaf_lines(leaf: AuditLeaf, long: int, wide: int) -> list[str]:
    shape = "x".join(map(str, leaf.shape)) or "scalar"
    line = f"line {leaf.line}" if leaf.line else ""
    name = _clip(leaf.name, long)
    kind = "frozen " if leaf.kind == "frozen parameter" else ""
    start = f"  {name:<{long}}  {leaf.elements:>7,}  {shape:<8}  {line:<8}  "
    if leaf.values:
        return [(start + _clip(kind + _values(leaf), wide - len(start))).rstrip()]
    first, *more = textwrap.wrap(kind + leaf.meaning, max(20, wide - len(start))) or [""]
    return [(start + first).rstrip(), *(" " * len(start) + part for part in more)]


def _values(leaf: AuditLeaf) -> str:
    """The values where they are few, else their range."""
    distinct = list(dict.fromkeys(leaf.values))
    if len(distinct) <= FEW_VALUES:
        return ", ".join(f"{v:.6g}" for v in distinct)
    zeros = sum(v == 0 for v in leaf.values)
    text = f"{min(leaf.values):.6g} … {max(leaf.values):.6g}"
    return text + (f", {zeros} zero" if zeros else "")


# ---------------------------------------------------------------- constants


def _constants(constants: Sequence[AuditConstant], wide: int) -> str:
    """Counted numbers one by one, the others by the reason for leaving them out."""
    counted = [c for c in constants if c.counted]
    blocks = []
    for role, title in (("hidden constant", "hidden constants (in strict)"),
                        ("positional", "position constants (in strict_positional)")):
        own = [c for c in counted if c.role == role]
        lines = [line for c in own[:FEW_CONSTANTS] for line in _constant_lines(c, wide)]
        if len(own) > FEW_CONSTANTS:
            lines.append(f"  and {len(own) - FEW_CONSTANTS} more places (see --json)")
        blocks.append("\n".join([f"{title}: none" if not own else title, *lines]))
    left_out: dict[str, int] = {}
    for constant in constants:
        if not constant.counted:
            left_out[constant.role] = left_out.get(constant.role, 0) + 1
    if left_out:
        text = "listed, not counted: " + ", ".join(f"{n} {r}" for r, n in left_out.items())
        blocks.append("\n".join(textwrap.wrap(text, wide)))
    return "\n".join(blocks)


def _constant_lines(constant: AuditConstant, wide: int) -> list[str]:
    shown = ", ".join(f"{v:.6g}" for v in constant.values[:6])
    if len(constant.values) > 6:
        shown += f", … ({len(constant.values)})"
    note = f" ({constant.note})" if constant.note else ""
    where = f"{constant.form}, {constant.where}" if constant.where else constant.form
    return _wrapped(f"{shown}  {where}{note}", wide, 2, 6)


# ---------------------------------------------------------------- the rest


def _choices(choices: Sequence[Choice], wide: int) -> str:
    """What each choice costs and what a plain matrix in its place would change."""
    long = max(len(choice.component) for choice in choices)
    room = max(20, wide - long - 34)
    lines = _wrapped("choices: what each costs, what the plain matrix (or the missing bias) "
                     "would cost, and the difference", wide, 0)
    lines.append(f"{'':<{long + 2}}{'form':<{room}}{'costs':>8}{'plain':>8}{'change':>8}"
                 f"{'line':>6}")
    for choice in choices:
        change = choice.plain - choice.cost
        line = str(choice.line) if choice.line else ""
        what = choice.form
        if choice.place.endswith(("bias",)) and choice.form != "no bias":
            what = f"bias, {choice.form}"
        first, *more = textwrap.wrap(what, room - 2) or [""]
        lines.append(f"{choice.component:<{long + 2}}{first:<{room}}"
                     f"{choice.cost:>8,}{choice.plain:>8,}{change:>+8,}{line:>6}".rstrip())
        lines += [" " * (long + 4) + part for part in more]
    return "\n".join(lines)


def _notes(title: str, notes: Iterable[AuditNote], wide: int) -> str:
    lines = []
    for note in notes:
        place = f", line {note.line}" if note.line else ""
        lines += _wrapped(f"{note.name}{place}: {note.reason}", wide, 2, 6)
    return "\n".join([title, *lines]) if lines else ""


def _rules(report: AuditReport, wide: int) -> str:
    if not report.rules:
        return ""
    lines = ["rules"]
    for rule in report.rules:
        lines.append(f"  {rule.verdict:<11}{rule.rule}")
        lines += _wrapped(rule.evidence, wide, 13)
    return "\n".join(lines)


def _closing(report: AuditReport, wide: int) -> str:
    lines = []
    if report.second and report.agrees:
        lines += _wrapped(f"second count: {report.second}", wide, 0, 2)
    elif report.second:
        lines.append("THE TWO COUNTS DO NOT AGREE")
        for difference in report.second.split("; "):
            lines += _wrapped(difference, wide, 2, 4)
    if report.remarks:
        lines += _wrapped("; ".join(report.remarks), wide, 0, 2)
    return "\n".join(lines)


def _wrapped(text: str, wide: int, indent: int, hanging: int | None = None) -> list[str]:
    later = indent if hanging is None else hanging
    return textwrap.wrap(text, max(wide, later + 20), initial_indent=" " * indent,
                         subsequent_indent=" " * later, break_on_hyphens=False)


def _clip(text: str, room: int) -> str:
    return text if len(text) <= room else text[: max(1, room - 1)] + "…"


def _tail(text: str, room: int) -> str:
    """A path that fits: whole, without its folders, or its end."""
    if len(text) > room:
        text = text.replace("\\", "/").rpartition("/")[2]
    return text if len(text) <= room else "…" + text[-(room - 1):]


# ---------------------------------------------------------------- several models


def comparison_text(reports: Sequence[AuditReport], sort: str, wide: int = COLUMNS) -> str:
    """One row a model, by the convention `sort`, models without that count last."""
    ordered = sorted(reports, key=lambda r: _order(getattr(r.counts, sort)))
    heads = ("declared", "scalars", "strict", "positional", "nonzero", "dense")
    widths = [max(8, len(h)) for h in heads]
    long = min(max(5, *(len(r.name) for r in reports)), max(12, wide - sum(widths) - 12))
    lines = [f"{'model':<{long}}" + "".join(f"  {h:>{w}}" for h, w in zip(heads, widths,
                                                                        strict=True))]
    for report in ordered:
        cells = [getattr(report.counts, name) for name in CONVENTIONS]
        lines.append(f"{_tail(report.name, long):<{long}}" + "".join(
            f"  {'-' if c is None else f'{c:,}':>{w}}" for c, w in zip(cells, widths,
                                                                     strict=True)))
    return "\n".join([*lines, "", f"sorted by {sort}; positional is strict_positional"])


def _order(value: int | None) -> float:
    return math.inf if value is None else value


# ---------------------------------------------------------------- JSON


def audit_json(reports: Sequence[AuditReport], sort: str | None = None) -> dict[str, Any]:
    """One model's object, or {"models": [...]} for several."""
    if len(reports) == 1:
        return _report_json(reports[0])
    key = sort or CONVENTIONS[0]
    ordered = sorted(reports, key=lambda r: _order(getattr(r.counts, key)))
    return {"sort": key, "models": [_report_json(report) for report in ordered]}


def _report_json(report: AuditReport) -> dict[str, Any]:
    return {
        "model": report.name,
        "kind": report.kind,
        "counts": {name: getattr(report.counts, name) for name in CONVENTIONS},
        "claimed": report.claimed,
        "components": dict(report.components),
        "leaves": [_leaf_json(leaf) for leaf in report.leaves],
        "constants": [_constant_json(constant) for constant in report.constants],
        "dead": _notes_json(report.dead),
        "insensitive": _notes_json(report.insensitive),
        "duplicates": _notes_json(report.duplicates),
        "derived": _notes_json(report.derived),
        "not_shown_harmless": _notes_json(report.findings),
        "rules": [{"rule": r.rule, "verdict": r.verdict, "evidence": r.evidence}
                  for r in report.rules],
        "choices": [{"component": c.component, "place": c.place, "form": c.form, "cost": c.cost,
                     "plain": c.plain, "change": c.plain - c.cost, "line": c.line or None}
                    for c in report.choices],
        "agrees": report.agrees,
        "second_count": report.second or None,
        "remarks": list(report.remarks),
    }


def _leaf_json(leaf: AuditLeaf) -> dict[str, Any]:
    return {
        "name": leaf.name, "component": leaf.component, "kind": leaf.kind,
        "shape": list(leaf.shape), "elements": leaf.elements, "line": leaf.line or None,
        "how": leaf.how, "meaning": leaf.meaning, "ties": list(leaf.ties),
        "values": [_finite(v) for v in leaf.values],
    }


def _constant_json(constant: AuditConstant) -> dict[str, Any]:
    return {
        "values": [_finite(v) for v in constant.values], "role": constant.role,
        "counted": constant.counted, "form": constant.form, "where": constant.where,
        "line": constant.line or None, "note": constant.note,
    }


def _notes_json(notes: Iterable[AuditNote]) -> list[dict[str, Any]]:
    return [{"name": n.name, "reason": n.reason, "line": n.line or None} for n in notes]


def _finite(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
