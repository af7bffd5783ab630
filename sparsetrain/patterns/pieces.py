"""Structures that are made some rows at a time, so that making them takes little more memory than keeping them.

What draws edges takes about a hundred bytes for each while it does. Up to EDGES of them are drawn at once.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Generator, Tensor

from .. import free_memory
from ..structure.csr import from_positions
from ..structure.index_types import column_type, index_bytes, pointer_type
from ..structure.topology import Topology
from .sampling import binomial, distinct

EDGES = 1 << 20  # of a piece, on average
BYTES = 128  # for each of them, while they are drawn

Draw = Callable[[int, int, int], Tensor]  # first row, last row, edges -> rising positions, counted from the first row


def row_bounds(rows: int, edges: int) -> list[int]:
    """Where pieces begin and end: one for each EDGES edges, of about as many rows.

    Example:
        >>> row_bounds(10, 3 * EDGES)
        [0, 3, 6, 10]
    """
    count = max(1, min(rows, -(-edges // EDGES)))
    return [rows * piece // count for piece in range(count + 1)]


def assembled(
    where: str, shape: tuple[int, int], bounds: list[int], edges: list[int], draw: Draw, device: torch.device | None
) -> Topology:
    """The structure whose pieces, between these rows and of so many edges, ``draw`` makes.

    Raises:
        MemoryError: it would not fit.
    """
    nnz, device = sum(edges), torch.device("cpu") if device is None else device
    kinds = pointer_type(shape, nnz), column_type(shape, nnz, device)
    if device.type == "cpu":
        free_memory.check(where, nnz, index_bytes(shape, nnz, device) + max(edges, default=0) * BYTES)
    if len(edges) == 1:
        return Topology._trusted(*from_positions(draw(0, shape[0], nnz), shape), shape)
    crow = torch.zeros(shape[0] + 1, dtype=kinds[0], device=device)
    col = torch.empty(nnz, dtype=kinds[1], device=device)
    before = 0
    for (first, last), count in zip(pairwise(bounds), edges, strict=True):
        pointers, columns = from_positions(draw(first, last, count), (last - first, shape[1]))
        crow[first + 1 : last + 1] = pointers[1:] + before
        col[before : before + count] = columns
        before += count
    return Topology._trusted(crow, col, shape)


def independent(sizes: Tensor, p: float, generator: Generator | None) -> Tensor:
    """How many of the positions of each piece have an edge, each with probability p."""
    return torch.tensor([binomial(size, p, generator) for size in sizes.tolist()], device=sizes.device)


def exactly(edges: int, sizes: Tensor, generator: Generator | None) -> Tensor:
    """How many of so many edges each piece has, if every set of them is equally likely.

    Independent edges are such a set, but for their number, which is off by about its square root: so many are taken
    away from them, or put on vacant positions, all choices equally likely, and the set is one of the right size.
    """
    total = int(sizes.sum())
    counts = independent(sizes, edges / total, generator)
    off = edges - int(counts.sum())
    among, sign = (sizes - counts, 1) if off > 0 else (counts, -1)
    which = distinct(among.sum()[None], torch.tensor([abs(off)], device=sizes.device), generator)
    owner = torch.searchsorted(among.cumsum(0), which, right=True)
    return counts + sign * torch.bincount(owner, minlength=sizes.numel())
