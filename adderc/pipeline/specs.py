"""Specs as files: those that come with the package, and the text of any.

Takes: a path or a name. Gives: `read_spec` → `Source`, `list_specs`; InputError for what
cannot be read as a spec. May import: errors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from adderc.errors import InputError, Source

LARGEST_SPEC = 1_000_000


PACKAGE = Path(__file__).parent.parent


@dataclass(frozen=True)
class SpecFolder:
    """The specs that come with the package, or stand beside a checkout."""

    paths: tuple[Path, ...] = field(default_factory=lambda: (
        PACKAGE / "specs", PACKAGE.parent / "specs"))

    def files(self) -> list[Path]:
        folder = next((path for path in self.paths if path.is_dir()), None)
        return sorted(folder.glob("*.adder")) if folder else []


def list_specs() -> list[tuple[str, str, Path]]:
    """(name, first sentence, path) of every spec that comes with the package."""
    found = []
    for path in SpecFolder().files():
        comment = []
        for line in path.read_text(encoding="utf-8").splitlines():
            if not line.startswith("#"):
                break
            comment.append(line.lstrip("# ").strip())
        sentence = " ".join(comment).partition(". ")[0].rstrip(".")
        found.append((path.stem, sentence + "." if sentence else "", path))
    return found


def read_spec(path_or_name: str) -> Source:
    """The text of a spec file, or of a packaged spec by its name."""
    path = Path(path_or_name)
    if not path.exists() and path.suffix in ("", ".adder"):
        path = next((file for file in SpecFolder().files() if file.stem == path.stem
                     and path.parent in (Path("."), Path("specs"))), path)
    try:
        if path.is_file() and path.stat().st_size > LARGEST_SPEC:
            raise InputError(f"{path_or_name}: too large for a spec")
        data = path.read_bytes()
    except FileNotFoundError:
        known = ", ".join(file.stem for file in SpecFolder().files())
        raise InputError(f"{path_or_name}: no such spec file",
                         f"specs that come with the package: {known}" if known else "") from None
    except IsADirectoryError:
        raise InputError(f"{path_or_name} is a folder, not a spec file") from None
    except OSError as error:
        raise InputError(f"{path_or_name}: {error.strerror}") from None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path_or_name} is not text (byte {error.start} is not UTF-8)",
                         "a spec is a UTF-8 text file") from None
    return Source(path_or_name, text)
