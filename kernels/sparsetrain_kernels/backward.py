"""Both gradients of Y = W X in one pass over the columns: dX = W' dY, and grad[e] = dY[row[e]] . X[col[e]].

A column of W has one owner, which alone writes its row of dX and the gradients of its edges: no atomics, and the same
order of summation at any number of threads.
"""

import numpy as np
from numba import prange

from .jit import kernel
from .lanes import backward_segment, fill_tile
from .launch import launch
from .narrow import NARROW, narrow_backward_parallel, narrow_backward_serial
from .panels import ALIGNMENT, aligned, flat, pack, pack_tasks, parts, sweeps, tile_width, unpack
from .plan import Array, Plan, grouped
from .subnormals import flush_subnormals, restore_subnormals
from .vectors import VECTOR_BYTES


@kernel
def backward_tasks(first, last, pointers, step, blocks, bounds, group, row, perm, values, x, xf, xb, panels, at, features,
                   dx, dxf, dxb, grad, batch, width):
    """Chunks first..last of the columns, over a structure that is stored by column."""
    mode = flush_subnormals()
    tile = len(width) * (VECTOR_BYTES // x.itemsize)
    tiles = (batch + tile - 1) // tile
    for task in range(first, last):
        c0, c1 = bounds[task * group], bounds[min(task * group + group, bounds.size - 1)]
        k0, k1 = pointers[c0], pointers[blocks * step + c1 - 1] if c1 > c0 else pointers[c0]
        weights, grads = np.empty(k1 - k0, x.dtype), np.zeros(k1 - k0, x.dtype)
        for k in range(k1 - k0):
            weights[np.uint64(k)] = values[np.uint64(perm[np.uint64(k0 + k)])]  # unsigned: a signed index may count from the end
        size = (c1 - c0) * tile + ALIGNMENT // x.itemsize
        inputs, sums = np.empty(size, x.dtype), np.empty(size, x.dtype)
        start, begin = aligned(inputs), aligned(sums)
        for t in range(tiles):
            pack(x, xf, xb, c0, c1, t * tile, batch, inputs, start, width)
            for c in range(c1 - c0):
                fill_tile(sums, np.int64(begin + c * tile), x.dtype.type(0), width)
            for block in range(blocks):
                for c in range(c0, c1):
                    here = (c - c0) * tile
                    backward_segment(sums, np.int64(begin + here), inputs, np.int64(start + here), row, weights, grads, np.int64(k0),
                                     np.int64(pointers[block * step + c]), np.int64(pointers[(block + 1) * step + c]),
                                     panels, np.int64(at + t * features * tile), width)
            unpack(sums, begin, c0, c1, dx, dxf, dxb, t * tile, batch, width)
        for k in range(k1 - k0):
            grad[np.uint64(perm[np.uint64(k0 + k)])] = grads[np.uint64(k)]
    restore_subnormals(mode)


@kernel
def backward_serial(pointers, step, blocks, bounds, group, row, perm, values, x, xf, xb, dy, dyf, dyb, features, dx, dxf, dxb, grad, batch, width):
    tile = len(width) * (VECTOR_BYTES // x.itemsize)
    tiles = (batch + tile - 1) // tile
    panels = np.empty(tiles * features * tile + ALIGNMENT // x.itemsize, x.dtype)
    at = aligned(panels)
    pack_tasks(0, tiles * parts(features), dy, dyf, dyb, features, batch, panels, at, width)
    backward_tasks(0, (bounds.size - 2) // group + 1, pointers, step, blocks, bounds, group, row, perm, values, x, xf, xb, panels, at, features,
                   dx, dxf, dxb, grad, batch, width)


@kernel(parallel=True)
def backward_parallel(pointers, step, blocks, bounds, group, row, perm, values, x, xf, xb, dy, dyf, dyb, features, dx, dxf, dxb, grad, batch, width):
    tile = len(width) * (VECTOR_BYTES // x.itemsize)
    tiles = (batch + tile - 1) // tile
    panels = np.empty(tiles * features * tile + ALIGNMENT // x.itemsize, x.dtype)
    at = aligned(panels)
    for task in prange(tiles * parts(features)):
        pack_tasks(task, task + 1, dy, dyf, dyb, features, batch, panels, at, width)
    for task in prange((bounds.size - 2) // group + 1):
        backward_tasks(task, task + 1, pointers, step, blocks, bounds, group, row, perm, values, x, xf, xb, panels, at, features,
                       dx, dxf, dxb, grad, batch, width)


def backward(
    plan_t: Plan, perm: Array, values: Array, x: Array, dy: Array, dx: Array, grad: Array, threads: int = 1
) -> None:
    """dx = W' dy and grad[e] = dy[row[e]] . x[col[e]], written into dx and grad.

    Args:
        plan_t: of the transposed structure: its rows are the columns of W.
        perm: position of each edge of that structure in values, shape (nnz,).
        values: of W, shape (nnz,).
        x: shape (columns of W, batch), any strides that are not negative.
        dy: shape (rows of W, batch), any strides that are not negative.
        dx: shape of x, any strides that are not negative.
        grad: shape (nnz,).
        threads: at most so many; the result does not depend on it.
    """
    batch = x.shape[1]
    if batch == 0 or plan_t.rows == 0:
        grad[:] = 0
        return
    types = (x.dtype.char, plan_t.col.dtype.char)
    if batch <= NARROW:
        launch(narrow_backward_serial, narrow_backward_parallel, types, 2 * plan_t.col.size * batch, threads, plan_t.bounds,
               plan_t.crow, plan_t.col, perm, values, *flat(x), *flat(dy), plan_t.columns, *flat(dx), grad, batch)
        return
    width = tile_width(batch, x.dtype)
    work = 2 * plan_t.col.size * sweeps(batch, x.dtype, len(width))
    group = grouped(plan_t, 1)
    launch(backward_serial, backward_parallel, (*types, width), work, threads, plan_t.pointers, plan_t.step,
           plan_t.blocks, plan_t.bounds, group, plan_t.col, perm, values, *flat(x), *flat(dy), plan_t.columns, *flat(dx), grad,
           batch, width)
