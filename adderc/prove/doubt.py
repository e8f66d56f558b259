"""Why a proof cannot go on.

Takes: nothing. Gives: `Doubt` (nothing can be said), `Unsupported` (an operation is unknown).
May import: the standard library only.

Both end in the verdict UNDECIDED with their text as the reason; neither is ever swallowed
into a verdict that claims more.
"""

from __future__ import annotations


class Doubt(Exception):
    """Something that a proof would have to exclude was not excluded; the text says what."""


class Unsupported(Doubt):
    """The module does something that the prover does not model."""
