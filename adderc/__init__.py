"""adderc compiles a text specification of integer addition into a transformer.

Takes: nothing. Gives: `load`, `compile` and `save` (see adderc.api), and `__version__`.
May import: adderc.api, only when one of its functions is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adderc.api import compile, load, save

__version__ = "0.1.0"
__all__ = ["__version__", "compile", "load", "save"]


def __getattr__(name: str) -> Any:
    if name not in ("compile", "load", "save"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from adderc import api

    return getattr(api, name)
