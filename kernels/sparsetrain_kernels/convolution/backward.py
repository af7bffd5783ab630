"""Both gradients of a convolution in one pass over the input channels: dX, and grad[e] = dY[o] . X[c] shifted by its tap.

As for a linear layer (../backward.py): an input channel over a segment of the images has one owner, which alone writes
its part of dX and of its edges' gradients.
"""

import numpy as np
from numba import prange

from ..half_precision import computed
from ..jit import kernel
from ..lanes import fill_tile
from ..launch import launch
from ..panels import scratch
from ..plan import SEGMENTS, Array, share
from ..subnormals import flush_subnormals, restore_subnormals
from ..vectors import lanes
from ..width import REGISTERS, VECTOR_BYTES
from .cells import put_cells, take_cells, take_channel
from .edges import EdgesByInput
from .grids import Grid
from .shifted import shifted_backward

WIDTH = (0,) * (REGISTERS // 4)  # as in ../backward.py


@kernel
def backward_worker(worker, workers, room, g, cells_x, cells_y, crow, code, bounds, start, weights, grads, parts, taps, x, dx, channels, inputs,
                    dy, outputs, batch, width):
    """A worker's share: chunks of input channels over segments of the images, whose edges' gradients have a row each."""
    mode = flush_subnormals()
    tile = len(width) * (VECTOR_BYTES // weights.itemsize)
    chunks, rows, nnz, present = bounds.size - 1, start.size // taps, code.size, -1
    groups = (batch + g.images - 1) // g.images
    task, last = share(worker, workers, parts * chunks)
    at = worker * (room.size // workers)
    here = at + rows * g.stride
    sums = here + g.span
    if task < last:
        room[at:sums] = 0
    while task < last:
        part, chunk = task // chunks, task % chunks
        end = min(chunks, chunk + last - task)
        r0, r1 = bounds[chunk], bounds[end]
        grads[part * nnz + crow[r0] : part * nnz + crow[r1]] = 0
        for group in range(part * groups // parts, (part + 1) * groups // parts):
            first, images = group * g.images, min(g.images, batch - group * g.images)
            if group != present:
                for o in range(rows):
                    take_channel(dy, (first * rows + o) * outputs, rows * outputs, cells_y, 0, g.spans, g.span, images,
                                 room, at + o * g.stride + g.lead)
                present = group
            for s in range(g.spans):
                for r in range(r0, r1):
                    c, i = r // g.phases, r % g.phases * g.spans + s
                    k0, k1, length = np.int64(crow[r]), np.int64(crow[r + 1]), min(g.span, g.length - s * g.span)
                    if g.phases > 1:
                        room[here : here + length] = 0
                    if k1 > k0:
                        take_cells(x, (first * channels + c) * inputs, channels * inputs, cells_x, cells_x.bounds[i],
                                   cells_x.bounds[i + 1], images, room, here)
                    for t in range(0, length, tile):
                        fill_tile(room, np.int64(sums + t), room.dtype.type(0), width)
                        shifted_backward(room, np.int64(sums + t), room, np.int64(here + t), code, weights, grads,
                                         np.int64(part * nnz), k0, k1, start, room, np.int64(at + s * g.span + t), width)
                    if dx.size > 0:
                        put_cells(room, sums, dx, (first * channels + c) * inputs, channels * inputs, cells_x,
                                  cells_x.bounds[i], cells_x.bounds[i + 1], images)
                if g.phases == 1:  # runs of another span stand elsewhere
                    room[here : here + g.span] = 0
        task += end - chunk
    restore_subnormals(mode)


@kernel
def backward_serial(workers, room, g, cells_x, cells_y, crow, code, bounds, start, weights, grads, parts, taps, x, dx, channels, inputs, dy, outputs, batch,
                    width):
    backward_worker(np.int64(0), np.int64(1), room, g, cells_x, cells_y, crow, code, bounds, start, weights, grads, parts, taps, x, dx, channels, inputs,
                    dy, outputs, batch, width)


@kernel(parallel=True)
def backward_parallel(workers, room, g, cells_x, cells_y, crow, code, bounds, start, weights, grads, parts, taps, x, dx, channels, inputs, dy, outputs,
                      batch, width):
    for worker in prange(workers):
        backward_worker(np.int64(worker), workers, room, g, cells_x, cells_y, crow, code, bounds, start, weights, grads, parts, taps, x, dx, channels,
                        inputs, dy, outputs, batch, width)


def backward(e: EdgesByInput, g: Grid, values: Array, x: Array, dy: Array, dx: Array | None, grad: Array, threads: int = 1) -> None:
    """dx = the gradient of the inputs, and grad[e] that of the values, written into dx and grad.

    Args:
        e: of the weight, by input channel and the phases of the grid.
        g: the grid of x and dy.
        values: shape (nnz,).
        x: shape (batch, channels, positions), contiguous; of the type of values or, beside float32 values, in half precision.
        dy: shape (batch, outputs, positions), contiguous; of the type of x.
        dx: shape of x, contiguous, of the type of x; or None. Inputs that no tap reads stay as they are in it.
        grad: shape (nnz,).
        threads: at most so many; the result does not depend on it.
    """
    batch, channels, inputs = x.shape
    if x.size == 0 or dy.size == 0:
        grad[:] = 0
        return
    dtype = computed(x.dtype)
    layout, cells_x, cells_y = g.layout, g.inputs, g.outputs
    groups = -(-batch // layout.images)
    parts = min(groups, SEGMENTS)
    work = 2 * values.size * groups * layout.length // lanes(dtype)
    room = e.outputs * layout.stride + 2 * layout.span
    grads = np.empty((parts, values.size), dtype)
    launch(backward_serial, backward_parallel, (x.dtype.char, e.code.dtype.char), work, threads,
           *scratch(room, dtype, threads, work), layout, cells_x, cells_y, e.crow, e.code, e.bounds, e.starts(g), values[e.perm], grads.reshape(-1), parts, g.shift.size,
           x.reshape(-1), x.reshape(-1)[:0] if dx is None else dx.reshape(-1), channels, inputs, dy.reshape(-1), dy.shape[2], batch,
           WIDTH)
    grad[e.perm] = grads.sum(0)
