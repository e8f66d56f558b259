"""What `explain` tells: the circuit, the derivation with this model's numbers, the weights.

Takes: `Explained`: a structure with its leaf values, what its file tells of its making, and
the stages of its compilation where they are known. Gives: `explain_lines`, `explain_json`.
May import: format, ir, lang, passes, realize, weights, report.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from rich.text import Text

from adderc.ir.show import show_circuit
from adderc.passes.align import HeadPhase
from adderc.passes.place import PlacedCircuit
from adderc.realize.bounds import Judgement
from adderc.report.tracing import number_text
from adderc.report.weights_text import form_name, formula, matrix_rows
from adderc.weights.expr import leaves_of
from adderc.weights.numeric import evaluate_numpy
from adderc.weights.structure import Sinusoid, Structure

CLOSE = 1e-6


@dataclass(frozen=True)
class Explained:
    """A model and what is known of how it came about.

    `placed` and `judgement` are those of the compilation, None where there is none to show;
    `notes` say where they come from and what does not fit.
    """

    name: str
    structure: Structure
    values: Mapping[str, np.ndarray]
    provenance: Mapping[str, Any]
    placed: PlacedCircuit | None = None
    judgement: Judgement | None = None
    notes: tuple[str, ...] = ()
    spec_lines: tuple[str, ...] = field(default=())

    def line(self, number: int) -> str:
        """Line `number` of the spec (from 1) without its comment; empty where unknown."""
        if not 1 <= number <= len(self.spec_lines):
            return ""
        return " ".join(self.spec_lines[number - 1].partition("#")[0].split())

    def matrix(self, expr: Any) -> np.ndarray:
        return evaluate_numpy(expr, self.values)


def explain_lines(model: Explained, width: int) -> Iterable[Text]:
    """The whole explanation in lines of at most `width` columns where words allow it."""
    yield from _summary(model, width)
    for note in model.notes:
        yield from _paragraph(note, width, "yellow")
    yield from _circuit(model, width)
    if model.placed is not None:
        yield from _alignment(model, model.placed, width)
    if model.judgement is not None:
        yield from _inequalities(model, model.judgement, width)
    yield from _decode(model, width)
    yield from _slots(model, width)
    yield from _matrices(model, width)
    yield from _leaves(model, width)


def _title(text: str) -> Iterable[Text]:
    yield Text("")
    yield Text(text, style="bold")


def _paragraph(text: str, width: int, style: str = "", indent: str = "") -> Iterable[Text]:
    for line in textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent):
        yield Text(line, style=style)


# ---------------------------------------------------------------- what it is


def _summary(model: Explained, width: int) -> Iterable[Text]:
    structure, number, form = model.structure, model.structure.number, model.structure.format
    total = sum(math.prod(leaf.shape) for leaf in structure.leaf_shapes())
    yield Text.assemble((model.name, "bold"), f": {number.operands} operands of {number.width} "
                        f"digits in base {number.base}, {total} parameters, {structure.dtype}")
    cells = form.cells
    order = {"lsd": "least significant digit first", "msd": "most significant digit first"}
    yield from _paragraph(
        f"{len(cells)} prompt tokens, {form.steps} answer tokens, {order[form.answer_order]}; "
        f"{form.vocabulary} token ids; {len(structure.blocks)} block"
        f"{'s' * (len(structure.blocks) != 1)}, d_model {structure.d_model}", width)
    counts: dict[str, int] = {}
    for info in structure.leaves:
        leaf = next((x for x in structure.leaf_shapes() if x.name == info.name), None)
        if leaf is not None:
            counts[info.how] = counts.get(info.how, 0) + math.prod(leaf.shape)
    if counts:
        shown = ", ".join(f"{count} {how}" for how, count in counts.items())
        yield from _paragraph(f"parameters: {shown}", width)


def _circuit(model: Explained, width: int) -> Iterable[Text]:
    text = (show_circuit(model.placed.circuit) if model.placed is not None
            else str(model.provenance.get("circuit", "")))
    if not text:
        return
    yield from _title("Circuit (values at one answer step)")
    for line in text.splitlines():
        body, hash_, comment = line.partition("#")
        yield Text.assemble("  ", body, (hash_ + comment, "dim"))


# ---------------------------------------------------------------- attention


def _alignment(model: Explained, placed: PlacedCircuit, width: int) -> Iterable[Text]:
    alignment, structure = placed.alignment, model.structure
    if not alignment.heads:
        return
    yield from _title("Alignment (where the heads look)")
    routes = getattr(alignment, "routes", ())
    for number, head in enumerate(alignment.heads):
        line = placed.circuit[head.fetch].line
        yield Text.assemble("  ", (f"head {head.fetch}", "cyan"), _line_note(model, line, width))
        if routes:
            yield Text(f"    sees only the tokens {', '.join(map(str, routes[number]))} back, "
                       "and averages over them")
            continue
        if alignment.tables:
            rows = [places for places in alignment.tables[number] if places]
            yield from _paragraph(
                "sees, at each step, only the positions "
                + "; ".join(",".join(map(str, places)) for places in rows[:12])
                + (" …" if len(rows) > 12 else "") + "; and averages over them", width,
                indent="    ")
            continue
        yield from _phase(model, alignment.period, head, width)
    if not (routes or alignment.tables):
        sine = structure.position
        if isinstance(sine, Sinusoid):
            gains = ", ".join(f"{number_text(float(gain))} from position {first}"
                              for first, gain in sine.gains)
            yield from _paragraph(f"position signal: gain * (sin, cos)(2 pi p / {sine.period}), "
                                  f"gain {gains}", width, indent="  ")


def _phase(model: Explained, period: Fraction, head: HeadPhase, width: int) -> Iterable[Text]:
    sign = "-" if head.direction > 0 else "+"
    angle = f"cos(2 pi (p {sign} q - {_fraction(head.centre)}) / {_fraction(period)})"
    yield Text(f"    score of key p for query q   peak * {angle}")
    yield Text(f"    direction {head.direction:+d}, "
               f"{'phases ' + _fraction(head.spread) + ' apart' if head.spread else 'one phase'}, "
               f"reads a sum of {_fraction(head.total)} times the average")
    gap = _gap_text(head, period, model.structure.position)
    yield Text(f"    gap   = {gap}{number_text(head.gap)}")
    text, value = _peak(model, head) or ("as the model scores it", _measured_peak(model, head))
    yield Text(f"    peak  = {text} = {number_text(value)}")
    structure = model.structure
    others = structure.format.prompt_length + structure.format.steps - 2
    bound = others * math.exp(-value * head.gap) * (structure.number.base - 1)
    yield Text("    leak <= positions * e^(-peak * gap) * (base - 1)")
    yield Text(f"         = {others} * e^-{number_text(value * head.gap)} * "
               f"{structure.number.base - 1} = {number_text(bound)} digits")
    found = next((i.left for i in (model.judgement.inequalities if model.judgement else ())
                  if i.name == f"{head.fetch} leak"), None)
    if found is not None:
        reason = "its two phases are weighed with rounded leaves" if head.spread else (
            "its position signal is rounded or shared")
        odd = "" if found <= bound else f", more: {reason}"
        yield Text(f"         of which the worst step has {number_text(found)}{odd}")


def _gap_text(head: HeadPhase, period: Fraction, signal: object) -> str:
    """`1 - cos(2 pi k / n) = `, or the gap to keys of low gain, where it is such a number."""
    level = math.cos(math.pi * float(head.spread / period))
    if not -1 <= level - head.gap < level:
        return ""
    gains = signal.gains if isinstance(signal, Sinusoid) else ()
    if len(gains) > 1 and abs(1 - float(gains[-1][1] / gains[0][1]) - head.gap) < CLOSE:
        return f"1 - g/G = 1 - {_fraction(gains[-1][1])}/{_fraction(gains[0][1])} = "
    away = 8 * math.acos(level - head.gap) / (2 * math.pi) * float(period)
    if abs(away - round(away)) > CLOSE:
        return ""
    first = f"cos({_angle(head.spread / 2 / period)})" if head.spread else "1"
    return f"{first} - cos({_angle(Fraction(round(away), 8) / period)}) = "


def _angle(turns: Fraction) -> str:
    """`2 pi / 11`, `4 pi / 15`: so many turns in radians."""
    above, below = (2 * turns).as_integer_ratio()
    return f"{'' if above == 1 else f'{above} '}pi" + (f" / {below}" if below != 1 else "")


def _peak(model: Explained, head: HeadPhase) -> tuple[str, float] | None:
    """The score at the peak: `S * G * g / sqrt(E)` with its numbers; None for other heads."""
    structure = model.structure
    attention = next((b.attention for b in structure.blocks if b.attention is not None), None)
    if (attention is None or model.placed is None or attention.scale is not None
            or any(block.attention_norm is not None for block in structure.blocks)):
        return None
    names = [h.fetch for h in model.placed.alignment.heads]
    rows = slice(names.index(head.fetch) * attention.head_dim,
                 (names.index(head.fetch) + 1) * attention.head_dim)
    query, key = model.matrix(attention.q)[rows], model.matrix(attention.k)[rows]
    root = f"sqrt({attention.head_dim})"
    if isinstance(structure.position, Sinusoid):
        size = float(np.linalg.norm(query, 2) * np.linalg.norm(key, 2))
        high, low = (float(structure.position.gains[at][1]) for at in (0, -1))
        return (f"S * G * g / {root} = {number_text(size)} * {number_text(high)} * "
                f"{number_text(low)} / {root}", size * high * low / math.sqrt(attention.head_dim))
    return None


def _measured_peak(model: Explained, head: HeadPhase) -> float:
    """The loudest score of a head over all steps and keys, in the model itself."""
    from adderc.nn.module import AdderModule
    from adderc.trace import watch

    assert model.placed is not None
    form = model.structure.format
    number = [h.fetch for h in model.placed.alignment.heads].index(head.fetch)
    tokens = np.zeros(form.prompt_length + form.steps - 1, dtype=np.int64)
    values = watch(AdderModule(model.structure, model.values), tokens)
    scores = next(v for name, v in values.items() if name.endswith("attention.scores"))
    return float(scores[number, form.prompt_length - 1 :].max())


def _fraction(value: Fraction) -> str:
    return str(value)


# ---------------------------------------------------------------- inequalities


def _inequalities(model: Explained, judgement: Judgement, width: int) -> Iterable[Text]:
    yield from _title("Inequalities (left must be at most right)")
    rows = [(i.name, number_text(i.left), number_text(i.right), number_text(i.right - i.left), i)
            for i in judgement.inequalities]
    widths = [max(len(row[at]) for row in [("", "left", "right", "slack"), *rows])  # type: ignore[arg-type]
              for at in range(4)]
    head = ("", "left", "right", "slack")
    yield Text("  " + _columns(head, widths), style="dim")
    for row in rows:
        found = row[4]
        yield Text("  " + _columns(row[:4], widths), style="" if found.holds else "red")
        note = found.text + (f" (line {found.line})" if found.line else "")
        if not found.holds:
            note += "; BROKEN"
        yield from _paragraph(note, width - 2, "dim", " " * 6)
    yield from _budget(judgement, width)
    yield from _ramps(model, width)
    if math.isfinite(judgement.margin):
        yield Text("")
        text = (f"The right logit leads every other by at least {judgement.margin:.4g}, rounding "
                f"in {model.structure.dtype} included.") if judgement.margin > 0 else (
            f"No lead of the right logit is certain: the bound on it is {judgement.margin:.4g}.")
        yield from _paragraph(text, width, indent="  ")


def _budget(judgement: Judgement, width: int) -> Iterable[Text]:
    """The terms of an error with where each comes from, and what the dtypes hold."""
    if judgement.budget:
        yield from _title("Error budget (in last places)")
        longest = max(len(name) for name, _, _ in judgement.budget)
        for name, size, source in judgement.budget:
            yield Text(f"  {name.ljust(longest)}  {number_text(size).rjust(9)}")
            yield from _paragraph(source, width - 2, "dim", " " * 6)
        slack = min(i.right - i.left for i in judgement.inequalities)
        yield Text(f"  {'slack'.ljust(longest)}  {number_text(slack).rjust(9)}")
    for text in judgement.held:
        yield Text(f"  {text}")


def _columns(cells: Iterable[str], widths: list[int]) -> str:
    first, *rest = [cell.ljust(w) if at == 0 else cell.rjust(w)
                    for at, (cell, w) in enumerate(zip(cells, widths, strict=False))]
    return "  ".join([first, *rest]).rstrip()


def _ramps(model: Explained, width: int) -> Iterable[Text]:
    """Where each step's argument must lie: off below, on above."""
    if model.placed is None or not model.placed.units:
        return
    yield from _title("Steps (feed-forward units)")
    names = list(model.structure.slots)
    for unit in model.placed.units:
        row = " ".join(
            f"{'-' if c < 0 else '+'} {'' if abs(c) == 1 else f'{_fraction(abs(c))} '}[{name}]"
            for c, name in zip(unit.row, names, strict=False) if c)
        yield Text.assemble("  ", (unit.step, "cyan"), _line_note(model, unit.line, width))
        yield from _paragraph(f"reads {row.removeprefix('+ ')}", width, indent="    ")
        yield Text(f"    0 up to {number_text(float(unit.off))}, "
                   f"1 from {number_text(float(unit.on))} on")


