"""The edges of a layer on their way into a state dict: one tensor, or pieces of it where a file is all that needs it.

stored_edges says what the tensor holds, and reads it.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from ..structure.index_types import PIECE
from ..structure.topology import Topology

VERSION = 2
EXACT = 1 << 24  # integers up to here are exact in float32


class PackedEdges:
    """A topology as one tensor that is not made: its type, its size and its numbers, piece by piece.

    The tensor takes 4 bytes an edge, where the topology of a layer may take 2.
    """

    def __init__(self, t: Topology) -> None:
        names = [None if side is None else json.dumps(side).encode() for side in (t.inputs, t.outputs)]
        sizes = (*t.shape, t.nnz, *(0 if text is None else len(text) + 1 for text in names))
        head = [VERSION, *(digit for size in sizes for digit in _digits(size.to_bytes(8, "little")))]
        head += [int(digit, 16) for digit in t.digest]
        self.dtype = torch.float32 if max(t.shape) <= EXACT else torch.float64

        def numbers(digits: list[int]) -> Tensor:
            return torch.tensor(digits, dtype=self.dtype, device=t.device)

        self._parts = [numbers(head), t.fan_in, t.stored_col, *(numbers(_digits(text)) for text in names if text)]
        self.numel = sum(part.numel() for part in self._parts)

    def pieces(self) -> Iterator[Tensor]:
        """The numbers in order, some at a time, on the topology's device. Each lasts until the next is asked for: they
        share their memory, as what is given back of several allocations depends on the C library."""
        longest = max(part.numel() for part in self._parts)
        shared = torch.empty(min(longest, PIECE), dtype=self.dtype, device=self._parts[0].device)
        for part in self._parts:
            for first in range(0, part.numel(), PIECE):
                piece = part[first : first + PIECE]
                yield shared[: piece.numel()].copy_(piece)

    def tensor(self) -> Tensor:
        """All of them."""
        state = torch.empty(self.numel, dtype=self.dtype, device=self._parts[0].device)
        first = 0
        for part in self._parts:  # widened as they are copied, and nowhere before
            state[first : first + part.numel()] = part
            first += part.numel()
        return state


def packed(t: Topology) -> Tensor:
    """A topology as one tensor, a copy, on its device."""
    return PackedEdges(t).tensor()


_in_pieces: ContextVar[bool] = ContextVar("in_pieces", default=False)


@contextmanager
def in_pieces() -> Iterator[None]:
    """Within, a state dict has PackedEdges in the place of tensors of edges."""
    before = _in_pieces.set(True)
    try:
        yield
    finally:
        _in_pieces.reset(before)


def for_state_dict(t: Topology) -> Tensor:
    """What stands for a topology in a state dict: a tensor, but within ``in_pieces``."""
    return PackedEdges(t) if _in_pieces.get() else packed(t)  # type: ignore[return-value]


def _digits(data: bytes) -> list[int]:
    """The hexadecimal digits of bytes, the lower one of each first."""
    return [digit for byte in data for digit in (byte & 15, byte >> 4)]
