"""Entries of a dense block that exceed a limit, without those at kept edges: most entries are only compared."""

import numpy as np

from .jit import kernel, part
from .launch import launch
from .plan import Array
from .workers import each_share

ROWS = 8  # of a task


@part
def count_larger(begin, end, block, first, crow, col, kept, limit, counts):
    """NaN, which no limit is below, takes the places of kept edges; counts[task] = larger entries in the task's rows"""
    for task in range(begin, end):
        total = np.int64(0)
        for r in range(task * ROWS, min(block.shape[0], (task + 1) * ROWS)):
            row = block[r]
            for e in range(crow[first + r], crow[first + r + 1]):
                if kept[e]:
                    row[col[e]] = np.nan
            for c in range(row.size):
                total += abs(row[c]) > limit
        counts[task] = total


@kernel
def count_kernel(pool, workers, tasks, *args):
    each_share(pool, workers, tasks, count_larger, args)


@part
def take_rows(task, block, first, limit, starts, scores, positions):
    n = starts[task]
    columns = np.int64(block.shape[1])
    for r in range(task * ROWS, min(block.shape[0], (task + 1) * ROWS)):
        if n == starts[task + 1]:
            return
        row, before = block[r], (first + r) * columns
        for c in range(columns):
            size = abs(row[c])
            if size > limit:
                scores[n], positions[n] = -size, before + c
                n += 1


@part
def take_larger(begin, end, block, first, limit, starts, scores, positions):
    for task in range(begin, end):
        take_rows(task, block, first, limit, starts, scores, positions)


@kernel
def take_kernel(pool, workers, tasks, *args):
    each_share(pool, workers, tasks, take_larger, args)


@kernel
def compact(chosen, scores, positions):
    """The chosen ones move to the front, in their order."""
    n = 0
    for k in range(chosen.size):
        scores[n], positions[n] = scores[k], positions[k]
        n += chosen[k]


def take(
    block: Array, first: int, crow: Array, col: Array, kept: Array, limit: float, scores: Array, positions: Array,
    n: int, threads: int = 1,
) -> int:
    """Append what is larger than the limit in these rows of a matrix, but at kept edges; how many there are then.

    Args:
        block: rows ``first``, ``first + 1``, ... of the matrix, C-contiguous; its entries at kept edges are overwritten.
        crow, col: canonical CSR of the matrix. kept: booleans, one for each edge.
        limit: of magnitudes; what equals it is left out, and so is NaN.
        scores, positions: the first n are there. They get ``-abs(entry)`` and ``row * columns + column``, in row-major
            order. There is room for the whole block.

    Example:
        >>> scores, positions = np.zeros(4), np.zeros(4, np.int64)
        >>> edges = np.array([0, 0, 1]), np.array([1]), np.array([True])
        >>> take(np.array([[1.0, -3.0], [-2.0, 9.0]]), 0, *edges, 1.5, scores, positions, n=0)
        2
        >>> scores[:2].tolist(), positions[:2].tolist()
        ([-3.0, -2.0], [1, 2])
    """
    tasks, types, work = -(-block.shape[0] // ROWS), block.dtype.char + crow.dtype.char + col.dtype.char, block.size // 4
    starts, limit = np.full(tasks + 1, n), block.dtype.type(limit)
    launch(count_kernel, types, work, threads, tasks, block, first, crow, col, kept, limit, starts[1:])
    starts[1:] = n + starts[1:].cumsum()
    launch(take_kernel, types, work, threads, tasks, block, first, limit, starts, scores, positions)
    return int(starts[-1])
