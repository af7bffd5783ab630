"""Which edges go and which come: against stable sorting, dense oracles, plain twins and exact distributions."""

import math
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as some
from scipy.stats import chisquare
from sparsetrain_kernels import launch
from sparsetrain_kernels.row_shares import row_shares
from structures import LAYOUTS, Structure, laid_out, structures
from torch import Tensor

from sparsetrain import Topology, patterns
from sparsetrain.ops import edge_choice, largest_products, smallest_scores
from sparsetrain.ops.edge_choice import largest_of_columns, largest_of_rows, largest_vacant, random_vacant, smallest

quick = settings(deadline=None, max_examples=60)
seeds = some.integers(0, 2**32 - 1)
dtypes = some.sampled_from([torch.float32, torch.float64])


@pytest.fixture(params=["kernels", "torch"], scope="module")
def form(request: pytest.FixtureRequest) -> Iterator[None]:
    """Both forms, the kernels in many tasks and on both threads however small the work."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "PARALLEL_WORK", 1)
        patch.setattr(import_module("sparsetrain_kernels.smallest"), "FEWEST", 8)
        if request.param == "torch":
            for module in (edge_choice, smallest_scores, largest_products):
                patch.setattr(module, "COMPILES", False)
        yield


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For many small calls: waking another thread takes longer than they do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


both_forms = pytest.mark.usefixtures("form")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def topology(s: Structure) -> Topology:
    return Topology(s.crow, s.col, (s.rows, s.columns))


def some_kept(t: Topology, seed: int, share: float = 0.7) -> Tensor:
    return torch.rand(t.nnz, generator=seeded(seed)) < share


def free_positions(t: Topology, kept: Tensor) -> Tensor:
    """Row-major numbers of all positions that are not among the kept edges."""
    free = torch.ones(t.shape, dtype=torch.bool)
    free[t.row.long()[kept], t.col.long()[kept]] = False
    return free.flatten().nonzero().flatten()


def numbered(edges: tuple[Tensor, Tensor], t: Topology) -> Tensor:
    rows, cols = edges
    assert rows.dtype == cols.dtype == torch.int64
    assert bool(((cols >= 0) & (cols < t.shape[1])).all())
    return rows * t.shape[1] + cols


# ---- the smallest ------------------------------------------------------------------------------------------------------


def first_by_sorting(scores: Tensor, count: int) -> Tensor:
    chosen = torch.zeros(scores.numel(), dtype=torch.bool)
    chosen[scores.argsort(stable=True)[:count]] = True
    return chosen


numbers = some.one_of(
    some.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, 2.0**-149, -(2.0**-149), 2.0**127, -(2.0**127)]),
    some.floats(allow_nan=False, width=32),
)


@both_forms
@quick
@given(some.lists(numbers, max_size=60), some.integers(0, 60), dtypes)
@example([0.0, -0.0, 0.0, -0.0], 2, torch.float32)
@example([math.inf, -math.inf, math.inf], 2, torch.float64)
def test_smallest_is_a_stable_sort(numbers: list[float], count: int, dtype: torch.dtype) -> None:
    scores = torch.tensor(numbers, dtype=dtype)
    count = min(count, scores.numel())
    assert torch.equal(smallest(scores, count), first_by_sorting(scores, count))


@both_forms
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_smallest_of_many_with_many_ties_on_any_threads(dtype: torch.dtype) -> None:
    scores = (torch.randn(100_000, generator=seeded(0)) * 50).round().to(dtype)
    threads = torch.get_num_threads()
    try:
        for count in (1, 30_000, 99_999):
            for number in (1, 2):
                torch.set_num_threads(number)
                assert torch.equal(smallest(scores, count), first_by_sorting(scores, count))
    finally:
        torch.set_num_threads(threads)


@both_forms
def test_smallest_of_a_view_that_requires_a_gradient() -> None:
    scores = torch.tensor([[3.0, 0.0], [1.0, 0.0], [2.0, 0.0]], requires_grad=True)[:, 0]
    assert smallest(scores, 2).tolist() == [False, True, True]


@both_forms
@pytest.mark.parametrize("count", [-1, 4])
def test_smallest_refuses_more_than_there_are(count: int) -> None:
    with pytest.raises(ValueError, match=f"expected a count from 0 to 3, the number of scores, got {count}"):
        smallest(torch.ones(3), count)


# ---- the largest of each row -----------------------------------------------------------------------------------------


@given(s=structures(), count=some.integers(0, 3), seed=seeds, dtype=dtypes)
@quick
def test_the_largest_of_each_row_are_those_of_a_stable_sort(
    s: Structure, count: int, seed: int, dtype: torch.dtype
) -> None:
    t = topology(s)
    scores = torch.randint(-2, 3, (t.nnz,), generator=seeded(seed)).to(dtype)  # many of them equal
    scores[scores == 2] = torch.inf
    expected = torch.zeros(t.nnz, dtype=torch.bool)
    for i in range(s.rows):
        start, end = int(t.crow[i]), int(t.crow[i + 1])
        expected[start + scores[start:end].argsort(descending=True, stable=True)[:count]] = True
    assert torch.equal(largest_of_rows(t, scores, count), expected)
    back = t.transpose()
    perm = back.transposed.perm.long()
    of_back = torch.empty_like(scores)
    of_back[perm] = scores
    assert torch.equal(largest_of_columns(back, of_back, count)[perm], expected)


# ---- at random ---------------------------------------------------------------------------------------------------------


@both_forms
@quick
@given(structures(), seeds, some.floats(0, 1))
def test_random_positions_are_vacant_distinct_and_in_order(s: Structure, seed: int, share: float) -> None:
    t = topology(s)
    kept = some_kept(t, seed)
    free = free_positions(t, kept)
    count = round(share * free.numel())
    number = numbered(random_vacant(t, kept, count, seeded(seed)), t)
    assert number.numel() == count
    assert bool((number.diff() > 0).all())
    assert bool(torch.isin(number, free).all())


@both_forms
@pytest.mark.usefixtures("one_thread")
def test_every_choice_of_positions_is_equally_likely() -> None:
    t = Topology.from_mask([[1, 0, 1], [0, 1, 1]])
    kept, source = torch.tensor([True, False, False, True]), seeded(0)
    for count in (1, 2, 3):  # three of four are drawn by the one left out
        found = Counter(tuple(numbered(random_vacant(t, kept, count, source), t).tolist()) for _ in range(400))
        assert set(found) == set(combinations(free_positions(t, kept).tolist(), count))
        assert chisquare(list(found.values())).pvalue > 0.001


@both_forms
def test_the_same_generator_gives_the_same_positions_on_any_threads() -> None:
    t = patterns.uniform((600, 700), 0.3, seeded(1))
    kept, threads = some_kept(t, 2), torch.get_num_threads()
    assert row_shares(t.crow.numpy()).size > 3
    try:
        found = []
        for number in (1, 2):
            torch.set_num_threads(number)
            found.append(numbered(random_vacant(t, kept, 50_000, seeded(3)), t))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found)
    assert bool(torch.isin(found[0], free_positions(t, kept)).all())
    assert not torch.equal(found[0], numbered(random_vacant(t, kept, 50_000, seeded(4)), t))


def test_without_a_generator_it_is_torchs_own() -> None:
    t = patterns.uniform((100, 100), 0.1)
    kept, found = some_kept(t, 0), []
    for _ in range(2):
        torch.manual_seed(5)
        found.append(numbered(random_vacant(t, kept, 100, None), t))
    assert torch.equal(*found)


@both_forms
@pytest.mark.parametrize("shape", [(600_000, 600_000), (2, 2**62 - 1)])
def test_vast_matrices(shape: tuple[int, int]) -> None:
    t = Topology.from_coo([0, shape[0] - 1], [0, shape[1] - 1], shape=shape)
    rows, cols = random_vacant(t, torch.tensor([True, True]), 1000, seeded(0))
    assert rows.numel() == 1000
    assert bool(((rows.diff() > 0) | ((rows.diff() == 0) & (cols.diff() > 0))).all())
    for index, size in ((rows, shape[0]), (cols, shape[1])):
        assert 0 <= index.min() <= index.max() < size
        assert abs(index.double().mean() / (size - 1) - 0.5) < 0.08  # 5 standard deviations of the coarser one


@both_forms
@pytest.mark.parametrize("choose", ["random", "largest"])
def test_more_than_the_vacant_positions_are_refused(choose: str) -> None:
    t, kept = Topology.from_mask([[1, 0, 1], [0, 1, 1]]), torch.tensor([True, True, False, True])
    pairs = [(torch.ones(2, 1), torch.ones(3, 1))]
    for count in (-1, 4):
        with pytest.raises(ValueError, match=rf"_vacant: expected a count from 0 to 3, .* not kept, got {count}"):
            random_vacant(t, kept, count, None) if choose == "random" else largest_vacant(t, kept, pairs, count)


@pytest.mark.parametrize("kept", [torch.ones(3, dtype=torch.bool), torch.ones(4), torch.ones(2, 2, dtype=torch.bool)])
def test_kept_that_does_not_fit_is_refused(kept: Tensor) -> None:
    t = Topology.from_mask([[1, 0, 1], [0, 1, 1]])
    for choose in (lambda: random_vacant(t, kept, 1, None), lambda: largest_vacant(t, kept, [], 1)):
        with pytest.raises(ValueError, match=r"_vacant: expected kept as booleans of shape \(4,\) on cpu"):
            choose()


def test_positions_that_int64_does_not_number_are_refused() -> None:
    t = Topology._trusted(torch.zeros(1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), (2**32, 2**31))
    with pytest.raises(ValueError, match=r"expected a matrix of fewer than 2\*\*63 positions"):
        random_vacant(t, torch.zeros(0, dtype=torch.bool), 1, None)


# ---- by a product ------------------------------------------------------------------------------------------------------


def of_whole_product(t: Topology, kept: Tensor, pairs: list[tuple[Tensor, Tensor]], count: int) -> Tensor:
    whole = sum((a.double() @ b.double().t() for a, b in pairs), torch.zeros(t.shape, dtype=torch.float64))
    free = free_positions(t, kept)
    order = whole.abs().flatten()[free].argsort(descending=True, stable=True)
    return free[order[:count]].sort().values


def whole_numbers(seed: int, rows: int, columns: int, dtype: torch.dtype, layout: str) -> Tensor:
    """Small integers, so that products are exact and many are equal."""
    drawn = np.random.default_rng(seed).integers(-2, 3, (rows, columns)).astype(str(dtype).removeprefix("torch."))
    return torch.from_numpy(laid_out(drawn, layout))


@both_forms
@settings(quick, max_examples=100)
@given(structures(most=20), seeds, some.lists(some.integers(0, 5), min_size=1, max_size=3), some.floats(0, 1), dtypes,
       some.sampled_from([1, 45, 2**20]), some.sampled_from([0, 5, 2**16]), some.sampled_from(LAYOUTS))  # fmt: skip
def test_largest_products_are_those_of_the_whole(
    s: Structure, seed: int, batches: list[int], share: float, dtype: torch.dtype, block: int, spare: int, layout: str
) -> None:
    t = topology(s)
    kept = some_kept(t, seed)
    count = round(share * free_positions(t, kept).numel())
    pairs = [
        (
            whole_numbers(seed + k, s.rows, batch, dtype, layout),
            whole_numbers(seed + 9 - k, s.columns, batch, dtype, layout),
        )
        for k, batch in enumerate(batches)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(largest_products, "BLOCK", block)
        patch.setattr(largest_products, "SPARE", spare)
        number = numbered(largest_vacant(t, kept, pairs, count), t)
    assert number.tolist() == of_whole_product(t, kept, pairs, count).tolist()


@both_forms
def test_largest_products_of_any_numbers() -> None:
    t = patterns.uniform((300, 400), 0.2, seeded(0))
    kept = some_kept(t, 0)
    a, b = torch.randn(300, 16, generator=seeded(1)).double(), torch.randn(400, 16, generator=seeded(2)).double()
    for count in (1, 1_000, 90_000):
        number = numbered(largest_vacant(t, kept, [(a, b), (a[:, :3], -2 * b[:, :3])], count), t)
        expected = of_whole_product(t, kept, [(a, b), (a[:, :3], -2 * b[:, :3])], count)
        assert torch.equal(number, expected)


@both_forms
@pytest.mark.parametrize(("kept_share", "times"), [(0.0, 1), (1.0, 2)])
def test_a_sample_that_deceives_costs_time_alone(
    kept_share: float, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All large products are at kept edges, which the sample does not know."""
    t = patterns.banded((40, 40), 9)
    kept = some_kept(t, 0, kept_share)
    a, b = torch.randn(40, 40, generator=seeded(1)).double(), torch.eye(40, dtype=torch.float64)
    a[t.row.long(), t.col.long()] *= 1000
    tried, above = [], largest_products._above

    def noted(limit: float, *others: Any) -> Tensor:
        tried.append(limit)
        return above(limit, *others)

    monkeypatch.setattr(largest_products, "BLOCK", 200)
    monkeypatch.setattr(largest_products, "_above", noted)
    number = numbered(largest_vacant(t, kept, [(a, b)], 100), t)
    assert torch.equal(number, of_whole_product(t, kept, [(a, b)], 100))
    assert len(tried) == times
    assert tried[0] > 0


