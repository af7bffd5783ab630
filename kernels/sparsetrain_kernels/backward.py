"""Both gradients of Y = W X in one pass over the columns: dX = W' dY, and grad[e] = dY[row[e]] . X[col[e]].

Edges are taken in the order of their columns, and so are weights and gradients while it runs. A column over a segment of
the samples has one owner, which alone writes its part of dX and of the edges' gradients: no atomics, and the same order
of summation at any number of threads.
"""

import numpy as np
from numba import prange

from .jit import kernel
from .lanes import add_sums, backward_segment, fill_tile
from .launch import launch, workers
from .narrow import NARROW, narrow_backward_parallel, narrow_backward_serial
from .panels import buffer, flat, pack, pack_tasks, packing_tasks, sweeps, tile_width, unpack
from .plan import GROUP, Array, Plan, edges_of, segments, share
from .sddmm import add_parts
from .subnormals import flush_subnormals, restore_subnormals
from .vectors import VECTOR_BYTES


@kernel
def gather_values(worker, workers, values, perm, weights):
    """weights[k] = values[perm[k]] for a worker's share of the edges"""
    k0, k1 = share(worker, workers, perm.size)
    for k in range(np.uint64(k0), np.uint64(k1)):  # unsigned: a signed index may count from the end, and is checked
        weights[k] = values[np.uint64(perm[k])]


@kernel
def scatter_gradients(worker, workers, partial, parts, perm, grad):
    """grad[perm[k]] = sum over parts of partial[part, k], in order, for a worker's share of the edges"""
    k0, k1 = share(worker, workers, perm.size)
    for k in range(np.uint64(k0), np.uint64(k1)):
        total = partial[k]
        for part in range(np.uint64(1), np.uint64(parts)):
            total += partial[part * np.uint64(perm.size) + k]
        grad[np.uint64(perm[k])] = total


@kernel
def backward_worker(worker, workers, packed, panels, base, pointers, step, blocks, bounds, height, row, weights,
                    x, xf, xb, dy, dyf, dyb, features, dx, dxf, dxb, partial, bias_parts, parts, batch, width):
    """A worker's share: chunks of columns over a segment of the samples, whose sums have a place of their own in partial."""
    mode = flush_subnormals()
    tile = len(width) * (VECTOR_BYTES // x.itemsize)
    tiles, chunks, nnz = (batch + tile - 1) // tile, bounds.size - 1, row.size
    task, last = share(worker, workers, parts * chunks)
    panel, at = (panels, base) if packed else buffer(features * tile, x)
    inputs, start = buffer(height * tile, x)
    sums, begin = buffer(height * tile, x)
    while task < last:
        part, first = task // chunks, task % chunks
        stop = min(chunks, first + last - task)
        k0, k1 = edges_of(pointers, step, blocks, bounds, first, stop)
        partial[part * nnz + k0 : part * nnz + k1] = 0
        for t in range(part * tiles // parts, (part + 1) * tiles // parts):
            if packed:
                at = base + t * features * tile
            else:
                pack(dy, dyf, dyb, 0, features, t * tile, batch, panel, at, width)
            if first == 0 and bias_parts.size > 0:  # one worker does this for the whole segment
                add_sums(panel, np.int64(at), np.int64(features), bias_parts, np.int64(part * features), width)
            for chunk in range(first, stop, GROUP):
                c0, c1 = bounds[chunk], bounds[min(chunk + GROUP, stop)]
                pack(x, xf, xb, c0, c1, t * tile, batch, inputs, start, width)
                for c in range(c1 - c0):
                    fill_tile(sums, np.int64(begin + c * tile), x.dtype.type(0), width)
                for block in range(blocks):
                    for c in range(c0, c1):
                        here = (c - c0) * tile
                        backward_segment(sums, np.int64(begin + here), inputs, np.int64(start + here), row, weights,
                                         partial, np.int64(part * nnz), np.int64(pointers[block * step + c]),
                                         np.int64(pointers[(block + 1) * step + c]), panel, np.int64(at), width)
                unpack(sums, begin, c0, c1, dx, dxf, dxb, t * tile, batch, width)
        task += stop - first
    restore_subnormals(mode)


@kernel
def backward_serial(workers, parts, pointers, step, blocks, bounds, height, row, perm, values, x, xf, xb, dy, dyf, dyb, features,
                    dx, dxf, dxb, grad, bias_grad, batch, width):
    weights, partial = np.empty(perm.size, x.dtype), np.empty(parts * perm.size, x.dtype)
    bias_parts = np.zeros(parts * bias_grad.size, x.dtype)
    gather_values(0, 1, values, perm, weights)
    backward_worker(0, 1, False, x, 0, pointers, step, blocks, bounds, height, row, weights, x, xf, xb, dy, dyf, dyb, features,
                    dx, dxf, dxb, partial, bias_parts, parts, batch, width)
    scatter_gradients(0, 1, partial, parts, perm, grad)
    add_parts(0, 1, bias_parts, parts, bias_grad)


@kernel(parallel=True)
def backward_parallel(workers, parts, pointers, step, blocks, bounds, height, row, perm, values, x, xf, xb, dy, dyf, dyb, features,
                      dx, dxf, dxb, grad, bias_grad, batch, width):
    tasks, size = packing_tasks(features, batch, x, width)
    panels, base = buffer(size, x)
    weights, partial = np.empty(perm.size, x.dtype), np.empty(parts * perm.size, x.dtype)
    bias_parts = np.zeros(parts * bias_grad.size, x.dtype)
    for task in prange(tasks):
        pack_tasks(task, task + 1, dy, dyf, dyb, features, batch, panels, base, width)
    for worker in prange(workers):
        gather_values(worker, workers, values, perm, weights)
    for worker in prange(workers):
        backward_worker(worker, workers, tasks > 0, panels, base, pointers, step, blocks, bounds, height, row, weights,
                        x, xf, xb, dy, dyf, dyb, features, dx, dxf, dxb, partial, bias_parts, parts, batch, width)
    for worker in prange(workers):
        scatter_gradients(worker, workers, partial, parts, perm, grad)
    add_parts(0, 1, bias_parts, parts, bias_grad)


def backward(
    plan_t: Plan, perm: Array, values: Array, x: Array, dy: Array, dx: Array, grad: Array, bias_grad: Array | None = None,
    threads: int = 1,
) -> None:
    """dx = W' dy, grad[e] = dy[row[e]] . x[col[e]] and bias_grad = dy 1, written into dx, grad and bias_grad.

    Args:
        plan_t: of the transposed structure: its rows are the columns of W.
        perm: position of each edge of that structure in values, shape (nnz,).
        values: of W, shape (nnz,).
        x: shape (columns of W, batch), any strides that are not negative.
        dy: shape (rows of W, batch), any strides that are not negative.
        dx: shape of x, any strides that are not negative.
        grad: shape (nnz,).
        bias_grad: shape (rows of W,), or None.
        threads: at most so many; the result does not depend on it.
    """
    batch = x.shape[1]
    if bias_grad is not None and (batch <= NARROW or plan_t.rows == 0):
        dy.sum(axis=1, out=bias_grad)
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
    parts = segments(plan_t, batch, len(width), x.dtype)
    launch(backward_serial, backward_parallel, (*types, width), work, threads, workers(threads), parts, plan_t.pointers, plan_t.step,
           plan_t.blocks, plan_t.bounds, plan_t.height, plan_t.col, perm, values, *flat(x), *flat(dy), plan_t.columns,
           *flat(dx), grad, grad[:0] if bias_grad is None else bias_grad, batch, width)
