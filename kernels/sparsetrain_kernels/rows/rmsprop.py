"""RMSprop on rows.

    g += decay w        v = alpha v + (1 - alpha) g g        [a = alpha a + (1 - alpha) g, centered]
    d = sqrt(v [- a a]) + eps        [b = momentum b + g / d]
    w -= lr g / d  or  lr b        then |w| -= lr l1 / d, not past 0

Where ``counts`` is kept, both averages are divided by 1 - alpha^n, with n the steps of the row.
"""

import math

import numpy as np
from numba import prange

from ..jit import kernel
from ..launch import launch
from ..plan import Array
from ..subnormals import flush_subnormals, restore_subnormals
from .gradient import AHEAD, fetch, fetch_gradient, row_gradient, soft_threshold, tasks, work_of
from .group import Groups


@kernel
def rmsprop_row(g, w, v, a, b, alpha, correction, eps, weight_decay, momentum, lr, denominator):
    """correction = 1 / (1 - alpha^n), or 1; what l1 needs stays in denominator"""
    one = w.dtype.type(1)
    for j in range(g.size):
        g[j] += weight_decay * w[j]
        v[j] = alpha * v[j] + (one - alpha) * g[j] * g[j]
    if a.size > 0:
        for j in range(g.size):
            a[j] += (one - alpha) * (g[j] - a[j])
            mean = correction * a[j]
            denominator[j] = math.sqrt(correction * v[j] - mean * mean) + eps
    else:
        for j in range(g.size):
            denominator[j] = math.sqrt(correction * v[j]) + eps
    if b.size > 0:
        for j in range(g.size):
            b[j] = momentum * b[j] + g[j] / denominator[j]
            w[j] -= lr * b[j]
    else:
        for j in range(g.size):
            w[j] -= lr * g[j] / denominator[j]


@kernel
def rmsprop_tasks(first, last, bounds, rows, starts, order, gradients, dim, scale, weights, square_avg, grad_avg,
                  momentum_buffer, counts, lr, alpha, eps, weight_decay, momentum, l1, l1_values):
    mode = flush_subnormals()
    kind = weights.dtype.type
    g, denominator = np.empty(dim, weights.dtype), np.empty(dim, weights.dtype)
    for i in range(bounds[first], bounds[last]):
        if i + AHEAD < bounds[last]:
            ahead = rows[i + AHEAD]
            fetch(weights, ahead * dim, dim)
            fetch(square_avg, ahead * dim, dim)
            fetch(grad_avg, ahead * dim, dim)
            fetch(momentum_buffer, ahead * dim, dim)
            fetch_gradient(i + AHEAD, starts, order, gradients, dim)
        row_gradient(i, starts, order, gradients, dim, scale, g)
        row = rows[i]
        correction = 1.0
        if counts.size > 0:
            counts[row] += 1
            correction = 1.0 / (1.0 - alpha ** np.int64(counts[row]))
        here, there = row * dim, (row + 1) * dim
        w = weights[here:there]
        rmsprop_row(g, w, square_avg[here:there], grad_avg[here:there], momentum_buffer[here:there], kind(alpha),
                    kind(correction), kind(eps), kind(weight_decay), kind(momentum), kind(lr), denominator)
        if l1_values.size > 0:
            for j in range(dim):
                w[j] = soft_threshold(w[j], kind(lr) * l1_values[here + j] / denominator[j])
        elif l1 > 0:
            for j in range(dim):
                w[j] = soft_threshold(w[j], kind(lr * l1) / denominator[j])
    restore_subnormals(mode)


@kernel
def rmsprop_serial(bounds, *args):
    rmsprop_tasks(0, bounds.size - 1, bounds, *args)


@kernel(parallel=True)
def rmsprop_parallel(bounds, *args):
    for task in prange(bounds.size - 1):
        rmsprop_tasks(task, task + 1, bounds, *args)


def rmsprop(
    groups: Groups, gradients: Array, weights: Array, square_avg: Array, grad_avg: Array, momentum_buffer: Array,
    counts: Array, *, dim: int, lr: float, alpha: float, eps: float, weight_decay: float, momentum: float,
    scale: float = 1.0, l1: float = 0.0, l1_values: Array, threads: int = 1,
) -> None:  # fmt: skip
    """One step of the rows, in place.

    Args:
        groups: the rows, and where their gradients are.
        gradients: flat, one row of dim for each id.
        weights, square_avg: flat tables.
        grad_avg, momentum_buffer: the same, or of size 0 where not centered, or without momentum.
        counts: int32, steps of each row so far, or of size 0 for no bias correction.
        scale: multiplies the gradients.
        l1, l1_values: of all values, or for each of the table (else of size 0).
    """
    launch(rmsprop_serial, rmsprop_parallel, weights.dtype.char, work_of(groups, dim), threads, tasks(groups), groups.rows,
           groups.starts, groups.order, gradients, dim, weights.dtype.type(scale), weights, square_avg, grad_avg,
           momentum_buffer, counts, lr, alpha, eps, weight_decay, momentum, l1, l1_values)
