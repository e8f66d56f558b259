"""Settles the number and format parts: expressions become integers, symbols become ids.

Takes: a parsed `Spec` and overrides. Gives: `settle_number`, `settle_format`; faults go to
the caller's list. May import: errors, format, lang.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from adderc.errors import FaultList, did_you_mean
from adderc.format.number import OPERAND_NAMES, NumberFormat
from adderc.format.prompt import DigitTuples, Format, OperandDigits, PromptSegment, Symbols
from adderc.lang.constants import ConstantFault, integer
from adderc.lang.syntax import FormatPart, Segment, Sequence, Spec, Text

RANGES = {"base": (2, 36), "width": (1, 4096), "operands": (2, 4)}
SETTINGS = (*RANGES, "max")
TOKEN_LIMIT = 4096
VOCABULARY_LIMIT = 16_384


def settle_number(
    spec: Spec, overrides: Mapping[str, int], faults: FaultList
) -> NumberFormat | None:
    """The number format; None after a fault. `overrides` win over the spec's values."""
    values: dict[str, Fraction] = {"operands": Fraction(2)}
    spans = {setting.name: setting.span for setting in spec.number}
    seen: set[str] = set()
    for setting in spec.number:
        if setting.name not in SETTINGS:
            faults.add(f"unknown number setting {setting.name!r}", setting.span,
                       did_you_mean(setting.name, SETTINGS) or f"known: {', '.join(SETTINGS)}")
        elif setting.name in seen:
            faults.add(f"{setting.name} is set twice", setting.span)
        seen.add(setting.name)
    values |= {name: Fraction(value) for name, value in overrides.items()}
    before = len(faults.faults)
    pending = [s for s in spec.number if s.name in SETTINGS and s.name not in overrides]
    for setting in sorted(pending, key=lambda s: SETTINGS.index(s.name)):
        try:
            values[setting.name] = Fraction(integer(setting.value, values))
        except ConstantFault as fault:
            faults.add(fault.message, fault.span, fault.hint)
    for name, (low, high) in RANGES.items():
        if name not in values:
            if name not in seen:
                faults.add(f"the number part does not set {name}", spec.span,
                           f"write: number {{ base 10  width 10  operands 2 }}, {name} is missing")
        elif not low <= values[name] <= high:
            faults.add(f"{name} {values[name]} is out of range: {low} to {high}", spans.get(name,
                       spec.span))
    if "max" in values and values["max"] < 1:
        faults.add("max must be at least 1", spans.get("max", spec.span))
    if len(faults.faults) > before or any(name not in values for name in RANGES):
        return None
    limit = values.get("max")
    return NumberFormat(int(values["base"]), int(values["width"]), int(values["operands"]),
                        None if limit is None else int(limit))


def settle_format(
    part: FormatPart, number: NumberFormat, states: bool, faults: FaultList
) -> Format | None:
    """The token format; None after a fault. `states`: the answer emits state tokens."""
    before = len(faults.faults)
    names = constants_of(number)
    prompt = _prompt(part, number, names, faults)
    order, end = _answer(part, faults)
    if len(faults.faults) > before:
        return None
    symbols = [s.text for s in (*part.prompt, *part.answer) if s.kind == "symbol"]
    first_state = _first_state(part, states, names, faults)
    tokens = _tokens(part, number, prompt, states, tuple(dict.fromkeys(symbols)), names,
                     first_state, faults)
    if len(faults.faults) > before:
        return None
    form = Format(number, prompt, order, "states" if states else "digits", end, tokens,
                  first_state)
    if form.vocabulary > VOCABULARY_LIMIT:
        faults.add(f"the format needs {form.vocabulary:,} token ids, of at most "
                   f"{VOCABULARY_LIMIT:,}", part.span, "a pair token needs base^operands ids")
        return None
    return form


def constants_of(number: NumberFormat) -> dict[str, Fraction]:
    """The names a constant expression may use, with their values."""
    return {"base": Fraction(number.base), "width": Fraction(number.width),
            "operands": Fraction(number.operands)}


