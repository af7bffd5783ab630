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
from .gradient import AHEAD, fetch, fetch_gradient, row_gradient, soft_threshold, tasks, work_of
from .group import Groups


@kernel
def adam_row(g, w, m, v, u, step_size, beta1, beta2, root, eps, coupled, shrink, denominator):
    """root = 1 / sqrt(1 - beta2^n); what l1 needs stays in denominator"""
    one = w.dtype.type(1)
    for j in range(g.size):
        grad = g[j] + coupled * w[j]
        w[j] *= shrink
        m[j] += (one - beta1) * (grad - m[j])
        v[j] = beta2 * v[j] + (one - beta2) * grad * grad
    if u.size > 0:
        for j in range(g.size):
            u[j] = max(u[j], v[j]) if v[j] == v[j] else v[j]
            denominator[j] = math.sqrt(u[j]) * root + eps
    else:
        for j in range(g.size):
            denominator[j] = math.sqrt(v[j]) * root + eps
    for j in range(g.size):
        w[j] -= step_size * m[j] / denominator[j]


@kernel
def adam_tasks(first, last, bounds, rows, starts, order, gradients, dim, scale, weights, exp_avg, exp_avg_sq, max_exp_avg_sq,
               counts, step, lr, beta1, beta2, eps, coupled, shrink, l1, l1_values):
    mode = flush_subnormals()
    kind = weights.dtype.type
    g, denominator = np.empty(dim, weights.dtype), np.empty(dim, weights.dtype)
    for i in range(bounds[first], bounds[last]):
        if i + AHEAD < bounds[last]:
            ahead = rows[i + AHEAD]
            fetch(weights, ahead * dim, dim)
            fetch(exp_avg, ahead * dim, dim)
            fetch(exp_avg_sq, ahead * dim, dim)
            fetch(max_exp_avg_sq, ahead * dim, dim)
            fetch(counts, ahead, 1)
            fetch_gradient(i + AHEAD, starts, order, gradients, dim)
        row_gradient(i, starts, order, gradients, dim, scale, g)
        row = rows[i]
        n = step
        if counts.size > 0:
            counts[row] += 1
            n = np.int64(counts[row])
        here, there = row * dim, (row + 1) * dim
        w, u = weights[here:there], max_exp_avg_sq[here:there]
        step_size, root = lr / (1.0 - beta1**n), 1.0 / math.sqrt(1.0 - beta2**n)
        adam_row(g, w, exp_avg[here:there], exp_avg_sq[here:there], u, kind(step_size), kind(beta1), kind(beta2), kind(root),
                 kind(eps), kind(coupled), kind(shrink), denominator)
        if l1_values.size > 0:
            for j in range(dim):
                w[j] = soft_threshold(w[j], kind(lr) * l1_values[here + j] / denominator[j])
        elif l1 > 0:
            for j in range(dim):
                w[j] = soft_threshold(w[j], kind(lr * l1) / denominator[j])
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
    launch(adam_serial, adam_parallel, weights.dtype.char, work_of(groups, dim), threads, tasks(groups), groups.rows,
           groups.starts, groups.order, gradients, dim, weights.dtype.type(scale), weights, exp_avg, exp_avg_sq,
           max_exp_avg_sq, counts, step, lr, *betas, eps, coupled, shrink, l1, l1_values)
