"""Which absent edges the graph of the others makes likely: the largest CH3-L3 scores, found block by block."""

from collections.abc import Iterator

import numpy as np
import sparsetrain_kernels as kernels
import torch
from torch import Tensor

from ..arrays import Array, array
from ..structure.csr import COUNTABLE
from ..structure.edit import Edit
from ..structure.index_types import widened
from ..structure.topology import Topology
from . import edge_choice

BLOCK = 2**20  # scores that are found before the largest are picked, or as many as are wanted, or those of a row


def likely_vacant(t: Topology, kept: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(rows, columns) of up to ``count`` positions of the largest CH3-L3 scores, see evolve.CHT, among those not kept.

    Scores are of the graph of the kept edges, on the CPU, rounded to float32. Of equal ones those come first that are
    first in row-major order. There are fewer positions where no more are joined by a path of length three.

    Args:
        t: the edges; its matrix may have up to 2**63 - 1 positions.
        kept: booleans, one for each edge.
        count: how many positions at most.

    Returns:
        int64 tensors, in row-major order.

    Raises:
        ValueError: fewer positions are vacant, or kept is not one boolean for each edge.

    Example: of two outputs with a common input, the first may gain the other input of the second.
        >>> t = Topology.from_mask([[1, 0, 1], [1, 1, 0]])
        >>> likely_vacant(t, torch.tensor([True, False, True, True]), 2)
        (tensor([0]), tensor([1]))
    """
    _check("likely_vacant", t, kept, count)
    score, position = torch.empty(0), torch.empty(0, dtype=torch.int64)
    if count:
        graph = Edit(t, kept).topology.to("cpu")
        back = graph.transposed
        edges = array(graph.crow), array(graph.col), array(back.crow_t), array(widened(back.col_t))
        costs = kernels.paths(*edges)
        for first, last in _blocks(np.minimum(costs, t.shape[1]), max(BLOCK, count)):
            limit = float(score.min()) if score.numel() == count else 0.0
            found = kernels.links(*edges, costs, first, last, limit, torch.get_num_threads())
            position, score = (
                torch.cat([old, torch.from_numpy(new)]) for old, new in zip((position, score), found, strict=True)
            )
            best = edge_choice.smallest(-score, min(count, score.numel()))
            position, score = position[best], score[best]
    position, columns = position.to(t.device), max(1, t.shape[1])
    return position.div(columns, rounding_mode="floor"), position.remainder(columns)


def _check(where: str, t: Topology, kept: Tensor, count: int) -> None:
    if t.numel >= COUNTABLE:
        raise ValueError(f"{where}: expected a matrix of fewer than 2**63 positions, got shape {t.shape}.")
    if kept.dtype is not torch.bool or kept.shape != (t.nnz,):
        raise ValueError(
            f"{where}: expected kept as booleans of shape ({t.nnz},), one for each edge, got {kept.dtype} of shape "
            f"{tuple(kept.shape)}."
        )
    free = t.numel - int(kept.count_nonzero())
    if not 0 <= count <= free:
        raise ValueError(
            f"{where}: expected a count from 0 to {free}, the positions of shape {t.shape} that are not kept, "
            f"got {count}."
        )


def _blocks(room: Array, most: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows with room for so many scores together, or of one row."""
    total = np.cumsum(room)
    first = 0
    while first < room.size:
        before = total[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(total, before + most, side="right")))
        yield first, last
        first = last
