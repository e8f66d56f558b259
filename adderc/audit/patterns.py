"""Tables that hold fewer numbers than elements: aranges, their multiples, sinusoids.

Takes: a tensor's values. Gives: the numbers that generate it.
May import: numpy and the standard library.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

TOLERANCE = 1e-5


@dataclass(frozen=True)
class Pattern:
    """`numbers` generate the table; `name` says how."""

    name: str
    numbers: tuple[float, ...]


def magnitude(value: float) -> float:
    """What two equal numbers have in common whatever their sign and float type."""
    size = abs(float(value))
    if not math.isfinite(size) or size == 0:
        return size
    narrow = float(np.float32(size)) if 1e-37 < size < 3e38 else size
    return float(f"{narrow:.7g}")


def magnitudes(values: Iterable[float]) -> tuple[float, ...]:
    """Distinct finite magnitudes other than 0 and 1, ascending."""
    return tuple(sorted({magnitude(v) for v in values if math.isfinite(v)} - {0.0, 1.0}))


def recognise(values: np.ndarray, longest: int) -> Pattern | None:
    """A pattern of a constant table: 0 and ±1, a whole arange of at most `longest`, its
    square, a multiple of either, equal steps or ratios, the sine and cosine of one angle; None
    for none of them."""
    flat = np.asarray(values, dtype=np.float64).reshape(-1)
    if not np.isfinite(flat).all():
        return None
    sizes = magnitudes(flat.tolist())
    if not sizes:
        return Pattern("0 and ±1", ())
    if len(sizes) == 2 and abs(sizes[0] ** 2 + sizes[1] ** 2 - 1) < 1e-6:
        return Pattern("sine and cosine of one angle", (math.atan2(*sizes),))
    line = _one_axis(np.asarray(values, dtype=np.float64))
    found = _arange(line, longest) if line is not None else None
    return found or _columns(np.asarray(values, dtype=np.float64), longest)


def _columns(values: np.ndarray, longest: int) -> Pattern | None:
    """A table [V, D] whose columns are 0 and ±1, or a whole arange that zeros may follow."""
    if values.ndim != 2:
        return None
    numbers: list[float] = []
    for column in values.T:
        if not magnitudes(column.tolist()):
            continue
        found = _arange(np.trim_zeros(column, "b"), longest)
        if found is None or "squared" in found.name:
            return None
        numbers += found.numbers
    return Pattern("columns of 0, ±1 and aranges", magnitudes(numbers))


def _one_axis(values: np.ndarray) -> np.ndarray | None:
    """The entries along the only axis on which the table varies."""
    if values.ndim == 0:
        return None
    varied = [axis for axis in range(values.ndim)
              if values.shape[axis] > 1 and not (values == values.take([0], axis)).all()]
    if len(varied) == 1:
        index = tuple(slice(None) if axis == varied[0] else 0 for axis in range(values.ndim))
        return values[index]
    nonzero = [line for line in values.reshape(-1, values.shape[-1]).T if line.any()]
    return nonzero[0] if values.ndim == 2 and len(nonzero) == 1 else None


def _arange(line: np.ndarray, longest: int) -> Pattern | None:
    if not 3 <= len(line) <= longest:
        return None
    for start in (0, 1):
        for name, base in (("arange", np.arange(start, start + len(line), dtype=np.float64)),
                           ("arange squared", np.arange(start, start + len(line)) ** 2.0)):
            factor = line[1 - start] if start == 0 else line[0]
            if factor and np.allclose(line, factor * base, rtol=TOLERANCE, atol=0):
                own = magnitudes([float(factor)])
                return Pattern(name if not own else f"{name} times a number", own)
    return _progression(line) if len(line) > 3 else None


def _progression(line: np.ndarray, ratios: bool = True) -> Pattern | None:
    """Equal steps from any start, or equal ratios where those are asked for."""
    step = (line[-1] - line[0]) / (len(line) - 1)
    if step and np.allclose(line, line[0] + step * np.arange(len(line)), rtol=TOLERANCE, atol=0):
        return Pattern("arange from a number", magnitudes([float(line[0]), float(step)]))
    if ratios and (line != 0).all():
        ratio = line[1] / line[0]
        if np.allclose(line, line[0] * ratio ** np.arange(len(line)), rtol=TOLERANCE, atol=0):
            return Pattern("powers of a number", magnitudes([float(line[0]), float(ratio)]))
    return None


def recognise_signal(table: np.ndarray) -> Pattern | None:
    """Numbers of a table [T, …] of position signals; None if it is no such table.

    A column in equal steps has its start and its step. A pair of columns that turns has its
    period, its phase beyond quarter turns, its gains other than ±1 and the positions where
    the gain changes.
    """
    if np.ndim(table) == 0:
        return None
    columns = np.asarray(table, dtype=np.float64).reshape(len(table), -1).T
    columns = columns[[bool(np.any(np.abs(c) > 1e-12)) for c in columns]]
    if len(columns) == 0 or columns.shape[1] < 4:
        return None
    numbers: list[float] = []
    kinds: list[str] = []
    place = 0
    while place < len(columns):
        line = _progression(columns[place], ratios=False)
        found = None if line else _circle(*columns[place: place + 2])
        if line is None and found is None:
            return None
        numbers += line.numbers if line else found or []
        kinds.append("equal steps" if line else "sinusoid")
        place += 1 if line else 2
    return Pattern(" and ".join(dict.fromkeys(kinds)), magnitudes(numbers))


def _circle(first: np.ndarray, second: np.ndarray | None = None) -> list[float] | None:
    if second is None:
        return None
    gain = np.hypot(first, second)
    if gain.min() <= 0:
        return None
    angle = np.unwrap(np.arctan2(first, second))
    step = (angle[-1] - angle[0]) / (len(angle) - 1)
    if not np.allclose(angle, angle[0] + step * np.arange(len(angle)), atol=1e-3) or not step:
        return None
    near = np.isclose(gain[1:], gain[:-1], rtol=TOLERANCE)
    bounds = [int(b) + 1 for b in np.flatnonzero(~near)]
    if len(bounds) > 4:
        return None
    gains = [float(np.median(part)) for part in np.split(gain, bounds)]
    start = [] if math.isclose(abs(angle[0]), abs(step), rel_tol=1e-4) else [beyond(angle[0])]
    return [nearest_period(abs(step)), *start, *(_rounded(g) for g in gains), *map(float, bounds)]


def beyond(angle: float) -> float:
    """What an angle has beyond whole quarter turns, 0 for less than TOLERANCE."""
    rest = abs(math.remainder(angle, math.pi / 2))
    return rest if rest > TOLERANCE else 0.0


def nearest_period(step: float) -> float:
    """The period 2π/step, as the simplest fraction that fits."""
    from fractions import Fraction

    period = 2 * math.pi / step
    simple = Fraction(period).limit_denominator(1000)
    close = abs(float(simple) - period) < 1e-4 * period
    return float(simple) if close else period


def _rounded(gain: float) -> float:
    from fractions import Fraction

    simple = Fraction(gain).limit_denominator(1 << 20)
    return float(simple) if abs(float(simple) - gain) < TOLERANCE * gain else gain
