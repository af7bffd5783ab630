"""Adam and AdamW on rows.

    g += decay w  (coupled)   or   w -= lr decay w  (decoupled)
    m += (1 - beta1)(g - m)        v = beta2 v + (1 - beta2) g g        [u = max(u, v)]
    w -= lr / (1 - beta1^n) m / d        d = sqrt(v [or u] / (1 - beta2^n)) + eps        then |w| -= lr l1 / d, not past 0

n counts the steps of the row where ``counts`` is kept, else it is ``step``.
"""

import math

import numpy as np
from numba import prange

from ..jit import kernel
from ..launch import launch
from ..plan import Array
from ..subnormals import flush_subnormals, restore_subnormals
from .gradient import AHEAD, fetch, row_gradient, shrink_row, shrinks, tasks, work_of
from .group import Groups


@kernel(inline=True)
def adam_row(g, at, w, m, v, u, step_size, beta1, beta2, root, eps, coupled, shrink):
    """The row at w[at : +dim]; root = 1 / sqrt(1 - beta2^n)."""
    one, start = w.dtype.type(1), np.uint64(at)
    stop = start + np.uint64(g.size)
    for k in range(start, stop):
        grad = g[k - start] + coupled * w[k]
        m[k] += (one - beta1) * (grad - m[k])
        v[k] = beta2 * v[k] + (one - beta2) * grad * grad
    if u.size > 0:
        for k in range(start, stop):
            u[k] = max(u[k], v[k]) if v[k] == v[k] else v[k]
    for k in range(start, stop):
        w[k] = shrink * w[k] - step_size * m[k] / (math.sqrt(u[k] if u.size > 0 else v[k]) * root + eps)


@kernel
def adam_tasks(first, last, bounds, room, rows, starts, order, gradients, dim, scale, weights, exp_avg, exp_avg_sq, max_exp_avg_sq,
               counts, step, lr, beta1, beta2, eps, coupled, shrink, l1, l1_values):
    mode = flush_subnormals()
    kind = weights.dtype.type
    g = room[first * dim : (first + 1) * dim]
    for i in range(bounds[first], bounds[last]):
        if i + AHEAD < rows.size:
            ahead = rows[i + AHEAD]
            fetch(weights, ahead * dim, dim)
            fetch(exp_avg, ahead * dim, dim)
            fetch(exp_avg_sq, ahead * dim, dim)
            fetch(max_exp_avg_sq, ahead * dim, dim)
            fetch(counts, ahead, 1)
        row_gradient(i, starts, order, gradients, dim, scale, g, 0)
        row = rows[i]
        n = step
        if counts.size > 0:
            counts[row] += 1
            n = np.int64(counts[row])
        at = row * dim
        step_size, root = lr / (1.0 - beta1**n), 1.0 / math.sqrt(1.0 - beta2**n)
        adam_row(g, at, weights, exp_avg, exp_avg_sq, max_exp_avg_sq, kind(step_size), kind(beta1), kind(beta2), kind(root),
                 kind(eps), kind(coupled), kind(shrink))
        if shrinks(l1, l1_values):
            for j in range(dim):
                second = max_exp_avg_sq[at + j] if max_exp_avg_sq.size > 0 else exp_avg_sq[at + j]
                g[j] = math.sqrt(second) * kind(root) + kind(eps)
            shrink_row(weights, at, dim, kind(lr), kind(l1), l1_values, g)
    restore_subnormals(mode)


@kernel
def adam_serial(bounds, *args):
    adam_tasks(0, bounds.size - 1, bounds, *args)


@kernel(parallel=True)
def adam_parallel(bounds, *args):
    for task in prange(bounds.size - 1):
        adam_tasks(task, task + 1, bounds, *args)


def adam(
    groups: Groups, gradients: Array, weights: Array, exp_avg: Array, exp_avg_sq: Array, max_exp_avg_sq: Array,
    counts: Array, *, dim: int, step: int, lr: float, betas: tuple[float, float], eps: float, weight_decay: float,
    decoupled: bool, scale: float = 1.0, l1: float = 0.0, l1_values: Array, threads: int = 1,
) -> None:  # fmt: skip
    """One step of the rows, in place.

    Args:
        groups: the rows, and where their gradients are.
        gradients: flat, one row of dim for each id.
        weights, exp_avg, exp_avg_sq: flat tables.
        max_exp_avg_sq: the same with amsgrad, else of size 0.
        counts: int32, steps of each row so far; of size 0 where ``step`` counts for all.
        step: of the table, this one included.
        scale: multiplies the gradients.
        l1, l1_values: of all values, or for each of the table (else of size 0).
    """
    coupled, shrink = (0.0, 1.0 - lr * weight_decay) if decoupled else (weight_decay, 1.0)
    launch(adam_serial, adam_parallel, weights.dtype.char, work_of(groups, dim), threads, *tasks(groups, dim, weights.dtype),
           groups.rows, groups.starts, groups.order, gradients, dim, weights.dtype.type(scale), weights, exp_avg, exp_avg_sq,
           max_exp_avg_sq, counts, step, lr, *betas, eps, coupled, shrink, l1, l1_values)