def _prompt(
    part: FormatPart, number: NumberFormat, names: Mapping[str, Fraction], faults: FaultList
) -> tuple[PromptSegment, ...]:
    segments: list[PromptSegment] = []
    written: list[str] = []
    for segment in part.prompt:
        if segment.kind == "symbol":
            segments.append(Symbols(segment.text, _count(segment, names, faults)))
            continue
        for name in segment.operands:
            if name not in number.names:
                known = ", ".join(number.names)
                extra = OPERAND_NAMES.index(name) + 1 if name in OPERAND_NAMES else 0
                faults.add(f"{name!r} is not an operand: there are {known}", segment.span,
                           f"set operands {extra} in the number part" if extra else "")
            elif name in written:
                faults.add(f"operand {name} stands in the prompt twice", segment.span)
            written.append(name)
        if segment.kind == "pairs":
            if tuple(segment.operands) != number.names and set(segment.operands) <= set(written):
                faults.add(f"one token must hold all operands in order: pair("
                           f"{', '.join(number.names)})", segment.span)
            segments.append(DigitTuples(segment.order))
        elif segment.operands[0] in number.names:
            segments.append(OperandDigits(number.names.index(segment.operands[0]), segment.order))
    missing = [name for name in number.names if name not in written]
    if missing:
        faults.add(f"the prompt does not hold operand {', '.join(missing)}", part.span,
                   f'write for example: prompt msd(a) "+" msd({missing[0]}) "="')
    return tuple(segments)


def _count(segment: Segment, names: Mapping[str, Fraction], faults: FaultList) -> int:
    try:
        count = integer(segment.count, names)
    except ConstantFault as fault:
        faults.add(fault.message, fault.span, fault.hint)
        return 0
    if not 0 <= count <= 100_000:
        faults.add(f'"{segment.text}" cannot stand {count} times', segment.span)
        return 0
    return count


def _answer(part: FormatPart, faults: FaultList) -> tuple[str, str | None]:
    digits = [s for s in part.answer if s.kind != "symbol"]
    symbols = [s for s in part.answer if s.kind == "symbol"]
    if len(digits) != 1 or digits[0].operands != ("s",) or digits[0].kind != "digits":
        span = digits[0].span if digits else part.span
        faults.add("the answer is lsd(s) or msd(s)", span,
                   'an end symbol may follow: answer lsd(s) "<eos>"')
        return "lsd", None
    if len(symbols) > 1 or (symbols and part.answer[0].kind == "symbol"):
        faults.add("one end symbol may follow the answer's digits", symbols[0].span)
    return digits[0].order, symbols[0].text if symbols else None


def _first_state(
    part: FormatPart, states: bool, names: Mapping[str, Fraction], faults: FaultList
) -> int:
    """The token id of state 0: `states -> base^2` keeps states apart from pairs."""
    rules = [rule for rule in part.tokens if rule.kind == "states"]
    if not rules:
        return 0
    if len(rules) > 1:
        faults.add("states are given token ids twice", rules[1].span)
    if not states:
        faults.add("the answer has no states", rules[0].span,
                   "write them with emit (t mod base, t div base)")
    try:
        first = integer(rules[0].target, names)
    except ConstantFault as fault:
        faults.add(fault.message, fault.span, fault.hint)
        return 0
    if not 0 <= first < TOKEN_LIMIT:
        faults.add(f"token id {first} is out of range: 0 to {TOKEN_LIMIT - 1}", rules[0].span)
        return 0
    return first


def _tokens(
    part: FormatPart, number: NumberFormat, prompt: tuple[PromptSegment, ...], states: bool,
    symbols: tuple[str, ...], names: Mapping[str, Fraction], first_state: int,
    faults: FaultList,
) -> tuple[tuple[str, int], ...]:
    base, k = number.base, number.operands
    paired = any(isinstance(segment, DigitTuples) for segment in prompt)
    fresh = max(base**k if paired else base, first_state + base * k if states else base)
    ids: dict[str, int] = {}
    shared: list[tuple[str, str]] = []
    for rule in part.tokens:
        if rule.kind != "symbol":
            continue
        if rule.text not in symbols:
            faults.add(f'"{rule.text}" stands nowhere in prompt or answer', rule.span,
                       did_you_mean(rule.text, symbols))
        elif rule.text in ids or rule.text in dict(shared):
            faults.add(f'"{rule.text}" is given a token id twice', rule.span)
        elif isinstance(rule.target, Text):
            shared.append((rule.text, rule.target.text))
        elif not isinstance(rule.target, Sequence):
            try:
                ids[rule.text] = integer(rule.target, names)
            except ConstantFault as fault:
                faults.add(fault.message, fault.span, fault.hint)
                continue
            if not 0 <= ids[rule.text] < TOKEN_LIMIT:
                faults.add(f"token id {ids[rule.text]} is out of range: 0 to {TOKEN_LIMIT - 1}",
                           rule.span)
    for symbol in symbols:
        if symbol not in ids and symbol not in dict(shared):
            while fresh in ids.values():
                fresh += 1
            ids[symbol] = fresh
    for text, target in shared:
        if target not in ids:
            faults.add(f'"{text}" shares the id of "{target}", which has none of its own',
                       part.span)
        else:
            ids[text] = ids[target]
    return tuple((symbol, ids[symbol]) for symbol in symbols if symbol in ids)
