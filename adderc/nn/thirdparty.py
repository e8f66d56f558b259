"""Models of others: Python files with `build_model()` and, mostly, `add(model, a, b)`.

Takes: a path, the user's word that the code may run, a format. Gives: `PythonModel` and
`ThirdPartyModule`, which decodes like any other module.
May import: errors, format.

Nothing here runs a line of the file without `trust`.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from adderc.errors import InputError
from adderc.format.number import NumberFormat
from adderc.format.prompt import Format

LARGEST_FILE = 5_000_000
MODULE_NAME = "adderc_third_party_model"


@dataclass(frozen=True)
class PythonModel:
    """What a file's `build_model` returned, and the file itself."""

    path: str
    source: str
    model: Any
    metadata: dict[str, Any]
    add: Callable[..., Any] | None
    namespace: dict[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        return Path(self.path).name


class ThirdPartyModule(nn.Module):
    """Any callable on tokens [B, T] under a format, as a module that can be decoded.

    The format belongs to us: we encode the prompt and run the greedy loop. The model's
    numbers are its own; the module registers what the model registers.
    """

    def __init__(self, python: PythonModel, format: Format) -> None:
        super().__init__()
        self.format, self.python = format, python
        call = callable_of(python)
        self.model = call.eval() if isinstance(call, nn.Module) else call

    @property
    def number(self) -> NumberFormat:
        return self.format.number

    def forward(self, tokens: Tensor) -> Any:
        """Whatever the model returns for tokens [B, T]."""
        return self.model(tokens)


def load_python(
    path: str, trust: bool, around: contextlib.AbstractContextManager[Any] | None = None
) -> PythonModel:
    """Run the file and its `build_model` inside `around`; InputError says what is missing.

    What the code prints goes to stderr.
    """
    if not trust:
        raise InputError(
            f"{path} is Python code, which would have to be run",
            "say --trust-code if you trust it (or have isolated it)",
        )
    source = read_source(path)
    with around or contextlib.nullcontext(), quiet_stdout(), import_folder(path):
        namespace = run_file(path, source)
        build = namespace.get("build_model")
        if not callable(build):
            raise InputError(f"{path} defines no build_model()",
                             "the interface is build_model() -> (model, metadata)")
        try:
            built = build()
        except (Exception, SystemExit) as error:
            raise foreign_error(path, "build_model()", error) from error
    model, metadata = split_built(built)
    add = namespace.get("add")
    return PythonModel(path, source, model, metadata, add if callable(add) else None, namespace)


def read_source(path: str) -> str:
    """The text of a Python file; InputError where there is none to read."""
    try:
        data = Path(path).read_bytes()
        if len(data) > LARGEST_FILE:
            raise InputError(f"{path}: too large for a source file")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a UTF-8 text file") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None


def run_file(path: str, source: str) -> dict[str, Any]:
    """The file's namespace after running it; its module name is never "__main__"."""
    try:
        code = compile(source, path, "exec")
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        raise InputError(f"{path}: not Python" + (f" (line {line})" if line else "")
                         + f": {getattr(error, 'msg', error)}") from None
    module = ModuleType(MODULE_NAME)
    module.__file__ = path
    sys.modules[MODULE_NAME] = module  # dataclasses look their module up
    try:
        exec(code, module.__dict__)
    except (Exception, SystemExit) as error:
        raise foreign_error(path, "the file", error) from error
    return module.__dict__


def split_built(built: Any) -> tuple[Any, dict[str, Any]]:
    """(model, metadata) of what `build_model` returned; the metadata may be missing."""
    if isinstance(built, tuple | list) and len(built) == 2 and not isinstance(built[1], Tensor):
        return built[0], built[1] if isinstance(built[1], dict) else {}
    return built, {}


def callable_of(python: PythonModel) -> Callable[..., Any]:
    """The model as a function of tokens; InputError where it is none."""
    model = python.model
    if callable(model):
        return model
    if callable(forward := getattr(model, "forward", None)):
        return forward
    raise InputError(f"{python.path}: the model is a {type(model).__name__} that cannot be "
                     "called on tokens", "give it forward(tokens) or __call__(tokens)")


def run_add(python: PythonModel, *operands: int) -> Any:
    """The file's own `add` on one sum; its errors become InputError."""
    assert python.add is not None
    try:
        with quiet_stdout(), torch.no_grad():
            return python.add(python.model, *operands)
    except (Exception, SystemExit) as error:
        raise foreign_error(python.path, f"add{operands}", error) from error


def foreign_error(path: str, what: str, error: BaseException) -> InputError:
    """An error of the audited code, told in one line with its place in the file."""
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == path:
            line = trace.tb_lineno
        trace = trace.tb_next
    first = str(error).strip().partition("\n")[0][:200]
    place = f"{path}, line {line}" if line else path
    return InputError(f"{place}: {what} failed: {type(error).__name__}: {first}")


@contextlib.contextmanager
def quiet_stdout() -> Iterator[None]:
    """What foreign code prints must not mix with our output."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


@contextlib.contextmanager
def import_folder(path: str) -> Iterator[None]:
    """The file may import its neighbours, as it could when run by itself."""
    folder = str(Path(path).resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)
