"""Distinct random numbers: exact amounts, and frequencies against the exact distributions."""

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as some

from sparsetrain.patterns.sampling import below, binomial, distinct, vacant

quick = settings(deadline=None, max_examples=100)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_below_is_unbiased_where_63_bits_are_no_multiple_of_the_bound():
    # without rejection numbers below 2**61 would come up twice as often as the others: half of the time
    number = below(torch.full((100_000,), 3 * 2**61), generator())
    for third in range(3):
        share = (number // 2**61 == third).double().mean()
        assert abs(share - 1 / 3) < 0.01  # 6.7 standard deviations


def test_below_has_a_bound_for_each_number():
    bound = torch.arange(1, 6).repeat(20_000)
    number = below(bound, generator())
    assert bool((number >= 0).all())
    for n in range(1, 6):
        counts = number[bound == n].bincount(minlength=n)
        assert counts.numel() == n
        assert bool(((counts / 20_000 - 1 / n).abs() < 0.02).all())


def test_below_reaches_every_bit():
    number = below(torch.full((20_000,), 2**62), generator())
    for bit in range(62):
        assert abs(((number >> bit) & 1).double().mean() - 0.5) < 0.02


ranges = some.lists(some.integers(0, 30).flatmap(lambda n: some.tuples(some.just(n), some.integers(0, n))), max_size=8)


@quick
@given(ranges, some.integers(0, 2**31))
@example([(0, 0), (5, 5), (0, 0), (9, 1), (7, 0)], 0)
@example([], 0)
@example([(2**62, 40), (2**62 - 1, 40)], 0)
def test_each_range_gives_as_many_distinct_numbers_as_needed(cases, seed):
    size, need = torch.tensor(cases, dtype=torch.int64).reshape(-1, 2).T
    number = distinct(size, need, generator(seed)).tolist()
    assert number == sorted(set(number))
    start = 0
    for n, wanted in cases:
        assert sum(start <= k < start + n for k in number) == wanted
        start += n


def test_a_crowded_range_beside_a_vast_one():
    number = distinct(torch.tensor([3, 2**60, 3]), torch.tensor([3, 2, 2]), generator())
    assert number[:3].tolist() == [0, 1, 2]
    assert number.numel() == 7


def test_a_full_range_needs_no_luck():
    source = generator()
    before = source.get_state()
    assert distinct(torch.tensor([1000]), torch.tensor([1000]), source).tolist() == list(range(1000))
    assert torch.equal(source.get_state(), before)


@quick
@given(some.sets(some.integers(0, 40)))
def test_vacant_numbers_by_rank(taken):
    left = [k for k in range(60) if k not in taken]
    rank = torch.arange(len(left))
    assert vacant(torch.tensor(sorted(taken), dtype=torch.int64), rank).tolist() == left


def test_binomial_at_any_number_of_trials():
    source = generator()
    for trials, p in [(1000, 0.3), (1000, 0.9), (2**41 + 3, 2.0**-32), (2**50, 2.0**-41), (2**60, 2.0**-40)]:
        draws = torch.tensor([binomial(trials, p, source) for _ in range(100)], dtype=torch.float64)
        spread = (trials * p * (1 - p)) ** 0.5
        assert abs(draws.mean() - trials * p) < 5 * spread / 10
        assert 0.7 < draws.std() / spread < 1.3  # 4 standard deviations; in one part the last case is 1.6


def test_binomial_at_its_ends():
    assert binomial(0, 0.5) == 0
    assert binomial(10, 0.0) == 0
    assert binomial(10, 1.0) == 10
    assert binomial(2**53 + 1, 1.0) == 2**53 + 1
    assert binomial(2**62 + 1, 1e-300) == 0
