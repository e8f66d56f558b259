"""The largest width the compiler accepts, beside the largest that measures right.

    python benchmarks/widths.py [--most 2048]

For each dtype and position encoding, widths 1, 2, 3, 4, 6, 8, 12, … are compiled, refused or
not, and each module is measured on adversarial sums (fewer where sequences are long). The
table goes to benchmarks/RESULTS.md. "Right" means no wrong sum in the sample.
"""

from __future__ import annotations

import argparse
import sys
import time

import torch

from adderc import pipeline
from adderc.errors import Refusal, Source
from adderc.lang.parse import parse
from adderc.nn.module import AdderModule
from adderc.verify.run import verify
from adderc.verify.suites import adversarial

FRAME = """
adder widths
number {{ base 10  width 4 }}
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


def spec(position: str) -> Source:
    """The ripple spec with one position encoding."""
    prompt, more = PROMPTS[position]
    return Source(position, FRAME.format(position=position, prompt=prompt, more=more))


def build(position: str, width: int, dtype: str) -> tuple[bool, AdderModule] | None:
    """(accepted, module) of one width, refused or not; None where positions collide."""
    settings = pipeline.Settings(width=width, dtype=dtype)
    checked = pipeline.settle(parse(spec(position)), settings, unchecked=False)
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
    """1, 2, 3, 4, 6, 8, 12, 16, … up to `most`."""
    found = {2**k for k in range(13)} | {3 * 2**k for k in range(12)}
    return sorted(width for width in found if width <= most)


def survey(position: str, dtype: str, most: int) -> tuple[int, int]:
    """(largest accepted, largest right) width; stops two widths after both have failed."""
    accepted = right = failures = 0
    for width in widths(most):
        started = time.perf_counter()
        built = build(position, width, dtype)
        if built is None:
            break
        holds, module = built
        samples = max(20, min(400, 40_000 // width))
        result = verify(module, module.format, adversarial(module.number, samples=samples, seed=1))
        good = result.passed == result.total
        print(f"  {position} {dtype} width {width}: "
              f"{'accepted' if holds else 'refused'}, {result.passed}/{result.total} right, "
              f"{time.perf_counter() - started:.1f} s", file=sys.stderr)
        if holds and not good:
            raise SystemExit(f"accepted and wrong: {position} {dtype} width {width}")
        accepted, right = width if holds else accepted, width if good else right
        failures = 0 if holds or good else failures + 1
        if failures == 2:
            break
    return accepted, right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--most", type=int, default=1024)
    most = parser.parse_args().most
    torch.set_num_threads(2)
    print("| positions | dtype | accepted up to | right up to |")
    print("| --- | --- | --- | --- |")
    for position in PROMPTS:
        for dtype in ("float32", "float64"):
            accepted, right = survey(position, dtype, most)
            print(f"| {position} | {dtype} | {accepted} | {right} |")


if __name__ == "__main__":
    main()
