"""inc_subtensor and set_subtensor against numpy, PyTensor and finite differences, over indices of every kind."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as strategy
from hypothesis.strategies import DrawFn, SearchStrategy
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import jacrev, jvp, vmap

from sparsetrain.subtensor import Shared, apply_updates, grad, inc_subtensor, set_subtensor, shared

Shape = tuple[int, ...]
KINDS: list[Callable[[np.ndarray], Any]] = [np.array, torch.from_numpy, np.ndarray.tolist]


def table_of(shape: Shape) -> np.ndarray:
    """Numbers that tell places apart."""
    return np.arange(1.0, 1 + np.prod(shape)).reshape(shape)


def slices(size: int) -> SearchStrategy[slice]:
    bound = strategy.none() | strategy.integers(-size - 2, size + 2)
    return strategy.builds(slice, bound, bound, strategy.sampled_from([None, 1, 2, -1, -2]))


def filled(shape: Shape, elements: SearchStrategy[Any], dtype: Any) -> SearchStrategy[np.ndarray]:
    size = int(np.prod(shape))
    return strategy.lists(elements, min_size=size, max_size=size).map(lambda e: np.array(e, dtype=dtype).reshape(shape))


@strategy.composite
def id_arrays(draw: DrawFn, size: int, common: Shape) -> np.ndarray:
    """Ids, negative ones too, of a shape that broadcasts to ``common``."""
    shape = tuple(draw(strategy.sampled_from([1, n])) for n in common[draw(strategy.integers(0, len(common))) :])
    return draw(filled(shape, strategy.integers(-size, size - 1), np.int64))


@strategy.composite
def indices(draw: DrawFn, shape: Shape) -> Any:
    """Numpy's indices: ints, slices with any step, id arrays of any shape, masks, new axes, an ellipsis, all mixed."""
    if draw(strategy.integers(0, 9)) == 0:
        return draw(filled(shape, strategy.booleans(), np.bool_))
    common = draw(strategy.sampled_from([(1,), (3,), (0,), (2, 3), (5,)]))
    parts: list[Any] = []
    for size in shape[: draw(strategy.integers(0, len(shape)))]:
        one, mask = strategy.integers(-size, size - 1), filled((size,), strategy.booleans(), np.bool_)
        parts.append(draw(strategy.one_of(one, slices(size), id_arrays(size, common), id_arrays(size, common), mask)))
    if draw(strategy.booleans()):
        parts.insert(draw(strategy.integers(0, len(parts))), Ellipsis)
    if draw(strategy.integers(0, 4)) == 0:
        parts.insert(draw(strategy.integers(0, len(parts))), None)
    return parts[0] if len(parts) == 1 and draw(strategy.booleans()) else tuple(parts)


@strategy.composite
def cases(draw: DrawFn) -> tuple[Shape, Any, Any, np.ndarray]:
    """A shape, an index of it for numpy, the same in other types, and values that broadcast to what it selects."""
    shape = draw(strategy.sampled_from([(4,), (4, 3), (5, 2), (1, 3), (3, 2, 4)]))
    index = draw(indices(shape))
    try:
        selected = table_of(shape)[index].shape
    except IndexError:  # a mask beside arrays of another length
        assume(False)
    kind = draw(strategy.sampled_from(KINDS))
    parts = [kind(part) if isinstance(part, np.ndarray) else part for part in np.index_exp[index]]
    sizes = [draw(strategy.sampled_from([1, n])) for n in selected][draw(strategy.integers(0, len(selected))) :]
    y = np.random.default_rng(draw(strategy.integers(0, 99))).standard_normal(sizes)
    return shape, index, tuple(parts) if isinstance(index, tuple) else parts[0], y


def written(table: np.ndarray, index: Any, y: np.ndarray, add: bool) -> np.ndarray:
    """The table changed at one place after the other, in C order of the index."""
    new = table.copy()
    places = np.arange(new.size).reshape(new.shape)[index]
    for place, value in zip(places.flat, np.broadcast_to(y, places.shape).flat, strict=True):
        new.flat[place] = value + (new.flat[place] if add else 0)
    return new


