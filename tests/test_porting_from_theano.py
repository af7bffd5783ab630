"""The lookup-table recipe of Theano's FAQ, line by line, against a dense float64 twin."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import sparsetrain as st
from sparsetrain.subtensor import apply_updates, function, grad, inc_subtensor, set_subtensor, shared


def cost_of(subset: Tensor, target: Tensor) -> Tensor:
    return ((subset.tanh() - target) ** 2).sum()


def used_ids(lines: int, distinct: bool) -> Tensor:
    """Some of the lines, never line 0, with repetitions unless they are to be distinct."""
    return 1 + (torch.randperm(lines - 1)[:3] if distinct else torch.randint(lines - 1, (5,)))


@pytest.mark.parametrize("form", ["inc", "set"])
@pytest.mark.parametrize("axis", [0, 1])
def test_gradient_descent_on_what_is_used(axis: int, form: str) -> None:
    torch.manual_seed(0)
    matrix, lr = np.random.default_rng(0).standard_normal((6, 4)), 0.1
    twin = torch.tensor(matrix, requires_grad=True)

    lookup_table = shared(matrix)

    @function
    def f(vector_of_indices: Tensor, target: Tensor) -> Any:
        subset = lookup_table[vector_of_indices] if axis == 0 else lookup_table[:, vector_of_indices]
        cost = cost_of(subset, target)
        g = grad(cost, subset)
        updates = inc_subtensor(subset, -lr * g) if form == "inc" else set_subtensor(subset, subset - lr * g)
        return cost, [(lookup_table, updates)]

    for _ in range(20):
        ids = used_ids(matrix.shape[axis], distinct=form == "set")
        used = twin.index_select(axis, ids)
        target = torch.randn_like(used)
        expected = cost_of(used, target)
        cost = f(ids, target)
        assert cost.item() == pytest.approx(expected.item(), rel=1e-13)
        (g,) = torch.autograd.grad(expected, twin)
        with torch.no_grad():
            twin -= lr * g
        torch.testing.assert_close(lookup_table.get_value(), twin.detach(), rtol=0, atol=1e-14)
    unused = lookup_table.get_value().select(axis, 0)
    assert np.array_equal(unused, matrix.take(0, axis))


def test_the_recipe_as_it_stands_climbs() -> None:
    lookup_table = shared([[1.0], [2.0]])
    subset = lookup_table[[1]]
    g = grad((subset**2).sum(), subset)
    new = inc_subtensor(subset, g * 0.25)
    assert new.tolist() == [[1], [3]]


def test_embeddings_and_dense_weights_in_one_step() -> None:
    torch.manual_seed(0)
    table, weight = shared(torch.randn(5, 3, dtype=torch.float64)), shared(torch.randn(3, 2, dtype=torch.float64))
    twin_table, twin_weight = (v.get_value().requires_grad_() for v in (table, weight))
    ids, lr = torch.tensor([4, 4, 0]), 0.1

    @function
    def step() -> Any:
        subset = table[ids]
        cost = (subset @ weight).sin().sum()
        g_subset, g_weight = grad(cost, [subset, weight])
        return cost, [(table, inc_subtensor(subset, -lr * g_subset)), (weight, weight - lr * g_weight)]

    optimizer = torch.optim.SGD([twin_table, twin_weight], lr=lr)
    for _ in range(5):
        optimizer.zero_grad()
        (twin_table[ids] @ twin_weight).sin().sum().backward()
        optimizer.step()
        step()
        torch.testing.assert_close(table.get_value(), twin_table.detach(), rtol=0, atol=1e-14)
        torch.testing.assert_close(weight.get_value(), twin_weight.detach(), rtol=0, atol=1e-14)


def test_rmsprop_by_hand_keeps_the_history_of_unused_rows() -> None:
    lr, rho = 1.0, 0.99
    table, squares = shared(torch.zeros(2, 1).double()), shared(torch.zeros(2, 1).double())

    @function
    def step(ids: Tensor, slope: float) -> Any:
        subset, history = table[ids], squares[ids]
        cost = (slope * subset).sum()
        g = grad(cost, subset)
        new_history = rho * history + (1 - rho) * g**2
        moved = inc_subtensor(subset, -lr * g / new_history.sqrt())
        return cost, {table: moved, squares: set_subtensor(history, new_history)}

    step(torch.tensor([0]), 1.0)
    for _ in range(1000):
        step(torch.tensor([1]), 1.0)
    assert squares[0].item() == 1 - rho  # bit for bit, after a thousand idle steps
    before = table[0].item()
    step(torch.tensor([0]), 0.001)
    # a decayed history of 0.01 * 0.99**1000 would have made this step 1.5 lr
    assert before - table[0].item() == pytest.approx(0.001 / np.sqrt(0.99 * 0.01 + 0.01 * 0.001**2), rel=1e-12)


def test_the_vocabulary_is_at_the_top() -> None:
    for name in ("shared", "grad", "inc_subtensor", "set_subtensor", "apply_updates", "function"):
        assert callable(getattr(st.subtensor, name))
    assert apply_updates is st.subtensor.apply_updates
