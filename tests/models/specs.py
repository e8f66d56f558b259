"""Spec texts for tests: one frame with the parts left open."""

from __future__ import annotations

RIPPLE = """
    x     = a[i] + b[i]
    prev  = a[i-1] + b[i-1]
    carry = prev > s[i-1]
    emit (x + carry) mod base
"""

FRAME = """
adder test
number {{ {number} }}
format {{
    {format}
}}
algorithm {{
{algorithm}
}}
model {{
    {model}
}}
weights {{ {weights} }}
"""

FORMAT = """
    prompt  msd(a) "+" msd(b) "="
    answer  lsd(s)
    tokens  "+" -> 0, "=" -> 0
"""


def spec_text(
    algorithm: str = RIPPLE, number: str = "base 10 width 2", format: str = FORMAT,
    model: str = "layers 1", weights: str = "derive",
) -> str:
    """A spec with some parts replaced."""
    return FRAME.format(number=number, format=format, algorithm=algorithm, model=model,
                        weights=weights)