def _decode(model: Explained, width: int) -> Iterable[Text]:
    """How the head turns the residual stream into logits, where it reads one sum."""
    head = model.structure.head
    weight = model.matrix(head.weight)
    bias = (np.zeros(len(weight)) if head.bias is None else
            model.matrix(head.bias).reshape(-1))
    used = np.flatnonzero(np.any(weight != 0, axis=0))
    yield from _title("Decode (the head)")
    if len(used) != 1:
        names = ", ".join(f"[{model.structure.slots[at]}]" for at in used)
        yield from _paragraph(f"reads {names}", width, indent="  ")
        return
    slot, column, numbers = model.structure.slots[used[0]], weight[:, used[0]], np.arange(
        len(weight))
    yield from _paragraph(f"z = [{slot}]", width, indent="  ")
    if np.array_equal(column, 2.0 * numbers) and np.array_equal(bias, -1.0 * numbers**2):
        yield Text("  logit of token d = 2 d z - d^2 = z^2 - (d - z)^2: the digit nearest to z")
        yield Text("  the next digit is behind by 1 - 2 |error of z|")
        return
    for token in range(min(3, len(weight))):
        yield Text(f"  logit of token {token} = {number_text(float(column[token]))} z + "
                   f"{number_text(float(bias[token]))}")
    if len(weight) > 3:
        yield Text(f"  … {len(weight)} tokens; see head.weight and head.bias")


