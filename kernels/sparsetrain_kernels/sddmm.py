"""out[e] = a[row[e]] . b[col[e]] over the batch: the gradient of the values, computed at the stored positions alone."""

import numpy as np

from .jit import kernel, part
from .lanes import dot_rows
from .launch import launch
from .narrow import NARROW, narrow_sddmm_kernel, samples_like
from .panels import flat, pack, packed_together, scratch, sweeps, tile_width
from .plan import GROUP, Array, Plan, edges_of, segments, share
from .subnormals import flush_subnormals, restore_subnormals
from .vectors import lanes
from .width import VECTOR_BYTES
from .workers import each_worker


@part
def sddmm_worker(worker, workers, room, panels, pointers, step, blocks, bounds, height, col, a, af, ab, b, bf, bb, features,
                 partial, parts, batch, vectors):
    """A worker's share: chunks of rows over a segment of the samples, whose sums have a row of their own in partial."""
    mode = flush_subnormals()
    tile = vectors * (VECTOR_BYTES // partial.itemsize)
    tiles, chunks, nnz, packed = (batch + tile - 1) // tile, bounds.size - 1, col.size, panels.size > 0
    task, last = share(worker, workers, parts * chunks)
    panel, rows, at = panels if packed else room, room, worker * (room.size // workers)
    start = at if packed else at + features * tile
    while task < last:
        part, first = task // chunks, task % chunks
        stop = min(chunks, first + last - task)
        k0, k1 = edges_of(pointers, step, blocks, bounds, first, stop)
        partial[part * nnz + k0 : part * nnz + k1] = 0
        for t in range(part * tiles // parts, (part + 1) * tiles // parts):
            if packed:
                at = t * features * tile
            else:
                pack(b, bf, bb, np.int64(0), features, t * tile, batch, panel, at, vectors)
            for chunk in range(first, stop, GROUP):
                r0, r1 = bounds[chunk], bounds[min(chunk + GROUP, stop)]
                pack(a, af, ab, r0, r1, t * tile, batch, rows, start, vectors)
                for block in range(blocks):
                    dot_rows(rows, np.int64(start), col, partial, np.int64(part * nnz), pointers, np.int64(block * step), step,
                             r0, r1, panel, np.int64(at), vectors)
        task += stop - first
    restore_subnormals(mode)


@part
def add_parts(partial, parts, out):
    """out[k] = sum over parts of partial[segment, k], in order"""
    size = out.size
    for k in range(size):
        out[k] = partial[k]
    for segment in range(1, parts):
        for k in range(size):
            out[k] += partial[segment * size + k]


@kernel
def sddmm_kernel(pool, workers, crew, room, panels, pointers, step, blocks, bounds, height, col, a, af, ab, b, bf, bb, features,
                 out, partial, parts, batch, vectors):
    each_worker(pool, crew, sddmm_worker, (room, panels, pointers, step, blocks, bounds, height, col, a, af, ab, b, bf, bb,
                                              features, out if parts == 1 else partial, parts, batch, vectors))
    if parts > 1:
        add_parts(partial, parts, out)


def sddmm(plan: Plan, a: Array, b: Array, out: Array, threads: int = 1) -> None:
    """out[e] = a[row[e]] . b[col[e]], written into out.

    Args:
        plan: of the structure, (rows, columns).
        a: shape (rows, batch), any strides that are not negative; float32, float64 or in half precision: the bits of
            float16 as np.int16, those of bfloat16 as np.uint16.
        b: shape (columns, batch), any strides that are not negative; of the type of a.
        out: shape (nnz,); float32 where a and b are in half precision, else of their type.
        threads: at most so many; the result does not depend on it.
    """
    batch = a.shape[1]
    if batch == 0 or plan.rows == 0:
        out[:] = 0
        return
    types, dtype = (a.dtype.char, plan.col.dtype.char), out.dtype
    if batch <= NARROW:
        launch(narrow_sddmm_kernel, types, plan.col.size * batch, threads, plan.bounds, plan.crow,
               plan.col, *flat(a), samples_like(a), *flat(b), samples_like(b), plan.columns, out, batch)
        return
    vectors = tile_width(batch, dtype)
    work = plan.col.size * sweeps(batch, dtype, vectors)
    parts = segments(plan, batch, vectors, dtype)
    partial = np.empty(out.size * parts if parts > 1 else 0, dtype)
    panels = packed_together(b, vectors, threads)
    room = (plan.height + (0 if panels.size else plan.columns)) * vectors * lanes(dtype)
    launch(sddmm_kernel, types, work, threads, *scratch(room, dtype, threads, work), panels, plan.pointers, plan.step,
           plan.blocks, plan.bounds, plan.height, plan.col, *flat(a), *flat(b), plan.columns, out, partial, parts, batch,
           vectors)
