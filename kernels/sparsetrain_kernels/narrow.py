"""Products of few samples, in which a tile would be padding: each sample is a row of numbers that edges gather from.

    y[r, n] = bias[r] + sum over e of values[e] * x[col[e], n]
"""

import numpy as np

from .half_precision import computed
from .jit import kernel, part
from .lanes import gather_dot
from .operands import read, write
from .subnormals import flush_subnormals, restore_subnormals
from .workers import each_share

NARROW = 3  # samples up to which gathering is the faster way


def samples_like(x):
    """Room for a batch as rows of samples, in the type that is computed in."""
    return np.empty(x.size, computed(x.dtype))


@part
def fill_samples(x, feature_stride, batch_stride, samples, features, batch):
    """x as flat rows of samples: number n*features + f is feature f of sample n."""
    for n in range(batch):
        for f in range(features):
            samples[n * features + f] = read(x, np.int64(n * batch_stride + f * feature_stride))


@part
def narrow_spmm_tasks(first, last, bounds, crow, col, values, bias, samples, features, y, yf, yb, batch):
    """Chunks first..last of the rows of Y = W X + bias."""
    mode = flush_subnormals()
    for r in range(bounds[first], bounds[last]):
        initial = bias[r] if bias.size > 0 else values.dtype.type(0)
        for n in range(batch):
            total = initial + gather_dot(values, col, samples, np.int64(n * features), np.int64(crow[r]), np.int64(crow[r + 1]))
            write(y, np.int64(r * yf + n * yb), total)
    restore_subnormals(mode)


@kernel
def narrow_spmm_kernel(pool, workers, bounds, crow, col, values, bias, x, xf, xb, samples, features, y, yf, yb, batch):
    fill_samples(x, xf, xb, samples, features, batch)
    each_share(pool, workers, bounds.size - 1, narrow_spmm_tasks,
               (bounds, crow, col, values, bias, samples, features, y, yf, yb, batch))


@part
def narrow_sddmm_tasks(first, last, bounds, crow, col, a, b, features, out, batch):
    """Chunks first..last of the rows of out[e] = a[row[e]] . b[col[e]]; a and b as rows of samples."""
    mode = flush_subnormals()
    rows = crow.size - 1
    for r in range(bounds[first], bounds[last]):
        for n in range(batch):
            left, place = a[n * rows + r], np.uint64(n * features)
            for k in range(np.uint64(crow[r]), np.uint64(crow[r + 1])):
                product = left * b[place + np.uint64(col[k])]
                out[k] = product if n == 0 else out[k] + product
    restore_subnormals(mode)


@kernel
def narrow_sddmm_kernel(pool, workers, bounds, crow, col, a, af, ab, left, b, bf, bb, right, features, out, batch):
    fill_samples(a, af, ab, left, crow.size - 1, batch)
    fill_samples(b, bf, bb, right, features, batch)
    each_share(pool, workers, bounds.size - 1, narrow_sddmm_tasks, (bounds, crow, col, left, right, features, out, batch))


@part
def narrow_backward_tasks(first, last, bounds, crow, row, perm, values, x, dy, features, dx, dxf, dxb, grad, batch):
    """Chunks first..last of the columns of both gradients, over a structure that is stored by column."""
    mode = flush_subnormals()
    columns = crow.size - 1
    for c in range(bounds[first], bounds[last]):
        start, stop = np.uint64(crow[c]), np.uint64(crow[c + 1])
        for n in range(batch):
            total, held, place = x.dtype.type(0), x[n * columns + c], np.uint64(n * features)
            for k in range(start, stop):
                edge, other = np.uint64(perm[k]), dy[place + np.uint64(row[k])]
                total += values[edge] * other
                grad[edge] = held * other if n == 0 else grad[edge] + held * other
            write(dx, np.int64(c * dxf + n * dxb), total)
    restore_subnormals(mode)


@kernel
def narrow_backward_kernel(pool, workers, bounds, crow, row, perm, values, x, xf, xb, inputs, dy, dyf, dyb, outputs, features,
                           dx, dxf, dxb, grad, batch):
    fill_samples(x, xf, xb, inputs, crow.size - 1, batch)
    fill_samples(dy, dyf, dyb, outputs, features, batch)
    each_share(pool, workers, bounds.size - 1, narrow_backward_tasks,
               (bounds, crow, row, perm, values, inputs, outputs, features, dx, dxf, dxb, grad, batch))
