"""Patterns: exact amounts, exact rules, and frequencies against the exact distributions, all with fixed seeds."""

import itertools
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as some

from sparsetrain import Topology, patterns

quick = settings(deadline=None, max_examples=60)
shapes = some.tuples(some.integers(0, 12), some.integers(0, 12))
fractions = some.sampled_from([0.0, 1.0]) | some.floats(0, 1)
shapes_and_fan_ins = shapes.flatmap(lambda shape: some.tuples(some.just(shape), some.integers(0, shape[1])))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def edges_of(t):
    """The set of edges, having proven that the arrays are canonical."""
    assert Topology(t.crow, t.col, t.shape).digest == t.digest
    return frozenset(zip(t.row.tolist(), t.col.tolist(), strict=True))


def assert_distributed(draws, probability):
    """Pearson's chi-square: with k outcomes it is about k - 1, and hardly ever 8 standard deviations above."""
    counts = Counter(draws)
    assert set(counts) <= {outcome for outcome, p in probability.items() if p}
    total = sum(counts.values())
    assert sum(probability.values()) == pytest.approx(1)
    chi_square = sum((counts[o] - total * p) ** 2 / (total * p) for o, p in probability.items() if p)
    freedom = len(probability) - 1
    assert chi_square < freedom + 8 * math.sqrt(2 * freedom)


def all_sets(shape, edges):
    positions = list(itertools.product(range(shape[0]), range(shape[1])))
    sets = [frozenset(chosen) for chosen in itertools.combinations(positions, edges)]
    return {chosen: 1 / len(sets) for chosen in sets}


# ---- uniform -----------------------------------------------------------------------------------------------------


@quick
@given(shapes, fractions)
def test_uniform_has_exactly_the_rounded_number_of_edges(shape, density):
    t = patterns.uniform(shape, density)
    assert t.shape == shape
    assert len(edges_of(t)) == t.nnz == round(density * shape[0] * shape[1])


@pytest.mark.parametrize("edges", [1, 2, 4, 5])  # 4 and 5 of 6 are drawn as those left out
def test_uniform_draws_every_set_equally_often(edges):
    source = generator()
    draws = [edges_of(patterns.uniform((2, 3), edges / 6, source)) for _ in range(1500)]
    assert_distributed(draws, all_sets((2, 3), edges))


@pytest.mark.parametrize("density", [0.1, 0.5, 0.8])
def test_uniform_fills_rows_and_columns_evenly(density):
    t = patterns.uniform((1000, 800), density, generator())
    assert t.nnz == density * 800_000
    for fan, size in ((t.fan_in, 800), (t.fan_out, 1000)):
        spread = math.sqrt(size * density * (1 - density))
        assert abs((fan - size * density).abs().max()) < 6 * spread
        assert 0.85 < fan.double().std() / spread < 1.15


def test_uniform_among_more_positions_than_a_float_can_number():
    t = patterns.uniform((3, 2**60), 30_000 / (3 * 2**60), generator())
    assert t.nnz == 30_000
    assert t.col.dtype == torch.int64
    assert bool(((t.fan_in - 10_000).abs() < 500).all())  # 6 standard deviations
    for bit in range(60):
        assert abs(((t.col >> bit) & 1).double().mean() - 0.5) < 0.018


def test_uniform_where_nothing_of_rows_times_columns_fits():
    t = patterns.uniform((10**6, 10**9), 1e-10)
    assert t.nnz == 100_000
    assert t.crow.dtype == torch.int32


# ---- erdos_renyi -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.3, 0.6])
def test_erdos_renyi_edges_are_independent(p):
    source = generator()
    draws = [edges_of(patterns.erdos_renyi((2, 2), p, generator=source)) for _ in range(2000)]
    probability = {}
    for edges in range(5):
        for chosen in all_sets((2, 2), edges):
            probability[chosen] = p**edges * (1 - p) ** (4 - edges)
    assert_distributed(draws, probability)


def test_erdos_renyi_number_of_edges_is_binomial():
    source = generator()
    nnz = torch.tensor([patterns.erdos_renyi((50, 40), 0.1, generator=source).nnz for _ in range(400)]).double()
    spread = math.sqrt(2000 * 0.1 * 0.9)
    assert abs(nnz.mean() - 200) < 5 * spread / 20
    assert 0.8 < nnz.std() / spread < 1.2


