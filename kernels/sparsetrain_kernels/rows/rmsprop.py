"""RMSprop on rows.

    g += decay w        v = alpha v + (1 - alpha) g g        [a = alpha a + (1 - alpha) g, centered]
    d = sqrt(v [- a a]) + eps        [b = momentum b + g / d]
    w -= lr g / d  or  lr b        then |w| -= lr l1 / d, not past 0

Where ``counts`` is kept, v is divided by 1 - alpha^n, with n the steps of the row: not centered, since v - a a of one
gradient is then zero.
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


@part(inline=True)
def divisor(k, v, a, correction, eps):
    return math.sqrt(v[k] - a[k] * a[k] if a.size > 0 else correction * v[k]) + eps


@part(inline=True)
def rmsprop_row(g, at, w, v, a, b, alpha, rest, correction, eps, weight_decay, momentum, lr):
    """The row at w[at : +dim]; correction = 1 / (1 - alpha^n), or 1; rest = 1 - alpha."""
    start = np.uint64(at)
    stop = start + np.uint64(g.size)
    for k in range(start, stop):
        grad = g[k - start] + weight_decay * w[k]
        g[k - start] = grad
        v[k] = alpha * v[k] + rest * grad * grad
    if a.size > 0:
        for k in range(start, stop):
            a[k] += rest * (g[k - start] - a[k])
    if b.size > 0:
        for k in range(start, stop):
            b[k] = momentum * b[k] + g[k - start] / divisor(k, v, a, correction, eps)
        for k in range(start, stop):
            w[k] -= lr * b[k]
    else:
        for k in range(start, stop):
            w[k] -= lr * g[k - start] / divisor(k, v, a, correction, eps)


@part
def rmsprop_tasks(first, last, bounds, room, rows, starts, order, gradients, dim, scale, weights, square_avg, grad_avg,
                  momentum_buffer, counts, lr, alpha, eps, weight_decay, momentum, l1, l1_values):
    mode = flush_subnormals()
    kind = weights.dtype.type
    g = room[first * dim : (first + 1) * dim]
    for i in range(bounds[first], bounds[last]):
        if i + AHEAD < rows.size:
            ahead = rows[i + AHEAD]
            fetch(weights, ahead * dim, dim)
            fetch(square_avg, ahead * dim, dim)
            fetch(grad_avg, ahead * dim, dim)
            fetch(momentum_buffer, ahead * dim, dim)
        row_gradient(i, starts, order, gradients, dim, scale, g, 0)
        row = rows[i]
        correction = 1.0
        if counts.size > 0:
            counts[row] += 1
            # of a whole exponent numba multiplies squares, whose rounding adds up
            correction = 1.0 / (1.0 - alpha ** np.float64(counts[row]))
        at = row * dim
        rmsprop_row(g, at, weights, square_avg, grad_avg, momentum_buffer, kind(alpha), kind(1.0 - alpha), kind(correction),
                    kind(eps), kind(weight_decay), kind(momentum), kind(lr))
        if shrinks(l1, l1_values):
            for j in range(dim):
                g[j] = divisor(at + j, square_avg, grad_avg, kind(correction), kind(eps))
            shrink_row(weights, at, dim, kind(lr), kind(l1), l1_values, g)
    restore_subnormals(mode)


@kernel
def rmsprop_kernel(pool, workers, bounds, *args):
    each_share(pool, workers, bounds.size - 1, rmsprop_tasks, (bounds, *args))


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
    launch(rmsprop_kernel, weights.dtype.char, work_of(groups, dim), threads, *tasks(groups, dim, weights.dtype),
           groups.rows, groups.starts, groups.order, gradients, dim, weights.dtype.type(scale), weights, square_avg, grad_avg,
           momentum_buffer, counts, lr, alpha, eps, weight_decay, momentum, l1, l1_values)
