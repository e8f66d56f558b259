"""Verdicts on mutants, whose truth is known, and on models that are rarely wrong.

    python benchmarks/mutants.py            (some minutes; --quick for a look)

Small: mutants of compiled and of hand-made modules at width 2 and 3, where running every
operand tuple gives the truth. The prover's own exhaustive run of small ranges is switched
off, so that these widths stand for larger ones. Large: mutants at full width, where a PROVEN
is set against a sample of sums. Rare: modules at ten digits that are wrong for one operand
pair, for one pair of leading digits, or for one digit pair after a carry chain.

A graph is exported once for a module; its mutants differ in parameters only. Exit code 1 if
a wrong model was proven or a right one refuted.
"""

from __future__ import annotations

import argparse
import copy
import platform
import sys
import time
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "prove")]

import torch
from manners import MANNERS
from modules import PlaceValue, Resonant, StateMachine, place_value_format, plain_format
from modules import state_format as machine_format
from mutants import adds_everything, draw, undo
from rare import after_a_chain, at_the_last_digit, for_one_pair

import adderc
from adderc.errors import AddercError
from adderc.nn.greedy import decode_greedy
from adderc.prove import run, search
from adderc.prove.session import Session

torch.set_num_threads(1)

SPECS = ROOT / "specs"
SMALL = {  # settings at which every operand tuple can be run quickly
    "base16-table": {"base": 6, "width": 2}, "three-operands": {"base": 4, "width": 2},
    "rope19": {"base": 4, "width": 3}, "rope19-seed": None, "nanogpt58-seed": None,
    "gpt46": {"width": 4}}
MORE = {"nanogpt58": ({"base": 4, "width": 3}, {"base": 2, "width": 3},
                      {"width": 2, "dtype": "float64"})}
WIDE = (("nanogpt58", 40), ("placevalue", 15), ("prefix33", 15), ("gpt46", 10), ("rope19", 10),
        ("three-operands", 10))
BUDGET, LAST = 30.0, 0.5  # seconds for a mutant, and of its last search