# ---------------------------------------------------------------- weights


def _slots(model: Explained, width: int) -> Iterable[Text]:
    yield from _title("Residual stream")
    for number, name in enumerate(model.structure.slots):
        yield from _paragraph(f"{number:>3}  {name}", width, indent="")


def _matrices(model: Explained, width: int) -> Iterable[Text]:
    yield from _title("Matrices (applied as x @ W')")
    infos = {info.name: info for info in model.structure.leaves}
    for place, expr in model.structure.expressions():
        leaves = leaves_of(expr)
        count = sum(math.prod(leaf.shape) for leaf in leaves)
        shape = "x".join(map(str, expr.shape))
        yield Text.assemble("  ", (place, "cyan"), f"  [{shape}] {form_name(expr)}, "
                            f"{count} parameter{'s' * (count != 1)}")
        yield from _paragraph(f"= {formula(expr)}", width - 2, "", " " * 4)
        for number in sorted({infos[leaf.name].line for leaf in leaves if leaf.name in infos}):
            if text := _line_note(model, number, width):
                yield Text("   " + text, style="dim")
        for row in matrix_rows(model.matrix(expr), width - 6):
            yield Text(" " * 6 + row)


def _leaves(model: Explained, width: int) -> Iterable[Text]:
    yield from _title("Leaves (the parameters)")
    infos = {info.name: info for info in model.structure.leaves}
    for leaf in model.structure.leaf_shapes():
        info = infos.get(leaf.name)
        how = f", {info.how}" if info else ""
        line = f", line {info.line}" if info and info.line else ""
        yield Text.assemble("  ", (leaf.name, "cyan"),
                            f"  [{'x'.join(map(str, leaf.shape))}]{how}{line}")
        if info and info.meaning:
            yield from _paragraph(info.meaning, width, "dim", " " * 4)
        values = np.asarray(model.values[leaf.name]).reshape(-1)
        shown = "  ".join(number_text(float(value)) for value in values[:24])
        more = f"  … {len(values) - 24} more" if len(values) > 24 else ""
        yield from _paragraph(shown + more, width, "", " " * 4)