@both_forms
def test_halves_are_summed_in_float32() -> None:
    t = Topology.from_mask([[0, 0]])
    a, b = torch.tensor([[1.0, 2.0**-11]]), torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    rows, cols = largest_vacant(t, torch.zeros(0, dtype=torch.bool), [(a.bfloat16(), b.bfloat16())], 1)
    assert (rows.item(), cols.item()) == (0, 1)
    with torch.autocast("cpu"):
        rows, cols = largest_vacant(t, torch.zeros(0, dtype=torch.bool), [(a, b)], 1)
    assert (rows.item(), cols.item()) == (0, 1)


@both_forms
def test_infinite_products_are_the_largest_and_those_that_are_no_numbers_are_not_chosen() -> None:
    t, kept = Topology.from_mask([[1, 0, 0]]), torch.tensor([False])
    a, b = torch.ones(1, 1), torch.tensor([[1.0], [math.nan], [-math.inf]])
    assert largest_vacant(t, kept, [(a, b)], 1)[1].tolist() == [2]
    assert largest_vacant(t, kept, [(a, b)], 2)[1].tolist() == [0, 2]
    with pytest.raises(ValueError, match="expected 3 products that are numbers, the others are NaN"):
        largest_vacant(t, kept, [(a, b)], 3)


@pytest.mark.parametrize(("a", "b"), [((3, 4), (2, 4)), ((2, 4), (3, 5)), ((2,), (3,))])
def test_pairs_that_do_not_fit_are_refused(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    t, kept = Topology.from_mask([[1, 0, 1], [0, 1, 1]]), torch.ones(4, dtype=torch.bool)
    fits = torch.ones(2, 1), torch.ones(3, 1)
    with pytest.raises(ValueError, match=r"expected a \(2, batch\) and b \(3, batch\), pair 1 has shapes"):
        largest_vacant(t, kept, [fits, (torch.ones(a), torch.ones(b))], 1)
    with pytest.raises(ValueError, match="expected at least one pair"):
        largest_vacant(t, kept, [], 1)


@both_forms
def test_operands_stay_as_they_are() -> None:
    t, kept = Topology.from_mask([[1, 0], [0, 1]]), torch.tensor([True, False])
    a, b = torch.randn(2, 1, requires_grad=True), torch.randn(2, 1, requires_grad=True)
    before = a.detach().clone(), b.detach().clone(), kept.clone()
    rows, _ = largest_vacant(t, kept, [(a, b)], 2)
    assert not rows.requires_grad
    for now, then in zip((a.detach(), b.detach(), kept), before, strict=True):
        assert torch.equal(now, then)
