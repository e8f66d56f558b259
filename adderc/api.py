"""The Python interface: specs and model files to modules, and back.

Takes: paths, spec names, spec text. Gives: `load`, `compile`, `save`, which the package
offers as `adderc.load`, `adderc.compile`, `adderc.save`.
May import: every room but app.
"""

from __future__ import annotations

import os
from typing import Any

from adderc import __version__
from adderc.errors import InputError, Source
from adderc.nn.module import AdderModule
from adderc.weights.file import load_model, save_model


def load(path: str | os.PathLike[str]) -> AdderModule:
    """The module of a model file: tokens [B, T] int64 to logits [B, T, V].

    It is an nn.Module whose parameters are the model's leaves; `.add(a, b)` gives one sum,
    `.add_many(pairs)` a list of them, `.hook_points()` every interior value by name and
    `.provenance` what the file tells of its making. InputError for a file that is missing,
    cut, edited, newer or no model.
    """
    stored = load_model(os.fspath(path))
    return _module(stored.structure, stored.values, stored.provenance)


def compile(
    spec: str | os.PathLike[str] | Source,
    *,
    width: int | None = None,
    base: int | None = None,
    dtype: str | None = None,
    seed: int = 0,
    unchecked: bool = False,
    **parameters: object,
) -> AdderModule:
    """Compile a spec (a path, the name of one that comes with the package, or a `Source`).

    Gives a module as `load` does: tokens [B, T] int64 to logits [B, T, V]. `width`, `base`
    and `dtype` ("float32" or "float64") override the spec's; `unchecked` compiles even an
    algorithm that does not add.

    `parameters` are the spec's own, as --set gives them. SpecError, Refusal or
    WrongAlgorithm (adderc.errors) tell why a spec cannot become a right model.
    """
    from adderc import pipeline  # not needed to load a model file, and slow to import

    source = spec if isinstance(spec, Source) else pipeline.read_spec(os.fspath(spec))
    pairs = tuple((name, str(value)) for name, value in parameters.items())
    settings = pipeline.Settings(width=width, base=base, dtype=dtype, set=pairs, seed=seed)
    compiled = pipeline.compile_spec(source, settings, unchecked=unchecked)
    return _module(compiled.structure, compiled.values, compiled.provenance)


def save(module: AdderModule, path: str | os.PathLike[str]) -> None:
    """Write a module, with the values that its leaves have now, as a model file.

    InputError for a module that is not adderc's, and for a path that cannot be written.
    """
    if not isinstance(module, AdderModule):
        raise InputError(f"save takes a module of adderc, not {type(module).__name__}")
    provenance = getattr(module, "provenance", {"adderc": __version__})
    save_model(os.fspath(path), module.structure, module.leaf_values(), provenance)


def _module(structure: Any, values: Any, provenance: Any) -> AdderModule:
    module = AdderModule(structure, values)
    module.provenance = provenance
    return module
