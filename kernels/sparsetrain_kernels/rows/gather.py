"""Rows of a table, side by side."""

import numpy as np
from numba import prange

from ..jit import kernel
from ..launch import launch
from ..plan import Array
from .gradient import AHEAD, TASK, add_row, fetch_to_read


@kernel
def gather_tasks(first, last, ids, table, dim, out):
    one = table.dtype.type(1)
    for k in range(first * TASK, min(ids.size, last * TASK)):
        if k + AHEAD < ids.size:
            fetch_to_read(table, np.int64(ids[k + AHEAD]) * dim, dim)
        add_row(table, np.int64(ids[k]), dim, one, out, k * dim, True)


@kernel
def gather_serial(count, *args):
    gather_tasks(0, count, *args)


@kernel(parallel=True)
def gather_parallel(count, *args):
    for task in prange(count):
        gather_tasks(np.int64(task), task + 1, *args)


def gather(ids: Array, table: Array, out: Array, dim: int, threads: int = 1) -> None:
    """out[k] = table[ids[k]]; flat, rows of dim."""
    types = (table.dtype.char, ids.dtype.char)
    count = -(-ids.size // TASK)
    launch(gather_serial, gather_parallel, types, ids.size * (8 + dim // 4), threads, count, ids, table, dim, out)