def test_epsilon_as_in_set():
    # p = 20 (300 + 200) / (300 * 200) = 1/6: 10000 edges, with a standard deviation of 91
    assert abs(patterns.erdos_renyi((300, 200), epsilon=20, generator=generator()).nnz - 10_000) < 5 * 91
    assert patterns.erdos_renyi((30, 20), epsilon=12, generator=generator()).nnz == 600  # 12 * 50 / 600 = 1
    assert patterns.erdos_renyi((30, 20), epsilon=1e9, generator=generator()).nnz == 600  # p is at most 1
    assert patterns.erdos_renyi((30, 20), epsilon=0).nnz == 0
    twins = [
        patterns.erdos_renyi((40, 10), **how, generator=generator()) for how in ({"epsilon": 2}, {"density": 0.25})
    ]
    assert twins[0].digest == twins[1].digest


@quick
@given(shapes, fractions)
def test_erdos_renyi_of_every_shape(shape, density):
    t = patterns.erdos_renyi(shape, density)
    assert t.shape == shape
    assert len(edges_of(t)) == t.nnz
    if density in (0.0, 1.0):
        assert t.nnz == density * t.numel


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0)])
def test_epsilon_of_empty_shapes(shape):
    assert patterns.erdos_renyi(shape, epsilon=20).shape == shape


# ---- fixed_fan_in ------------------------------------------------------------------------------------------------


@quick
@given(shapes_and_fan_ins)
def test_every_row_has_exactly_fan_in_edges(case):
    shape, fan_in = case
    t = patterns.fixed_fan_in(shape, fan_in)
    assert t.shape == shape
    assert len(edges_of(t)) == t.nnz
    assert t.fan_in.tolist() == [fan_in] * shape[0]


@pytest.mark.parametrize("fan_in", [1, 2, 3])
def test_rows_are_drawn_independently_and_every_set_of_columns_equally_often(fan_in):
    source = generator()
    draws = [tuple(patterns.fixed_fan_in((2, 4), fan_in, source).col.tolist()) for _ in range(2000)]
    rows = list(itertools.combinations(range(4), fan_in))
    assert_distributed(draws, {a + b: 1 / len(rows) ** 2 for a in rows for b in rows})


def test_fan_in_out_of_very_many_columns():
    t = patterns.fixed_fan_in((3, 2**60), 1000)
    assert t.fan_in.tolist() == [1000] * 3
    assert len(edges_of(t)) == 3000


# ---- banded ------------------------------------------------------------------------------------------------------


@quick
@given(shapes, some.integers(0, 15))
@example((1, 5), 0)
@example((5, 1), 0)
@example((3, 3), 10**30)
def test_banded_by_its_formula(shape, bandwidth):
    rows, columns = shape
    centre = [math.floor((i + Fraction(1, 2)) * columns / rows) for i in range(rows)]
    expected = {(i, j) for i in range(rows) for j in range(columns) if abs(j - centre[i]) <= bandwidth}
    t = patterns.banded(shape, bandwidth)
    assert t.shape == shape
    assert edges_of(t) == expected
    if columns:
        assert bool((t.fan_in >= 1).all())


@pytest.mark.parametrize("bandwidth", [0, 1, 2])
def test_a_square_band_is_that_of_numpy(bandwidth):
    ones = np.ones((5, 5))
    expected = np.triu(ones, -bandwidth) * np.tril(ones, bandwidth)
    assert np.array_equal(patterns.banded((5, 5), bandwidth).to_mask().numpy(), expected)


