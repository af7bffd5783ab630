"""What a row missed while it was unused: the steps that a dense optimizer would have made with a gradient of zero.

A row that was last up to date ``k`` steps ago gets the last k of the steps described by the rows of a matrix, the newest last.
"""

import math

import numpy as np

from ..jit import kernel, part
from ..launch import launch
from ..plan import Array
from ..subnormals import flush_subnormals, restore_subnormals
from ..workers import each_share
from .gradient import AHEAD, TASK, fetch

NEGLIGIBLE = {np.dtype(np.float32): 1e-10, np.dtype(np.float64): 1e-18}  # of a step, beside the last one with a gradient


@part
def idle_linear_tasks(first, last, rows, behind, powers, dim, weights, buffer, squares, means):
    """(w, b) = M (w, b), v *= a, m *= a, with M and a of the steps that the row missed: row k of powers."""
    mode = flush_subnormals()
    kind = weights.dtype.type
    for i in range(first * TASK, min(rows.size, last * TASK)):
        if i + AHEAD < rows.size:
            ahead = rows[i + AHEAD] * dim
            fetch(weights, ahead, dim)
            fetch(buffer, ahead, dim)
        k = behind[i]
        here, there = rows[i] * dim, (rows[i] + 1) * dim
        w, b, v, m = weights[here:there], buffer[here:there], squares[here:there], means[here:there]
        ww, wb, bw, bb, a = kind(powers[k, 0]), kind(powers[k, 1]), kind(powers[k, 2]), kind(powers[k, 3]), kind(powers[k, 4])
        if b.size > 0:
            for j in range(dim):
                weight, momentum = w[j], b[j]
                w[j] = ww * weight + wb * momentum
                b[j] = bw * weight + bb * momentum
        elif ww != 1:
            for j in range(dim):
                w[j] *= ww
        for j in range(v.size):
            v[j] *= a
        for j in range(m.size):
            m[j] *= a
    restore_subnormals(mode)


@kernel
def idle_linear_kernel(pool, workers, count, *args):
    each_share(pool, workers, count, idle_linear_tasks, args)


@kernel
def powers_of(steps, powers):
    """powers[k] = the product of the last k steps, each a matrix (ww, wb, bw, bb) and a factor"""
    powers[0, 0], powers[0, 1], powers[0, 2], powers[0, 3], powers[0, 4] = 1, 0, 0, 1, 1
    for k in range(1, powers.shape[0]):
        s, p = steps[steps.shape[0] - k], powers[k - 1]
        powers[k, 0] = p[0] * s[0] + p[1] * s[2]
        powers[k, 1] = p[0] * s[1] + p[1] * s[3]
        powers[k, 2] = p[2] * s[0] + p[3] * s[2]
        powers[k, 3] = p[2] * s[1] + p[3] * s[3]
        powers[k, 4] = p[4] * s[4]


def idle_linear(rows: Array, behind: Array, steps: Array, weights: Array, buffer: Array, squares: Array, means: Array, *,
                dim: int, threads: int = 1) -> None:  # fmt: skip
    """The missed steps of optimizers that are linear where the gradient is zero: SGD, RMSprop.

    Args:
        rows: distinct.
        behind: steps that each missed.
        steps: float64, shape (at least max(behind), 5): w = s0 w + s1 b, b = s2 w + s3 b, averages *= s4.
        weights: flat table. buffer, squares, means: the same, or of size 0.
    """
    powers = np.empty((int(behind.max(initial=0)) + 1, 5))
    powers_of(steps, powers)
    count = -(-rows.size // TASK)
    launch(idle_linear_kernel, weights.dtype.char, rows.size * (8 + dim // 4), threads, count, rows,
           behind, powers, dim, weights, buffer, squares, means)


@part
def idle_adam_tasks(first, last, rows, behind, steps, powers, negligible, eps, dim, weights, exp_avg, exp_avg_sq,
                    max_exp_avg_sq):
    mode = flush_subnormals()
    kind = weights.dtype.type
    for i in range(first * TASK, min(rows.size, last * TASK)):
        here, there = rows[i] * dim, (rows[i] + 1) * dim
        w, m, v, u = weights[here:there], exp_avg[here:there], exp_avg_sq[here:there], max_exp_avg_sq[here:there]
        k, size = behind[i], 0.0
        for j in range(dim):
            size = max(size, np.float64(m[j] != 0))  # a row that was never used, or long ago, only decays
        while k > 0 and size >= negligible:
            beta1, beta2, step_size, root, shrink = steps[steps.shape[0] - k]
            b1, b2, s, r, d, e = kind(beta1), kind(beta2), kind(step_size), kind(root), kind(shrink), kind(eps)
            for j in range(dim):
                m[j] *= b1
                v[j] *= b2
            if u.size > 0:
                for j in range(dim):
                    w[j] = d * w[j] - s * m[j] / (math.sqrt(u[j]) * r + e)
                size *= beta1
            else:
                for j in range(dim):
                    w[j] = d * w[j] - s * m[j] / (math.sqrt(v[j]) * r + e)
                size *= beta1 / math.sqrt(beta2) if beta2 > 0 else 0.0
            k -= 1
        b1, b2, d = kind(powers[k, 0]), kind(powers[k, 1]), kind(powers[k, 2])
        for j in range(dim):
            w[j] *= d
            m[j] *= b1
            v[j] *= b2
    restore_subnormals(mode)


@kernel
def idle_adam_kernel(pool, workers, count, *args):
    each_share(pool, workers, count, idle_adam_tasks, args)


@kernel
def decays_of(steps, powers):
    """powers[k] = products over the last k steps of beta1, beta2 and the shrinking of the weights"""
    powers[0] = 1
    for k in range(1, powers.shape[0]):
        step = steps[steps.shape[0] - k]
        powers[k, 0], powers[k, 1], powers[k, 2] = powers[k - 1, 0] * step[0], powers[k - 1, 1] * step[1], powers[k - 1, 2] * step[4]


def idle_adam(rows: Array, behind: Array, steps: Array, weights: Array, exp_avg: Array, exp_avg_sq: Array,
              max_exp_avg_sq: Array, *, dim: int, eps: float, threads: int = 1) -> None:  # fmt: skip
    """The missed steps of Adam and AdamW, one by one until the moments no longer move a weight, then all at once.

    beta1 / sqrt(beta2) is 0.9 as a rule: after 400 steps nothing is left of the first even in float64.

    Args:
        rows: distinct.
        behind: steps that each missed.
        steps: float64, shape (at least max(behind), 5): beta1, beta2, lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t) and what
            decay leaves of the weights.
        weights, exp_avg, exp_avg_sq: flat tables. max_exp_avg_sq: the same, or of size 0.
    """
    powers = np.empty((int(behind.max(initial=0)) + 1, 3))
    decays_of(steps, powers)
    count = -(-rows.size // TASK)
    work = int(np.minimum(behind, 400).sum()) * (8 + dim // 4)
    launch(idle_adam_kernel, weights.dtype.char, work, threads, count, rows, behind, steps, powers,
           NEGLIGIBLE[weights.dtype], eps, dim, weights, exp_avg, exp_avg_sq, max_exp_avg_sq)
