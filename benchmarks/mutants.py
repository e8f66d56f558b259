"""Verdicts on mutants, whose truth is known, and on models that are rarely wrong.

    python benchmarks/mutants.py            (--every 10 for a look; --log FILE to go on later)

Small: mutants of compiled and of hand-made modules at width 2 and 3, where running every
operand tuple gives the truth. The prover's own exhaustive run of small ranges is switched
off, so that these widths stand for larger ones. Large: mutants at full width, where a PROVEN
is set against a sample of sums and a REFUTED against a run of its own. Rare: modules at ten
digits that are wrong for one operand pair, for one pair of leading digits, or for one digit
pair after a carry chain.

A graph is exported once for a module; its mutants differ in parameters only. With --log each
verdict is written to a file at once and not sought again by a later run. Exit code 1 if a
wrong model was proven or a right one refuted.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import random
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
from mutants import adds, adds_everything, draw, prepared, undo
from rare import after_a_chain, at_the_last_digit, for_one_pair

import adderc
from adderc.errors import AddercError
from adderc.nn.greedy import decode_one
from adderc.prove import run, search
from adderc.prove.session import Session

torch.set_num_threads(1)

SPECS = ROOT / "specs"
SMALL = {  # settings at which every operand tuple can be run quickly; others: width 2
    "base16-table": {"base": 6, "width": 2}, "three-operands": {"base": 4, "width": 2},
    "rope19": {"base": 4, "width": 3}, "rope19-seed": None, "nanogpt58-seed": None}
MORE = {"nanogpt58": ({"base": 4, "width": 3}, {"base": 2, "width": 3},
                      {"width": 2, "dtype": "float64"})}
WIDE = (("nanogpt58", 40), ("placevalue", 20), ("prefix33", 20), ("gpt46", 3), ("rope19", 5),
        ("three-operands", 16))
BUDGET, REFINE, LAST = 600.0, 90.0, 0.5  # seconds: for a mutant, for a step, for a last search


class Tally:
    """Verdicts by group and truth; what was not as it should be, in words."""

    def __init__(self, every, log):
        self.every, self.log, self.done, self.seen = every, log, {}, Counter()
        self.counts, self.notes, self.seconds = defaultdict(Counter), [], Counter()
        self.false = 0
        if log is not None and log.exists():
            lines = map(json.loads, log.read_text().splitlines())
            self.done = {(line["group"], line["name"]): line for line in lines}

    def wants(self, group):
        """Whether the next model of a group belongs to the sample."""
        self.seen[group] += 1
        return self.seen[group] % self.every == 0

    def add(self, group, name, judge):
        """Count one model; `judge` gives its truth and the prover's result."""
        if (group, name) not in self.done:
            start = time.process_time()
            truth, result = judge()
            self.done[group, name] = line = {
                "group": group, "name": name, "truth": truth, "verdict": result.verdict,
                "reason": result.reason, "share": result.rounding_share,
                "seconds": round(time.process_time() - start, 2)}
            if self.log is not None:
                with self.log.open("a") as file:
                    file.write(json.dumps(line) + "\n")
        self._count(self.done[group, name])

    def _count(self, line):
        group, truth, verdict = line["group"], line["truth"], line["verdict"]
        self.counts[group][truth, verdict] += 1
        self.seconds[group] += line["seconds"]
        if verdict == ("REFUTED" if truth else "PROVEN"):
            self.false += 1
            self.notes.append(f"FALSE {verdict}: {group}: {line['name']}")
        elif verdict == "UNDECIDED":
            kind = "right" if truth else "wrong"
            self.notes.append(f"undecided, {kind}: {group}: {line['name']}: {line['reason']}")

    def show(self):
        print("\n| models | right | PROVEN | UNDECIDED | wrong | REFUTED | UNDECIDED | false | s |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
        total = Counter()
        for group, counts in self.counts.items():
            total.update(counts)
            print(self.row(group, counts, self.seconds[group]))
        print(self.row("all", total, self.seconds.total()))
        for note in self.notes:
            print("-", note)

    @staticmethod
    def row(group, counts, seconds):
        right = [counts[True, v] for v in ("PROVEN", "UNDECIDED", "REFUTED")]
        wrong = [counts[False, v] for v in ("REFUTED", "UNDECIDED", "PROVEN")]
        return (f"| {group} | {sum(right)} | {right[0]} | {right[1]} | {sum(wrong)} | {wrong[0]} "
                f"| {wrong[1]} | {right[2] + wrong[2]} | {seconds:.0f} |")


def verdict(module, form, captured=None):
    """The prover's result, and the graphs it used."""
    session = Session(module, form, captured=captured, refine_seconds=REFINE)
    return run.decide(session, BUDGET), session.captured


def mutate(tally, group, module, form, mutants, truth):
    """Mutants of one module, which keeps its graph; `truth(result)` of the module as it is."""
    captured = None

    def judge():
        nonlocal captured
        result, captured = verdict(module, form, captured)
        return truth(result), result

    tally.add(group, "itself", judge)
    for mutant in mutants:
        if not tally.wants(group):
            continue
        old = mutant.apply(module)
        try:
            tally.add(group, f"{mutant.kind} {mutant.text}", judge)
        finally:
            undo(module, mutant, old)


def mutate_small(tally, group, module, form, count, seed):
    mutate(tally, group, module, form, draw(module, count, seed),
           lambda result: adds_everything(module, form))


def compiled(tally):
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
            words = ", ".join(f"{key} {value}" for key, value in kept.items())
            mutate_small(tally, f"{spec.stem} {words}", module, module.format, 45, 0)


def handmade(tally):
    form = plain_format(2)
    for number, manner in enumerate(MANNERS):
        mutate_small(tally, f"{manner.__name__}, by hand", manner(2).eval(), form, 12, number)
    for leak in (0.5, 2.0):
        mutate_small(tally, f"attention by content {leak}", Resonant(2, leak), form, 12, 3)
    for width, base, operands in ((2, 10, 2), (3, 3, 3), (3, 5, 2)):
        other = place_value_format(width, base, operands)
        mutate_small(tally, f"place values, {width} digits base {base}, {operands} operands",
                     PlaceValue(other), other, 12, 4)
    mutate_small(tally, "state machine, by hand", StateMachine(3, 4), machine_format(3, 4), 20, 5)


# ---------------------------------------------------------------- formats, dtypes, constants


def altered_formats(form):
    """The same module read with other orders and other symbols."""
    prompt, swap = form.prompt, {0: 1, 1: 0}
    yield "operands exchanged", replace(form, prompt=tuple(
        replace(p, operand=swap[p.operand]) if hasattr(p, "operand") else p for p in prompt))
    for index, part in enumerate(prompt):
        if hasattr(part, "order"):
            other = replace(part, order="lsd" if part.order == "msd" else "msd")
            yield f"part {index} turned", replace(
                form, prompt=(*prompt[:index], other, *prompt[index + 1 :]))
    yield "answer turned", replace(
        form, answer_order="lsd" if form.answer_order == "msd" else "msd")
    for token in range(form.number.base):
        if token < form.vocabulary:
            yield f"symbols {token}", replace(
                form, tokens=tuple((text, token) for text, _ in form.tokens))


def formats(tally):
    pairs = [(name, adderc.compile(str(SPECS / f"{name}.adder"), width=2))
             for name in ("nanogpt58", "llama-style", "placevalue")]
    pairs = [(name, module, module.format) for name, module in pairs]
    for name, module, form in [*pairs, ("Plain", MANNERS[0](2), plain_format(2))]:
        for text, other in altered_formats(form):
            if tally.wants("formats altered"):
                tally.add("formats altered", f"{name}: {text}", _judge(module, other))


def dtypes(tally):
    """dtype lowered, or raised; constants scaled until rounding bites."""
    for name in ("nanogpt58", "placevalue", "prefix33", "llama-style", "tinyadder9", "rope19"):
        module = adderc.compile(str(SPECS / f"{name}.adder"), width=3, base=4)
        for dtype in (torch.float32, torch.float64):
            other = copy.deepcopy(module).to(dtype)
            if tally.wants("dtype altered"):
                tally.add("dtype altered", f"{name} in {dtype}", _judge(other, module.format))
    shifted = next(m for m in MANNERS if m.__name__ == "Shifted")
    for exponent in range(8, 24):
        for dtype in (torch.float32, torch.float64):
            module = shifted(2, 2.0**exponent * 1.1, dtype=dtype)
            if tally.wants("constants scaled"):
                tally.add("constants scaled", f"digits on 1.1 * 2^{exponent} in {dtype}",
                          _judge(module, plain_format(2)))


def _judge(module, form):
    return lambda: (adds_everything(module, form), verdict(module, form)[0])


# ---------------------------------------------------------------- full width, rare faults


def wide(tally):
    for name, count in WIDE:
        module = adderc.compile(str(SPECS / f"{name}.adder"))
        form = module.format
        sums = prepared(form, search.Search(module, form, seed=9).structured(2_000))

        def truth(result, module=module, form=form, sums=sums):
            if result.verdict == "REFUTED":
                row = result.counterexample.operands
                return decode_one(module, form, row) == sum(row)
            return adds(module, form, sums)

        group = f"{name}, {form.number.width} digits"
        mutate(tally, group, module, form, draw(module, count, 1), truth)


def rare(tally):
    form, dice = plain_format(10), random.Random(0)

    def check(group, name, module):
        group = f"rarely wrong: {group}"
        if tally.wants(group):
            tally.add(group, name, lambda: (False, verdict(module, form)[0]))

    for number in range(20):
        length = number % 7
        place, pair = dice.randint(length + 1, 9), (dice.randrange(10), dice.randrange(10))
        check("one digit pair after a chain", f"place {place}, {length} nines, {pair}",
              after_a_chain(10, place, length, pair))
    for _ in range(15):
        pair = dice.randrange(10), dice.randrange(10)
        check("the last digit only", f"{pair}", at_the_last_digit(10, pair))
    for _ in range(15):
        a, b, step = dice.randrange(10**10), dice.randrange(10**10), dice.randrange(11)
        check("one operand pair", f"{a} + {b}, step {step}", for_one_pair(10, a, b, step))


PARTS = (compiled, handmade, formats, dtypes, wide, rare)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1, help="only every so many-th mutant")
    parser.add_argument("--part", choices=[part.__name__ for part in PARTS])
    parser.add_argument("--log", type=Path, help="file of verdicts to add to and to go on from")
    given = parser.parse_args()
    search.EXHAUSTIBLE, run.LAST_SECONDS = 0, LAST
    print(f"{platform.machine()}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}")
    false = 0
    for part in PARTS:
        if given.part in (None, part.__name__):
            tally = Tally(given.every, given.log)
            print(f"\n### {part.__name__}")
            part(tally)
            tally.show()
            sys.stdout.flush()
            false += tally.false
    return int(false > 0)


if __name__ == "__main__":
    sys.exit(main())
