"""The convolution of images with a sparse weight, over positions of a grid (grids.py)."""

import numpy as np

from ..half_precision import computed
from ..jit import kernel, part
from ..lanes import fill_tile
from ..launch import launch
from ..panels import scratch
from ..plan import Array, share
from ..subnormals import flush_subnormals, restore_subnormals
from ..vectors import lanes
from ..width import MOST_VECTORS, VECTOR_BYTES
from ..workers import each_worker
from .cells import put_cells, take_cells
from .edges import Edges
from .grids import Grid
from .shifted import shifted_axpy

WIDTH = (0,) * MOST_VECTORS


@part
def forward_worker(worker, workers, room, g, cells_x, cells_y, crow, col, bounds, values, bias, start, block, apart,
                   x, channels, inputs, y, outputs, batch):
    """A worker's share: chunks of output channels for spans of groups of images. ``inputs`` and ``outputs`` are the numbers of
    a channel of an image; output channels read ``apart`` numbers of the panel further for each ``block`` of them."""
    mode = flush_subnormals()
    tile = len(WIDTH) * (VECTOR_BYTES // values.itemsize)
    chunks, rows, present = bounds.size - 1, crow.size - 1, -1
    task, last = share(worker, workers, (batch + g.images - 1) // g.images * g.spans * chunks)
    at = worker * (room.size // workers)
    sums = at + channels * g.phases * g.stride
    while task < last:
        unit, chunk = task // chunks, task % chunks
        end, span = min(chunks, chunk + last - task), unit % g.spans
        first = unit // g.spans * g.images
        images, length = min(g.images, batch - first), min(g.span, g.length - span * g.span)
        if unit != present:
            for c in range(channels):
                for phase in range(g.phases):
                    take_cells(x, (first * channels + c) * inputs, channels * inputs, inputs, cells_x, phase * g.spans + span, images,
                               room, at + (c * g.phases + phase) * g.stride, length + g.lead)
            present = unit
        for r in range(bounds[chunk], bounds[end]):
            initial = bias[r] if bias.size > 0 else values.dtype.type(0)
            for t in range(0, length, tile):
                fill_tile(room, np.int64(sums + t), initial, WIDTH)
                shifted_axpy(room, np.int64(sums + t), col, values, np.int64(crow[r]), np.int64(crow[r + 1]), start,
                             room, np.int64(at + r // block * apart + t), WIDTH)
            put_cells(room, sums, y, (first * rows + r) * outputs, rows * outputs, outputs, cells_y, span, images)
        task += end - chunk
    restore_subnormals(mode)


@kernel
def forward_kernel(pool, workers, crew, *args):
    each_worker(pool, crew, forward_worker, args)


def forward(e: Edges, g: Grid, values: Array, x: Array, y: Array, bias: Array | None = None, threads: int = 1) -> None:
    """y = the convolution of x with the weight, + bias, written into y.

    Args:
        e: of the weight, (outputs, channels / groups * taps).
        g: the grid of x and y.
        values: shape (nnz,).
        x: shape (batch, channels, positions), contiguous; of the type of values or, beside float32 values, in half precision.
        y: shape (batch, outputs, positions), contiguous; of the type of x.
        bias: shape (outputs,), or None.
        threads: at most so many; the result does not depend on it.
    """
    batch, channels, inputs = x.shape
    if y.size == 0:
        return
    rows, dtype = y.shape[1], computed(x.dtype)
    work = values.size * -(-batch // g.layout.images) * g.layout.length // lanes(dtype)
    layout, cells_x, cells_y = g.layout, g.read_inputs, g.outputs
    room = channels * layout.phases * layout.stride + layout.span + layout.lanes
    launch(forward_kernel, (x.dtype.char, e.col.dtype.char), work, threads, *scratch(room, dtype, threads, work),
           layout, cells_x, cells_y, e.crow, e.col, e.bounds, values, values[:0] if bias is None else bias, g.from_inputs, rows // e.groups,
           channels // e.groups * layout.phases * layout.stride, x.reshape(-1), channels, inputs, y.reshape(-1), y.shape[2], batch)
