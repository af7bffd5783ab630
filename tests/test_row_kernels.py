"""Row steps against their plain twins, for any list of ids, on any number of threads."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sparsetrain_kernels import launch
from sparsetrain_kernels import rows as kernels
from sparsetrain_kernels.rows import reference
from structures import Array

UNIT = {np.dtype(np.float32): 1.2e-7, np.dtype(np.float64): 2.3e-16}
NONE = np.empty(0)

some = settings(max_examples=60, deadline=None)
dtypes = st.sampled_from([np.float32, np.float64])
seeds = st.integers(0, 2**32 - 1)


@st.composite
def lists_of_ids(draw: st.DrawFn) -> tuple[Array, int]:
    """Any ids: none, one row, sorted, with many duplicates, distinct; and the size of their table."""
    size = draw(st.sampled_from([1, 2, 7, 300]))
    rng = np.random.default_rng(draw(seeds))
    ids = rng.integers(0, size, draw(st.sampled_from([0, 1, 5, 40])))
    kind = draw(st.sampled_from(["as they come", "sorted", "distinct"]))
    return (np.unique(ids) if kind == "distinct" else np.sort(ids) if kind == "sorted" else ids), size


def identical(one: kernels.Groups, other: kernels.Groups) -> bool:
    """Equal; ids that were rising already need no places."""
    starts, order = one.starts, one.order
    if not starts.size:
        starts, order = np.arange(one.rows.size + 1), np.arange(one.rows.size)
    return all(map(np.array_equal, (one.rows, starts, order), other))


@some
@given(lists_of_ids())
def test_group(given_ids: tuple[Array, int]) -> None:
    ids, size = given_ids
    before = ids.copy()
    assert identical(kernels.group(ids, size), reference.group(ids, size))
    places = ids[::-1] // 2
    assert identical(kernels.group(ids, size, places=places), reference.group(ids, size, places=places))
    np.testing.assert_array_equal(ids, before)


@pytest.mark.parametrize("size", [3, 2**11, 2**11 + 1, 10**6, 2**31, 2**40, 2**62])
@pytest.mark.parametrize("threads", [1, 2])
def test_group_of_many_ids(size: int, threads: int) -> None:
    ids = np.random.default_rng(0).integers(0, size, 30_000)
    ids[-1] = size - 1
    rows, first, counts = np.unique(ids, return_index=True, return_counts=True)
    groups = kernels.group(ids, size, threads)
    np.testing.assert_array_equal(groups.rows, rows)
    np.testing.assert_array_equal(np.diff(groups.starts), counts)
    np.testing.assert_array_equal(groups.order[groups.starts[:-1]], first)  # stable
    np.testing.assert_array_equal(ids[groups.order], np.repeat(rows, counts))


class Tables:
    """The tables of one case: flat arrays, of which a twin gets copies."""

    def __init__(self, seed: int, ids: Array, rows: int, dim: int, dtype: Any) -> None:
        self.rng, self.rows, self.dim, self.dtype = np.random.default_rng(seed), rows, dim, dtype
        self.groups = kernels.group(ids, rows)
        self.gradients = self.numbers(ids.size * dim)
        self.used = np.unique(ids)

    def numbers(self, size: int) -> Array:
        return self.rng.standard_normal(size).astype(self.dtype)

    def table(self, keep: bool = True, positive: bool = False, dim: int | None = None) -> Array:
        numbers = self.numbers(self.rows * (self.dim if dim is None else dim) if keep else 0)
        return numbers**2 if positive else numbers

    def counts(self, keep: bool) -> Array:
        return self.rng.integers(0, 5, self.rows if keep else 0).astype(np.int32)

    def l1(self) -> dict[str, Any]:
        kind = self.rng.integers(3)
        return {"l1": float(kind == 1) / 3, "l1_values": np.abs(self.table(keep=kind == 2))}


def same(case: Tables, name: str, tables: list[Array], **numbers: Any) -> None:
    """A kernel and its twin do the same to tables, and nothing to unused rows."""
    before, twins = [table.copy() for table in tables], [table.astype(np.float64) for table in tables]
    twins = [twin if table.dtype != np.int32 else table.copy() for twin, table in zip(twins, tables, strict=True)]
    gradients = case.gradients.astype(np.float64)
    getattr(kernels, name)(case.groups, case.gradients, *tables, dim=case.dim, **numbers)
    exact = {
        key: value.astype(np.float64) if isinstance(value, np.ndarray) else value for key, value in numbers.items()
    }
    getattr(reference, name)(case.groups, gradients, *twins, dim=case.dim, **exact)
    unused = np.setdiff1d(np.arange(case.rows), case.used)
    for table, twin, old in zip(tables, twins, before, strict=True):
        scale = 1 + np.abs(twin).max(initial=0)
        np.testing.assert_allclose(table, twin, rtol=0, atol=40 * UNIT[np.dtype(case.dtype)] * scale)
        if table.size:
            np.testing.assert_array_equal(table.reshape(case.rows, -1)[unused], old.reshape(case.rows, -1)[unused])


cases = st.builds(
    lambda seed, ids, dim, dtype: Tables(seed, *ids, dim, dtype),
    seeds,
    lists_of_ids(),
    st.sampled_from([1, 3, 16, 33]),
    dtypes,
)
flags = st.booleans()


def later(beta: float) -> np.int32:
    """Steps are as many times more for a beta near 1: 1 - beta^n has lost digits until then, in the twin as well."""
    return np.int32(1 if beta <= 0.99 else 1000)


@some
@given(cases, flags, flags, flags)
def test_sgd(case: Tables, momentum: bool, dampening: bool, nesterov: bool) -> None:
    same(
        case, "sgd", [case.table(), case.table(momentum), case.counts(momentum and dampening)], lr=0.1, momentum=0.9,
        dampening=0.3 * dampening, weight_decay=0.2, nesterov=nesterov, scale=-0.5, **case.l1(),
    )  # fmt: skip


@some
@given(cases, flags, flags, flags, st.sampled_from([0.9, 1 - 1e-4]))
def test_rmsprop(case: Tables, centered: bool, momentum: bool, counted: bool, alpha: float) -> None:
    means = case.table(centered)
    squares = case.table(positive=True)
    if centered:
        squares += (3 * means) ** 2  # or the variance is not one
    counts = (case.counts(counted and not centered) + np.int32(3)) * later(alpha)
    same(
        case, "rmsprop", [case.table(), squares, means, case.table(momentum), counts], lr=0.1, alpha=alpha, eps=0.1,
        weight_decay=0.2, momentum=0.9, scale=-0.5, **case.l1(),
    )  # fmt: skip


@some
@given(cases, flags)
def test_adagrad(case: Tables, rowwise: bool) -> None:
    sums = case.table(positive=True, dim=1 if rowwise else case.dim)
    same(
        case, "adagrad", [case.table(), sums], rowwise=rowwise, lr=0.1, eps=0.1,
        weight_decay=0.2, scale=-0.5, **case.l1(),
    )  # fmt: skip


@some
@given(cases, flags, flags, flags, st.sampled_from([0.99, 1 - 1e-4]))
def test_adam(case: Tables, amsgrad: bool, counted: bool, decoupled: bool, beta2: float) -> None:
    tables = [case.table(), case.table(), case.table(positive=True), case.table(amsgrad, positive=True)]
    same(
        case, "adam", [*tables, case.counts(counted) * later(beta2)], step=7 * later(beta2), lr=0.1, betas=(0.9, beta2),
        eps=0.1, weight_decay=0.2,
        decoupled=decoupled, scale=-0.5, **case.l1(),
    )  # fmt: skip


@some
@given(
    seeds, st.integers(0, 40), dtypes, flags, flags, flags, st.sampled_from([(0.9, 0.99), (0.0, 0.5), (0.9, 1 - 1e-4)])
)
@example(
    1_280_076_866, 23, np.float32, False, True, False, (0.9, 1 - 1e-4)
)  # 1 - beta2 in float32 was wrong by 1e-4 of it
def test_adam_where_every_number_is_a_row(
    seed: int, size: int, dtype: Any, amsgrad: bool, counted: bool, decoupled: bool, betas: tuple[float, float]
) -> None:
    """Value arrays, all of which have a gradient; counts also beyond where the corrections have ended."""
    case = Tables(seed, np.arange(size), size, 1, dtype)
    tables = [case.table(), case.table(), case.table(positive=True), case.table(amsgrad, positive=True)]
    counts = case.counts(counted) * np.int32(1000)
    same(
        case, "adam", [*tables, counts], step=7000, lr=0.1, betas=betas, eps=0.1, weight_decay=0.2,
        decoupled=decoupled, scale=-0.5, l1=0.0, l1_values=case.table(keep=False),
    )  # fmt: skip


@some
@given(cases, st.sampled_from([np.int32, np.int64]))
def test_gather(case: Tables, index: type) -> None:
    table = case.table()
    out, twin = (np.full(case.used.size * case.dim, np.nan, case.dtype) for _ in range(2))
    kernels.gather(case.used.astype(index), table, out, case.dim)
    reference.gather(case.used, table, twin, case.dim)
    np.testing.assert_array_equal(out, twin)


@some
@given(cases)
def test_total(case: Tables) -> None:
    out, twin = (np.full(case.used.size * case.dim, np.nan, case.dtype) for _ in range(2))
    kernels.total(case.groups, case.gradients, out, case.dim)
    reference.total(case.groups, case.gradients, twin, case.dim)
    np.testing.assert_array_equal(out, twin)  # in the same order


def idle(case: Tables, name: str, steps: Array, tables: list[Array], **numbers: Any) -> None:
    behind = case.rng.integers(0, len(steps) + 1, case.used.size)
    twins = [table.astype(np.float64) for table in tables]
    getattr(kernels, name)(case.used, behind, steps, *tables, dim=case.dim, **numbers)
    getattr(reference, name)(case.used, behind, steps, *twins, dim=case.dim, **numbers)
    for table, twin in zip(tables, twins, strict=True):
        bound = 4 * (len(steps) + 2) * UNIT[np.dtype(case.dtype)] * (1 + np.abs(twin).max(initial=0))
        np.testing.assert_allclose(table, twin, rtol=0, atol=bound)


@some
@given(cases, flags, flags, flags, st.sampled_from([0, 1, 50]))
def test_idle_linear(case: Tables, buffer: bool, squares: bool, means: bool, steps: int) -> None:
    numbers = case.rng.uniform([0.8, -0.1, 0, 0.5, 0.8], [1, 0.1, 0.1, 1, 1], (steps, 5))
    numbers[:, 1:3] *= buffer  # what the other one does to each
    idle(case, "idle_linear", numbers, [case.table(), case.table(buffer), case.table(squares), case.table(means)])


@some
@given(cases, flags, flags, st.sampled_from([0, 1, 50, 700]))
def test_idle_adam(case: Tables, amsgrad: bool, still: bool, steps: int) -> None:
    numbers = case.rng.uniform([0.85, 0.98, 0, 1, 0.99], [0.95, 0.999, 0.1, 5, 1], (steps, 5))
    squares = case.table(positive=True)
    largest = squares + 1 if amsgrad else squares[:0]
    moments = case.table() * np.asarray(not still, case.dtype)
    idle(case, "idle_adam", numbers, [case.table(), moments, squares, largest], eps=1e-3)


def of_threads(run: Callable[[Tables, int], list[Array]], threads: int) -> list[Array]:
    rng = np.random.default_rng(3)
    ids = np.concatenate([rng.integers(0, 5000, 12_000), np.full(700, 11)])
    return run(Tables(4, ids, 5000, 24, np.float32), threads)


def _sgd(case: Tables, threads: int) -> list[Array]:
    tables = [case.table(), case.table(), case.counts(True)]
    kernels.sgd(case.groups, case.gradients, *tables, dim=case.dim, lr=0.1, momentum=0.9, dampening=0.1, weight_decay=0.1,
                nesterov=False, l1_values=tables[0][:0], threads=threads)  # fmt: skip
    return tables


def _rmsprop(case: Tables, threads: int) -> list[Array]:
    tables = [case.table(), case.table(positive=True), case.table(False), case.table(), case.counts(True)]
    kernels.rmsprop(case.groups, case.gradients, *tables, dim=case.dim, lr=0.1, alpha=0.9, eps=0.1, weight_decay=0.1,
                    momentum=0.9, l1_values=tables[0][:0], threads=threads)  # fmt: skip
    return tables


def _adagrad(case: Tables, threads: int) -> list[Array]:
    tables = [case.table(), case.table(positive=True, dim=1)]
    kernels.adagrad(case.groups, case.gradients, *tables, dim=case.dim, rowwise=True, lr=0.1, eps=0.1, weight_decay=0.1,
                    l1_values=tables[0][:0], threads=threads)  # fmt: skip
    return tables


def _adam(case: Tables, threads: int) -> list[Array]:
    tables = [case.table(), case.table(), case.table(positive=True), case.table(False), case.counts(True)]
    kernels.adam(case.groups, case.gradients, *tables, dim=case.dim, step=3, lr=0.1, betas=(0.9, 0.99), eps=0.1,
                 weight_decay=0.1, decoupled=True, l1_values=tables[0][:0], threads=threads)  # fmt: skip
    return tables


def _total(case: Tables, threads: int) -> list[Array]:
    out = np.empty(case.used.size * case.dim, case.dtype)
    kernels.total(case.groups, case.gradients, out, case.dim, threads)
    return [out]


def _idle(case: Tables, threads: int) -> list[Array]:
    tables = [case.table(), case.table(), case.table(positive=True), case.table(False)]
    behind = case.rng.integers(0, 60, case.used.size)
    kernels.idle_adam(case.used, behind, np.full((60, 5), 0.9), *tables, dim=case.dim, eps=0.1, threads=threads)
    kernels.idle_linear(case.used, behind, np.full((60, 5), 0.1), *tables, dim=case.dim, threads=threads)
    return tables


def _gather(case: Tables, threads: int) -> list[Array]:
    ids = case.rng.integers(0, case.rows, 9000)
    table, out = case.table(), np.empty(ids.size * case.dim, case.dtype)
    kernels.gather(ids, table, out, case.dim, threads)
    np.testing.assert_array_equal(out.reshape(-1, case.dim), table.reshape(-1, case.dim)[ids])
    return [out]


@pytest.mark.parametrize("run", [_sgd, _rmsprop, _adagrad, _adam, _total, _idle, _gather])
def test_results_do_not_depend_on_threads(run: Callable[[Tables, int], list[Array]]) -> None:
    for one, two in zip(of_threads(run, 1), of_threads(run, 2), strict=True):
        np.testing.assert_array_equal(one, two)
    ran = {
        kernel.__name__ for kernel, _, together in launch._process.ready if together
    }  # or two threads were never asked
    names = ["idle_adam", "idle_linear"] if run is _idle else [run.__name__.removeprefix("_")]
    assert {f"{name}_kernel" for name in names} <= ran


def test_not_a_number_stays_one() -> None:
    """A threshold does not turn NaN into zero, in any rule."""
    nan = np.array([np.nan, 1.0])
    for name, tables, numbers in (
        ("sgd", 2, {"momentum": 0.9, "dampening": 0.0, "nesterov": False}),
        ("adagrad", 2, {"rowwise": False, "eps": 0.1}),
        ("rmsprop", 4, {"alpha": 0.9, "eps": 0.1, "momentum": 0.9}),
        ("adam", 3, {"step": 1, "betas": (0.9, 0.99), "eps": 0.1, "decoupled": True}),
    ):
        weights = [np.ones(2) for _ in range(tables)]
        rest = {"sgd": [np.empty(0, np.int32)], "adam": [np.empty(0), np.empty(0, np.int32)],
                "rmsprop": [np.empty(0, np.int32)], "adagrad": []}[name]  # fmt: skip
        getattr(kernels, name)(kernels.group(np.array([0]), 1), nan, *weights, *rest, dim=2, lr=0.1, weight_decay=0.0,
                               l1=0.5, l1_values=np.empty(0), **numbers)  # fmt: skip
        assert np.isnan(weights[0]).tolist() == [True, False], name