def _line_note(model: Explained, line: int, width: int) -> str:
    """`  line 18: x = a[i] + b[i]`, cut to the width."""
    if not line:
        return ""
    text = model.line(line)
    note = f"  line {line}" + (f": {text}" if text else "")
    room = max(20, width - 24)
    return note if len(note) <= room else note[: room - 1] + "…"


# ---------------------------------------------------------------- JSON


def explain_json(model: Explained) -> dict[str, Any]:
    """The same as data."""
    structure, placed, judgement = model.structure, model.placed, model.judgement
    infos = {info.name: info for info in structure.leaves}
    return {
        "name": model.name,
        "base": structure.number.base, "width": structure.number.width,
        "operands": structure.number.operands, "dtype": structure.dtype,
        "parameters": sum(math.prod(leaf.shape) for leaf in structure.leaf_shapes()),
        "notes": list(model.notes),
        "circuit": (show_circuit(placed.circuit) if placed is not None
                    else model.provenance.get("circuit")),
        "alignment": None if placed is None else {
            "period": str(placed.alignment.period), "gap": placed.alignment.gap,
            "heads": [{"fetch": h.fetch, "direction": h.direction, "centre": str(h.centre),
                       "spread": str(h.spread), "total": str(h.total), "gap": h.gap}
                      for h in placed.alignment.heads]},
        "inequalities": None if judgement is None else [
            {"name": i.name, "text": i.text, "left": i.left, "right": i.right,
             "slack": i.right - i.left, "holds": bool(i.holds), "line": i.line}
            for i in judgement.inequalities],
        "budget": None if judgement is None else [
            {"name": name, "size": size, "source": source}
            for name, size, source in judgement.budget],
        "held": [] if judgement is None else list(judgement.held),
        "margin": model.provenance.get("margin") if judgement is None else judgement.margin,
        "slots": list(structure.slots),
        "matrices": [
            {"place": place, "shape": list(expr.shape), "form": form_name(expr),
             "formula": formula(expr), "leaves": [leaf.name for leaf in leaves_of(expr)],
             "values": model.matrix(expr).tolist()}
            for place, expr in structure.expressions()],
        "leaves": [
            {"name": leaf.name, "shape": list(leaf.shape),
             "how": infos[leaf.name].how if leaf.name in infos else None,
             "line": infos[leaf.name].line if leaf.name in infos else None,
             "meaning": infos[leaf.name].meaning if leaf.name in infos else "",
             "values": np.asarray(model.values[leaf.name]).tolist()}
            for leaf in structure.leaf_shapes()],
    }
