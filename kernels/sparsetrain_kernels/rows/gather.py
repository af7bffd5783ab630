"""Rows of a table, side by side."""

import numpy as np

from ..jit import kernel, part
from ..launch import launch
from ..plan import Array
from ..workers import each_share
from .gradient import AHEAD, TASK, add_row, fetch_to_read


@part
def gather_tasks(first, last, ids, table, dim, out):
    one = table.dtype.type(1)
    for k in range(first * TASK, min(ids.size, last * TASK)):
        if k + AHEAD < ids.size:
            fetch_to_read(table, np.int64(ids[k + AHEAD]) * dim, dim)
        add_row(table, np.int64(ids[k]), dim, one, out, k * dim, True)


@kernel
def gather_kernel(pool, workers, count, *args):
    each_share(pool, workers, count, gather_tasks, args)


def gather(ids: Array, table: Array, out: Array, dim: int, threads: int = 1) -> None:
    """out[k] = table[ids[k]]; flat, rows of dim."""
    types = (table.dtype.char, ids.dtype.char)
    count = -(-ids.size // TASK)
    launch(gather_kernel, types, ids.size * (8 + dim // 4), threads, count, ids, table, dim, out)
