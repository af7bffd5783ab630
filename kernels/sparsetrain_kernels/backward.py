"""Both gradients of Y = W X in one pass over the columns: dX = W' dY, and grad[e] = dY[row[e]] . X[col[e]].

A worker takes edges in the order of their columns, with weights and sums in that order as well. A column over a segment
of the samples has one owner, which alone writes its part of dX and of the edges' gradients: no atomics, and the same order
of summation at any number of threads.
"""

import numpy as np

from .half_precision import widened
from .jit import kernel, part
from .lanes import add_sums, backward_rows
from .launch import launch
from .narrow import NARROW, narrow_backward_kernel, samples_like
from .panels import flat, pack, packed_together, scratch, sweeps, tile_width, unpack
from .plan import GROUP, Array, Plan, edges_of, segments, share
from .sddmm import add_parts
from .subnormals import flush_subnormals, restore_subnormals
from .vectors import lanes
from .width import MOST_GRADIENT_VECTORS, VECTOR_BYTES
from .workers import each_worker


@part
def run_of(task, last, chunks, parts, tiles):
    """Segment, first and last chunk that a worker takes next: as many as stay in cache, or all that are left where their
    edges meet several tiles, each of which must be packed."""
    part, first = task // chunks, task % chunks
    stop = min(chunks, first + last - task)
    several = (part + 1) * tiles // parts - part * tiles // parts > 1
    return part, first, stop if several else min(stop, first + GROUP)


@part
def gather_values(first, last, values, perm, weights, at):
    """weights[at + k] = values[perm[k]] for first <= k < last"""
    shift = np.uint64(at)  # unsigned: a signed index may count from the end, and is checked
    for k in range(np.uint64(first), np.uint64(last)):
        weights[k + shift] = values[np.uint64(perm[k])]


@part
def scatter_gradients(first, last, sums, at, perm, grad):
    """grad[perm[k]] = sums[at + k] for first <= k < last"""
    shift = np.uint64(at)
    for k in range(np.uint64(first), np.uint64(last)):
        grad[np.uint64(perm[k])] = sums[k + shift]


