"""A plan: what a kernel needs to know of a CSR structure beside its edges, made once and used at every step.

The columns are cut into blocks, so that the part of the panel that a block reads stays in cache while many rows sweep
it, and the rows are cut into chunks of about equal work. Both follow from the structure and this CPU's caches, never from
the number of threads, which is why results do not depend on it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .jit import kernel, part
from .vectors import lanes
from .width import TILE_BYTES

Array = npt.NDArray[Any]

CHUNK = 64  # rows of a chunk, on average: their sums stay in cache
GROUP = 8  # chunks that are swept together at most
SEGMENTS = 8  # of the samples, at most
ROUND = 16  # rows that are transposed together


class Block(NamedTuple):
    """A width of column blocks: taken where a row holds enough edges in a block, and where there are enough columns."""

    columns: int
    edges: int
    least: int


def cache_bytes(level: int, usual: int) -> int:
    """Size of this CPU's data cache of a level, for one core."""
    for cache in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            kind, number = (cache / "type").read_text().strip(), (cache / "level").read_text().strip()
            if number == str(level) and kind != "Instruction":
                return int((cache / "size").read_text().strip().removesuffix("K")) * 1024
        except (OSError, ValueError):
            continue
    return usual


_L1, _L2 = (cache_bytes(level, usual) // TILE_BYTES for level, usual in ((1, 32 * 1024), (2, 1024 * 1024)))
_FAR = Block((1 << 19) // TILE_BYTES, 8, (1 << 22) // TILE_BYTES)  # even L3 is slow for panels as large as that
# a product reads one vector for each multiplication and wants them in L1; the gradients compute twice as much on it,
# and are content with L2. Few edges do not repay loading and storing the sums
PRODUCT = (Block(_L1, 6, 2 * _L1), Block(2 * _L1, 6, 4 * _L1), _FAR)
GRADIENTS = (Block(_L2 // 4, 16, _L2 // 2), _FAR)


class Plan(NamedTuple):
    """A CSR structure ready for the kernels.

    ``pointers[b*step + r] : pointers[(b + 1)*step + r]`` are the edges of row r in block b; without blocks that is
    ``crow`` itself, at step 1. ``bounds[c] : bounds[c + 1]`` are the rows of chunk c, and
    ``height`` and ``run`` are no less than the rows and the edges of GROUP chunks.
    """

    rows: int
    columns: int
    crow: Array
    col: Array
    pointers: Array
    step: int
    blocks: int
    bounds: Array
    height: int
    run: int

    @property
    def nbytes(self) -> int:
        """Bytes that the plan adds to the structure."""
        return self.bounds.nbytes + (self.pointers.nbytes if self.blocks > 1 else 0)


def plan(crow: Array, col: Array, columns: int, widths: Sequence[Block] = PRODUCT) -> Plan:
    """The plan of a canonical CSR structure; about nnz/4 block pointers at most.

    ``widths`` are those of column blocks, the narrowest first; of the transposed structure, for ``backward``, they are
    GRADIENTS.

    Example:
        >>> import numpy as np
        >>> plan(np.array([0, 1, 3]), np.array([0, 0, 1]), 2).blocks
        1
    """
    rows = crow.size - 1
    block = _block_size(rows, columns, col.size, widths)
    blocks = -(-columns // block) if block else 1
    pointers, step = crow, 1
    if blocks > 1:
        pointers, step = np.empty((blocks + 1) * rows, crow.dtype), rows
        block_pointers(crow, col, block, blocks, pointers)
    bounds = chunks(crow)
    ends = crow[bounds]
    group = min(GROUP, bounds.size - 1)
    run = int((ends[group:] - ends[:-group]).max())
    return Plan(rows, columns, crow, col, pointers, step, blocks, bounds, GROUP * int(np.diff(bounds).max()), run)


@part
def share(worker, workers, tasks):
    """First and last of a worker's tasks: in order, and as many for each."""
    return worker * tasks // workers, (worker + 1) * tasks // workers


@part
def edges_of(pointers, step, blocks, bounds, first, last):
    """First and last edge of the rows of chunks first..last."""
    r0, r1 = bounds[first], bounds[last]
    return pointers[r0], pointers[blocks * step + r1 - 1] if r1 > r0 else pointers[r0]


def segments(plan, batch, vectors, dtype):
    """Segments of the samples whose edge gradients are summed apart, so that workers need not share a tile: more where
    there are few edges for the numbers that are packed. They follow from shapes and edges alone, and so does the result."""
    tiles = -(-batch // (vectors * lanes(dtype)))
    return max(1, min(tiles, SEGMENTS, plan.columns * batch // (2 * plan.col.size + 1)))


def _block_size(rows, columns, nnz, widths):
    """Columns of a block, 0 for none: the smallest whose rows hold enough edges."""
    for block in widths:
        if columns >= block.least and nnz * block.columns >= block.edges * rows * columns:
            return block.columns
    return 0


def chunks(crow):
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

