"""The contexts of an algorithm with nothing left out: every digit, not one of each sum.

Takes: `CheckedSpec` with an algorithm. Gives: `every_context` → `Contexts`.
May import: lang.

`CheckedSpec.contexts` holds one representative of the operand digits that the algorithm
cannot tell apart, which is enough to prove it. What reads tokens rather than sums (an
embedding that is solved for, a table) needs them all.
"""

from __future__ import annotations

from adderc.lang.checked import CheckedSpec, Contexts
from adderc.lang.explore import Explorer, explore


def every_context(checked: CheckedSpec) -> Contexts:
    """All reachable contexts with all operand digits; Refusal where there are too many."""
    assert checked.algorithm is not None
    return explore(Explorer(checked.algorithm, checked.number, checked.source, every=True))
