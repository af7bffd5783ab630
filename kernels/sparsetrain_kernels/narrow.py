"""Products of few samples, in which a tile would be padding: each sample is a row of numbers that edges gather from.

    y[r, n] = bias[r] + sum over e of values[e] * x[col[e], n]
"""

import numpy as np
from numba import prange

from .jit import kernel
from .subnormals import flush_subnormals, restore_subnormals

NARROW = 3  # samples up to which gathering is the faster way


@kernel
def samples_of(x, feature_stride, batch_stride, features, batch):
    """x as rows of samples, (batch, features): a sample's features side by side."""
    samples = np.empty((batch, features), x.dtype)
    for n in range(batch):
        for f in range(features):
            samples[n, f] = x[n * batch_stride + f * feature_stride]
    return samples


@kernel(reorder=True)
def gathered(values, col, sample, start, stop):
    """sum of values[k] * sample[col[k]] over start <= k < stop"""
    total = values.dtype.type(0)
    for k in range(np.uint64(start), np.uint64(stop)):  # unsigned: a signed index may count from the end, and is checked
        total += values[k] * sample[np.uint64(col[k])]
    return total


@kernel
def narrow_spmm_tasks(first, last, bounds, crow, col, values, bias, samples, y, feature_stride, batch_stride):
    """Chunks first..last of the rows of Y = W X + bias."""
    mode = flush_subnormals()
    for r in range(bounds[first], bounds[last]):
        initial = bias[r] if bias.size > 0 else y.dtype.type(0)
        for n in range(samples.shape[0]):
            y[r * feature_stride + n * batch_stride] = initial + gathered(values, col, samples[n], crow[r], crow[r + 1])
    restore_subnormals(mode)


@kernel
def narrow_spmm_serial(bounds, crow, col, values, bias, x, xf, xb, features, y, yf, yb, batch):
    samples = samples_of(x, xf, xb, features, batch)
    narrow_spmm_tasks(0, bounds.size - 1, bounds, crow, col, values, bias, samples, y, yf, yb)


@kernel(parallel=True)
def narrow_spmm_parallel(bounds, crow, col, values, bias, x, xf, xb, features, y, yf, yb, batch):
    samples = samples_of(x, xf, xb, features, batch)
    for chunk in prange(bounds.size - 1):
        narrow_spmm_tasks(chunk, chunk + 1, bounds, crow, col, values, bias, samples, y, yf, yb)


@kernel
def narrow_sddmm_tasks(first, last, bounds, crow, col, a, b, out):
    """Chunks first..last of the rows of out[e] = a[row[e]] . b[col[e]]; a and b as rows of samples."""
    mode = flush_subnormals()
    for r in range(bounds[first], bounds[last]):
        for n in range(a.shape[0]):
            left, sample = a[n, r], b[n]
            for k in range(np.uint64(crow[r]), np.uint64(crow[r + 1])):
                product = left * sample[np.uint64(col[k])]
                out[k] = product if n == 0 else out[k] + product
    restore_subnormals(mode)


@kernel
def narrow_sddmm_serial(bounds, crow, col, a, af, ab, b, bf, bb, features, out, batch):
    left, right = samples_of(a, af, ab, crow.size - 1, batch), samples_of(b, bf, bb, features, batch)
    narrow_sddmm_tasks(0, bounds.size - 1, bounds, crow, col, left, right, out)


@kernel(parallel=True)
def narrow_sddmm_parallel(bounds, crow, col, a, af, ab, b, bf, bb, features, out, batch):
    left, right = samples_of(a, af, ab, crow.size - 1, batch), samples_of(b, bf, bb, features, batch)
    for chunk in prange(bounds.size - 1):
        narrow_sddmm_tasks(chunk, chunk + 1, bounds, crow, col, left, right, out)


@kernel
def narrow_backward_tasks(first, last, bounds, crow, row, perm, values, x, dy, dx, dxf, dxb, grad):
    """Chunks first..last of the columns of both gradients, over a structure that is stored by column."""
    mode = flush_subnormals()
    for c in range(bounds[first], bounds[last]):
        start, stop = np.uint64(crow[c]), np.uint64(crow[c + 1])
        for n in range(x.shape[0]):
            total, held, sample = x.dtype.type(0), x[n, c], dy[n]
            for k in range(start, stop):
                edge, other = np.uint64(perm[k]), sample[np.uint64(row[k])]
                total += values[edge] * other
                grad[edge] = held * other if n == 0 else grad[edge] + held * other
            dx[c * dxf + n * dxb] = total
    restore_subnormals(mode)


@kernel
def narrow_backward_serial(bounds, crow, row, perm, values, x, xf, xb, dy, dyf, dyb, features, dx, dxf, dxb, grad, batch):
    inputs, outputs = samples_of(x, xf, xb, crow.size - 1, batch), samples_of(dy, dyf, dyb, features, batch)
    narrow_backward_tasks(0, bounds.size - 1, bounds, crow, row, perm, values, inputs, outputs, dx, dxf, dxb, grad)


@kernel(parallel=True)
def narrow_backward_parallel(bounds, crow, row, perm, values, x, xf, xb, dy, dyf, dyb, features, dx, dxf, dxb, grad, batch):
    inputs, outputs = samples_of(x, xf, xb, crow.size - 1, batch), samples_of(dy, dyf, dyb, features, batch)
    for chunk in prange(bounds.size - 1):
        narrow_backward_tasks(chunk, chunk + 1, bounds, crow, row, perm, values, inputs, outputs, dx, dxf, dxb, grad)
