"""What a model's realizations want in the residual stream.

Takes: nothing. Gives: `Needs`. May import: the standard library.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Needs:
    """What the model's realizations want in the residual beside the algorithm's signals.

    `position`: sine and cosine of the position; `one`: the height of a constant channel;
    `curve`: that of the channel in which tokens on a curve bend; `centred`: negatives of
    both, and a slot that makes the mean zero (LayerNorm); `token_sign`: the sign of the
    token's value in its slot; `tied`: the decoded digit grows, times this factor, in the
    slot that holds the token's value, which is copied away (0: it has a slot of its own);
    `scaled`: a last norm can set that slot's scale; `logits`: one slot for each token id.
    """

    position: bool = True
    one: Fraction | None = None
    curve: Fraction | None = None
    centred: bool = False
    token_sign: int = 1
    tied: int = 0
    scaled: bool = False
    logits: int = 0