@settings(max_examples=300, deadline=None)
@given(case=cases())
def test_any_index_against_numpy(case: tuple[Shape, Any, Any, np.ndarray]) -> None:
    shape, index, given_index, y = case
    old = table_of(shape)
    added, put, buffered = old.copy(), old.copy(), old.copy()
    np.add.at(added, index, np.broadcast_to(y, old[index].shape))  # numpy 2.4 itself adds a broadcast y but once
    put[index] = y
    buffered[index] += y
    table = shared(old)
    subset = table[given_index]
    assert np.array_equal(subset.detach(), old[index])
    for new, expected in (
        (inc_subtensor(subset, y), added),
        (inc_subtensor(subset, y), written(old, index, y, add=True)),
        (set_subtensor(subset, y), put),
        (set_subtensor(subset, y), written(old, index, y, add=False)),
        (inc_subtensor(subset, y, ignore_duplicates=True), buffered),
    ):
        assert np.array_equal(new.detach(), expected)  # to the last bit: the order of sums is numpy's
    assert np.array_equal(table.detach(), old)
    apply_updates([(table, inc_subtensor(subset, y))])
    assert np.array_equal(table.detach(), added)
    apply_updates([(table, set_subtensor(subset, -y))])
    assert np.array_equal(table.detach(), written(added, index, -y, add=False))


@pytest.mark.parametrize("index", ["rows", "columns", "pairs"])
def test_sums_of_many_entries_are_numpys_to_the_last_bit(index: str) -> None:
    # enough for torch to work on several threads, in float32, where another order would show
    rng = np.random.default_rng(0)
    first, second = rng.integers(40, size=50_000), rng.integers(40, size=50_000)
    ids: Any = {"rows": first, "columns": (slice(None), second), "pairs": (first, second)}[index]
    expected = np.zeros((40, 40), dtype=np.float32)
    y = rng.standard_normal(expected[ids].shape, dtype=np.float32)
    np.add.at(expected, ids, y)
    table = shared(torch.zeros(40, 40))
    assert np.array_equal(inc_subtensor(table[ids], y).detach(), expected)
    whole = grad((table[ids] * torch.from_numpy(y)).sum(), table)
    assert np.array_equal(whole, expected)


@settings(max_examples=100, deadline=None)
@given(case=cases())
def test_gradients_of_any_index(case: tuple[Shape, Any, Any, np.ndarray]) -> None:
    shape, index, given_index, y_array = case
    places = np.arange(np.prod(shape)).reshape(shape)[index]
    weight = torch.from_numpy(np.cos(table_of(shape)))
    for change, add in ((inc_subtensor, True), (set_subtensor, False)):
        table, y = shared(table_of(shape)), torch.from_numpy(y_array).requires_grad_()
        cost = (change(table[given_index], y) * weight).sum()
        by_table, by_y = grad(cost, [table, y])
        expected_table, expected_y = weight.numpy().copy(), np.zeros(places.shape)
        last = {place: k for k, place in enumerate(places.flat)}
        for k, place in enumerate(places.flat):
            expected_y.flat[k] = weight.numpy().flat[place] * (add or last[place] == k)
            expected_table.flat[place] *= add
        assert np.array_equal(by_table, expected_table)
        summed = torch.from_numpy(expected_y).sum_to_size(y.shape)
        torch.testing.assert_close(by_y, summed, rtol=0, atol=1e-12)


INDICES = [
    [1, 1, 3], [[1, 1], [3, 1]], (slice(None), [0, 0, 2]), ([0, 0, 3], [1, 1, 2]), slice(None, None, 2), ([3, 3], slice(1, 3)),
    np.arange(12).reshape(4, 3) > 6, (slice(None, None, -1), 1), [],
]  # fmt: skip
CHANGES: list[Callable[..., Tensor]] = [
    inc_subtensor,
    set_subtensor,
    lambda subset, y: inc_subtensor(subset, y, ignore_duplicates=True),
]


