"""Both gradients of Y = W X in one pass over the columns: dX = W' dY, and grad[e] = dY[row[e]] . X[col[e]].

A worker takes edges in the order of their columns, with weights and sums in that order as well. A column over a segment
of the samples has one owner, which alone writes its part of dX and of the edges' gradients: no atomics, and the same order
of summation at any number of threads.
"""

import numpy as np
from numba import prange

from .jit import kernel
from .lanes import add_sums, ask, backward_segment, fill_tile
from .launch import launch, workers
from .narrow import NARROW, narrow_backward_parallel, narrow_backward_serial
from .panels import buffer, flat, pack, packed_together, sweeps, tile_width, unpack
from .plan import AHEAD, GROUP, Array, Plan, edges_of, segments, share
from .sddmm import add_parts
from .subnormals import flush_subnormals, restore_subnormals
from .vectors import REGISTERS, VECTOR_BYTES

WIDEST = REGISTERS // 4  # vectors of a tile: its sums, its inputs, four dot products and what is at hand stay in registers


@kernel
def run_of(task, last, chunks, parts, tiles):
    """Segment, first and last chunk that a worker takes next: as many as stay in cache, or all that are left where their
    edges meet several tiles, each of which must be packed."""
    part, first = task // chunks, task % chunks
    stop = min(chunks, first + last - task)
    several = (part + 1) * tiles // parts - part * tiles // parts > 1
    return part, first, stop if several else min(stop, first + GROUP)


@kernel
def room_of(pointers, step, blocks, bounds, task, last, tiles):
    """Edges of the largest run of a worker, of the only segment."""
    room = 0
    while task < last:
        _, first, stop = run_of(task, last, bounds.size - 1, 1, tiles)
        k0, k1 = edges_of(pointers, step, blocks, bounds, first, stop)
        room = max(room, k1 - k0)
        task += stop - first
    return room


@kernel
def gather_values(first, last, values, perm, weights):
    """weights[k - first] = values[perm[k]] for first <= k < last"""
    start = np.uint64(first)  # unsigned: a signed index may count from the end, and is checked
    for k in range(start, np.uint64(last)):
        weights[k - start] = values[np.uint64(perm[k])]


@kernel
def scatter_gradients(first, last, sums, perm, grad):
    """grad[perm[k]] = sums[k - first] for first <= k < last"""
    start = np.uint64(first)
    for k in range(start, np.uint64(last)):
        grad[np.uint64(perm[k])] = sums[k - start]


