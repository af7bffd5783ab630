"""Panels: dense operands rearranged so that the batch is the inner, contiguous dimension.

    panel[f*tile + j] = x[f, sample + j]      for j < tile, zero beyond the batch

A dense operand is a matrix (features, batch), given as its flat data and its two strides. Where the features are
contiguous (torch's row-major batch), square blocks are transposed in registers, at the speed of a copy. An operand in half
precision (half_precision.py) is converted on its way: panels hold the type that is computed in.
"""

import threading
from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import as_strided

from .half_precision import computed
from .jit import kernel, part
from .lanes import copy_vector, transpose_block
from .launch import PARALLEL_WORK, launch, workers
from .operands import read, write
from .vectors import lanes
from .width import MOST_VECTORS, VECTOR_BYTES
from .workers import each_share

ALIGNMENT = 64  # bytes of a cache line: a load that crosses one costs two

PART = 128  # features of a packing task
OWN_BYTES = 4 << 20  # of a panel, up to which every worker packs its own
KEPT_BYTES = 2 << 20  # of scratch, up to which a thread keeps it; beside larger ones, what it takes to make one is nothing
_BYTES = np.dtype(np.uint8)


def aligned(size, dtype):
    """Room for so many numbers, from the start of a cache line on."""
    room = np.empty(size + ALIGNMENT // dtype.itemsize, dtype)
    start = -room.__array_interface__["data"][0] % ALIGNMENT // dtype.itemsize
    return room[start : start + size]


class _Kept(threading.local):
    """The scratch of this thread's last small launch, as bytes: to find where a cache line begins takes longer than to
    allocate. What was written there is never read again, so a launch that interrupts another may have the same."""

    room = np.empty(0, np.uint8)


_kept = _Kept()


def scratch(size, dtype, threads, work):
    """Workers of a launch, and room for so many numbers for each of them, one worker's after the other's. It is the same
    for the next launch of this thread, so who must keep what is in there asks for ``aligned``.

    It is made before a kernel starts, so that memory never runs out in the middle of one."""
    crew = workers(threads) if work >= PARALLEL_WORK else 1
    line = ALIGNMENT // dtype.itemsize
    size = crew * (-(-size // line) * line)
    needed = size * dtype.itemsize
    if needed > KEPT_BYTES:
        return crew, aligned(size, dtype)
    if _kept.room.size < needed:
        _kept.room = aligned(needed, _BYTES)
    return crew, _kept.room[:needed].view(dtype)


@part
def pack(x, feature_stride, batch_stride, first, last, sample, batch, panel, at, vectors):
    """panel[at + (f - first)*tile + j] = x[f, sample + j] for first <= f < last, j < tile; zero from batch on"""
    block = VECTOR_BYTES // panel.itemsize
    tile = vectors * block
    samples, features = min(tile, batch - sample), last - first
    if samples < tile:
        panel[at : at + features * tile] = 0
    start = first * feature_stride + sample * batch_stride
    if feature_stride == 1 and min(samples, features) >= block:
        for k in range(0, features, block):
            f = min(k, features - block)  # the last block overlaps the one before, and writes the same again
            for n in range(0, samples, block):
                j = min(n, samples - block)
                transpose_block(x, np.int64(start + j * batch_stride + f), np.int64(batch_stride),
                                panel, np.int64(at + f * tile + j), np.int64(tile))
    elif batch_stride == 1 and samples >= block:
        for f in range(features):
            for n in range(0, samples, block):
                j = min(n, samples - block)
                copy_vector(x, np.int64(start + f * feature_stride + j), panel, np.int64(at + f * tile + j))
    else:
        for f in range(features):
            for j in range(samples):
                panel[at + f * tile + j] = read(x, np.int64(start + f * feature_stride + j * batch_stride))


@part
def unpack(panel, at, first, last, x, feature_stride, batch_stride, sample, batch, vectors):
    """x[f, sample + j] = panel[at + (f - first)*tile + j] for first <= f < last and samples within the batch"""
    block = VECTOR_BYTES // panel.itemsize
    tile = vectors * block
    samples, features = min(tile, batch - sample), last - first
    start = first * feature_stride + sample * batch_stride
    if feature_stride == 1 and min(samples, features) >= block:
        for n in range(0, samples, block):
            j = min(n, samples - block)
            for k in range(0, features, block):
                f = min(k, features - block)
                transpose_block(panel, np.int64(at + f * tile + j), np.int64(tile),
                                x, np.int64(start + j * batch_stride + f), np.int64(batch_stride))
    elif batch_stride == 1 and samples >= block:
        for f in range(features):
            for n in range(0, samples, block):
                j = min(n, samples - block)
                copy_vector(panel, np.int64(at + f * tile + j), x, np.int64(start + f * feature_stride + j))
    else:
        for f in range(features):
            for j in range(samples):
                write(x, np.int64(start + f * feature_stride + j * batch_stride), panel[at + f * tile + j])


@part
def pack_tasks(first, last, x, feature_stride, batch_stride, features, batch, panels, vectors):
    """Tasks first..last of packing the whole of x: PART features of one tile each, and the rest with the last."""
    tile = vectors * (VECTOR_BYTES // panels.itemsize)
    count = features // PART
    for task in range(first, last):
        t, f = task // count, task % count * PART
        last_part = f == (count - 1) * PART
        pack(x, feature_stride, batch_stride, f, features if last_part else f + PART, t * tile, batch,
             panels, (t * features + f) * tile, vectors)


@kernel
def pack_kernel(pool, workers, tasks, *args):
    each_share(pool, workers, tasks, pack_tasks, args)


def packed_together(x, vectors, threads):
    """All tiles of x, (features, batch), packed before a product; none where a worker packs a tile at a time for itself,
    since fetching what another core has packed takes longer than packing it again."""
    (features, batch), dtype = x.shape, computed(x.dtype)
    tile = vectors * lanes(dtype)
    if features * tile * dtype.itemsize <= OWN_BYTES:
        return np.empty(0, dtype)
    tiles = -(-batch // tile)
    panels = aligned(tiles * features * tile, dtype)
    launch(pack_kernel, x.dtype.char, panels.size // 16, threads, tiles * (features // PART), *flat(x), features, batch,
           panels, vectors)
    return panels


def flat(x):
    """A matrix (features, batch) as the kernels take it: flat data, feature stride, batch stride."""
    flags = x.flags
    if flags.c_contiguous:
        return x.reshape(-1), x.shape[1], 1
    if flags.f_contiguous:
        return x.ravel("F"), 1, x.shape[0]
    feature_stride, batch_stride = (stride // x.itemsize for stride in x.strides)
    # from the first number to the last, gaps and all: a slice of an array ends with the array
    extent = (x.shape[0] - 1) * feature_stride + (x.shape[1] - 1) * batch_stride + 1
    return as_strided(x, (extent,), (x.itemsize,)), feature_stride, batch_stride


SWEEP = 1.5  # what reading index and value costs an edge in a sweep, in vectors of arithmetic


@lru_cache(maxsize=1024)
def tile_width(batch, dtype, most=MOST_VECTORS):
    """Vectors of a tile: the width that wastes least on padding and on sweeps of the edges."""
    return min(range(1, most + 1), key=lambda v: (sweeps(batch, dtype, v), v))


@lru_cache(maxsize=1024)
def sweeps(batch, dtype, vectors):
    """What an edge costs over the whole batch in tiles of so many vectors, in vectors of arithmetic."""
    return -(-batch // (vectors * lanes(dtype))) * (vectors + SWEEP)
