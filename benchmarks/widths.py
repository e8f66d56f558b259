"""The largest width the compiler accepts, beside the largest that measures right.

    python benchmarks/widths.py [--most 512] [--only rope19] [--seconds 120]

For each dtype and realization of the fetch, in base 10 and base 36, and for rope19, whose one
head weighs two places. Each width tried is compiled, refused or not, and measured on
adversarial sums, fewer where sequences are long; "right" means no wrong sum in the sample.
Widths double from 8 until one is neither accepted nor right, or up to `--most`; the ends are
then found by bisection, so up to one width. A case that has used its `--seconds` of CPU stops
there and is marked "capped". The table goes to benchmarks/RESULTS.md. It ends with exit code 1
if a width is accepted and wrong, or if what is accepted is less than two thirds of what
measures right.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, field

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


class Spent(Exception):
    """A case has used its time."""


@dataclass
class Survey:
    """What was measured of one case: by width, whether it is accepted and whether right."""

    source: Source
    dtype: str
    label: str
    seconds: float
    found: dict[int, tuple[bool, bool]] = field(default_factory=dict)
    used: float = 0.0

    def at(self, width: int) -> tuple[bool, bool]:
        """(accepted, right) at one width; positions that collide are neither."""
        if width not in self.found:
            if self.used > self.seconds:
                raise Spent
            started = time.process_time()
            self.found[width] = self.measured(width)
            self.used += time.process_time() - started
        return self.found[width]

    def measured(self, width: int) -> tuple[bool, bool]:
        if (built := build(self.source, width, self.dtype)) is None:
            return False, False
        holds, module = built
        samples = max(20, min(200, 20_000 // width))
        sums = adversarial(module.number, samples=samples, seed=1)
        result = verify(module, module.format, sums)
        print(f"  {self.label} width {width}: {'accepted' if holds else 'refused'}, "
              f"{result.passed}/{result.total} right", file=sys.stderr, flush=True)
        return holds, result.passed == result.total

    def search(self, most: int) -> bool:
        """Doubles widths, then bisects for both ends; whether there was time for all of it."""
        try:
            width = min(8, most)
            while self.at(width) != (False, False) and width < most:
                width = min(2 * width, most)
            for which in (0, 1):
                low = max((w for w, good in self.found.items() if good[which]), default=0)
                high = min((w for w in self.found if w > low), default=low)
                while high - low > 1:
                    middle = (low + high) // 2
                    low, high = (middle, high) if self.at(middle)[which] else (low, middle)
        except Spent:
            return False
        return True

    def largest(self, which: int) -> int:
        return max((w for w, good in self.found.items() if good[which]), default=0)

    @property
    def wrong(self) -> bool:
        """Whether a width was accepted and wrong."""
        return (True, False) in self.found.values()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--most", type=int, default=512)
    parser.add_argument("--only", help="one realization: " + ", ".join((*PROMPTS, "rope19")))
    parser.add_argument("--seconds", type=float, default=120, help="CPU seconds for each case")
    options = parser.parse_args()
    torch.set_num_threads(1)
    broken = False
    print("| fetch | base | dtype | accepted up to | right up to | share | |")
    print("| --- | ---: | --- | ---: | ---: | ---: | --- |")
    cases = [("rope19", 10), *((fetch, base) for base in (10, 36) for fetch in PROMPTS)]
    for fetch, base in cases:
        for dtype in ("float32", "float64"):
            if options.only not in (None, fetch):
                continue
            survey = Survey(spec(fetch, base), dtype, f"{fetch} base {base} {dtype}",
                            options.seconds)
            note = "" if survey.search(options.most) else "capped"
            accepted, right = survey.largest(0), survey.largest(1)
            share = accepted / max(right, 1)
            broken |= survey.wrong or share < 2 / 3
            note = "ACCEPTED AND WRONG" if survey.wrong else note
            print(f"| {fetch} | {base} | {dtype} | {accepted} | {right} | {share:.2f} | {note} |",
                  flush=True)
    sys.exit(int(broken))


if __name__ == "__main__":
    main()
