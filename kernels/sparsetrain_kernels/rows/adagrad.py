"""Adagrad on rows, with a sum of squares for each number, or one for each row.

    g += decay w        s += g g  or  s += mean(g g)        d = sqrt(s) + eps
    w -= lr g / d        then |w| -= lr l1 / d, not past 0
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


@kernel(reorder=True)
def mean_square(g):
    total = g.dtype.type(0)
    for j in range(g.size):
        total += g[j] * g[j]
    return total / g.dtype.type(g.size)


@kernel
def adagrad_row(g, w, s, eps, weight_decay, lr, denominator):
    """what l1 needs stays in denominator"""
    for j in range(g.size):
        g[j] += weight_decay * w[j]
    if s.size == 1:
        s[0] += mean_square(g)
        denominator[:] = math.sqrt(s[0]) + eps
    else:
        for j in range(g.size):
            s[j] += g[j] * g[j]
            denominator[j] = math.sqrt(s[j]) + eps
    for j in range(g.size):
        w[j] -= lr * g[j] / denominator[j]


@kernel
def adagrad_tasks(first, last, bounds, rows, starts, order, gradients, dim, scale, weights, sums, of_sums,
                  lr, eps, weight_decay, l1, l1_values):
    mode = flush_subnormals()
    kind = weights.dtype.type
    g, denominator = np.empty(dim, weights.dtype), np.empty(dim, weights.dtype)
    for i in range(bounds[first], bounds[last]):
        if i + AHEAD < bounds[last]:
            ahead = rows[i + AHEAD]
            fetch(weights, ahead * dim, dim)
            fetch(sums, ahead * of_sums, of_sums)
            fetch_gradient(i + AHEAD, starts, order, gradients, dim)
        row_gradient(i, starts, order, gradients, dim, scale, g)
        row = rows[i]
        here, there = row * dim, (row + 1) * dim
        w = weights[here:there]
        adagrad_row(g, w, sums[row * of_sums : (row + 1) * of_sums], kind(eps), kind(weight_decay), kind(lr), denominator)
        if l1_values.size > 0:
            for j in range(dim):
                w[j] = soft_threshold(w[j], kind(lr) * l1_values[here + j] / denominator[j])
        elif l1 > 0:
            for j in range(dim):
                w[j] = soft_threshold(w[j], kind(lr * l1) / denominator[j])
    restore_subnormals(mode)


@kernel
def adagrad_serial(bounds, *args):
    adagrad_tasks(0, bounds.size - 1, bounds, *args)


@kernel(parallel=True)
def adagrad_parallel(bounds, *args):
    for task in prange(bounds.size - 1):
        adagrad_tasks(task, task + 1, bounds, *args)


def adagrad(
    groups: Groups, gradients: Array, weights: Array, sums: Array, *, dim: int, of_sums: int, lr: float, eps: float,
    weight_decay: float, scale: float = 1.0, l1: float = 0.0, l1_values: Array, threads: int = 1,
) -> None:  # fmt: skip
    """One step of the rows, in place.

    Args:
        groups: the rows, and where their gradients are.
        gradients: flat, one row of dim for each id.
        weights: flat table.
        sums: flat, ``of_sums`` for each row: dim, or 1.
        scale: multiplies the gradients.
        l1, l1_values: of all values, or for each of the table (else of size 0).
    """
    launch(adagrad_serial, adagrad_parallel, weights.dtype.char, work_of(groups, dim), threads, tasks(groups), groups.rows,
           groups.starts, groups.order, gradients, dim, weights.dtype.type(scale), weights, sums, of_sums, lr, eps,
           weight_decay, l1, l1_values)
