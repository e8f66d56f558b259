"""The widest numbers that place values hold, measured, beside the bound that is derived.

    python benchmarks/places.py [--spec NAME] [--samples 300]
    python benchmarks/places.py --every FILE [--bases 10 16 8 2] [--samples 200000]

For each dtype and base, widths are compiled one after the other, past the derived bound too,
and each module is measured on every boundary sum k * base^j + d (d from -3 to 3) and on
adversarial sums. The table goes to benchmarks/RESULTS.md. "Right to" is the last width before
the first wrong sum. A width inside its bound with a wrong sum ends the run with an error.

With --every, each width within the float64 bound is verified on an adversarial suite, or
on all pairs where those are no more, and on all boundary sums. One line a width is added to
FILE at once; widths that stand there already are left out, so the run can be continued.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from adderc import pipeline
from adderc.format.number import NumberFormat
from adderc.nn.module import AdderModule
from adderc.realize.place_choices import PlaceChoices
from adderc.realize.places import place_weights, widest_of
from adderc.verify.run import verify
from adderc.verify.suites import adversarial, exhaustive, space

BASES = (2, 3, 8, 10, 16, 36)
PAST = 8  # widths beyond the bound that are tried


def boundary_sums(number: NumberFormat) -> Iterator[tuple[int, int]]:
    """Two pairs for each sum k * base^j + d in range: from 0, and from its middle."""
    largest = 2 * number.maximum
    sums = {k * number.base**j + d for j in range(number.answer_digits)
            for k in range(1, number.base) for d in range(-3, 4)}
    for total in sorted(s for s in sums if 0 <= s <= largest):
        low = max(0, total - number.maximum)
        yield low, total - low
        yield total // 2, total - total // 2


def build(spec: str, base: int, width: int, dtype: str) -> tuple[bool, AdderModule]:
    """(within the bound, module) of one width, refused or not."""
    settings = pipeline.Settings(base=base, width=width, dtype=dtype)
    checked = pipeline.settle(pipeline.parse(pipeline.read_spec(spec)), settings, unchecked=False)
    choices, given = pipeline.read_model(checked, settings)
    assert isinstance(choices, PlaceChoices)
    _, weights = place_weights(checked, choices, given)
    return not weights.judgement.broken, AdderModule(weights.structure, weights.values)


def wrong_sums(module: AdderModule, samples: int) -> tuple[int, int]:
    """(wrong, tried) over the boundary sums and an adversarial sample."""
    suite = adversarial(module.number, samples=samples, seed=1)
    pairs = [*boundary_sums(module.number),
             *((int(a), int(b)) for batch in suite.batches() for a, b in batch)]
    answers = module.add_many(pairs, batch_size=1024)
    wrong = sum(got != a + b for got, (a, b) in zip(answers, pairs, strict=True))
    return wrong, len(pairs)


def survey(spec: str, base: int, dtype: str, samples: int) -> tuple[int, int]:
    """(derived bound, last width that is right) of one dtype and base."""
    settings = pipeline.Settings(base=base, width=1, dtype=dtype)
    checked = pipeline.settle(pipeline.parse(pipeline.read_spec(spec)), settings, unchecked=False)
    choices, _ = pipeline.read_model(checked, settings)
    assert isinstance(choices, PlaceChoices)
    bound = widest_of(choices)[dtype]
    right = 0
    for width in range(1, bound + PAST + 1):
        started = time.perf_counter()
        holds, module = build(spec, base, width, dtype)
        wrong, tried = wrong_sums(module, samples)
        print(f"  {spec} base {base} {dtype} width {width}: {'within' if holds else 'beyond'} the "
              f"bound, {wrong} of {tried} wrong, {time.perf_counter() - started:.1f} s",
              file=sys.stderr)
        if holds != (width <= bound) or (holds and wrong):
            raise SystemExit(f"{spec}: base {base} {dtype} width {width} breaks its bound {bound}")
        if wrong:
            break
        right = width
    return bound, right


def widest(spec: str, base: int) -> int:
    """The derived float64 bound of a base."""
    settings = pipeline.Settings(base=base, width=1)
    checked = pipeline.settle(pipeline.parse(pipeline.read_spec(spec)), settings, unchecked=False)
    choices, _ = pipeline.read_model(checked, settings)
    assert isinstance(choices, PlaceChoices)
    return widest_of(choices)["float64"]


def verify_every(spec: str, bases: list[int], samples: int, log: Path) -> None:
    """Every width of every base, the widest first; see the module's docstring."""
    known = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    done = {tuple(line.split("|")[1:3]) for line in known}
    for base in bases:
        for width in range(widest(spec, base), 0, -1):
            if (f" {base} ", f" {width} ") in done:
                continue
            line = verified(spec, base, width, samples)
            with log.open("a", encoding="utf-8") as file:
                print(line, file=file)


def verified(spec: str, base: int, width: int, samples: int) -> str:
    """A line of the table: base, width, right sums of a suite and of the boundary sums."""
    started = time.process_time()
    _, module = build(spec, base, width, "float64")
    small = space(module.number) <= samples
    suite = exhaustive(module.number) if small else adversarial(module.number, samples, seed=1)
    found = verify(module, module.format, suite)
    pairs = list(boundary_sums(module.number))
    answers = module.add_many(pairs)
    right = sum(got == a + b for got, (a, b) in zip(answers, pairs, strict=True))
    return (f"| {base} | {width} | {'all pairs' if small else 'adversarial'} | "
            f"{found.passed:,} of {found.total:,} | {right:,} of {len(pairs):,} | "
            f"{time.process_time() - started:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spec", default="placevalue")
    parser.add_argument("--samples", type=int)
    parser.add_argument("--every", type=Path, metavar="FILE")
    parser.add_argument("--bases", type=int, nargs="+", default=BASES)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.every:
        verify_every(options.spec, options.bases, options.samples or 200_000, options.every)
        return
    print("| base | float32 bound | float32 right to | float64 bound | float64 right to |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for base in options.bases:
        row = [survey(options.spec, base, dtype, options.samples or 300)
               for dtype in ("float32", "float64")]
        print(f"| {base} | " + " | ".join(f"{bound} | {right}" for bound, right in row) + " |",
              flush=True)


if __name__ == "__main__":
    main()
