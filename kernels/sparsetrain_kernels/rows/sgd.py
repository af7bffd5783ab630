"""SGD on rows.

    g += decay w        b = momentum b + (1 - dampening) g, b = g in the first step        d = g + momentum b  or  b
    w -= lr d        then |w| -= lr l1, not past 0
"""

import numpy as np
from numba import prange

from ..jit import kernel
from ..launch import launch
from ..plan import Array
from ..subnormals import flush_subnormals, restore_subnormals
from .gradient import AHEAD, fetch, fetch_gradient, row_gradient, soft_threshold, tasks, work_of
from .group import Groups


@kernel
def sgd_row(g, w, b, momentum, keep, weight_decay, nesterov, lr):
    """keep = 1 - dampening"""
    for j in range(g.size):
        g[j] += weight_decay * w[j]
    if b.size > 0:
        for j in range(g.size):
            b[j] = momentum * b[j] + keep * g[j]
            g[j] = g[j] + momentum * b[j] if nesterov else b[j]
    for j in range(g.size):
        w[j] -= lr * g[j]


@kernel
def sgd_tasks(first, last, bounds, rows, starts, order, gradients, dim, scale, weights, momentum_buffer, counts,
              momentum, dampening, weight_decay, nesterov, lr, l1, l1_values):
    mode = flush_subnormals()
    kind = weights.dtype.type
    g = np.empty(dim, weights.dtype)
    for i in range(bounds[first], bounds[last]):
        if i + AHEAD < bounds[last]:
            ahead = rows[i + AHEAD]
            fetch(weights, ahead * dim, dim)
            fetch(momentum_buffer, ahead * dim, dim)
            fetch_gradient(i + AHEAD, starts, order, gradients, dim)
        row_gradient(i, starts, order, gradients, dim, scale, g)
        row = rows[i]
        keep = 1.0 - dampening
        if counts.size > 0:
            counts[row] += 1
            keep = 1.0 if counts[row] == 1 else keep
        here, there = row * dim, (row + 1) * dim
        w = weights[here:there]
        sgd_row(g, w, momentum_buffer[here:there], kind(momentum), kind(keep), kind(weight_decay), nesterov, kind(lr))
        if l1_values.size > 0:
            for j in range(dim):
                w[j] = soft_threshold(w[j], kind(lr) * l1_values[here + j])
        elif l1 > 0:
            for j in range(dim):
                w[j] = soft_threshold(w[j], kind(lr * l1))
    restore_subnormals(mode)


@kernel
def sgd_serial(bounds, *args):
    sgd_tasks(0, bounds.size - 1, bounds, *args)


@kernel(parallel=True)
def sgd_parallel(bounds, *args):
    for task in prange(bounds.size - 1):
        sgd_tasks(task, task + 1, bounds, *args)


def sgd(
    groups: Groups, gradients: Array, weights: Array, momentum_buffer: Array, counts: Array, *, dim: int, lr: float,
    momentum: float, dampening: float, weight_decay: float, nesterov: bool, scale: float = 1.0, l1: float = 0.0,
    l1_values: Array, threads: int = 1,
) -> None:  # fmt: skip
    """One step of the rows, in place.

    Args:
        groups: the rows, and where their gradients are.
        gradients: flat, one row of dim for each id.
        weights: flat table.
        momentum_buffer: the same, or of size 0 without momentum.
        counts: int32, steps of each row so far, or of size 0 where no row is at its first or dampening is 0.
        scale: multiplies the gradients.
        l1, l1_values: of all values, or for each of the table (else of size 0).
    """
    launch(sgd_serial, sgd_parallel, weights.dtype.char, work_of(groups, dim), threads, tasks(groups), groups.rows,
           groups.starts, groups.order, gradients, dim, weights.dtype.type(scale), weights, momentum_buffer, counts,
           momentum, dampening, weight_decay, nesterov, lr, l1, l1_values)
