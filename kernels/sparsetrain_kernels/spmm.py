"""Y = W X: the forward product, and over the transposed structure the gradient of its input."""

import numpy as np

from .jit import kernel, part
from .lanes import axpy_rows, begin_rows
from .launch import launch
from .narrow import NARROW, narrow_spmm_kernel, samples_like
from .panels import flat, pack, packed_together, scratch, sweeps, tile_width, unpack
from .plan import GROUP, Array, Plan, share
from .subnormals import flush_subnormals, restore_subnormals
from .vectors import lanes
from .width import VECTOR_BYTES
from .workers import each_worker


@part
def spmm_worker(worker, workers, room, panels, pointers, step, blocks, bounds, height, col, values, bias,
                x, xf, xb, features, y, yf, yb, batch, vectors):
    """A worker's share of Y = W X + bias: chunks of rows over a tile of samples, summed where they stay in cache."""
    mode = flush_subnormals()
    tile = vectors * (VECTOR_BYTES // values.itemsize)
    chunks, packed, present = bounds.size - 1, panels.size > 0, -1
    task, last = share(worker, workers, (batch + tile - 1) // tile * chunks)
    panel, sums, at = panels if packed else room, room, worker * (room.size // workers)
    start = at if packed else at + features * tile
    while task < last:
        t, chunk = task // chunks, task % chunks
        end = min(chunk + GROUP, chunks, chunk + last - task)
        r0, r1 = bounds[chunk], bounds[end]
        if packed:
            at = t * features * tile
        elif t != present:
            pack(x, xf, xb, np.int64(0), features, t * tile, batch, panel, at, vectors)
            present = t
        begin_rows(sums, np.int64(start), bias, r0, r1, vectors)
        for block in range(blocks):
            axpy_rows(sums, np.int64(start), col, values, pointers, np.int64(block * step), step, r0, r1, panel, np.int64(at),
                      vectors)
        unpack(sums, start, r0, r1, y, yf, yb, t * tile, batch, vectors)
        task += end - chunk
    restore_subnormals(mode)


@kernel
def spmm_kernel(pool, workers, crew, *args):
    each_worker(pool, crew, spmm_worker, args)


def spmm(plan: Plan, values: Array, x: Array, y: Array, bias: Array | None = None, threads: int = 1) -> None:
    """y = W x + bias, written into y.

    Args:
        plan: of W, (rows, columns).
        values: shape (nnz,).
        x: shape (columns, batch), any strides that are not negative; of the type of values or, beside float32 values, in
            half precision: the bits of float16 as np.int16, those of bfloat16 as np.uint16.
        y: shape (rows, batch), any strides that are not negative; of the type of x.
        bias: shape (rows,), or None.
        threads: at most so many; the result does not depend on it.
    """
    batch = x.shape[1]
    if batch == 0 or plan.rows == 0:
        return
    bias = values[:0] if bias is None else bias
    types, dtype = (x.dtype.char, plan.col.dtype.char), values.dtype
    if batch <= NARROW:
        launch(narrow_spmm_kernel, types, plan.col.size * batch, threads, plan.bounds, plan.crow,
               plan.col, values, bias, *flat(x), samples_like(x), plan.columns, *flat(y), batch)
        return
    vectors = tile_width(batch, dtype)
    work = plan.col.size * sweeps(batch, dtype, vectors)
    panels = packed_together(x, vectors, threads)
    room = (plan.height + (0 if panels.size else plan.columns)) * vectors * lanes(dtype)
    launch(spmm_kernel, types, work, threads, *scratch(room, dtype, threads, work), panels, plan.pointers, plan.step,
           plan.blocks, plan.bounds, plan.height, plan.col, values, bias, *flat(x), plan.columns, *flat(y), batch, vectors)
