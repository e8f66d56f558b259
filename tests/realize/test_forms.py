"""Matrix forms: each reproduces the wanted matrix from its leaves, or says why it cannot."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from adderc.realize.forms import FORMS, FormFault, Realized, factor, realize_matrix
from adderc.weights.expr import leaves_of
from adderc.weights.numeric import evaluate_numpy

entries = st.one_of(st.just(0.0), st.integers(-9, 9).map(float),
                    st.floats(-1e4, 1e4, allow_subnormal=False).filter(lambda v: abs(v) > 1e-3))
shapes = st.tuples(st.integers(1, 6), st.integers(1, 6))
matrices = shapes.flatmap(lambda shape: arrays(np.float64, shape, elements=entries))


def stored(realized: Realized) -> int:
    return sum(value.size for value in realized.values.values())


def assert_reproduces(realized: Realized, wanted: np.ndarray, close: float = 0.0) -> None:
    found = evaluate_numpy(realized.expr, realized.values)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=close, atol=close * (1 + np.abs(wanted).max()))
    shapes = {leaf.name: leaf.shape for leaf in leaves_of(realized.expr)}
    assert shapes == {name: value.shape for name, value in realized.values.items()}
    assert set(realized.meanings) == set(realized.values)


@settings(max_examples=60, deadline=None)
@given(matrices)
def test_dense_slim_and_sparse(wanted: np.ndarray) -> None:
    assert_reproduces(realize_matrix("dense", None, "m", wanted, ""), wanted)
    slim = realize_matrix("slim", None, "m", wanted, "")
    assert_reproduces(slim, wanted)
    assert stored(slim) == len(wanted) * np.count_nonzero(np.any(wanted != 0, axis=0))
    if wanted.any():
        sparse = realize_matrix("sparse", None, "m", wanted, "")
        assert_reproduces(sparse, wanted)
        assert stored(sparse) == np.count_nonzero(wanted)
    else:
        with pytest.raises(FormFault, match="zero"):
            realize_matrix("sparse", None, "m", wanted, "")


@settings(max_examples=60, deadline=None)
@given(shapes, st.integers(1, 3), st.integers(1, 4), st.data())
def test_rank(shape: tuple[int, int], rank: int, allowed: int, data: st.DataObject) -> None:
    small = st.integers(-5, 5).map(float)
    left = data.draw(arrays(np.float64, (shape[0], rank), elements=small))
    right = data.draw(arrays(np.float64, (rank, shape[1]), elements=small))
    wanted = left @ right
    real = int(np.linalg.matrix_rank(wanted))
    if real > allowed:
        with pytest.raises(FormFault, match=f"has rank {real}, the form allows {allowed}"):
            realize_matrix("rank", allowed, "m", wanted, "")
        return
    realized = realize_matrix("rank", allowed, "m", wanted, "")
    assert stored(realized) == allowed * sum(shape)
    assert_reproduces(realized, wanted, 1e-9)


@settings(max_examples=40, deadline=None)
@given(matrices)
def test_rank_one_of_an_outer_product_is_exact(wanted: np.ndarray) -> None:
    outer = np.outer(np.rint(wanted[:, 0]), np.sign(wanted[0]))
    assert_reproduces(realize_matrix("rank", 1, "m", outer, ""), outer)
    assert len(factor(outer)[1]) == np.linalg.matrix_rank(outer)


@settings(max_examples=40, deadline=None)
@given(matrices)
def test_shared_and_fixed(wanted: np.ndarray) -> None:
    doubled = np.repeat(wanted, 2, axis=0)
    shared = realize_matrix("shared", None, "m", doubled, "")
    assert_reproduces(shared, doubled)
    assert stored(shared) == wanted.size
    doubled[0, 0] += 1
    with pytest.raises(FormFault, match="not equal in pairs"):
        realize_matrix("shared", None, "m", doubled, "")
    fixed = realize_matrix("fixed", None, "m", np.sign(wanted), "")
    assert_reproduces(fixed, np.sign(wanted))
    assert stored(fixed) == 0
    with pytest.raises(FormFault, match="0, 1 and -1 only"):
        realize_matrix("fixed", None, "m", np.sign(wanted) * 2 + 5, "")


def test_tied_rows_repeat_in_blocks() -> None:
    block = np.array([[1.0, 2.0], [0.0, -3.0]])
    realized = realize_matrix("tied", None, "m", np.vstack([block] * 3), "")
    assert_reproduces(realized, np.vstack([block] * 3))
    assert stored(realized) == block.size
    with pytest.raises(FormFault, match="no block of rows repeats"):
        realize_matrix("tied", None, "m", block, "")


def test_an_odd_number_of_rows_is_not_shared() -> None:
    with pytest.raises(FormFault):
        realize_matrix("shared", None, "m", np.ones((3, 2)), "")


def test_every_form_is_tried_above() -> None:
    assert {"dense", "table", "rank", "slim", "sparse", "shared", "tied", "fixed"} <= set(FORMS)
    with pytest.raises(KeyError):
        realize_matrix("triangular", None, "m", np.ones((2, 2)), "")
