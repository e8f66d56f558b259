"""What torch computes on here: everything that may change the last bit of a kernel's result.

Takes: nothing. Gives: `torch_build`, `differing`.
May import: the standard library, torch.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping

import torch

Build = dict[str, str | int]
STEERING = ("ATEN_CPU_", "DNNL_", "GOMP_", "KMP_", "MKL_", "OMP_", "ONEDNN_", "OPENBLAS_")
_THREADS = ("MKL_NUM_THREADS", "OMP_NUM_THREADS")  # torch says itself how many it uses


def torch_build() -> Build:
    """Version, processor, libraries and settings, by names that read well in a sentence."""
    features: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    steering = sorted(f"{name}={value}" for name, value in os.environ.items()
                      if name.startswith(STEERING) and name not in _THREADS)
    tiny = torch.finfo(torch.float32).tiny
    return {
        "torch": torch.__version__,
        "built as": _digest(torch.__config__.show()),
        "processor": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "processor features": _digest(repr(sorted(features.items()))),
        "threads": torch.get_num_threads(),
        "subnormal numbers": "kept" if torch.tensor([tiny]).div(2).item() else "flushed",
        "matmul precision": torch.get_float32_matmul_precision(),
        "oneDNN": "on" if torch.backends.mkldnn.enabled else "off",
        "environment": ", ".join(steering) or "nothing set",
    }


def differing(here: Mapping[str, str | int], there: Mapping[str, object]) -> list[str]:
    """The names under which two builds differ."""
    return sorted(name for name in {*here, *there} if here.get(name) != there.get(name))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
