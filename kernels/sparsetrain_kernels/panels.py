"""Panels: dense operands rearranged so that the batch is the inner, contiguous dimension.

    panel[f*tile + j] = x[f, sample + j]      for j < tile, zero beyond the batch

A dense operand is a matrix (features, batch), given as its flat data and its two strides. Where the features are
contiguous (torch's row-major batch), square blocks are transposed in registers, at the speed of a copy.
"""

from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import as_strided

from .jit import kernel
from .lanes import copy_tile, transpose_block
from .vectors import VECTOR_BYTES, lanes

ALIGNMENT = 64  # bytes of a cache line: a load that crosses one costs two

PART = 128  # features of a packing task


@kernel
def aligned(buffer):
    """The first element of ``buffer`` that starts a cache line; the buffer is ALIGNMENT bytes longer than its use."""
    return np.int64((-buffer.ctypes.data) % ALIGNMENT // buffer.itemsize)


@kernel
def pack(x, feature_stride, batch_stride, first, last, sample, batch, panel, at, width):
    """panel[at + (f - first)*tile + j] = x[f, sample + j] for first <= f < last, j < tile; zero from batch on"""
    block = VECTOR_BYTES // x.itemsize
    tile = len(width) * block
    samples = min(tile, batch - sample)
    whole, features = 0, 0
    if feature_stride == 1:
        whole, features = samples - samples % block, (last - first) - (last - first) % block
        for f in range(0, features, block):
            for j in range(0, whole, block):
                transpose_block(x, np.int64((sample + j) * batch_stride + first + f), np.int64(batch_stride),
                                panel, np.int64(at + f * tile + j), np.int64(tile))
    for f in range(last - first):
        start = whole if f < features else 0
        here, there = at + f * tile, (first + f) * feature_stride + sample * batch_stride
        if batch_stride == 1 and samples == tile:
            copy_tile(x, np.int64(there), panel, np.int64(here), width)
        else:
            for j in range(start, samples):
                panel[here + j] = x[there + j * batch_stride]
            for j in range(samples, tile):
                panel[here + j] = 0


@kernel
def unpack(panel, at, first, last, x, feature_stride, batch_stride, sample, batch, width):
    """x[f, sample + j] = panel[at + (f - first)*tile + j] for first <= f < last and samples within the batch"""
    block = VECTOR_BYTES // x.itemsize
    tile = len(width) * block
    samples = min(tile, batch - sample)
    whole, features = 0, 0
    if feature_stride == 1:
        whole, features = samples - samples % block, (last - first) - (last - first) % block
        for j in range(0, whole, block):
            for f in range(0, features, block):
                transpose_block(panel, np.int64(at + f * tile + j), np.int64(tile),
                                x, np.int64((sample + j) * batch_stride + first + f), np.int64(batch_stride))
    for f in range(last - first):
        start = whole if f < features else 0
        here, there = at + f * tile, (first + f) * feature_stride + sample * batch_stride
        if batch_stride == 1 and samples == tile:
            copy_tile(panel, np.int64(here), x, np.int64(there), width)
        else:
            for j in range(start, samples):
                x[there + j * batch_stride] = panel[here + j]


@kernel
def pack_tasks(first, last, x, feature_stride, batch_stride, features, batch, panels, at, width):
    """Tasks first..last of packing the whole of x: PART features of one tile each."""
    tile = len(width) * (VECTOR_BYTES // x.itemsize)
    parts = (features + PART - 1) // PART
    for task in range(first, last):
        t, f = task // parts, task % parts * PART
        pack(x, feature_stride, batch_stride, f, min(f + PART, features), t * tile, batch,
             panels, at + (t * features + f) * tile, width)


def flat(x):
    """A matrix (features, batch) as the kernels take it: flat data, feature stride, batch stride."""
    if x.flags.c_contiguous:
        return x.reshape(-1), x.shape[1], 1
    if x.flags.f_contiguous:
        return x.T.reshape(-1), 1, x.shape[0]
    first = as_strided(x, (1,), (x.itemsize,))  # any view: only its start is taken from it, the strides are explicit
    return first, x.strides[0] // x.itemsize, x.strides[1] // x.itemsize


SWEEP = 1.5  # what reading index and value costs an edge in a sweep, in vectors of arithmetic


@lru_cache(maxsize=1024)
def tile_width(batch, dtype):
    """Vectors of a tile, as a tuple of that length: the width that wastes least on padding and on sweeps of the edges."""
    return (0,) * min((1, 2, 4, 8), key=lambda v: (sweeps(batch, dtype, v), v))


@lru_cache(maxsize=1024)
def sweeps(batch, dtype, vectors):
    """What an edge costs over the whole batch in tiles of so many vectors, in vectors of arithmetic."""
    return -(-batch // (vectors * lanes(dtype))) * (vectors + SWEEP)