class Tally:
    """Verdicts by group and truth; what was not as it should be, in words."""

    def __init__(self):
        self.counts, self.notes = defaultdict(Counter), []
        self.false = 0

    def add(self, group, truth, result, name):
        self.counts[group][truth, result.verdict] += 1
        if truth is None:
            return
        if result.verdict == ("REFUTED" if truth else "PROVEN"):
            self.false += 1
            self.notes.append(f"FALSE {result.verdict}: {name}")
        elif result.verdict == "UNDECIDED":
            share = "" if result.rounding_share is None else f" ({result.rounding_share:.3g})"
            kind = "right" if truth else "wrong"
            self.notes.append(f"undecided, {kind}: {name}: {result.reason}{share}")

    def show(self):
        print("\n| mutants of | right | PROVEN | UNDECIDED | wrong | REFUTED | UNDECIDED | false |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
        total = Counter()
        for group, counts in self.counts.items():
            total.update(counts)
            print(self.row(group, counts))
        print(self.row("all", total))
        for note in self.notes:
            print("-", note)

    @staticmethod
    def row(group, counts):
        right = [counts[True, v] for v in ("PROVEN", "UNDECIDED", "REFUTED")]
        wrong = [counts[False, v] for v in ("REFUTED", "UNDECIDED", "PROVEN")]
        return (f"| {group} | {sum(right)} | {right[0]} | {right[1]} | {sum(wrong)} | {wrong[0]} "
                f"| {wrong[1]} | {right[2] + wrong[2]} |")


def verdict(module, form, captured=None):
    session = Session(module, form, captured=captured, refine_seconds=5.0)
    return run.decide(session, BUDGET), session.captured


def mutate(tally, group, module, form, count, seed):
    """Mutants of one module, which keeps its graph."""
    result, captured = verdict(module, form)
    tally.add(group, adds_everything(module, form), result, f"{group} itself")
    for mutant in draw(module, count, seed):
        old = mutant.apply(module)
        try:
            truth, (result, _) = adds_everything(module, form), verdict(module, form, captured)
        finally:
            undo(module, mutant, old)
        tally.add(group, truth, result, f"{group}: {mutant.kind} {mutant.text}")


def small_compiled(tally, count):
    for spec in sorted(SPECS.glob("*.adder")):
        settings = SMALL.get(spec.stem, {"width": 2})
        for kept in (settings, *MORE.get(spec.stem, ())):
            if kept is None:
                continue
            try:
                module = adderc.compile(str(spec), **kept)
            except AddercError as error:
                tally.notes.append(f"not compiled: {spec.stem}: {str(error).splitlines()[0]}")
                continue
            mutate(tally, f"{spec.stem} {_words(kept)}", module, module.format, count, 0)


def _words(settings):
    return ", ".join(f"{key} {value}" for key, value in settings.items())


def small_handmade(tally, count):
    form = plain_format(2)
    for number, manner in enumerate(MANNERS):
        mutate(tally, f"{manner.__name__}, by hand", manner(2).eval(), form, count, number)
    for leak in (0.5, 2.0):
        mutate(tally, f"attention by content {leak}", Resonant(2, leak), form, count, 3)
    for width, base, operands in ((2, 10, 2), (3, 3, 3), (3, 5, 2)):
        form = place_value_format(width, base, operands)
        mutate(tally, f"place values, {width} digits base {base}, {operands} operands",
               PlaceValue(form), form, count, 4)
    mutate(tally, "state machine, by hand", StateMachine(3, 4), machine_format(3, 4), count, 5)


def altered_formats(form):
    """The same module read with other orders and other symbols."""
    prompt = form.prompt
    swap = {0: 1, 1: 0}
    yield replace(form, prompt=tuple(
        replace(p, operand=swap.get(p.operand, p.operand)) if hasattr(p, "operand") else p
        for p in prompt))
    for index, part in enumerate(prompt):
        if hasattr(part, "order"):
            other = replace(part, order="lsd" if part.order == "msd" else "msd")
            yield replace(form, prompt=(*prompt[:index], other, *prompt[index + 1 :]))
    yield replace(form, answer_order="lsd" if form.answer_order == "msd" else "msd")
    for token in range(form.number.base):
        yield replace(form, tokens=tuple((text, token) for text, _ in form.tokens))


def formats(tally):
    modules = [adderc.compile(str(SPECS / f"{name}.adder"), width=2)
               for name in ("nanogpt58", "llama-style", "placevalue")]
    pairs = [(m, m.format) for m in modules] + [(MANNERS[0](2), plain_format(2))]
    for module, form in pairs:
        for other in altered_formats(form):
            if any(token >= form.vocabulary for _, token in other.tokens):
                continue
            tally.add("formats altered", adds_everything(module, other),
                      verdict(module, other)[0], f"{type(module).__name__} read as {other}")


def dtypes(tally):
    """dtype lowered, or raised; constants scaled until rounding bites."""
    for name in ("nanogpt58", "placevalue", "prefix33", "llama-style", "tinyadder9"):
        module = adderc.compile(str(SPECS / f"{name}.adder"), width=3, base=4)
        for dtype in (torch.float32, torch.float64):
            other = copy.deepcopy(module).to(dtype)
            tally.add("dtype altered", adds_everything(other, module.format),
                      verdict(other, module.format)[0], f"{name} in {dtype}")
    shifted = next(m for m in MANNERS if m.__name__ == "Shifted")
    for exponent in range(8, 24):
        for dtype in (torch.float32, torch.float64):
            module, form = shifted(2, 2.0**exponent * 1.1, dtype=dtype), plain_format(2)
            tally.add("constants scaled", adds_everything(module, form),
                      verdict(module, form)[0], f"digits on 1.1 * 2^{exponent} in {dtype}")


def wide(tally, share):
    for name, count in WIDE:
        module = adderc.compile(str(SPECS / f"{name}.adder"))
        first, captured = verdict(module, module.format)
        tally.add("full width, by sample", True, first, f"{name} itself")
        for mutant in draw(module, max(1, count // share), 1):
            old = mutant.apply(module)
            try:
                result, _ = verdict(module, module.format, captured)
                truth = result.verdict != "REFUTED" and sample_is_right(module)
            finally:
                undo(module, mutant, old)
            tally.add("full width, by sample", truth, result, f"{name}: {mutant.text}")


def sample_is_right(module, count=4_000):
    rows = search.Search(module, module.format, seed=9).structured(count)
    answers = decode_greedy(module, module.format, module.format.encode(rows)).tolist()
    return all(a == module.format.expected(row) for a, row in zip(answers, rows, strict=True))


def rarely_wrong(tally, share):
    form, draw_from = plain_format(10), __import__("random").Random(0)
    digit = lambda: draw_from.randrange(10)  # noqa: E731
    for number in range(0, 20, share):
        length = number % 7
        place = draw_from.randint(length + 1, 9)
        module = after_a_chain(10, place, length, (digit(), digit()))
        _rare(tally, f"one digit pair after {length} carries", module, form)
    for _ in range(0, 15, share):
        _rare(tally, "the last digit only", at_the_last_digit(10, (digit(), digit())), form)
    for _ in range(0, 15, share):
        a, b = draw_from.randrange(10**10), draw_from.randrange(10**10)
        _rare(tally, "one operand pair", for_one_pair(10, a, b, draw_from.randrange(11)), form)


def _rare(tally, group, module, form):
    tally.add(f"rarely wrong: {group}", False, verdict(module, form)[0], f"{group}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the mutants")
    parser.add_argument("--part", choices=["compiled", "handmade", "formats", "dtypes", "wide",
                                           "rare"], help="one part only")
    given = parser.parse_args()
    share = 10 if given.quick else 1
    search.EXHAUSTIBLE, run.LAST_SECONDS = 0, LAST
    print(f"{platform.machine()}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}")
    parts = {
        "compiled": lambda t: small_compiled(t, 45 // share),
        "handmade": lambda t: small_handmade(t, 22 // share),
        "formats": formats, "dtypes": dtypes,
        "wide": lambda t: wide(t, share), "rare": lambda t: rarely_wrong(t, share),
    }
    false = 0
    for name, part in parts.items():
        if given.part in (None, name):
            tally, start = Tally(), time.process_time()
            part(tally)
            print(f"\n### {name}, {time.process_time() - start:.0f} s of processor time")
            tally.show()
            false += tally.false
    return int(false > 0)


if __name__ == "__main__":
    sys.exit(main())
