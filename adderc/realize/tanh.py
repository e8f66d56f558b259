"""Steps by tanh: (1 + tanh(k (z - middle))) / 2, one unit a step and a constant.

Takes: nothing. Gives: the activation "tanh", registered. May import: realize.activations.
1 - tanh(t) < 2 e^(-2t): with k times half the gap at 16, a step is right to 1e-13. A copy
stays near 0, where |tanh(k z) / k - z| <= k^2 |z|^3 / 3.
"""

from __future__ import annotations

import numpy as np

from adderc.realize.activations import Activation, HiddenUnit, StepUnits, register


def tanh_step(off: float, on: float) -> StepUnits:
    """One unit at the middle of the gap; the constant is half of the step."""
    gain = 2.0 ** np.ceil(np.log2(32.0 / (on - off)))
    return StepUnits((HiddenUnit(gain, -gain * (off + on) / 2, 0.5),), 0.5)


register(Activation(
    "tanh", np.tanh, np.sign, lambda t: 2 / (1 + np.exp(2 * np.minimum(t, 300.0))), tanh_step,
    None, linear=2.0**-16))
