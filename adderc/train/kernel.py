"""The compiled training step: C for one structure and batch size, built once and kept.

Takes: a `Structure`, a batch size. Gives: `build_kernel` → `Kernel` (`gradient`, `train`), or
None where the structure is beyond it or the machine has no C compiler; then the torch step
does the same work more slowly. May import: train, weights.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adderc.train.ensemble import Leaves
from adderc.train.expressions import emit
from adderc.train.forward import Forward
from adderc.weights.structure import Norm, Structure

SOURCE = Path(__file__).with_name("kernel.c")
ACTIVATIONS = ("RELU", "SILU", "GELU", "TANH")
NORMS = {"rms": 1, "layer": 2}
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math",
         "-shared", "-fPIC", "-w")
COMPILERS = ("cc", "gcc", "clang")
PLACES = {
    "embed": "embedding", "position": "position", "head": "head.weight", "hb": "head.bias",
    "q": "attention.q", "k": "attention.k", "v": "attention.v", "out": "attention.out",
    "qb": "attention.q_bias", "kb": "attention.k_bias", "vb": "attention.v_bias",
    "ob": "attention.out_bias", "up": "feed_forward.up", "ub": "feed_forward.up_bias",
    "gate": "feed_forward.gate", "gb": "feed_forward.gate_bias", "down": "feed_forward.down",
    "db": "feed_forward.down_bias", "n1w": "attention_norm.weight", "n1b": "attention_norm.bias",
    "n2w": "feed_forward_norm.weight", "n2b": "feed_forward_norm.bias",
    "nfw": "final_norm.weight", "nfb": "final_norm.bias",
}


@dataclass
class Kernel:
    """Runs steps on arrays in place; `compiler` says what built it."""

    library: ctypes.CDLL
    dtype: np.dtype
    compiler: str
    batch: int
    length: int

    def gradient(self, theta: np.ndarray, tokens: np.ndarray) -> tuple[float, np.ndarray]:
        """Mean loss of one batch, tokens [T + 1, B], and its gradient."""
        found = np.zeros_like(theta)
        assert tokens.shape == (self.length + 1, self.batch)
        loss = self.library.gradient(_pointer(theta), _pointer(tokens), _pointer(found))
        return float(loss), found

    def train(
        self, theta: np.ndarray, first: np.ndarray, second: np.ndarray, done: int,
        tokens: np.ndarray, rates: np.ndarray, decays: np.ndarray, clip: float,
        betas: tuple[float, float], eps: float,
    ) -> np.ndarray:
        """Steps on tokens [steps, T + 1, B], in place; the loss before each step."""
        losses = np.zeros(len(tokens))
        assert tokens.shape[1:] == (self.length + 1, self.batch)
        assert tokens.dtype == np.uint8
        assert tokens.flags.c_contiguous
        self.library.train(
            _pointer(theta), _pointer(first), _pointer(second), ctypes.c_long(done), len(tokens),
            _pointer(tokens), _pointer(rates), _pointer(decays), ctypes.c_double(clip),
            ctypes.c_double(betas[0]), ctypes.c_double(betas[1]), ctypes.c_double(eps),
            _pointer(losses))
        return losses


def build_kernel(structure: Structure, batch: int) -> Kernel | None:
    """The kernel for this structure; None where there is none (module docstring)."""
    compiler = next((path for name in COMPILERS if (path := shutil.which(name))), None)
    if compiler is None or not fits(structure, batch) or os.environ.get("ADDERC_NO_KERNEL"):
        return None
    text = source_of(structure, batch)
    version = _version(compiler)
    name = hashlib.sha256(f"{text}\n{FLAGS}\n{version}".encode()).hexdigest()
    if name not in _LIBRARIES:
        _LIBRARIES[name] = _compiled(text, compiler)
    library = _LIBRARIES[name]
    if library is None:
        return None
    library.gradient.restype = ctypes.c_double
    library.train.restype = None
    return Kernel(library, np.dtype(structure.dtype), version, batch, structure.format.length - 1)


def fits(structure: Structure, batch: int) -> bool:
    """One causal or routed block with plain softmax, whose norms are of one kind."""
    if len(structure.blocks) != 1 or structure.blocks[0].attention is None:
        return False
    block = structure.blocks[0]
    attention = block.attention
    assert attention is not None
    plain = (attention.rope is None and attention.slopes is None and attention.scale is None
             and attention.kind == "softmax")
    norms = _norms(structure)
    kinds = {norm.kind if norm else "none" for norm in norms}
    epsilons = {norm.epsilon for norm in norms if norm}
    return (plain and len(kinds) == 1 and len(epsilons) <= 1
            and batch % lanes_of(structure) == 0 and structure.format.vocabulary <= 255)


def lanes_of(structure: Structure) -> int:
    return 16 if structure.dtype == "float32" else 8


def _norms(structure: Structure) -> list[Norm | None]:
    block = structure.blocks[0]
    sites = [block.attention_norm, structure.final_norm]
    return [*sites, block.feed_forward_norm] if block.feed_forward is not None else sites


def source_of(structure: Structure, batch: int) -> str:
    """The C text for one structure: sizes, weight expressions, then the common part."""
    leaves = Leaves.of(structure)
    expressions = dict(structure.expressions())
    text, nodes = emit(expressions, leaves)
    block, forward = structure.blocks[0], Forward(structure)
    attention, layer = block.attention, block.feed_forward
    assert attention is not None
    single = structure.dtype == "float32"
    norm = next((norm for norm in _norms(structure) if norm), None)
    hidden = layer.up.shape[0] if layer is not None else 1
    defines = {
        "B": batch, "T": forward.length, "FIRST": forward.first,
        "V": structure.embedding.shape[0], "D": structure.d_model, "H": attention.heads,
        "W": attention.head_dim, "F": hidden, "P": leaves.size, "LANES": lanes_of(structure),
        "NORM": NORMS[norm.kind] if norm else 0, "EPSILON": norm.epsilon if norm else 0,
        "SCALE": repr(1 / math.sqrt(attention.head_dim)),
        "SINGLE": int(single), "HAS_FFN": int(layer is not None),
        "HAS_GATE": int(layer is not None and layer.gate is not None),
        **{name: number for number, name in enumerate(ACTIVATIONS)},
        "ACTIVATION": (layer.activation if layer is not None else "relu").upper(),
        "sqrt_": "sqrtf" if single else "sqrt", "log_": "logf" if single else "log",
    }
    head = ["#include <math.h>", f"typedef {'float' if single else 'double'} real;",
            f"typedef {'int' if single else 'long long'} whole;"]
    head += [f"#define {name} {value}" for name, value in defines.items()]
    head += [text, *_matrix_names(structure, nodes), *_masks(forward, attention.heads)]
    return "\n".join(head) + "\n" + SOURCE.read_text(encoding="utf-8")


def _matrix_names(structure: Structure, nodes: dict[str, int]) -> list[str]:
    """M_q and G_q for every matrix of the kernel; 0 where the structure has none."""
    leafy = {name for name, expr in structure.expressions() if _has_leaf(expr)}
    signal = Forward(structure).signal
    lines = []
    for short, place in PLACES.items():
        near = place.startswith(("attention", "feed_forward"))
        name = f"blocks.0.{place}" if near else place
        number = nodes.get(name)
        value = f"n{number}" if number is not None else "((const real *)0)"
        if short == "position" and number is None and signal is not None:
            numbers = ", ".join(f"(real){v!r}" for v in signal.double().reshape(-1).tolist())
            lines.append(f"static const real fixed_positions[] = {{{numbers}}};")
            value = "fixed_positions"
        lines.append(f"#define M_{short} {value}")
        lines.append(f"#define G_{short} "
                     + (f"g{number}" if name in leafy else "((real *)0)"))
    return lines


def _has_leaf(expr: object) -> bool:
    from adderc.weights.expr import leaves_of

    return bool(leaves_of(expr))  # type: ignore[arg-type]


def _masks(forward: Forward, heads: int) -> list[str]:
    """Which keys each query sees, and which queries see none."""
    mask = forward.masks[0]
    assert mask is not None
    seen = np.isfinite(mask.expand(heads, -1, -1).numpy()).astype(int)
    numbers = ", ".join(map(str, seen.reshape(-1).tolist()))
    size = f"[{heads}][{forward.length}]"
    none = ", ".join(str(int(v)) for v in (seen.sum(-1) == 0).reshape(-1))
    return [f"static const unsigned char seen{size}[{forward.length}] = {{{numbers}}};",
            f"static const unsigned char blind{size} = {{{none}}};"]


def _version(compiler: str) -> str:
    answer = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    return answer.stdout.partition("\n")[0] or Path(compiler).name


_LIBRARIES: dict[str, ctypes.CDLL | None] = {}  # of this process, by what they are made of


def _compiled(text: str, compiler: str) -> ctypes.CDLL | None:
    """The library, in a folder of this process alone, which goes once it is loaded."""
    folder = Path(tempfile.mkdtemp(prefix="adderc-train-"))
    source, target = folder / "step.c", folder / "step.so"
    try:
        source.write_text(text, encoding="utf-8")
        built = subprocess.run([compiler, *FLAGS, str(source), "-o", str(target), "-lm"],
                               capture_output=True, text=True, check=False)
        if os.environ.get("ADDERC_DEBUG") and built.returncode:
            raise RuntimeError(built.stderr[:4000])
        return ctypes.CDLL(str(target)) if built.returncode == 0 else None
    except OSError:
        return None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
