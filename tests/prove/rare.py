"""Models that are wrong for very few operands: a right model and a bump on one logit.

The bump is relu(Σ conditions - (count - 1)) with one condition in [0, 1] for each thing that
must hold at once, so it fires only where all of them hold. Positions are `plain_format`'s.
"""

import torch
import torch.nn.functional as F
from manners import Plain


class Rare(Plain):
    """`fault` at one step: token `to` wins if the listed digits, and sums of digits, stand.

    `digits` {position: token}; `nines` places whose digits add up to base - 1.
    """

    def __init__(self, width, step, to, digits, nines=(), base=10):
        super().__init__(width, base)
        self.step, self.to, self.nines = step, to, tuple(nines)
        table = torch.zeros(3 * width + 4, base)
        for position, digit in digits.items():
            table[position, digit] = 1.0
        self.count = len(digits) + len(self.nines)
        self.wanted = torch.nn.Parameter(table)

    def forward(self, tokens):
        logits, length = super().forward(tokens), tokens.shape[1]
        if length != 2 * self.width + 3 + self.step:
            return logits
        hits = (
            F.one_hot(tokens, self.base).to(logits.dtype) * self.wanted[:length]).sum((1, 2))
        for place in self.nines:
            pair = tokens[:, [1 + place, self.width + 2 + place]]
            hits = hits + F.relu(1 - (self.digits[pair].sum(-1) - (self.base - 1)).abs())
        bump = F.relu(hits - (self.count - 1))
        return logits + bump.unsqueeze(-1) * (torch.arange(self.base) == self.to) * 300.0


def after_a_chain(width, place, length, pair, base=10):
    """Wrong at `place` for one digit pair after a carry through `length` places, born in
    a digit pair (top, top) below them."""
    a, b = pair
    start = place - length - 1
    digits = {1 + place: a, width + 2 + place: b,
              1 + start: base - 1, width + 2 + start: base - 1}
    right = (a + b + 1) % base
    return Rare(width, place, (right + 1) % base, digits, range(start + 1, place), base)


def at_the_last_digit(width, pair, base=10):
    """Wrong at the leading digit for one pair of leading operand digits."""
    a, b = pair
    return Rare(width, width, 7, {width: a, 2 * width + 1: b}, (), base)


def for_one_pair(width, a, b, step, base=10):
    """Wrong for one pair of operands only, at one step."""
    digits = {}
    for place in range(width):
        digits[1 + place] = a // base**place % base
        digits[width + 2 + place] = b // base**place % base
    right = (a + b) // base**step % base
    return Rare(width, step, (right + 3) % base, digits, (), base)
