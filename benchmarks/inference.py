"""Batched decoding beside a loop that adds one sum at a time.

    python benchmarks/inference.py            (about two minutes; --quick for a look)

Both run in this process on one thread. The loop is what leaderboard scripts do: batch 1, the
whole sequence run again at each step through the module's own forward, under inference
mode. The batched time starts at integers and ends at integers: encoding, decoding of
tokens and reading of the sums are in it. Times are processor time of the one thread, so
that what else the machine does plays no part; only `add --file` is timed by the clock.
"""

from __future__ import annotations

import argparse
import platform
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

import adderc
from adderc.nn.routed import routed_decoder

torch.set_num_threads(1)

SPEC = Path(__file__).resolve().parents[1] / "specs" / "nanogpt58.adder"
WIDTHS, BASES = (1, 10, 64, 512), (2, 10, 36)
BATCHES = (1, 10, 100, 1000, 10_000, 100_000)


def tuples(module, count, seed=0):
    chance = random.Random(seed)
    top = module.number.maximum
    return [tuple(chance.randint(0, top) for _ in range(module.number.operands))
            for _ in range(count)]


def loop_rate(module, seconds):
    """Sums per second of the one-at-a-time loop, after one sum to warm up."""
    rows = tuples(module, 100_000 if module.number.width < 64 else 1000)
    module.add(*rows[0])
    started, done = time.process_time(), 0
    while time.process_time() - started < seconds:
        assert module.add(*rows[done]) == sum(rows[done])
        done += 1
    return done / (time.process_time() - started)


def batch_rate(module, count, repeats=3):
    """The best of some runs of `add_many` on `count` sums, in sums per second."""
    rows = tuples(module, count)
    right = [sum(row) for row in rows]
    best = float("inf")
    for _ in range(repeats):
        started = time.process_time()
        found = module.add_many(rows)
        best = min(best, time.process_time() - started)
        assert found == right
    return count / best


def rate(value):
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def table(head, rows):
    print("| " + " | ".join(head) + " |")
    print("|" + "|".join(" ---: " for _ in head) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print(flush=True)


def file_run(path, count):
    """Seconds of `adderc add --file` on `count` lines, in a process of its own."""
    import subprocess

    module = adderc.load(path)
    with tempfile.TemporaryDirectory() as folder:
        lines, sums = Path(folder) / "pairs.csv", Path(folder) / "sums.txt"
        rows = tuples(module, count)
        lines.write_text("".join(f"{a},{b}\n" for a, b in rows))
        started = time.perf_counter()
        with sums.open("w") as stream:
            subprocess.run([sys.executable, str(SPEC.parents[1] / "cli.py"), "add", str(path),
                            "--file", str(lines)], stdout=stream, check=True)
        seconds = time.perf_counter() - started
        assert [int(line) for line in sums.read_text().split()] == [a + b for a, b in rows]
    return seconds


def main():
    parser = argparse.ArgumentParser(description="Batched decoding beside a one-at-a-time loop.")
    parser.add_argument("--quick", action="store_true", help="small batches, short loops")
    quick = parser.parse_args().quick
    seconds = 1 if quick else 5
    print(f"torch {torch.__version__}, Python {platform.python_version()}, "
          f"{platform.machine()}, one thread\n")
    nano = adderc.compile(SPEC)
    assert routed_decoder(nano) is not None
    loop = loop_rate(nano, seconds)

    batches = [b for b in BATCHES if b <= (1000 if quick else 10**6)]
    rates = {batch: batch_rate(nano, batch) for batch in batches}
    print(f"Batch, {nano.number.width} digits: the loop adds {rate(loop)} sums a second")
    table(["batch", "sums/s", "ratio to the loop"],
          [[f"{b:,}", rate(r), f"{r / loop:,.1f}"] for b, r in rates.items()])

    rows = []
    for width in WIDTHS[: 3 if quick else 4]:
        module = adderc.compile(SPEC, width=width)
        count = max(100, min(10_000, 500_000 // width))
        single, many = loop_rate(module, seconds), batch_rate(module, count)
        rows.append([str(width), rate(single), f"{count:,}", rate(many), f"{many / single:,.0f}",
                     f"{1e6 / many / module.format.steps:,.2f}"])
    print("Width, base 10")
    table(["width", "loop sums/s", "batch", "sums/s", "ratio", "us per digit"], rows)

    rows = []
    for base in BASES:
        module = adderc.compile(SPEC, base=base)
        single, many = loop_rate(module, seconds), batch_rate(module, 1000 if quick else 10_000)
        rows.append([str(base), rate(single), rate(many), f"{many / single:,.0f}"])
    print("Base, 10 digits")
    table(["base", "loop sums/s", "sums/s", "ratio"], rows)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "nano.safetensors"
        adderc.save(nano, path)
        count = 10_000 if quick else 1_000_000
        took = file_run(path, count)
    print(f"add --file: {count:,} pairs in {took:.1f} s, the start of Python "
          "and of torch included")


if __name__ == "__main__":
    main()