@part
def backward_worker(worker, workers, room, panels, pointers, step, blocks, bounds, height, row, perm, values, x, xf, xb,
                    dy, dyf, dyb, features, dx, dxf, dxb, grad, weights, grads, run, bias_parts, parts, batch, vectors):
    """A worker's share: chunks of columns over segments of the samples. Weights and sums of gradients stand where edges do;
    with ``run``, in room for so many edges that a worker uses again and again. Several segments have a row of sums each,
    and weights that are there already."""
    mode = flush_subnormals()
    tile = vectors * (VECTOR_BYTES // values.itemsize)
    tiles, chunks, packed, present = (batch + tile - 1) // tile, bounds.size - 1, panels.size > 0, -1
    task, last = share(worker, workers, parts * chunks)
    panel, inputs, sums, at = panels if packed else room, room, room, worker * (room.size // workers)
    start = at if packed else at + features * tile
    begin, single = start + height * tile, parts == 1
    while task < last:
        part, first, stop = run_of(task, last, chunks, parts, tiles)
        k0, k1 = edges_of(pointers, step, blocks, bounds, first, stop)
        at_weights = worker * run - k0 if run > 0 else 0
        at_grads = at_weights if single else part * perm.size
        if single:
            gather_values(k0, k1, values, perm, weights, at_weights)
        grads[at_grads + k0 : at_grads + k1] = 0
        for t in range(part * tiles // parts, (part + 1) * tiles // parts):
            if packed:
                at = t * features * tile
            elif t != present:
                pack(dy, dyf, dyb, np.int64(0), features, t * tile, batch, panel, at, vectors)
                present = t
            if first == 0 and bias_parts.size > 0:  # one worker does this for the whole segment
                add_sums(panel, np.int64(at), np.int64(features), bias_parts, np.int64(part * features), vectors)
            for chunk in range(first, stop, GROUP):
                c0, c1 = bounds[chunk], bounds[min(chunk + GROUP, stop)]
                pack(x, xf, xb, c0, c1, t * tile, batch, inputs, start, vectors)
                sums[begin : begin + (c1 - c0) * tile] = 0
                for block in range(blocks):
                    backward_rows(sums, np.int64(begin), inputs, np.int64(start), row, weights, np.int64(at_weights), grads,
                                  np.int64(at_grads), pointers, np.int64(block * step), step, c0, c1, panel, np.int64(at), vectors)
                unpack(sums, begin, c0, c1, dx, dxf, dxb, t * tile, batch, vectors)
        if single:
            scatter_gradients(k0, k1, grads, at_grads, perm, grad)
        task += stop - first
    restore_subnormals(mode)


@part
def finish(grads, bias_parts, parts, perm, grad, bias_grad):
    """The sums of all segments together, added to those of the first."""
    if parts > 1:
        add_parts(grads, parts, grads[: perm.size])
        scatter_gradients(np.int64(0), perm.size, grads, np.int64(0), perm, grad)
    add_parts(bias_parts, parts, bias_grad)


@kernel
def backward_kernel(pool, workers, crew, room, panels, pointers, step, blocks, bounds, height, row, perm, values, x, xf, xb,
                    dy, dyf, dyb, features, dx, dxf, dxb, grad, weights, grads, run, bias_parts, bias_grad, parts, batch, vectors):
    if parts > 1:
        gather_values(np.int64(0), perm.size, values, perm, weights, np.int64(0))
    each_worker(pool, crew, backward_worker, (
        room, panels, pointers, step, blocks, bounds, height, row, perm, values, x, xf, xb, dy, dyf, dyb, features,
        dx, dxf, dxb, grad, weights, grads, run, bias_parts, parts, batch, vectors))
    finish(grads, bias_parts, parts, perm, grad, bias_grad)


def backward(
    plan_t: Plan, perm: Array, values: Array, x: Array, dy: Array, dx: Array, grad: Array, bias_grad: Array | None = None,
    threads: int = 1,
) -> None:
    """dx = W' dy, grad[e] = dy[row[e]] . x[col[e]] and bias_grad = dy 1, written into dx, grad and bias_grad.

    Args:
        plan_t: of the transposed structure: its rows are the columns of W.
        perm: position of each edge of that structure in values, shape (nnz,).
        values: of W, shape (nnz,).
        x: shape (columns of W, batch), any strides that are not negative; of the type of values or, beside float32 values,
            in half precision: the bits of float16 as np.int16, those of bfloat16 as np.uint16.
        dy: shape (rows of W, batch), any strides that are not negative; of the type of x.
        dx: shape of x, any strides that are not negative; of the type of x.
        grad: shape (nnz,).
        bias_grad: shape (rows of W,), or None.
        threads: at most so many; the result does not depend on it.
    """
    batch = x.shape[1]
    inputs, outputs = (samples_like(x), samples_like(dy)) if batch <= NARROW else (None, None)
    if bias_grad is not None and (batch <= NARROW or plan_t.rows == 0):
        widened(dy).sum(axis=1, out=bias_grad)
    if batch == 0 or plan_t.rows == 0:
        grad[:] = 0
        return
    types, dtype = (x.dtype.char, plan_t.col.dtype.char), values.dtype
    if batch <= NARROW:
        launch(narrow_backward_kernel, types, 2 * plan_t.col.size * batch, threads, plan_t.bounds,
               plan_t.crow, plan_t.col, perm, values, *flat(x), inputs, *flat(dy), outputs, plan_t.columns, *flat(dx), grad,
               batch)
        return
    vectors = tile_width(batch, dtype, MOST_GRADIENT_VECTORS)
    work = 2 * plan_t.col.size * sweeps(batch, dtype, vectors)
    parts = segments(plan_t, batch, vectors, dtype)
    bias_grad = grad[:0] if bias_grad is None else bias_grad
    panels, tile, nnz = packed_together(dy, vectors, threads), vectors * lanes(dtype), plan_t.col.size
    room = (2 * plan_t.height + (0 if panels.size else plan_t.columns)) * tile
    crew, room = scratch(room, dtype, threads, work)
    run = plan_t.run if batch <= tile and crew * plan_t.run < nnz else 0  # of a single tile, edges are used but once
    weights, grads = np.empty(crew * run or nnz, dtype), np.empty(crew * run or nnz * parts, dtype)
    launch(backward_kernel, types, work, threads, crew, room, panels, plan_t.pointers, plan_t.step, plan_t.blocks, plan_t.bounds,
           plan_t.height, plan_t.col, perm, values, *flat(x), *flat(dy), plan_t.columns, *flat(dx), grad, weights, grads, run,
           np.zeros(parts * bias_grad.size, dtype), bias_grad, parts, batch, vectors)
