"""How wide the indices of a structure are, and reading narrow ones: torch has next to no arithmetic on 16 bits."""

from collections.abc import Iterator

import torch
from torch import Tensor

LARGEST = torch.iinfo(torch.int32).max
NARROW = 1 << 16  # columns that 16 bits number
# edges from which on columns are kept in 16 bits: kernels are compiled once more for them, which takes longer than the
# bytes of fewer edges are worth
NARROW_EDGES = 1 << 22
PIECE = 1 << 20  # indices that are widened at a time


def pointer_type(shape: tuple[int, int], nnz: int) -> torch.dtype:
    """Of the row pointers, and of places in the value array.

    Example:
        >>> pointer_type((10, 10), 5)
        torch.int32
    """
    return torch.int32 if max(*shape, nnz) <= LARGEST else torch.int64


def column_type(shape: tuple[int, int], nnz: int, device: torch.device) -> torch.dtype:
    """Of the columns as they are kept.

    Example:
        >>> column_type((1000, 60_000), 6_000_000, torch.device("cpu"))
        torch.uint16
    """
    narrow = shape[1] <= NARROW and nnz >= NARROW_EDGES and device.type == "cpu"
    return torch.uint16 if narrow else pointer_type(shape, nnz)


def index_bytes(shape: tuple[int, int], nnz: int, device: torch.device) -> int:
    """Bytes of row pointers and columns."""
    columns = column_type(shape, nnz, device)
    return (shape[0] + 1) * pointer_type(shape, nnz).itemsize + nnz * columns.itemsize


def widened(index: Tensor) -> Tensor:
    """int32 where an index is kept in 16 bits, else the index itself."""
    return index.to(torch.int32) if index.dtype is torch.uint16 else index


def taken(index: Tensor, places: Tensor) -> Tensor:
    """``index[places]``, places or booleans, as wide as the index: torch 2.9 takes nothing out of unsigned 16 bits.

    Example:
        >>> taken(torch.tensor([3, 1, 2], dtype=torch.uint16), torch.tensor([2, 0]))
        tensor([2, 3], dtype=torch.uint16)
    """
    return index.view(torch.int16)[places].view(torch.uint16) if index.dtype is torch.uint16 else index[places]


def pieces(index: Tensor, overlap: int = 0) -> Iterator[tuple[int, Tensor]]:
    """The index in int64, piece by piece, each with the place where it begins; it reaches ``overlap`` into the next.

    Example:
        >>> [(first, piece.tolist()) for first, piece in pieces(torch.tensor([3, 1, 2], dtype=torch.uint16))]
        [(0, [3, 1, 2])]
    """
    for first in range(0, index.numel(), PIECE):
        yield first, index[first : first + PIECE + overlap].long()
