"""The solver and the searches of HessianFree, each alone."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import Tensor

from sparsetrain.optim.hessian_free.conjugate_gradients import minimize
from sparsetrain.optim.hessian_free.search import best_iterate, line_search

F64 = torch.float64


def system(n: int, seed: int, condition: float = 100.0) -> tuple[Tensor, Tensor]:
    """A positive definite matrix and a gradient."""
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=F64))
    A = q @ torch.diag(torch.logspace(0, math.log10(condition), n, dtype=F64)) @ q.t()
    return A, torch.randn(n, generator=generator, dtype=F64)


@settings(max_examples=40, deadline=None)
@given(n=some.integers(1, 12), seed=some.integers(0, 10_000), preconditioned=some.booleans(), started=some.booleans())
def test_it_solves_definite_systems(n: int, seed: int, preconditioned: bool, started: bool) -> None:
    A, g = system(n, seed)
    start = (
        torch.randn(n, generator=torch.Generator().manual_seed(seed + 1), dtype=F64) if started else torch.zeros_like(g)
    )
    M = A.diagonal().clone() if preconditioned else None
    solution = minimize(lambda v: A @ v, g, start, M, 3 * n + 5, 0.0)
    expected = torch.linalg.solve(A, -g)
    torch.testing.assert_close(solution.iterates[-1], expected, rtol=0, atol=1e-8)
    for x, q in zip(solution.iterates, solution.values, strict=True):
        assert q == pytest.approx(float(g @ x + 0.5 * x @ A @ x), rel=1e-9, abs=1e-10)
    assert not solution.negative


def martens(A: np.ndarray, g: np.ndarray, iterations: int, tolerance: float) -> tuple[int, np.ndarray]:
    """A plain transcription of the method with its stopping rule; how many iterations, and where it ended."""
    x, r = np.zeros_like(g), g.copy()
    p = -r
    phi = [0.0]
    for i in range(1, iterations + 1):
        alpha = (r @ r) / (p @ A @ p)
        x = x + alpha * p
        new = r + alpha * (A @ p)
        p = -new + (new @ new) / (r @ r) * p
        r = new
        phi.append(0.5 * x @ A @ x + g @ x)
        k = max(10, i // 10)
        if i > k and phi[i] < 0 and (phi[i] - phi[i - k]) / phi[i] < k * tolerance:
            return i, x
    return iterations, x


@pytest.mark.parametrize("tolerance", [5e-4, 5e-3, 1e-4])
@pytest.mark.parametrize("seed", range(3))
def test_it_stops_as_published(seed: int, tolerance: float) -> None:
    A, g = system(150, seed, condition=50)
    solution = minimize(lambda v: A @ v, g, torch.zeros_like(g), None, 300, tolerance)
    count, x = martens(A.numpy(), g.numpy(), 300, tolerance)
    assert solution.iterations == count
    assert 10 < count < 300
    np.testing.assert_allclose(solution.iterates[-1].numpy(), x, atol=1e-8)


def test_iterates_are_kept_at_growing_distances() -> None:
    A, g = system(60, 0, condition=1e6)
    kept = minimize(lambda v: A @ v, g, torch.zeros_like(g), None, 30, 0.0).iterates
    each = [minimize(lambda v: A @ v, g, torch.zeros_like(g), None, i, 0.0).iterates[-1] for i in range(1, 31)]
    places = [next(i for i, x in enumerate(each, 1) if torch.equal(x, one)) for one in kept]
    assert places == [1, 2, 3, 4, 6, 8, 11, 15, 20, 26, 30]


def test_a_start_that_is_worse_than_zero_is_dropped() -> None:
    A, g = system(5, 0)
    solution = minimize(lambda v: A @ v, g, 1e3 * g, None, 1, 0.0)
    assert torch.equal(solution.iterates[0], minimize(lambda v: A @ v, g, 0 * g, None, 1, 0.0).iterates[0])


def test_negative_curvature_ends_the_search() -> None:
    A, g = torch.diag(torch.tensor([1.0, 2.0, -1.0], dtype=F64)), torch.tensor([1.0, 1.0, 0.1], dtype=F64)
    solution = minimize(lambda v: A @ v, g, torch.zeros_like(g), None, 50, 0.0)
    assert solution.negative
    assert solution.values[-1] < 0
    assert all(bool(x.isfinite().all()) for x in solution.iterates)
    # at once: down the gradient
    solution = minimize(lambda v: -v, g, torch.zeros_like(g), None, 50, 0.0)
    assert solution.negative
    assert torch.equal(solution.iterates[-1], -g)
    assert solution.iterations == 0


def test_a_gradient_of_zero_is_its_own_answer() -> None:
    solution = minimize(lambda v: v, torch.zeros(3), torch.zeros(3), None, 50, 0.0)
    assert [x.tolist() for x in solution.iterates] == [[0, 0, 0]]
    assert not solution.negative


def test_products_that_overflow_end_the_search() -> None:
    solution = minimize(lambda v: v * torch.inf, torch.ones(3), torch.zeros(3), None, 50, 0.0)
    assert all(bool(x.isfinite().all()) for x in solution.iterates)
    solution = minimize(lambda v: v * torch.nan, torch.ones(3), torch.zeros(3), None, 50, 0.0)
    assert all(bool(x.isfinite().all()) for x in solution.iterates)
    assert not solution.negative


@pytest.mark.parametrize(
    ("losses", "place"),
    [([5, 4, 3], 2), ([5, 3, 4], 1), ([1, 2, 3], 0), ([1, 5, 4], 2), ([2, math.inf, math.inf], 0), ([math.inf], 0)],
)
def test_going_back_stops_where_it_no_longer_helps(losses: list[float], place: int) -> None:
    iterates = [torch.tensor([float(k)]) for k in range(len(losses))]
    assert best_iterate(lambda x: losses[int(x)], iterates) == (place, losses[place])


def test_line_search_halts_at_sufficient_decrease() -> None:
    tried: list[float] = []

    def loss_at(x: Tensor) -> float:  # falls up to 0.5, then rises steeply
        tried.append(float(x))
        return float(-x if x < 0.5 else 10 * (x - 0.5) - 0.5)

    rate, loss = line_search(loss_at, torch.ones(1), 0.0, loss_at(torch.ones(1)), -1.0)
    assert rate == pytest.approx(0.8**3)
    assert loss == loss_at(torch.tensor([0.8**3]))
    assert line_search(lambda _: 1.0, torch.ones(1), 0.0, 1.0, -1.0) == (0.0, 0.0)
    assert line_search(lambda _: math.nan, torch.ones(1), 0.0, -1.0, -1.0) == (1.0, -1.0)
    # too little of what the slope promises
    assert line_search(lambda x: -1e-3 * float(x), torch.ones(1), 0.0, -1e-3, -1.0)[0] == 0.0
