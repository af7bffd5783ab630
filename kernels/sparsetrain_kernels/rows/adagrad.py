"""Adagrad on rows, with a sum of squares for each number, or one for each row.

    g += decay w        s += g g  or  s += mean(g g)        d = sqrt(s) + eps
    w -= lr g / d        then |w| -= lr l1 / d, not past 0
"""

import math

import numpy as np

from ..jit import kernel, part
from ..launch import launch
from ..plan import Array
from ..subnormals import flush_subnormals, restore_subnormals
from ..workers import each_share
from .gradient import AHEAD, fetch, row_gradient, shrink_row, shrinks, tasks, work_of
from .group import Groups


@part(reorder=True, inline=True)
def mean_square(g):
    total = g.dtype.type(0)
    for j in range(g.size):
        total += g[j] * g[j]
    return total / g.dtype.type(g.size)


@part(inline=True)
def adagrad_row(g, at, w, s, at_s, rowwise, eps, weight_decay, lr):
    """The row at w[at : +dim], with its sums from s[at_s] on."""
    start = np.uint64(at)
    stop, shift = start + np.uint64(g.size), np.uint64(at_s) - start
    for k in range(start, stop):
        g[k - start] += weight_decay * w[k]
    if rowwise:
        s[at_s] += mean_square(g)
        step = lr / (math.sqrt(s[at_s]) + eps)
        for k in range(start, stop):
            w[k] -= step * g[k - start]
    else:
        for k in range(start, stop):
            s[k + shift] += g[k - start] * g[k - start]
            w[k] -= lr * g[k - start] / (math.sqrt(s[k + shift]) + eps)


@part
def adagrad_tasks(first, last, bounds, room, rows, starts, order, gradients, dim, scale, weights, sums, rowwise,
                  lr, eps, weight_decay, l1, l1_values):
    mode = flush_subnormals()
    kind = weights.dtype.type
    g = room[first * dim : (first + 1) * dim]
    for i in range(bounds[first], bounds[last]):
        if i + AHEAD < rows.size:
            ahead = rows[i + AHEAD]
            fetch(weights, ahead * dim, dim)
            fetch(sums, ahead if rowwise else ahead * dim, 1 if rowwise else dim)
        row_gradient(i, starts, order, gradients, dim, scale, g, 0)
        row = rows[i]
        at = row * dim
        adagrad_row(g, at, weights, sums, row if rowwise else at, rowwise, kind(eps), kind(weight_decay), kind(lr))
        if shrinks(l1, l1_values):
            for j in range(dim):
                g[j] = math.sqrt(sums[row] if rowwise else sums[at + j]) + kind(eps)
            shrink_row(weights, at, dim, kind(lr), kind(l1), l1_values, g)
    restore_subnormals(mode)


@kernel
def adagrad_kernel(pool, workers, bounds, *args):
    each_share(pool, workers, bounds.size - 1, adagrad_tasks, (bounds, *args))


def adagrad(
    groups: Groups, gradients: Array, weights: Array, sums: Array, *, dim: int, rowwise: bool, lr: float, eps: float,
    weight_decay: float, scale: float = 1.0, l1: float = 0.0, l1_values: Array, threads: int = 1,
) -> None:  # fmt: skip
    """One step of the rows, in place.

    Args:
        groups: the rows, and where their gradients are.
        gradients: flat, one row of dim for each id.
        weights: flat table.
        sums: flat, like the table, or one for each row if rowwise.
        scale: multiplies the gradients.
        l1, l1_values: of all values, or for each of the table (else of size 0).
    """
    launch(adagrad_kernel, weights.dtype.char, work_of(groups, dim), threads, *tasks(groups, dim, weights.dtype),
           groups.rows, groups.starts, groups.order, gradients, dim, weights.dtype.type(scale), weights, sums, rowwise, lr, eps,
           weight_decay, l1, l1_values)
