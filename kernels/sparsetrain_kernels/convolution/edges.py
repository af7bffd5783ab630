"""The edges of a convolution's weight in both orders: by output channel, as they are stored, and by input channel."""

from typing import NamedTuple

import numpy as np

from ..plan import Array, chunks
from ..transpose import transpose


class Edges(NamedTuple):
    """CSR arrays of a weight (outputs, channels / groups * taps), and boundaries of rows that share out the edges."""

    crow: Array
    col: Array
    bounds: Array
    columns: int
    taps: int
    groups: int

    @property
    def nbytes(self) -> int:
        """Bytes that it adds to the structure."""
        return self.bounds.nbytes


class EdgesByInput(NamedTuple):
    """The same edges by input channel: row ``channel*phases + phase``, and in it by output channel. ``code[k]`` is
    ``tap*outputs + output``, and edge k is number ``perm[k]`` of the stored ones."""

    crow: Array
    code: Array
    perm: Array
    bounds: Array
    outputs: int

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return self.crow.nbytes + self.code.nbytes + self.perm.nbytes + self.bounds.nbytes


def edges(crow: Array, col: Array, columns: int, taps: int, groups: int = 1) -> Edges:
    """The edges of a canonical CSR structure.

    Example:
        >>> import numpy as np
        >>> edges(np.array([0, 1, 3]), np.array([0, 0, 1]), columns=2, taps=2).bounds
        array([0, 2])
    """
    return Edges(crow, col, chunks(crow), columns, taps, groups)


def edges_by_input(e: Edges, phase: Array, phases: int) -> EdgesByInput:
    """The edges sorted by input channel and ``phase[tap]``.

    Example:
        >>> import numpy as np
        >>> stored = edges(np.array([0, 1, 3]), np.array([2, 0, 1]), columns=4, taps=2)
        >>> by_input = edges_by_input(stored, phase=np.array([0, 0]), phases=1)
        >>> by_input.crow.tolist(), by_input.code.tolist(), by_input.perm.tolist()
        ([0, 2, 3], [1, 3, 0], [1, 2, 0])
    """
    outputs, channels = e.crow.size - 1, e.columns // e.taps
    rows = channels * e.groups * phases
    index = e.crow.dtype if max(rows, outputs * e.taps) <= np.iinfo(e.crow.dtype).max else np.dtype(np.int64)
    channel, tap = np.divmod(e.col.astype(index), index.type(e.taps))
    first = np.arange(outputs) // max(1, outputs // e.groups) * channels  # of the inputs of each output's group
    channel += np.repeat(first.astype(index), np.diff(e.crow))
    row = channel * index.type(phases) + phase.astype(index)[tap]
    crow, output, perm = transpose(e.crow.astype(index), row, rows)
    return EdgesByInput(crow, tap[perm] * index.type(outputs) + output, perm, chunks(crow), outputs)
