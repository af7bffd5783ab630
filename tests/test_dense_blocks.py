"""Rows of W as a dense block, and a dense block at the stored positions: the kernels beside their plain twins."""

from typing import Any

import numpy as np
import pytest
import sparsetrain_kernels as kernels
from hypothesis import given, settings
from hypothesis import strategies as st
from sparsetrain_kernels import reference
from structures import Structure, structure_of, structures

some = settings(max_examples=60, deadline=None)
dtypes = st.sampled_from([np.float32, np.float64])
seeds = st.integers(0, 2**32 - 1)


def numbers(seed: int, *shape: int, dtype: Any) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def check(s: Structure, dtype: Any, first: int, last: int, seed: int, threads: int = 2) -> None:
    bits = kernels.bitmap(s.crow, s.col, s.columns)
    np.testing.assert_array_equal(bits, reference.bitmap(s.crow, s.col, s.columns))
    values = numbers(seed, s.col.size, dtype=dtype)
    block, twin = (np.full((last - first, s.columns), np.nan, dtype) for _ in range(2))
    kernels.expand(s.crow, s.col, values, bits, first, last, block, threads)
    reference.expand(s.crow, s.col, values, bits, first, last, twin)
    np.testing.assert_array_equal(block, twin)
    dense = numbers(seed + 1, last - first, s.columns, dtype=dtype)
    grad, of_twin = (np.full(s.col.size, np.nan, dtype) for _ in range(2))
    kernels.gather(s.crow, s.col, bits, first, last, dense, grad, threads)
    reference.gather(s.crow, s.col, bits, first, last, dense, of_twin)
    np.testing.assert_array_equal(grad, of_twin)  # NaN at the edges of other rows: nothing is written there


@some
@given(structures(), dtypes, st.data(), seeds)
def test_some_rows(s: Structure, dtype: Any, data: st.DataObject, seed: int) -> None:
    first = data.draw(st.integers(0, s.rows))
    check(s, dtype, first, data.draw(st.integers(first, s.rows)), seed)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("columns", [1, 7, 16, 64, 65, 127, 160])
def test_rows_of_each_length_and_density(columns: int, dtype: Any) -> None:
    rng = np.random.default_rng(columns)
    density = np.linspace(0, 1, 30)[:, None]  # from rows without edges to rows that are full
    s = structure_of(rng.random((30, columns)) < density)
    for first, last in ((0, 30), (3, 17), (29, 30), (30, 30)):
        check(s, dtype, first, last, columns)


@pytest.mark.parametrize("threads", [1, 2])
def test_blocks_that_are_shared_among_threads(threads: int) -> None:
    s = structure_of(np.random.default_rng(0).random((600, 1500)) < 0.6)
    check(s, np.float32, 0, 600, 1, threads)


def test_numbers_that_are_not_finite_are_copied() -> None:
    s = structure_of(np.ones((2, 40), bool))
    values = np.full(80, np.inf, np.float32)
    values[::3] = np.nan
    block = np.empty((2, 40), np.float32)
    kernels.expand(s.crow, s.col, values, kernels.bitmap(s.crow, s.col, 40), 0, 2, block)
    np.testing.assert_array_equal(block.reshape(-1), values)


def test_int64_indices() -> None:
    s = structure_of(np.random.default_rng(0).random((20, 70)) < 0.5)
    check(s._replace(crow=s.crow.astype(np.int64), col=s.col.astype(np.int64)), np.float32, 0, 20, 0)
