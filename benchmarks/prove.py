"""How long proofs take, with how many cases and what margin; growth with width and base.

    python benchmarks/prove.py            (some minutes; --quick for a look)

One thread, one process. Each row is a model compiled here: the verdict, the prover's own
seconds, cases, the smallest margin in logits and in units of the last place, then the
independent checker's answer, its seconds and how many times the prover's that is. The first
export of a process loads half of torch, so one proof is made and checked before the first
row. `cpu` is processor time, which other work on the machine lengthens less.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

import adderc
from adderc.errors import AddercError
from adderc.prove.certificate import write_certificate
from adderc.prove.checker import check_certificate
from adderc.prove.run import prove

SPECS = Path(__file__).resolve().parents[1] / "specs"
WIDTHS, BASES = (10, 20, 40, 64), (2, 3, 10, 16)
MODELS = SPECS.with_name("models")  # of specs that are trained
BUDGET = 600.0
HEAD = ("model", "verdict", "prove s", "cpu", "cases", "margin", "ulp", "check-proof", "check s",
        "cpu", "check / prove")


def row(name, spec, **settings):
    """Compile, or load what was trained; prove, check; one row of the table."""
    trained = MODELS / f"{spec.stem}.safetensors"
    try:
        module = adderc.load(trained) if trained.exists() else adderc.compile(spec, **settings)
    except AddercError as error:
        return name, f"not compiled: {str(error).splitlines()[0]}", *[""] * 9
    started = time.process_time()
    result = prove(module, budget=BUDGET)
    spent = time.process_time() - started
    margin = ("", "") if result.margin is None else (
        f"{result.margin:.4f}", f"{result.margin_ulp:.4g}")
    found = (name, result.verdict, f"{result.seconds:.2f}", f"{spent:.2f}", result.cases, *margin)
    if result.counterexample is not None:
        return *found, " + ".join(map(str, result.counterexample.operands)), "", "", ""
    if result.verdict != "PROVEN":
        return *found, result.reason, "", "", ""
    return *found, *checked(module, result, spent)


def checked(module, result, spent):
    """What the checker says of a proof's certificate."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "certificate.json"
        write_certificate(path, result)
        started = time.process_time()
        check = check_certificate(path, module)
        own = time.process_time() - started
    said = "accepted" if check.accepted else f"refused: {check.reason}"
    return said, f"{check.seconds:.2f}", f"{own:.2f}", f"{own / spent:.1f}"


def table(title, rows):
    print(f"\n### {title}\n\n| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}", flush=True)
    for cells in rows:
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="widths 10 and 20, bases 2 and 3")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    print(f"{platform.machine()}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}")
    main_spec = SPECS / "nanogpt58.adder"
    row("warm", main_spec, width=1)
    widths, bases = (WIDTHS[:2], BASES[:2]) if quick else (WIDTHS, BASES)
    table("Width", (row(f"nanogpt58 width {width}", main_spec, width=width) for width in widths))
    table("Width, float64", (row(f"nanogpt58 width {width}", main_spec, width=width,
                                 dtype="float64") for width in widths[::3]))
    table("Base", (row(f"nanogpt58 base {base}", main_spec, base=base) for base in bases))
    table("Specs", (row(spec.stem, spec) for spec in sorted(SPECS.glob("*.adder"))
                    if not quick))


if __name__ == "__main__":
    main()
