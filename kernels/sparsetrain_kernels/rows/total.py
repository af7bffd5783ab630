"""Gradients of which each row has one: the sum over its occurrences."""

import numpy as np
from numba import prange

from ..jit import kernel
from ..launch import launch
from ..plan import Array
from .gradient import bounds_of, row_gradient, work_of
from .group import Groups


@kernel
def total_tasks(first, last, bounds, starts, order, gradients, dim, out):
    one = gradients.dtype.type(1)
    for i in range(bounds[first], bounds[last]):
        row_gradient(i, starts, order, gradients, dim, one, out, i * dim)


@kernel
def total_serial(bounds, *args):
    total_tasks(0, bounds.size - 1, bounds, *args)


@kernel(parallel=True)
def total_parallel(bounds, *args):
    for task in prange(bounds.size - 1):
        total_tasks(np.int64(task), task + 1, bounds, *args)


def total(groups: Groups, gradients: Array, out: Array, dim: int, threads: int = 1) -> None:
    """out[u] = sum of gradients[k] over the places k of row u; flat, rows of dim."""
    launch(total_serial, total_parallel, gradients.dtype.char, work_of(groups, dim), threads, bounds_of(groups), groups.starts,
           groups.order, gradients, dim, out)
