"""A plan: what a kernel needs to know of a CSR structure beside its edges, made once and used at every step.

The columns are cut into blocks, so that the part of the panel that a block reads stays in cache while many rows sweep
it, and the rows are cut into chunks of about equal work. Both follow from the structure alone, never from the number
of threads, which is why results do not depend on it.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .jit import kernel

Array = npt.NDArray[Any]

NEAR, FAR = 128, 1024  # columns of a block that stays close to L1, and in L2: at most 512 bytes of panel each
SEGMENT = 8  # edges that a block must hold of a row, on average, to be worth its loads and stores of the sums
CHUNK = 64  # rows of a chunk, on average: their sums stay in L1
ROUND = 16  # rows that are transposed together


class Plan(NamedTuple):
    """A CSR structure ready for the kernels.

    ``pointers[b*step + r] : pointers[(b + 1)*step + r]`` are the edges of row r in block b; without blocks that is
    ``crow`` itself, at step 1. ``bounds[c] : bounds[c + 1]`` are the rows of chunk c.
    """

    rows: int
    columns: int
    crow: Array
    col: Array
    pointers: Array
    step: int
    blocks: int
    bounds: Array

    @property
    def nbytes(self) -> int:
        """Bytes that the plan adds to the structure."""
        return self.bounds.nbytes + (self.pointers.nbytes if self.blocks > 1 else 0)


def plan(crow: Array, col: Array, columns: int, near: int = NEAR) -> Plan:
    """The plan of a canonical CSR structure; at most nnz/4 block pointers.

    ``near`` is the width of the narrower of the two sizes of column blocks.

    Example:
        >>> import numpy as np
        >>> plan(np.array([0, 1, 3]), np.array([0, 0, 1]), 2).blocks
        1
    """
    rows = crow.size - 1
    block = _block_size(rows, columns, col.size, near)
    blocks = -(-columns // block) if block else 1
    pointers, step = crow, 1
    if blocks > 1:
        pointers, step = np.empty((blocks + 1) * rows, crow.dtype), rows
        block_pointers(crow, col, block, blocks, pointers)
    return Plan(rows, columns, crow, col, pointers, step, blocks, _chunks(crow))


def _block_size(rows, columns, nnz, near):
    """Columns of a block, 0 for none: the smallest whose rows hold enough edges."""
    for block in (near, FAR):
        if columns >= 2 * block and nnz * block >= SEGMENT * rows * columns:
            return block
    return 0


def _chunks(crow):
    """Row boundaries that share out the edges, weighing a row as much as an average row's edges: a chunk has about twice its
    share of either at most, unless a single row has more."""
    rows, nnz = crow.size - 1, int(crow[-1])
    count = -(-rows // CHUNK)
    if count <= 1:
        return np.array([0, rows], np.int64)
    work = crow.astype(np.float64) + np.arange(rows + 1) * max(nnz / rows, 1.0)
    bounds = np.searchsorted(work, np.linspace(0, work[-1], count + 1)[1:-1])
    bounds = np.minimum((bounds + ROUND // 2) // ROUND * ROUND, rows)
    return np.unique(np.concatenate([[0], bounds, [rows]])).astype(np.int64)


@kernel
def block_pointers(crow, col, block, blocks, pointers):
    """pointers[b*rows + r] = the first edge of row r whose column is at least b*block"""
    rows = crow.size - 1
    for r in range(rows):
        k = crow[r]
        for b in range(blocks):
            while k < crow[r + 1] and col[k] < b * block:
                k += 1
            pointers[b * rows + r] = k
        pointers[blocks * rows + r] = crow[r + 1]