@pytest.fixture
def table() -> Shared:
    return shared(torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("index", INDICES, ids=str)
def test_derivatives(table: Shared, index: Any, change: Callable[..., Tensor]) -> None:
    y = torch.randn(
        table[index].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    ).requires_grad_()

    def twice_non_linear(t: Tensor, y: Tensor) -> Tensor:
        return change(t[index], y * t[index]).sin()

    assert gradcheck(twice_non_linear, (table, y))
    assert gradgradcheck(twice_non_linear, (table, y))
    assert gradcheck(lambda y: change(table[index], y * y), y, check_forward_ad=True, check_batched_grad=True)


@pytest.mark.parametrize("change", CHANGES)
def test_under_transforms(table: Shared, change: Callable[..., Tensor]) -> None:
    y = torch.ones(3, 3, dtype=torch.float64)
    new, moved = jvp(lambda y: change(table[[1, 1, 3]], y), (y,), (2 * y,))
    torch.testing.assert_close(new, change(table[[1, 1, 3]], y).detach(), rtol=0, atol=0)
    torch.testing.assert_close(
        moved, change(shared(torch.zeros(4, 3).double())[[1, 1, 3]], 2 * y).detach(), rtol=0, atol=0
    )
    slope = jacrev(lambda y: change(table[[1, 1, 3]], y).sum(0))(y)
    expected = [1, 1, 1] if change is inc_subtensor else [0, 1, 1]
    assert slope[0, :, 0].tolist() == expected
    mapped = vmap(lambda y: change(table[[1, 1, 3]], y))(torch.stack([y, 3 * y]))
    torch.testing.assert_close(mapped[1], change(table[[1, 1, 3]], 3 * y).detach(), rtol=0, atol=0)


@pytest.mark.parametrize("index", [[1, 1, 3], [0, 2, 2]])
def test_what_was_overwritten_has_no_gradient(table: Shared, index: list[int]) -> None:
    # Theano and PyTensor give every occurrence that of its place
    y = torch.ones(3, 3, dtype=torch.float64, requires_grad=True)
    by_y = grad(set_subtensor(table[index], y).sum(), y)
    assert by_y[:, 0].tolist() == [0, 1, 1] if index[0] == index[1] else [1, 0, 1]


@pytest.fixture(scope="module")
def pytensor() -> Any:
    return pytest.importorskip("pytensor", exc_type=ImportError)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=25, deadline=None)
@given(
    axis=strategy.sampled_from([0, 1]),
    ids=strategy.lists(strategy.integers(-3, 2), min_size=1, max_size=5),
    seed=strategy.integers(0, 99),
)
def test_against_pytensor(pytensor: Any, axis: int, ids: list[int], seed: int) -> None:
    """Rows and columns, in PyTensor's mode without rewrites: inc, set, and the gradient with respect to the subset."""
    index: Any = np.array(ids) if axis == 0 else (slice(None), np.array(ids))
    theirs_x, ours_x = pytensor.tensor.as_tensor(table_of((4, 3))), shared(table_of((4, 3)))
    theirs, ours = theirs_x[index], ours_x[index]
    y = np.random.default_rng(seed).standard_normal(ours.shape)
    scale = np.cos(y)
    plain = pytensor.compile.Mode(linker="py", optimizer=None)
    expected = pytensor.function(
        [],
        [
            pytensor.tensor.inc_subtensor(theirs, y),
            pytensor.tensor.set_subtensor(theirs, y),
            pytensor.grad((theirs**2 * scale).sum(), theirs),
        ],
        mode=plain,
    )()
    found = inc_subtensor(ours, y), set_subtensor(ours, y), grad((ours**2 * torch.from_numpy(scale)).sum(), ours)
    for have, want in zip(found, expected, strict=True):
        torch.testing.assert_close(have.detach(), torch.from_numpy(np.asarray(want)), rtol=0, atol=1e-14)
