"""Ranges and curvature bounds of the elementary functions against fine grids, and the
installed kernels against the units in the last place that a portable proof assumes."""

import numpy as np
import pytest
import torch
from flint import arb, ctx

from adderc.prove.functions import EVERY, FUNCTIONS
from adderc.prove.lines import line

ROOTS = ("rsqrt", "sqrt", "reciprocal")
KERNELS = {"exp": torch.exp, "sin": torch.sin, "cos": torch.cos, "rsqrt": torch.rsqrt,
           "tanh": torch.tanh, "sigmoid": torch.sigmoid, "silu": torch.nn.functional.silu,
           "erf": torch.erf, "gelu": torch.nn.functional.gelu}
EXACT = {"exp": arb.exp, "sin": arb.sin, "cos": arb.cos, "rsqrt": arb.rsqrt, "tanh": arb.tanh,
         "sigmoid": lambda x: 1 / (1 + (-x).exp()), "silu": lambda x: x / (1 + (-x).exp()),
         "erf": arb.erf, "gelu": lambda x: x / 2 * (-x / arb(2).sqrt()).erfc()}


def intervals(name, rng, count=60):
    centre = rng.uniform(-12, 12, count)
    half = rng.choice([1e-3, 0.1, 1.0, 4.0], count)
    lo, hi = centre - half, centre + half
    return (np.abs(lo) + 0.01, np.abs(lo) + 0.01 + 2 * half) if name == "rsqrt" else (lo, hi)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_ranges_hold_every_value_and_curvature_every_second_difference(name):
    function, rng = FUNCTIONS[name], np.random.default_rng(0)
    lo, hi = intervals(name, rng)
    low, high = function.enclose(lo, hi)
    grid = lo + (hi - lo) * np.linspace(0, 1, 201)[:, None]
    values = function.value(grid)
    assert (values >= low).all()
    assert (values <= high).all()
    assert (values.min(0) - low <= 0.05 * (high - low) + 1e-9).all()
    slopes = function.slope(grid)
    bends = np.abs(np.diff(slopes, axis=0)) / ((hi - lo) / 200)
    assert (bends <= function.curvature(lo, hi) * (1 + 1e-6) + 1e-9).all()
    steps = np.diff(values, axis=0) / ((hi - lo) / 200)
    middle = function.slope((grid[1:] + grid[:-1]) / 2)
    assert np.allclose(steps, middle, atol=2e-2 * np.abs(middle).max() + 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_installed_kernels_keep_to_the_assumed_error(name, dtype):
    function, rng = FUNCTIONS[name], np.random.default_rng(1)
    ctx.prec = 160
    points = np.concatenate([rng.uniform(-20, 20, 300), rng.normal(size=200) * 1e-3,
                             rng.uniform(-60, 60, 100)])
    x = torch.tensor(np.abs(points) + 1e-6 if name == "rsqrt" else points, dtype=dtype)
    for size in (1, 7, len(x)):
        got = KERNELS[name](x[:size].clone())
        info = torch.finfo(dtype)
        for argument, value in zip(x[:size].tolist(), got.tolist(), strict=True):
            exact = EXACT[name](arb(argument))
            scale = abs(argument) if function.of_input else float(exact.abs_upper())
            error = float((arb(value) - exact).abs_upper())
            assert error <= function.ulps * info.eps * scale + info.tiny, argument


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_powers_of_a_constant_keep_to_that_of_exp(dtype):
    ctx.prec = 160
    x = torch.tensor(np.random.default_rng(3).uniform(-4, 4, 400), dtype=dtype)
    info, ulps = torch.finfo(dtype), FUNCTIONS["exp"].ulps
    for base in (0.25, 3.0, 10_000.0):
        assert torch.pow(base, torch.zeros(9, dtype=dtype)).eq(1).all()
        for argument, value in zip(x.tolist(), torch.pow(base, x).tolist(), strict=True):
            exact = arb(base) ** arb(argument)
            error = float((arb(value) - exact).abs_upper())
            assert error <= ulps * info.eps * float(exact.abs_upper()), (base, argument)


@pytest.mark.parametrize("name", EVERY)
def test_functions_lie_near_their_lines_and_nearer_than_to_tangents(name):
    function, rng = EVERY[name], np.random.default_rng(2)
    lo, hi = intervals("rsqrt" if name in ROOTS else name, rng)
    slope, base, rest = line(function, lo, hi)
    grid = lo + (hi - lo) * np.linspace(0, 1, 401)[:, None]
    off = np.abs(function.value(grid) - slope * grid - base)
    assert (off <= rest).all()
    assert (off.max(0) >= 0.5 * rest - 1e-9).mean() > 0.5  # it is not wide either
    half = (hi - lo) / 2
    tangent = function.curvature(lo, hi) * half * half / 2
    least, most = function.enclose(lo, hi)
    assert (rest <= np.minimum(tangent, (most - least) / 2) * (1 + 1e-6) + 1e-9).all()


def test_a_range_is_within_what_the_function_can_be():
    """exp over [-9, 9]: no line is near, and its range is that of the function."""
    slope, base, rest = line(EVERY["exp"], np.array([-9.0]), np.array([9.0]))
    assert slope == 0
    assert base + rest >= np.exp(9.0)
    assert base - rest <= np.exp(-9.0)
