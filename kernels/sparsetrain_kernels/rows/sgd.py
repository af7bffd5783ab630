"""SGD on rows.

    g += decay w        b = momentum b + (1 - dampening) g, b = g in the first step        d = g + momentum b  or  b
    w -= lr d        then |w| -= lr l1, not past 0
"""

import numpy as np

from ..jit import kernel, part
from ..launch import launch
from ..plan import Array
from ..subnormals import flush_subnormals, restore_subnormals
from ..workers import each_share
from .gradient import AHEAD, fetch, row_gradient, shrink_row, shrinks, tasks, work_of
from .group import Groups


@part(inline=True)
def sgd_row(g, at, w, b, momentum, keep, weight_decay, nesterov, lr):
    """The row at w[at : +dim]; keep = 1 - dampening."""
    start = np.uint64(at)
    stop = start + np.uint64(g.size)
    for k in range(start, stop):
        g[k - start] += weight_decay * w[k]
    if b.size > 0:
        for k in range(start, stop):
            b[k] = momentum * b[k] + keep * g[k - start]
            g[k - start] = g[k - start] + momentum * b[k] if nesterov else b[k]
    for k in range(start, stop):
        w[k] -= lr * g[k - start]


@part
def sgd_tasks(first, last, bounds, room, rows, starts, order, gradients, dim, scale, weights, momentum_buffer, counts,
              momentum, dampening, weight_decay, nesterov, lr, l1, l1_values):
    mode = flush_subnormals()
    kind = weights.dtype.type
    g = room[first * dim : (first + 1) * dim]
    for i in range(bounds[first], bounds[last]):
        if i + AHEAD < rows.size:
            ahead = rows[i + AHEAD]
            fetch(weights, ahead * dim, dim)
            fetch(momentum_buffer, ahead * dim, dim)
        row_gradient(i, starts, order, gradients, dim, scale, g, 0)
        row = rows[i]
        keep = 1.0 - dampening
        if counts.size > 0:
            counts[row] += 1
            keep = 1.0 if counts[row] == 1 else keep
        at = row * dim
        sgd_row(g, at, weights, momentum_buffer, kind(momentum), kind(keep), kind(weight_decay), nesterov, kind(lr))
        if shrinks(l1, l1_values):
            g[:] = 1
            shrink_row(weights, at, dim, kind(lr), kind(l1), l1_values, g)
    restore_subnormals(mode)


@kernel
def sgd_kernel(pool, workers, bounds, *args):
    each_share(pool, workers, bounds.size - 1, sgd_tasks, (bounds, *args))


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
    launch(sgd_kernel, weights.dtype.char, work_of(groups, dim), threads, *tasks(groups, dim, weights.dtype),
           groups.rows, groups.starts, groups.order, gradients, dim, weights.dtype.type(scale), weights, momentum_buffer, counts,
           momentum, dampening, weight_decay, nesterov, lr, l1, l1_values)
