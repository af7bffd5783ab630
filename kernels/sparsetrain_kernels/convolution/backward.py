"""Both gradients of a convolution in one pass over the input channels: dX, and grad[e] = dY[o] . X[c] shifted by its tap.

As for a linear layer (../backward.py): an input channel over a segment of the images has one owner, which alone writes
its part of dX and of its edges' gradients.
"""

import numpy as np

from ..half_precision import computed, widened
from ..jit import kernel, part
from ..lanes import add_sums, fill_tile
from ..launch import launch
from ..panels import scratch
from ..plan import SEGMENTS, Array, share
from ..subnormals import flush_subnormals, restore_subnormals
from ..vectors import lanes
from ..width import MOST_GRADIENT_VECTORS, VECTOR_BYTES
from ..workers import each_worker
from .cells import put_cells, take_cells
from .edges import EdgesByInput
from .grids import Grid
from .shifted import shifted_backward

WIDTH = (0,) * MOST_GRADIENT_VECTORS


@part
def backward_worker(worker, workers, room, g, cells_x, cells_y, crow, code, bounds, start, weights, grads, bias_grads, parts,
                    x, dx, channels, inputs, dy, rows, outputs, batch):
    """A worker's share: chunks of input channels over segments of the images, whose edges' gradients have a row each."""
    mode = flush_subnormals()
    tile = len(WIDTH) * (VECTOR_BYTES // weights.itemsize)
    chunks, nnz, present = bounds.size - 1, code.size, -1
    units = (batch + g.images - 1) // g.images * g.spans
    task, last = share(worker, workers, parts * chunks)
    at = worker * (room.size // workers)
    here = at + rows * g.stride
    sums = here + g.span
    while task < last:
        part, chunk = task // chunks, task % chunks
        end = min(chunks, chunk + last - task)
        r0, r1 = bounds[chunk], bounds[end]
        grads[part * nnz + crow[r0] : part * nnz + crow[r1]] = 0
        for unit in range(part * units // parts, (part + 1) * units // parts):
            first, span = unit // g.spans * g.images, unit % g.spans
            images, length = min(g.images, batch - first), min(g.span, g.length - span * g.span)
            if unit != present:
                for o in range(rows):
                    take_cells(dy, (first * rows + o) * outputs, rows * outputs, outputs, cells_y, span, images,
                               room, at + o * g.stride, g.lead + length)
                present = unit
            if chunk == 0 and bias_grads.size > 0:  # one worker does this for the whole segment
                for o in range(rows):
                    for t in range(g.lead, g.lead + length, tile):
                        add_sums(room, np.int64(at + o * g.stride + t), np.int64(1), bias_grads, np.int64(part * rows + o), np.int64(len(WIDTH)))
            for r in range(r0, r1):
                c, window = r // g.phases, r % g.phases * g.spans + span
                k0, k1 = np.int64(crow[r]), np.int64(crow[r + 1])
                if k1 > k0:
                    take_cells(x, (first * channels + c) * inputs, channels * inputs, inputs, cells_x, window, images, room, here, length)
                for t in range(0, length, tile):
                    fill_tile(room, np.int64(sums + t), room.dtype.type(0), WIDTH)
                    shifted_backward(room, np.int64(sums + t), room, np.int64(here + t), code, weights, grads,
                                     np.int64(part * nnz), k0, k1, start, room, np.int64(at + t), WIDTH)
                if dx.size > 0:
                    put_cells(room, sums, dx, (first * channels + c) * inputs, channels * inputs, inputs, cells_x, window, images)
        task += end - chunk
    restore_subnormals(mode)


@kernel
def backward_kernel(pool, workers, crew, *args):
    each_worker(pool, crew, backward_worker, args)


def backward(
    e: EdgesByInput, g: Grid, values: Array, x: Array, dy: Array, dx: Array | None, grad: Array, bias_grad: Array | None = None,
    threads: int = 1,
) -> None:
    """The gradients of inputs, values and bias, written into dx, grad and bias_grad.

    Args:
        e: of the weight, by input channel and the phases of the grid.
        g: the grid of x and dy.
        values: shape (nnz,).
        x: shape (batch, channels, positions), contiguous; of the type of values or, beside float32 values, in half precision.
        dy: shape (batch, outputs, positions), contiguous; of the type of x.
        dx: shape of x, contiguous, of the type of x; or None. Inputs that no tap reads stay as they are in it.
        grad: shape (nnz,).
        bias_grad: shape (outputs,), or None.
        threads: at most so many; the result does not depend on it.
    """
    (batch, channels, inputs), (_, rows, outputs) = x.shape, dy.shape
    if x.size == 0 or dy.size == 0:
        grad[:] = 0
        if bias_grad is not None:
            bias_grad[:] = widened(dy).sum((0, 2))
        return
    dtype, layout = computed(x.dtype), g.layout
    units = -(-batch // layout.images) * layout.spans
    parts = min(units, SEGMENTS)
    work = 2 * values.size * units * layout.span // lanes(dtype)
    room = rows * layout.stride + 2 * layout.span + layout.lanes
    grads, bias_grads = np.empty((parts, values.size), dtype), np.zeros((parts, 0 if bias_grad is None else rows), dtype)
    launch(backward_kernel, (x.dtype.char, e.code.dtype.char), work, threads,
           *scratch(room, dtype, threads, work), layout, g.inputs, g.read_outputs, e.crow, e.code, e.bounds, g.from_outputs,
           values[e.perm], grads.reshape(-1), bias_grads.reshape(-1), parts, x.reshape(-1),
           x.reshape(-1)[:0] if dx is None else dx.reshape(-1), channels, inputs, dy.reshape(-1), rows, outputs, batch)
    grad[e.perm] = grads.sum(0)
    if bias_grad is not None:
        bias_grad[:] = bias_grads.sum(0)