@kernel
def sweep(sums, begin, inputs, start, row, weights, at_weights, grads, at_grads, pointers, step, blocks, c0, c1, panel, at, width):
    """Both products of columns c0..c1 over one tile, block by block."""
    tile = len(width) * (VECTOR_BYTES // sums.itemsize)
    for c in range(c1 - c0):
        fill_tile(sums, np.int64(begin + c * tile), sums.dtype.type(0), width)
    for block in range(blocks):
        for c in range(c0, c1):
            ask(row, np.int64(pointers[block * step + min(c + AHEAD, c1 - 1)]))
            here = (c - c0) * tile
            backward_segment(sums, np.int64(begin + here), inputs, np.int64(start + here), row, weights,
                             np.int64(at_weights), grads, np.int64(at_grads), np.int64(pointers[block * step + c]),
                             np.int64(pointers[(block + 1) * step + c]), panel, np.int64(at), width)


@kernel
def backward_worker(worker, workers, panels, pointers, step, blocks, bounds, height, row, perm, values, x, xf, xb,
                    dy, dyf, dyb, features, dx, dxf, dxb, grad, partial, bias_parts, parts, batch, width):
    """A worker's share: chunks of columns over segments of the samples. Where there are several segments, their sums have
    a row of partial each, and weights are gathered once for all; else both are kept for what is at hand."""
    mode = flush_subnormals()
    tile = len(width) * (VECTOR_BYTES // x.itemsize)
    tiles, chunks, packed, present = (batch + tile - 1) // tile, bounds.size - 1, panels.size > 0, -1
    task, last = share(worker, workers, parts * chunks)
    panel, at = (panels, 0) if packed else buffer(features * tile, x)
    inputs, start = buffer(height * tile, x)
    sums, begin = buffer(height * tile, x)
    single = parts == 1
    room = room_of(pointers, step, blocks, bounds, task, last, tiles) if single else 0
    weights, grads = np.empty(room if single else perm.size, x.dtype), np.empty(room, x.dtype) if single else partial
    if not single and task < last:
        gather_values(0, perm.size, values, perm, weights)
    while task < last:
        part, first, stop = run_of(task, last, chunks, parts, tiles)
        k0, k1 = edges_of(pointers, step, blocks, bounds, first, stop)
        at_weights, at_grads = (-k0, -k0) if single else (0, part * perm.size)
        if single:
            gather_values(k0, k1, values, perm, weights)
        grads[at_grads + k0 : at_grads + k1] = 0
        for t in range(part * tiles // parts, (part + 1) * tiles // parts):
            if packed:
                at = t * features * tile
            elif t != present:
                pack(dy, dyf, dyb, 0, features, t * tile, batch, panel, at, width)
                present = t
            if first == 0 and bias_parts.size > 0:  # one worker does this for the whole segment
                add_sums(panel, np.int64(at), np.int64(features), bias_parts, np.int64(part * features), width)
            for chunk in range(first, stop, GROUP):
                c0, c1 = bounds[chunk], bounds[min(chunk + GROUP, stop)]
                pack(x, xf, xb, c0, c1, t * tile, batch, inputs, start, width)
                sweep(sums, begin, inputs, start, row, weights, at_weights, grads, at_grads, pointers, step, blocks,
                      c0, c1, panel, at, width)
                unpack(sums, begin, c0, c1, dx, dxf, dxb, t * tile, batch, width)
        if single:
            scatter_gradients(k0, k1, grads, perm, grad)
        task += stop - first
    restore_subnormals(mode)


@kernel
def finish(partial, bias_parts, parts, perm, grad, bias_grad):
    """The sums of all segments together."""
    if parts > 1:
        total = np.empty(perm.size, grad.dtype)
        add_parts(partial, parts, total)
        scatter_gradients(0, perm.size, total, perm, grad)
    add_parts(bias_parts, parts, bias_grad)


@kernel
def backward_serial(workers, panels, pointers, step, blocks, bounds, height, row, perm, values, x, xf, xb, dy, dyf, dyb,
                    features, dx, dxf, dxb, grad, partial, bias_parts, bias_grad, parts, batch, width):
    backward_worker(0, 1, panels, pointers, step, blocks, bounds, height, row, perm, values, x, xf, xb,
                    dy, dyf, dyb, features, dx, dxf, dxb, grad, partial, bias_parts, parts, batch, width)
    finish(partial, bias_parts, parts, perm, grad, bias_grad)


@kernel(parallel=True)
def backward_parallel(workers, panels, pointers, step, blocks, bounds, height, row, perm, values, x, xf, xb, dy, dyf, dyb,
                      features, dx, dxf, dxb, grad, partial, bias_parts, bias_grad, parts, batch, width):
    for worker in prange(workers):
        backward_worker(worker, workers, panels, pointers, step, blocks, bounds, height, row, perm, values, x, xf, xb,
                        dy, dyf, dyb, features, dx, dxf, dxb, grad, partial, bias_parts, parts, batch, width)
    finish(partial, bias_parts, parts, perm, grad, bias_grad)


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
    width = tile_width(batch, x.dtype, WIDEST)
    work = 2 * plan_t.col.size * sweeps(batch, x.dtype, len(width))
    parts = segments(plan_t, batch, len(width), x.dtype)
    partial = np.empty(plan_t.col.size * parts if parts > 1 else 0, x.dtype)
    bias_grad = grad[:0] if bias_grad is None else bias_grad
    launch(backward_serial, backward_parallel, (*types, width), work, threads, workers(threads),
           packed_together(dy, width, threads), plan_t.pointers, plan_t.step, plan_t.blocks, plan_t.bounds, plan_t.height,
           plan_t.col, perm, values, *flat(x), *flat(dy), plan_t.columns, *flat(dx), grad, partial,
           np.zeros(parts * bias_grad.size, x.dtype), bias_grad, parts, batch, width)
