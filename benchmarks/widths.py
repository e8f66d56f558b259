"""The largest width the compiler accepts, beside the largest that measures right.

    python benchmarks/widths.py [--most 512] [--only rope19]

For each dtype and realization of the fetch, in base 10 and base 36. Where `--most` is accepted
and right there is no end to find. Else widths 1, 2, 3, …, each at most a third more than the
last from 3 on, are compiled, refused or not, and measured on adversarial sums, fewer where
sequences are long. The table goes to benchmarks/RESULTS.md. "Right" means no wrong sum in the
sample. It ends with exit code 1 if a width is accepted and wrong, or if what is accepted is
less than two thirds of what measures right.
"""

from __future__ import annotations

import argparse
import sys
import time

import torch

from adderc import pipeline
from adderc.errors import Refusal, Source
from adderc.nn.module import AdderModule
from adderc.verify.run import verify
from adderc.verify.suites import adversarial

FRAME = """
adder widths
number {{ base {base}  width 4 }}
format {{
    prompt {prompt}
    answer lsd(s)
    tokens "+" -> 0, "=" -> 0 {more}
}}
algorithm {{
    x = a[i] + b[i]
    prev = a[i-1] + b[i-1]
    carry = prev > s[i-1]
    emit (x + carry) mod base
}}
model {{ position {position} }}
"""
PROMPTS = {
    "sinusoid": ('msd(a) "+" msd(b) "="', ""),
    "table": ('msd(a) "+" msd(b) "="', ""),
    "rope": ('"<bos>" lsd(a) "+" lsd(b) "="', ', "<bos>" -> 0'),
    "routes": ('lsd(a) "+" lsd(b) "="', ""),
}


def spec(fetch: str, base: int) -> Source:
    """The ripple spec with one position encoding, or rope19: one head, places weighed."""
    if fetch not in PROMPTS:
        return pipeline.read_spec(fetch)
    prompt, more = PROMPTS[fetch]
    return Source(fetch, FRAME.format(base=base, position=fetch, prompt=prompt, more=more))


def build(source: Source, width: int, dtype: str) -> tuple[bool, AdderModule] | None:
    """(accepted, module) of one width, refused or not; None where positions collide."""
    settings = pipeline.Settings(width=width, dtype=dtype)
    checked = pipeline.settle(pipeline.parse(source), settings, unchecked=False)
    choices, given = pipeline.read_model(checked, settings)
    try:
        weights = [
            pipeline.best_weights(
                pipeline.flattened(checked, circuit, choices.plan, alignment), alignment,
                choices, given)[1]
            for circuit, alignment in pipeline.lower_aligned(checked, choices)]
    except Refusal:
        return None
    chosen = next((w for w in weights if not w.judgement.broken), weights[-1])
    return not chosen.judgement.broken, AdderModule(chosen.structure, chosen.values)


def widths(most: int) -> list[int]:
    """1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, … up to `most`."""
    found = {m * 2**k for k in range(12) for m in (1, 4, 5, 6, 7)} | {3}
    return sorted(width for width in found if width <= most)


def measured(source: Source, width: int, dtype: str, label: str) -> tuple[bool, bool] | None:
    """(accepted, right) at one width; None where positions collide."""
    started = time.process_time()
    if (built := build(source, width, dtype)) is None:
        return None
    holds, module = built
    samples = max(20, min(200, 20_000 // width))
    result = verify(module, module.format, adversarial(module.number, samples=samples, seed=1))
    print(f"  {label} width {width}: {'accepted' if holds else 'refused'}, "
          f"{result.passed}/{result.total} right, {time.process_time() - started:.1f} s",
          file=sys.stderr, flush=True)
    return holds, result.passed == result.total


def survey(source: Source, dtype: str, most: int, label: str) -> tuple[int, int, bool]:
    """(largest accepted, largest right, whether one was accepted and wrong); it stops two
    widths after both have failed."""
    if all(measured(source, width, dtype, label) == (True, True)
           for width in (min(64, most), most)):
        return most, most, False
    accepted = right = failures = 0
    wrong = False
    for width in widths(most):
        if (found := measured(source, width, dtype, label)) is None:
            continue
        holds, good = found
        wrong |= holds and not good
        accepted, right = width if holds else accepted, width if good else right
        failures = 0 if holds or good else failures + 1
        if failures == 2:
            break
    return accepted, right, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--most", type=int, default=512)
    parser.add_argument("--only", help="one realization: " + ", ".join((*PROMPTS, "rope19")))
    options = parser.parse_args()
    torch.set_num_threads(1)
    broken = False
    print("| fetch | base | dtype | accepted up to | right up to | share |")
    print("| --- | ---: | --- | ---: | ---: | ---: |")
    cases = [(fetch, base) for base in (10, 36) for fetch in PROMPTS] + [("rope19", 10)]
    for fetch, base in cases:
        for dtype in ("float32", "float64"):
            if options.only not in (None, fetch):
                continue
            label = f"{fetch} base {base} {dtype}"
            accepted, right, wrong = survey(spec(fetch, base), dtype, options.most, label)
            share = accepted / max(right, 1)
            broken |= wrong or share < 2 / 3
            print(f"| {fetch} | {base} | {dtype} | {accepted} | {right} | {share:.2f}"
                  f"{' ACCEPTED AND WRONG' if wrong else ''} |", flush=True)
    sys.exit(int(broken))


if __name__ == "__main__":
    main()
