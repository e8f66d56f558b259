"""Whether real logits lie inside the prover's enclosures, and how wide those are.

    python benchmarks/enclosures.py            (--count N: sums for each anchor and step)

For every answer step some random sums are anchors; around each, others share its digits at the
step's place and the two below, so that they fall into the same finest case (carry in, digits of
the place, last token). Every logit the module then computes must lie inside the enclosure of
its case. The ratio is the enclosure's width over the spread of the logits seen in the case, which
is at most the true spread, so the true ratio is smaller; where attention depends on positions
only that spread is rounding alone. The width is in logits. Exit code 1 if a logit is outside.
"""

from __future__ import annotations

import argparse
import platform
import random
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "prove")]

import numpy as np
import torch
from enclosed import check, near
from manners import Multihead, RootNormed
from modules import Resonant, plain_format

import adderc

torch.set_num_threads(1)

ANCHORS, LEVEL = 8, 2


def models():
    """Name, module, format."""
    for name in ("nanogpt58", "rope19", "placevalue"):
        module = adderc.compile(str(ROOT / "specs" / f"{name}.adder"))
        yield name, module, module.format
    path = ROOT / "models" / "lowrank512.safetensors"
    if path.exists():
        module = adderc.load(path)
        yield "lowrank512, trained", module, module.format
    yield "nn.MultiheadAttention, by hand", Multihead(10).eval(), plain_format(10)
    yield "RMSNorm, by hand", RootNormed(10).eval(), plain_format(10)
    yield "attention by content, by hand", Resonant(10, leak=40.0), plain_format(10)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=25, help="sums for each anchor and step")
    count = parser.parse_args().count
    print(f"{platform.machine()}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}\n")
    print("| model | logits | outside | width: median | largest | ratio: median | s |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    total = outside = 0
    for name, module, form in models():
        dice, start = random.Random(0), time.process_time()

        def pairs(step, form=form, dice=dice):
            top = form.number.maximum + 1
            anchors = [tuple(dice.randrange(top) for _ in range(form.number.operands))
                       for _ in range(ANCHORS)]
            return near(form, step, anchors, count, dice)

        found = check(module, form, pairs, LEVEL)
        ratio = np.median(found.ratios) if found.ratios else np.nan
        print(f"| {name} | {found.tried:,} | {found.outside} | {np.median(found.widths):.3g} "
              f"| {max(found.widths):.3g} | {ratio:.3g} | {time.process_time() - start:.0f} |",
              flush=True)
        total, outside = total + found.tried, outside + found.outside
    print(f"\n{total:,} logits, {outside} outside")
    return int(outside > 0)


if __name__ == "__main__":
    sys.exit(main())
