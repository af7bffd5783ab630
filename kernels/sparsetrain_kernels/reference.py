"""Plain twins of the kernels: the same signatures and the mathematics in loops that can be read. For tests."""

import numpy as np

from .vectors import lanes


def spmm(plan, values, x, y, bias=None, threads=1):
    for r in range(plan.rows):
        y[r] = 0 if bias is None else bias[r]
        for e in range(plan.crow[r], plan.crow[r + 1]):
            y[r] += values[e] * x[plan.col[e]]


def sddmm(plan, a, b, out, threads=1):
    for r in range(plan.rows):
        for e in range(plan.crow[r], plan.crow[r + 1]):
            out[e] = np.dot(a[r], b[plan.col[e]])


def backward(plan_t, perm, values, x, dy, dx, grad, bias_grad=None, threads=1):
    if bias_grad is not None:
        bias_grad[:] = dy.sum(1)
    for c in range(plan_t.rows):
        dx[c] = 0
        for k in range(plan_t.crow[c], plan_t.crow[c + 1]):
            e, r = perm[k], plan_t.col[k]
            dx[c] += values[e] * dy[r]
            grad[e] = np.dot(dy[r], x[c])


def transpose(crow, col, columns):
    row = [r for r in range(crow.size - 1) for _ in range(crow[r], crow[r + 1])]
    perm = sorted(range(col.size), key=lambda e: (col[e], row[e]))
    crow_t = [0] + [sum(int(col[e]) <= c for e in perm) for c in range(columns)]
    return np.array(crow_t, crow.dtype), np.array([row[e] for e in perm], col.dtype), np.array(perm, col.dtype)


def used(x, threads=1):
    return np.array([any(number != 0 for number in feature) for feature in x], np.bool_)


def pack(x, feature_stride, batch_stride, first, last, sample, batch, panel, at, width):
    tile = len(width) * lanes(x.dtype)
    for f in range(first, last):
        for j in range(tile):
            inside = sample + j < batch
            panel[at + (f - first) * tile + j] = x[f * feature_stride + (sample + j) * batch_stride] if inside else 0


def unpack(panel, at, first, last, x, feature_stride, batch_stride, sample, batch, width):
    tile = len(width) * lanes(x.dtype)
    for f in range(first, last):
        for j in range(min(tile, batch - sample)):
            x[f * feature_stride + (sample + j) * batch_stride] = panel[at + (f - first) * tile + j]
