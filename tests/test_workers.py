"""Kernels share out their work on numba's pool, or go through it on one thread; parts are compiled within kernels."""

import ctypes
from importlib import import_module
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numba.core.errors import TypingError
from sparsetrain_kernels.jit import kernel, part
from sparsetrain_kernels.launch import start_threads
from sparsetrain_kernels.workers import each_share, each_worker


@part
def note_worker(worker: int, workers: int, seen: Any, factor: float) -> None:
    seen[worker] = factor * (10 * workers + worker)


@part
def note_share(first: int, last: int, seen: Any, factor: float) -> None:
    for k in range(first, last):
        seen[k] += factor * (1 + (first > 0))


@part
def open_ended(first: int, last: int, *rest: Any) -> None:
    pass


@kernel
def by_worker(pool: int, workers: int, *args: Any) -> None:
    each_worker(pool, workers, note_worker, args)


@kernel
def by_share(pool: int, workers: int, seen: Any, factor: float) -> int:
    each_share(pool, workers, seen.size, note_share, (seen, factor))
    each_share(pool, workers, seen.size // 2, note_share, (seen, factor))  # another loop of the same kernel
    return int(seen.size)


@kernel
def by_nobody(pool: int, workers: int, *args: Any) -> None:
    each_share(pool, workers, 1, open_ended, args)


def pool() -> int:
    """parallel_for as numba's layer for OpenMP has it: an address, which is called as workers.py says."""
    assert start_threads()
    return int(import_module("numba.np.ufunc.omppool").parallel_for)


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_each_worker_and_each_task_once(together: bool, workers: int) -> None:
    where = pool() if together else 0
    seen = np.zeros(workers)
    by_worker(where, workers, seen, 0.5)
    np.testing.assert_array_equal(seen, 0.5 * (10 * workers + np.arange(workers)))
    for size in (0, 1, 5, 64):
        tasks, expected = np.zeros(size), np.zeros(size)
        assert by_share(where, workers, tasks, 1.0) == size
        for count in (size, size // 2):
            bounds = np.arange(workers + 1) * count // workers
            for first, last in pairwise(bounds):
                expected[first:last] += 1 + (first > 0)
        np.testing.assert_array_equal(tasks, expected)


def test_the_pool_calls_a_function_for_each_number() -> None:
    """parallel_for(called, arrays, dimensions, steps, data, inner dimensions, number of arrays, threads), a private part of
    numba: an array's address moves on by its step, and the data come as they are."""
    called_type = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4)
    parallel_for = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 5, *[ctypes.c_ssize_t] * 3)(pool())
    found: list[tuple[int, int]] = []

    @called_type
    def called(arrays: int, dimensions: int, steps: int, data: int) -> None:
        found.append((ctypes.c_ssize_t.from_address(arrays).value, data))

    array, count, step, data = ctypes.c_void_p(0), ctypes.c_ssize_t(5), ctypes.c_ssize_t(1), ctypes.c_int(0)
    pointers = [ctypes.addressof(each) for each in (array, count, step, data)]
    parallel_for(ctypes.cast(called, ctypes.c_void_p).value, *pointers, 0, 1, 2)
    assert sorted(found) == [(k, pointers[-1]) for k in range(5)]


def test_parts_are_not_called_from_python() -> None:
    with pytest.raises(TypeError, match=r"note_worker\(\) is a part of kernels, and can't be called from Python"):
        note_worker(0, 1, np.zeros(1), 1.0)


def test_parts_name_their_arguments() -> None:
    with pytest.raises(TypingError, match=r"open_ended\(\) takes \*args or defaults; name all 4 arguments"):
        by_nobody(0, 1, 1.0, 2.0)
