"""The kernels that choose edges, and the merge of what stays and what comes, against their plain twins."""

import math

import numpy as np
import pytest
import sparsetrain_kernels as kernels
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from sparsetrain_kernels import reference
from sparsetrain_kernels.distinct import block_shift
from sparsetrain_kernels.row_shares import kept_before, row_shares
from structures import Array, Structure, structures

from sparsetrain import patterns

quick = settings(deadline=None, max_examples=60)
seeds = some.integers(0, 2**32 - 1)


def test_positions_are_drawn_evenly_in_many_blocks() -> None:
    """Of each pair of neighbours both come as often as chance has it, and every position as often as all others."""
    size, need, draws = 1_000, 400, 4_000
    often, both = np.zeros(size), 0
    for seed in range(draws):
        number = kernels.distinct(size, need, seed)
        often[number] += 1
        both += int((np.diff(number) == 1).sum())
    share = need / size
    spread = (share * (1 - share) * draws) ** 0.5
    assert abs(((often - share * draws) / spread).std() - (size / (size - 1)) ** 0.5) < 0.12  # 5 standard deviations
    pairs = draws * (size - 1) * share * (need - 1) / (size - 1)
    assert abs(both - pairs) < 5 * (draws * size * share**2 * (1 - share) ** 2) ** 0.5
    assert size >> block_shift(size, need) > 10


@pytest.mark.parametrize(("size", "need"), [(1, 1), (50, 3), (200, 100), (3000, 999), (2**40, 700), (2**63 - 1, 90)])
def test_distinct_is_its_plain_twin(size: int, need: int) -> None:
    for seed in (0, 2**64 - 1):
        got = kernels.distinct(size, need, seed)
        if need <= size - need:
            np.testing.assert_array_equal(got, reference.distinct(size, need, seed, block_shift(size, need)))
        assert got.size == np.unique(got).size == need
        assert 0 <= got.min() <= got.max() < size


def test_distinct_does_not_depend_on_threads() -> None:
    np.testing.assert_array_equal(kernels.distinct(10**7, 100_000, 1, 1), kernels.distinct(10**7, 100_000, 1, 2))


def vacancies(s: Structure, kept: Array, seed: int) -> Array:
    free = s.rows * s.columns - int(kept.sum())
    return np.flatnonzero(np.random.default_rng(seed).random(free) < 0.4)


@quick
@given(structures(), seeds)
def test_vacant_is_its_plain_twin(s: Structure, seed: int) -> None:
    kept = np.random.default_rng(seed).random(s.col.size) < 0.6
    rank = vacancies(s, kept, seed)
    twins = reference.vacant(s.crow, s.col, kept, s.columns, rank)
    for got, twin in zip(kernels.vacant(s.crow, s.col, kept, s.columns, rank.copy()), twins, strict=True):
        np.testing.assert_array_equal(got, twin)


@quick
@given(structures(), seeds, some.booleans())
def test_merge_is_its_plain_twin(s: Structure, seed: int, overlap: bool) -> None:
    kept = np.random.default_rng(seed).random(s.col.size) < 0.6
    grown = (np.random.default_rng(seed + 1).random((s.rows, s.columns)) < 0.2).astype(bool)
    if not overlap:
        grown[s.row[kept], s.col[kept]] = False
    rows, cols = np.nonzero(grown)
    crow = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=s.rows))])
    edges = int(kept.sum()) + cols.size
    *got, row = kernels.merge(s.crow, s.col, kept, crow, cols, edges)
    *twins, expected = reference.merge(s.crow, s.col, kept, crow, cols, edges)
    assert row == expected
    if row < 0:
        for array, twin in zip(got, twins, strict=True):
            np.testing.assert_array_equal(array, twin)
            assert array.dtype == twin.dtype


@pytest.mark.parametrize("threads", [1, 2])
def test_merge_in_several_runs(threads: int) -> None:
    t = patterns.uniform((900, 500), 0.4, torch.Generator().manual_seed(0))
    crow, col, kept = t.crow.numpy(), t.col.numpy(), np.random.default_rng(1).random(t.nnz) < 0.7
    grown = ~t.to_mask().numpy() & (np.random.default_rng(2).random(t.shape) < 0.1)
    rows, cols = np.nonzero(grown)
    grown_crow = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=900))])
    edges = int(kept.sum()) + cols.size
    assert row_shares(crow).size > 3
    got, twins = (
        merge(crow, col, kept, grown_crow, cols, edges, threads) for merge in (kernels.merge, reference.merge)
    )
    for array, twin in zip(got, twins, strict=True):
        np.testing.assert_array_equal(array, twin)
    at = np.flatnonzero(kept)[[50_000, 110_000]]  # edges that are grown again: the first row is told
    twice = np.zeros(t.shape, bool)
    twice[t.row.numpy()[at], col[at]] = True
    again = np.concatenate([[0], np.cumsum(twice.sum(1))])
    assert kernels.merge(crow, col, kept, again, np.nonzero(twice)[1], edges, threads)[-1] == t.row[at[0]]


@quick
@given(structures(most=20), seeds, some.sampled_from([-math.inf, 0.0, 0.5, 2.0]))
def test_take_is_its_plain_twin(s: Structure, seed: int, limit: float) -> None:
    rng = np.random.default_rng(seed)
    kept, first = rng.random(s.col.size) < 0.6, int(rng.integers(0, s.rows + 1))
    block = rng.choice([0.0, -0.5, 0.5, 1.0, -3.0, np.nan], (s.rows - first, s.columns)).astype(np.float32)
    found = []
    for take in (kernels.take, reference.take):
        scores, positions = np.zeros(3 + block.size, np.float32), np.zeros(3 + block.size, np.int64)
        n = take(block.copy(), first, s.crow, s.col, kept, limit, scores, positions, 3)
        found.append((n, scores[:n].tolist(), positions[:n].tolist()))
    assert found[0] == found[1]


@quick
@given(structures(), seeds, some.integers(1, 50))
def test_row_shares_cover_all_rows_once(s: Structure, seed: int, share: int) -> None:
    bounds = row_shares(s.crow, share)
    assert bounds[0] == 0
    assert bounds[-1] == s.rows
    assert bool((np.diff(bounds) > 0).all()) or s.rows == 0
    work, heaviest = np.diff(s.crow[bounds] + bounds), np.diff(s.crow).max(initial=0) + 1
    assert bool((work <= 2 * share + heaviest).all())
    kept = np.random.default_rng(seed).random(s.col.size) < 0.6
    assert kept_before(s.crow, kept, bounds).tolist() == [int(kept[: s.crow[bound]].sum()) for bound in bounds]
