"""Rows of W as a dense block, and a dense block at the stored positions: what computes through dense products needs.

    expand:  out[r - first, :] = row r of W              for first <= r < last
    gather:  grad[e] = dense[row[e] - first, col[e]]     for the edges of these rows

Where edges are is told by a bitmap, an eighth of a byte for each position: less than the columns of the edges from a
density of 1/32 on, and read at the speed of memory. Vectors of 16 bytes have no instructions for it: edges are gone
through one by one there, as they are at the ends of rows.
"""

import numpy as np

from .expansion import VECTORS, compress_steps, expand_steps
from .jit import kernel, part
from .launch import launch
from .plan import Array
from .vectors import lanes
from .width import VECTOR_BYTES
from .workers import each_share

WORD = 16  # positions of which a row has a multiple, in the bitmap


def bitmap(crow: Array, col: Array, columns: int) -> Array:
    """Which positions have an edge, a bit for each: shape (rows, bytes), a row's bytes a multiple of two.

    Example:
        >>> bitmap(np.array([0, 1, 3]), np.array([0, 0, 3]), 4).tolist()
        [[1, 0], [9, 0]]
    """
    bits = np.zeros((crow.size - 1, -(-columns // WORD) * 2), np.uint8)
    launch(set_bits, col.dtype.char, 0, 1, crow, col, bits.reshape(-1), bits.shape[1])
    return bits


@kernel
def set_bits(pool, workers, crow, col, bits, stride):
    for r in range(crow.size - 1):
        for k in range(crow[r], crow[r + 1]):
            c = np.uint64(col[k])
            bits[np.uint64(r * stride) + (c >> np.uint64(3))] |= np.uint8(1 << (c & np.uint64(7)))


@part
def expand_rows(before, after, first, crow, col, values, bits, stride, out, columns):
    """Rows first + before..first + after; out begins with row ``first``."""
    block = VECTOR_BYTES // values.itemsize
    for r in range(first + before, first + after):
        k, at, whole = np.int64(crow[r]), np.int64((r - first) * columns), np.int64(0)
        if VECTORS and crow[r + 1] + block <= values.size:  # a step reads a whole vector of values
            whole = columns // block * block
            k = expand_steps(values, k, bits, np.int64(r * stride), np.int64(columns // block), out, at)
        out[at + whole : at + columns] = 0
        for e in range(np.uint64(k), np.uint64(crow[r + 1])):
            out[np.uint64(at) + np.uint64(col[e])] = values[e]


@part
def gather_rows(before, after, first, crow, col, bits, stride, dense, columns, grad):
    """Rows first + before..first + after; dense begins with row ``first``."""
    block = VECTOR_BYTES // dense.itemsize
    for r in range(first + before, first + after):
        k, at = np.int64(crow[r]), np.int64((r - first) * columns)
        if VECTORS and crow[r + 1] + block <= crow[first + after]:  # a step writes a whole vector, over rows that come later
            k = compress_steps(dense, at, bits, np.int64(r * stride), np.int64(columns // block), grad, k)
        for e in range(np.uint64(k), np.uint64(crow[r + 1])):
            grad[e] = dense[np.uint64(at) + np.uint64(col[e])]


@kernel
def expand_kernel(pool, workers, rows, *args):
    each_share(pool, workers, rows, expand_rows, args)


@kernel
def gather_kernel(pool, workers, rows, *args):
    each_share(pool, workers, rows, gather_rows, args)


def expand(crow: Array, col: Array, values: Array, bits: Array, first: int, last: int, out: Array, threads: int = 1) -> None:
    """Rows first..last of W, zeros and all, written into out.

    Args:
        crow, col: of the structure.
        values: shape (nnz,).
        bits: the bitmap of the structure.
        first, last: rows.
        out: shape (last - first, columns), contiguous.
        threads: at most so many.
    """
    work = out.size // lanes(out.dtype)
    launch(expand_kernel, (out.dtype.char, col.dtype.char), work, threads, last - first, first,
           crow, col, values, bits.reshape(-1), bits.shape[1], out.reshape(-1), out.shape[1])


def gather(crow: Array, col: Array, bits: Array, first: int, last: int, dense: Array, grad: Array, threads: int = 1) -> None:
    """The numbers of a dense block at the edges of rows first..last, written to their places in grad.

    Args:
        crow, col: of the structure.
        bits: the bitmap of the structure.
        first, last: rows.
        dense: shape (last - first, columns), contiguous.
        grad: shape (nnz,), of which the edges of these rows are written.
        threads: at most so many.
    """
    work = dense.size // lanes(dense.dtype)
    launch(gather_kernel, (dense.dtype.char, col.dtype.char), work, threads, last - first, first,
           crow, col, bits.reshape(-1), bits.shape[1], dense.reshape(-1), dense.shape[1], grad)
