"""Positions of a matrix that are not among its kept edges, by their rank: a merge of the ranks with the edges."""

import numpy as np

from .jit import kernel, part
from .launch import launch
from .plan import Array
from .row_shares import kept_before, row_shares
from .workers import each_share


@part
def fill_rows(first, last, crow, col, kept, columns, rank, before, rows, cols):
    """The positions of the given ranks in some rows; the vacant positions in all rows before them are so many. ``cols``
    may be the memory of the ranks."""
    n = 0
    for r in range(first, last):
        there = 0  # kept edges of the row so far
        for e in range(crow[r], crow[r + 1]):
            if n == rank.size:
                return
            if kept[e]:
                place = before + col[e] - there  # rank of the first vacancy behind the edge
                while n < rank.size and rank[n] < place:
                    rows[n], cols[n] = r, rank[n] - before + there
                    n += 1
                there += 1
        before += columns - there
        while n < rank.size and rank[n] < before:
            rows[n], cols[n] = r, rank[n] - before + columns
            n += 1


@part
def fill_tasks(first, last, bounds, crow, col, kept, columns, rank, starts, before, rows, cols):
    for task in range(first, last):
        mine = slice(starts[task], starts[task + 1])
        fill_rows(bounds[task], bounds[task + 1], crow, col, kept, columns, rank[mine], before[task], rows[mine], cols[mine])


@kernel
def fill_kernel(pool, workers, tasks, *args):
    each_share(pool, workers, tasks, fill_tasks, args)


def vacant(crow: Array, col: Array, kept: Array, columns: int, rank: Array, threads: int = 1) -> tuple[Array, Array]:
    """(rows, columns) of the positions with these ranks among those that are no kept edges, in row-major order.

    Args:
        crow, col: canonical CSR. kept: booleans, one for each edge.
        rank: rising, int64, from 0 to the number of such positions - 1. Its memory becomes that of the columns.

    Example:
        >>> crow, col = np.array([0, 1, 3]), np.array([0, 0, 1])
        >>> rows, cols = vacant(crow, col, np.array([True, False, True]), 2, rank=np.array([0, 1]))
        >>> rows.tolist(), cols.tolist()
        ([0, 1], [1, 0])
    """
    rows = np.empty(rank.size, np.int64)
    bounds = row_shares(crow)
    before = bounds * columns - kept_before(crow, kept, bounds)
    starts = np.searchsorted(rank, before)
    tasks, work, types = bounds.size - 1, col.size + rank.size, crow.dtype.char + col.dtype.char
    launch(
        fill_kernel, types, work, threads, tasks, bounds, crow, col, kept, columns, rank, starts, before,
        rows, rank,
    )
    return rows, rank
