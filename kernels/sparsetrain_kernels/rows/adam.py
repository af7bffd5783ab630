"""Adam and AdamW on rows.

    g += decay w  (coupled)   or   w -= lr decay w  (decoupled)
    m += (1 - beta1)(g - m)        v = beta2 v + (1 - beta2) g g        [u = max(u, v)]
    w -= lr / (1 - beta1^n) m / d        d = sqrt(v [or u] / (1 - beta2^n)) + eps        then |w| -= lr l1 / d, not past 0

n counts the steps of the row where ``counts`` is kept, else it is ``step``.
"""

import math
from functools import lru_cache

import numpy as np

from ..jit import kernel, part
from ..launch import launch
from ..plan import Array
from ..subnormals import flush_subnormals, restore_subnormals
from ..workers import each_share
from .gradient import AHEAD, fetch, row_gradient, shrink_row, shrinks, tasks, work_of
from .group import Groups

EPSILON = np.finfo(np.float64).eps / 4
LONGEST = 1 << 18  # numbers of a table of corrections: 2 MB


@part(inline=True)
def adam_row(g, at, w, m, v, u, step_size, beta2, rest1, rest2, root, eps, coupled, shrink):
    """The row at w[at : +dim]; root = 1 / sqrt(1 - beta2^n). What is left of the betas, rest1 = 1 - beta1 and rest2, is given: in
    float32 it would have few right digits."""
    start = np.uint64(at)
    stop = start + np.uint64(g.size)
    for k in range(start, stop):
        grad = g[k - start] + coupled * w[k]
        m[k] += rest1 * (grad - m[k])
        v[k] = beta2 * v[k] + rest2 * grad * grad
    if u.size > 0:
        for k in range(start, stop):
            u[k] = max(u[k], v[k]) if v[k] == v[k] else v[k]
    for k in range(start, stop):
        w[k] = shrink * w[k] - step_size * m[k] / (math.sqrt(u[k] if u.size > 0 else v[k]) * root + eps)


@part(inline=True)
def correction(n, beta1, first_corrections):
    """1 - beta1^n"""
    return first_corrections[n] if n < first_corrections.size else 1.0 - beta1**n


@part(inline=True)
def root_of(n, beta2, roots):
    """1 / sqrt(1 - beta2^n)"""
    return roots[n] if n < roots.size else 1.0 / math.sqrt(1.0 - beta2**n)


@lru_cache(maxsize=16)
def corrections(beta1: float, beta2: float) -> tuple[Array, Array]:
    """Both for n from 0, up to where they are 1 in float64 or the table is long: two powers take longer than the rest of
    a number's step."""
    longest = max((math.log(EPSILON) / math.log(beta) if 0 < beta < 1 else 0 for beta in (beta1, beta2)), default=0)
    n = np.arange(1, min(int(longest) + 2, LONGEST))
    first, second = (np.concatenate([[np.nan], 1.0 - beta**n]) for beta in (beta1, beta2))
    return first, 1.0 / np.sqrt(second)


@part
def adam_tasks(first, last, bounds, room, rows, starts, order, gradients, dim, scale, weights, exp_avg, exp_avg_sq, max_exp_avg_sq,
               counts, step, lr, beta1, beta2, first_corrections, roots, eps, coupled, shrink, l1, l1_values):
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
        step_size, root = lr / correction(n, beta1, first_corrections), root_of(n, beta2, roots)
        adam_row(g, at, weights, exp_avg, exp_avg_sq, max_exp_avg_sq, kind(step_size), kind(beta2), kind(1.0 - beta1),
                 kind(1.0 - beta2), kind(root), kind(eps), kind(coupled), kind(shrink))
        if shrinks(l1, l1_values):
            for j in range(dim):
                second = max_exp_avg_sq[at + j] if max_exp_avg_sq.size > 0 else exp_avg_sq[at + j]
                g[j] = math.sqrt(second) * kind(root) + kind(eps)
            shrink_row(weights, at, dim, kind(lr), kind(l1), l1_values, g)
    restore_subnormals(mode)


@kernel
def adam_kernel(pool, workers, bounds, *args):
    each_share(pool, workers, bounds.size - 1, adam_tasks, (bounds, *args))


@part
def adam_part(first, last, gradients, scale, weights, exp_avg, exp_avg_sq, max_exp_avg_sq, counts, step, step_sizes, roots,
              beta2, rest1, rest2, eps, coupled, shrink):
    """The numbers from first to last - 1, each a row of its own, all of which have a gradient. The tables end where their
    numbers no longer change."""
    mode = flush_subnormals()
    longest = step_sizes.size - 1
    n = min(step, longest)
    for k in range(first, last):
        if counts.size > 0:
            counts[k] += 1
            n = min(np.int64(counts[k]), longest)
        grad = scale * gradients[k] + coupled * weights[k]
        m = exp_avg[k] + rest1 * (grad - exp_avg[k])
        v = beta2 * exp_avg_sq[k] + rest2 * grad * grad
        exp_avg[k], exp_avg_sq[k] = m, v
        if max_exp_avg_sq.size > 0:
            max_exp_avg_sq[k] = v = max(max_exp_avg_sq[k], v) if v == v else v
        weights[k] = shrink * weights[k] - step_sizes[n] * m / (math.sqrt(v) * roots[n] + eps)
    restore_subnormals(mode)


@kernel
def adam_each_kernel(pool, workers, size, *args):
    each_share(pool, workers, size, adam_part, args)


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
    tables = corrections(*betas)
    whole = dim == 1 and groups.rows.size == weights.size and not groups.starts.size
    if whole and tables[0].size < LONGEST and not l1 and not l1_values.size:
        kind = weights.dtype.type
        numbers = map(kind, (betas[1], 1.0 - betas[0], 1.0 - betas[1], eps, coupled, shrink))
        launch(adam_each_kernel, weights.dtype.char, weights.size, threads, weights.size, gradients,
               kind(scale), weights, exp_avg, exp_avg_sq, max_exp_avg_sq, counts, step, (lr / tables[0]).astype(kind),
               tables[1].astype(kind), *numbers)
        return
    launch(adam_kernel, weights.dtype.char, work_of(groups, dim), threads, *tasks(groups, dim, weights.dtype),
           groups.rows, groups.starts, groups.order, gradients, dim, weights.dtype.type(scale), weights, exp_avg, exp_avg_sq,
           max_exp_avg_sq, counts, step, lr, *betas, *tables, eps, coupled, shrink, l1, l1_values)
