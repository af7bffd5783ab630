"""Scratch of kernels: one thread's small launches share theirs, other threads have their own, and large ones give it back."""

import threading

import numpy as np
import pytest
from sparsetrain_kernels.launch import PARALLEL_WORK
from sparsetrain_kernels.panels import ALIGNMENT, KEPT_BYTES, scratch

KINDS = [np.dtype(np.float32), np.dtype(np.float64)]


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("size", [1, 17, 1000, KEPT_BYTES])
def test_each_worker_has_room_from_a_cache_line_on(size: int, dtype: np.dtype) -> None:
    for threads, work in ((1, PARALLEL_WORK), (2, PARALLEL_WORK), (2, PARALLEL_WORK - 1)):
        crew, room = scratch(size, dtype, threads, work)
        assert room.dtype == dtype
        assert room.size % crew == 0
        assert size <= room.size // crew < size + ALIGNMENT // dtype.itemsize
        assert room.ctypes.data % ALIGNMENT == 0
        assert room.size // crew * dtype.itemsize % ALIGNMENT == 0


def test_small_launches_of_a_thread_share_it() -> None:
    scratch(2000, KINDS[1], 1, 0)  # as much as the others need
    rooms = [scratch(size, dtype, 1, 0)[1] for size in (2000, 10, 2000) for dtype in KINDS]
    assert len({room.ctypes.data for room in rooms}) == 1


def test_large_launches_do_not_share_it() -> None:
    size = KEPT_BYTES // 4 + 16
    one, other = (scratch(size, KINDS[0], 1, 0)[1] for _ in range(2))
    assert not np.shares_memory(one, other)


def test_threads_do_not_share_it() -> None:
    rooms = []
    both = threading.Barrier(2)

    def keep() -> None:
        rooms.append(scratch(1000, KINDS[0], 1, 0)[1])
        both.wait()

    workers = [threading.Thread(target=keep) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    mine = scratch(1000, KINDS[0], 1, 0)[1]
    assert not any(np.shares_memory(a, b) for a, b in ((mine, rooms[0]), (mine, rooms[1]), (rooms[0], rooms[1])))