def test_a_band_across_very_many_columns():
    t = patterns.banded((3, 2**60), 1)
    centres = [(2 * i + 1) * 2**60 // 6 for i in range(3)]
    assert t.col.reshape(3, 3).tolist() == [[c - 1, c, c + 1] for c in centres]


# ---- small_world -------------------------------------------------------------------------------------------------


def ring(shape, fan_in):
    """The columns of each row before any is moved, by the docstring's formula."""
    rows, columns = shape
    starts = [
        math.floor((i + Fraction(1, 2)) * columns / rows - Fraction(fan_in - 1, 2))
        for i in range(rows if fan_in else 0)
    ]
    return {(i, (s + k) % columns) for i, s in enumerate(starts) for k in range(fan_in)}


@quick
@given(shapes_and_fan_ins)
def test_without_rewiring_it_is_the_ring(case):
    shape, fan_in = case
    assert edges_of(patterns.small_world(shape, fan_in, rewire=0)) == ring(shape, fan_in)


@quick
@given(some.integers(1, 12), some.integers(1, 6).map(lambda half: 2 * half - 1))
def test_the_ring_holds_the_nearest_columns(n, fan_in):
    t = patterns.small_world((n, n), min(fan_in, n), rewire=0)
    for i, j in edges_of(t):
        assert min((i - j) % n, (j - i) % n) <= min(fan_in, n) / 2


@quick
@given(shapes_and_fan_ins, fractions)
def test_rewiring_keeps_fan_in_and_makes_no_duplicates(case, rewire):
    shape, fan_in = case
    t = patterns.small_world(shape, fan_in, rewire)
    assert len(edges_of(t)) == t.nnz
    assert t.fan_in.tolist() == [fan_in] * shape[0]


@pytest.mark.parametrize(("columns", "fan_in"), [(3, 1), (4, 2), (4, 3)])
@pytest.mark.parametrize("rewire", [0.4, 1.0])
def test_rewired_edges_go_to_any_free_column_equally_often(columns, fan_in, rewire):
    source = generator()
    draws = [tuple(patterns.small_world((1, columns), fan_in, rewire, source).col.tolist()) for _ in range(2000)]
    start = sorted(j for _, j in ring((1, columns), fan_in))
    probability = Counter()
    for lifted in itertools.product([False, True], repeat=fan_in):
        kept = [j for j, is_lifted in zip(start, lifted, strict=True) if not is_lifted]
        free = [j for j in range(columns) if j not in kept]
        places = list(itertools.combinations(free, sum(lifted)))
        for moved in places:
            outcome = tuple(sorted([*kept, *moved]))
            probability[outcome] += rewire ** sum(lifted) * (1 - rewire) ** len(kept) / len(places)
    if rewire == 1.0:  # fixed_fan_in, as the docstring says
        assert dict(probability) == pytest.approx(
            {chosen: 1 / math.comb(columns, fan_in) for chosen in itertools.combinations(range(columns), fan_in)}
        )
    assert_distributed(draws, probability)


def test_the_share_of_edges_that_leave_the_ring():
    shape, fan_in = (2000, 1000), 10
    t = patterns.small_world(shape, fan_in, 0.25, generator())
    away = len(edges_of(t) - ring(shape, fan_in))
    # an edge leaves if it is lifted, and is not put down on one of its row's places on the ring (about 2.5 of 992.5)
    expected = 20_000 * 0.25 * (1 - 2.5 / 992.5)
    assert abs(away - expected) < 6 * math.sqrt(20_000 * 0.25 * 0.75)


def test_a_small_world_of_very_many_columns():
    t = patterns.small_world((3, 2**60), 100, 0.5)
    assert t.fan_in.tolist() == [100] * 3
    assert len(edges_of(t)) == 300


# ---- randomness --------------------------------------------------------------------------------------------------

RANDOM = [
    lambda **how: patterns.uniform((30, 40), 0.2, **how),
    lambda **how: patterns.uniform((30, 40), 0.7, **how),
    lambda **how: patterns.erdos_renyi((30, 40), 0.2, **how),
    lambda **how: patterns.erdos_renyi((30, 40), epsilon=3, **how),
    lambda **how: patterns.fixed_fan_in((30, 40), 5, **how),
    lambda **how: patterns.small_world((30, 40), 5, 0.3, **how),
]


@pytest.mark.parametrize("pattern", RANDOM)
def test_a_generator_decides_alone(pattern):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = pattern(generator=generator(7))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert pattern(generator=generator(7)).digest == first.digest
    assert pattern(generator=generator(8)).digest != first.digest
    source = generator(7)
    assert pattern(generator=source).digest == first.digest
    assert pattern(generator=source).digest != first.digest


@pytest.mark.parametrize("pattern", RANDOM)
def test_without_one_manual_seed_decides(pattern):
    digests = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        digests.append(pattern().digest)
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("pattern", RANDOM)
def test_threads_and_default_dtype_change_nothing(pattern):
    expected, threads = pattern(generator=generator()).digest, torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        torch.set_default_dtype(torch.float64)
        assert pattern(generator=generator()).digest == expected
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(torch.float32)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("pattern", RANDOM)
def test_a_cuda_generator_draws_there(pattern):
    t = pattern(generator=torch.Generator("cuda").manual_seed(0))
    assert t.device.type == "cuda"
    assert len(edges_of(t.to("cpu"))) == t.nnz
