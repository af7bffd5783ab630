"""out[e] = a[row[e]] . b[col[e]] over the batch: the gradient of the values, computed at the stored positions alone."""

import numpy as np
from numba import prange

from .jit import kernel
from .lanes import dot_segment
from .launch import launch
from .narrow import NARROW, narrow_sddmm_parallel, narrow_sddmm_serial
from .panels import ALIGNMENT, aligned, flat, pack, pack_tasks, parts, sweeps, tile_width
from .plan import Array, Plan
from .subnormals import flush_subnormals, restore_subnormals
from .vectors import VECTOR_BYTES


@kernel
def sddmm_tasks(first, last, pointers, step, blocks, bounds, col, a, af, ab, panels, at, features, out, batch, width):
    """Chunks first..last of the rows: all edges of a row belong to one task, which adds tile after tile in order."""
    mode = flush_subnormals()
    tile = len(width) * (VECTOR_BYTES // a.itemsize)
    tiles = (batch + tile - 1) // tile
    for chunk in range(first, last):
        r0, r1 = bounds[chunk], bounds[chunk + 1]
        rows = np.empty((r1 - r0) * tile + ALIGNMENT // a.itemsize, a.dtype)
        start = aligned(rows)
        for k in range(pointers[r0], pointers[blocks * step + r1 - 1] if r1 > r0 else pointers[r0]):
            out[k] = 0
        for t in range(tiles):
            pack(a, af, ab, r0, r1, t * tile, batch, rows, start, width)
            for block in range(blocks):
                for r in range(r0, r1):
                    dot_segment(rows, np.int64(start + (r - r0) * tile), col, out,
                                np.int64(pointers[block * step + r]), np.int64(pointers[(block + 1) * step + r]),
                                panels, np.int64(at + t * features * tile), width)
    restore_subnormals(mode)


@kernel
def sddmm_serial(pointers, step, blocks, bounds, col, a, af, ab, b, bf, bb, features, out, batch, width):
    tile = len(width) * (VECTOR_BYTES // a.itemsize)
    tiles = (batch + tile - 1) // tile
    panels = np.empty(tiles * features * tile + ALIGNMENT // b.itemsize, b.dtype)
    at = aligned(panels)
    pack_tasks(0, tiles * parts(features), b, bf, bb, features, batch, panels, at, width)
    sddmm_tasks(0, bounds.size - 1, pointers, step, blocks, bounds, col, a, af, ab, panels, at, features, out, batch, width)


@kernel(parallel=True)
def sddmm_parallel(pointers, step, blocks, bounds, col, a, af, ab, b, bf, bb, features, out, batch, width):
    tile = len(width) * (VECTOR_BYTES // a.itemsize)
    tiles = (batch + tile - 1) // tile
    panels = np.empty(tiles * features * tile + ALIGNMENT // b.itemsize, b.dtype)
    at = aligned(panels)
    for task in prange(tiles * parts(features)):
        pack_tasks(task, task + 1, b, bf, bb, features, batch, panels, at, width)
    for chunk in prange(bounds.size - 1):
        sddmm_tasks(chunk, chunk + 1, pointers, step, blocks, bounds, col, a, af, ab, panels, at, features, out, batch, width)


def sddmm(plan: Plan, a: Array, b: Array, out: Array, threads: int = 1) -> None:
    """out[e] = a[row[e]] . b[col[e]], written into out.

    Args:
        plan: of the structure, (rows, columns).
        a: shape (rows, batch), any strides that are not negative.
        b: shape (columns, batch), any strides that are not negative.
        out: shape (nnz,).
        threads: at most so many; the result does not depend on it.
    """
    batch = a.shape[1]
    if batch == 0 or plan.rows == 0:
        out[:] = 0
        return
    types = (a.dtype.char, plan.col.dtype.char)
    if batch <= NARROW:
        launch(narrow_sddmm_serial, narrow_sddmm_parallel, types, plan.col.size * batch, threads, plan.bounds, plan.crow,
               plan.col, *flat(a), *flat(b), plan.columns, out, batch)
        return
    width = tile_width(batch, a.dtype)
    work = plan.col.size * sweeps(batch, a.dtype, len(width))
    launch(sddmm_serial, sddmm_parallel, (*types, width), work, threads, plan.pointers, plan.step, plan.blocks,
           plan.bounds, plan.col, *flat(a), *flat(b), plan.columns, out, batch, width)
