"""Y = W X: the forward product, and over the transposed structure the gradient of its input."""

import numpy as np
from numba import prange

from .jit import kernel
from .lanes import axpy_segment, fill_tile
from .launch import launch
from .narrow import NARROW, narrow_spmm_parallel, narrow_spmm_serial
from .panels import ALIGNMENT, aligned, flat, pack_tasks, parts, sweeps, tile_width, unpack
from .plan import Array, Plan, grouped
from .subnormals import flush_subnormals, restore_subnormals
from .vectors import VECTOR_BYTES, lanes


@kernel
def spmm_tasks(first, last, pointers, step, blocks, bounds, group, col, values, bias, panels, at, features,
               y, feature_stride, batch_stride, batch, width):
    """Tasks first..last of Y = W X + bias: one tile of one chunk of rows each, summed where it stays in cache."""
    mode = flush_subnormals()
    tile = len(width) * (VECTOR_BYTES // y.itemsize)
    groups = (bounds.size - 2) // group + 1
    for task in range(first, last):
        t, chunk = task // groups, task % groups * group
        r0, r1 = bounds[chunk], bounds[min(chunk + group, bounds.size - 1)]
        sums = np.empty((r1 - r0) * tile + ALIGNMENT // y.itemsize, y.dtype)
        start = aligned(sums)
        for r in range(r0, r1):
            initial = bias[r] if bias.size > 0 else y.dtype.type(0)
            fill_tile(sums, np.int64(start + (r - r0) * tile), initial, width)
        for block in range(blocks):
            for r in range(r0, r1):
                axpy_segment(sums, np.int64(start + (r - r0) * tile), col, values,
                             np.int64(pointers[block * step + r]), np.int64(pointers[(block + 1) * step + r]),
                             panels, np.int64(at + t * features * tile), width)
        unpack(sums, start, r0, r1, y, feature_stride, batch_stride, t * tile, batch, width)
    restore_subnormals(mode)


@kernel
def spmm_serial(pointers, step, blocks, bounds, group, col, values, bias, x, xf, xb, features, y, yf, yb, batch, width):
    tile = len(width) * (VECTOR_BYTES // y.itemsize)
    tiles = (batch + tile - 1) // tile
    panels = np.empty(tiles * features * tile + ALIGNMENT // x.itemsize, x.dtype)
    at = aligned(panels)
    pack_tasks(0, tiles * parts(features), x, xf, xb, features, batch, panels, at, width)
    spmm_tasks(0, tiles * ((bounds.size - 2) // group + 1), pointers, step, blocks, bounds, group, col, values, bias, panels, at, features,
               y, yf, yb, batch, width)


@kernel(parallel=True)
def spmm_parallel(pointers, step, blocks, bounds, group, col, values, bias, x, xf, xb, features, y, yf, yb, batch, width):
    tile = len(width) * (VECTOR_BYTES // y.itemsize)
    tiles = (batch + tile - 1) // tile
    panels = np.empty(tiles * features * tile + ALIGNMENT // x.itemsize, x.dtype)
    at = aligned(panels)
    for task in prange(tiles * parts(features)):
        pack_tasks(task, task + 1, x, xf, xb, features, batch, panels, at, width)
    for task in prange(tiles * ((bounds.size - 2) // group + 1)):
        spmm_tasks(task, task + 1, pointers, step, blocks, bounds, group, col, values, bias, panels, at, features,
                   y, yf, yb, batch, width)


def spmm(plan: Plan, values: Array, x: Array, y: Array, bias: Array | None = None, threads: int = 1) -> None:
    """y = W x + bias, written into y.

    Args:
        plan: of W, (rows, columns).
        values: shape (nnz,).
        x: shape (columns, batch), any strides that are not negative.
        y: shape (rows, batch), any strides that are not negative.
        bias: shape (rows,), or None.
        threads: at most so many; the result does not depend on it.
    """
    batch = x.shape[1]
    if batch == 0 or plan.rows == 0:
        return
    bias = values[:0] if bias is None else bias
    types = (x.dtype.char, plan.col.dtype.char)
    if batch <= NARROW:
        launch(narrow_spmm_serial, narrow_spmm_parallel, types, plan.col.size * batch, threads, plan.bounds, plan.crow,
               plan.col, values, bias, *flat(x), plan.columns, *flat(y), batch)
        return
    width = tile_width(batch, x.dtype)
    work = plan.col.size * sweeps(batch, x.dtype, len(width))
    group = grouped(plan, -(-batch // (len(width) * lanes(x.dtype))))
    launch(spmm_serial, spmm_parallel, (*types, width), work, threads, plan.pointers, plan.step, plan.blocks,
           plan.bounds, group, plan.col, values, bias, *flat(x), plan.columns, *flat(y), batch, width)
