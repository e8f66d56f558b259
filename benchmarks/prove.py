"""How long proofs take, with how many cases and what margin; growth with width and base.

    python benchmarks/prove.py            (some minutes; --quick for a look)

One thread, one process. Each line is a model compiled here: the verdict, the prover's own
seconds, cases, the smallest margin in logits and in units of the last place, then the
independent checker's answer and seconds.
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

torch.set_num_threads(1)

SPECS = Path(__file__).resolve().parents[1] / "specs"
WIDTHS, BASES = (2, 10, 20, 40, 64), (2, 3, 16, 36)


def line(name, spec, **settings):
    """Compile, prove, check; one row of the table."""
    try:
        module = adderc.compile(str(spec), **settings)
    except AddercError as error:
        print(f"{name:28} not compiled: {str(error).splitlines()[0]}")
        return
    result = prove(module, budget=1200)
    text = (f"{name:28} {result.verdict:9} {result.seconds:8.2f} s {result.cases:7} cases")
    if result.margin is not None:
        text += f"  margin {result.margin:.4f} = {result.margin_ulp:.4g} ulp"
    if result.verdict == "PROVEN":
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "certificate.json"
            write_certificate(path, result)
            check = check_certificate(path, module)
        answer = "accepted" if check.accepted else f"refused ({check.reason})"
        text += f"  checker {answer} {check.seconds:.2f} s"
    elif result.counterexample is not None:
        text += f"  {result.counterexample.operands}"
    print(text, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small widths and bases only")
    quick = parser.parse_args().quick
    print(f"{platform.machine()}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}")
    prove(adderc.compile(str(SPECS / "nanogpt58.adder"), width=1))  # torch.export's imports
    for spec in sorted(SPECS.glob("*.adder")):
        line(spec.stem, spec)
    main_spec = SPECS / "nanogpt58.adder"
    for width in WIDTHS[: 2 if quick else None]:
        line(f"nanogpt58 width {width}", main_spec, width=width)
    for base in BASES[: 2 if quick else None]:
        line(f"nanogpt58 base {base}", main_spec, base=base)
    line("nanogpt58 float64", main_spec, dtype="float64")


if __name__ == "__main__":
    main()
