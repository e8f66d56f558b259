"""The widest numbers that place values hold, measured, beside the bound that is derived.

    python benchmarks/places.py [--spec NAME] [--samples 300]

For each dtype and base, widths are compiled one after the other, past the derived bound too,
and each module is measured on every boundary sum k * base^j + d (d from -3 to 3) and on
adversarial sums. The table goes to benchmarks/RESULTS.md. "Right to" is the last width before
the first wrong sum. A width inside its bound with a wrong sum ends the run with an error.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator

import torch

from adderc import pipeline
from adderc.format.number import NumberFormat
from adderc.nn.module import AdderModule
from adderc.realize.place_choices import PlaceChoices
from adderc.realize.places import place_weights, widest_of
from adderc.verify.suites import adversarial

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spec", default="placevalue")
    parser.add_argument("--samples", type=int, default=300)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| base | float32 bound | float32 right to | float64 bound | float64 right to |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for base in BASES:
        row = [survey(options.spec, base, dtype, options.samples)
               for dtype in ("float32", "float64")]
        print(f"| {base} | " + " | ".join(f"{bound} | {right}" for bound, right in row) + " |",
              flush=True)


if __name__ == "__main__":
    main()
