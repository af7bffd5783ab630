"""Which edges go and which come: the choices that training with changing edges is made of."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..patterns.sampling import distinct, vacant
from ..structure.csr import COUNTABLE
from ..structure.topology import Topology
from .largest_products import BLOCK


def smallest(scores: Tensor, count: int) -> Tensor:
    """Booleans (n,), true at the ``count`` smallest scores; of equal scores those that come first.

    Args:
        scores: finite numbers, shape (n,), float32 or float64.
        count: from 0 to n.

    Raises:
        ValueError: there are fewer scores.

    Example:
        >>> smallest(torch.tensor([2.0, 1.0, 3.0, 1.0, 1.0]), 2).tolist()
        [False, True, False, True, False]
    """
    if not 0 <= count <= scores.numel():
        raise ValueError(f"smallest: expected a count from 0 to {scores.numel()}, the number of scores, got {count}.")
    if count == 0:
        return torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    limit = scores.kthvalue(count).values
    chosen = scores < limit
    ties = (scores == limit).nonzero().flatten()
    chosen[ties[: count - int(chosen.sum())]] = True
    return chosen


def random_vacant(
    t: Topology, kept: Tensor, count: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """(rows, columns) of ``count`` positions that are not among the kept edges, all choices equally likely.

    Args:
        t: the edges; its matrix may have up to 2**63 - 1 positions.
        kept: booleans, one for each edge.
        count: how many positions.
        generator: the source of random numbers, torch's own by default.

    Returns:
        int64 tensors of shape (count,), in row-major order.

    Raises:
        ValueError: fewer positions are vacant.

    Example:
        >>> t = Topology.from_mask([[1, 0], [1, 1]])
        >>> rows, cols = random_vacant(t, torch.tensor([True, False, True]), 2)
        >>> rows.tolist(), cols.tolist()
        ([0, 1], [1, 0])
    """
    old = _check("random_vacant", t, kept, count)
    free = t.numel - old.numel()
    device = torch.device("cpu") if generator is None else generator.device
    size, need = (torch.tensor([number], dtype=torch.int64, device=device) for number in (free, count))
    rank = distinct(size, need, generator).to(t.device)
    return _edges(vacant(old, rank), t)


def largest_vacant(
    t: Topology, kept: Tensor, pairs: Sequence[tuple[Tensor, Tensor]], count: int
) -> tuple[Tensor, Tensor]:
    r"""(rows, columns) of the ``count`` positions not among the kept edges where a sum of products is largest.

    .. math:: \Big|\sum_{(a, b)} a b'\Big|_{ij}

    Of equal ones those come first that are first in row-major order.

    Args:
        t: the edges; its matrix may have up to 2**63 - 1 positions.
        kept: booleans, one for each edge.
        pairs: (a, b) of shapes (out, batch) and (in, batch), of any strides; each pair may have a batch of its own.
        count: how many positions.

    Returns:
        int64 tensors of shape (count,), in row-major order.

    Raises:
        ValueError: fewer positions are vacant.

    Example:
        >>> t = Topology.from_mask([[1, 0], [0, 0]])
        >>> a, b = torch.tensor([[1.0], [3.0]]), torch.tensor([[-2.0], [1.0]])
        >>> largest_vacant(t, torch.tensor([True]), [(a, b)], 2)
        (tensor([1, 1]), tensor([0, 1]))
    """
    old = _check("largest_vacant", t, kept, count)
    wide = torch.promote_types(pairs[0][0].dtype, torch.float32)
    pairs = [(a.to(wide), b.to(wide)) for a, b in pairs]
    out, columns = t.shape
    score = torch.empty(0, dtype=wide, device=t.device)
    position = torch.empty(0, dtype=torch.int64, device=t.device)
    size = max(1, BLOCK // max(1, columns))
    for first in range(0, out, size):
        last = min(out, first + size)
        block = sum((a[first:last] @ b.t() for a, b in pairs), torch.zeros((), dtype=wide, device=t.device))
        here = torch.arange(first * columns, last * columns, device=t.device)
        free = torch.ones(here.numel(), dtype=torch.bool, device=t.device)
        free[old[(old >= first * columns) & (old < last * columns)] - first * columns] = False
        score, position = torch.cat([score, -block.abs().flatten()[free]]), torch.cat([position, here[free]])
        best = smallest(score, min(count, score.numel()))
        score, position = score[best], position[best]
    return _edges(position, t)


def _check(where: str, t: Topology, kept: Tensor, count: int) -> Tensor:
    """Positions of the kept edges, rising, once enough others are vacant."""
    if t.numel >= COUNTABLE:
        raise ValueError(f"{where}: expected a matrix of fewer than 2**63 positions, got shape {t.shape}.")
    place = kept.nonzero().flatten()
    free = t.numel - place.numel()
    if not 0 <= count <= free:
        raise ValueError(
            f"{where}: expected a count from 0 to {free}, the positions of shape {t.shape} that are not kept, "
            f"got {count}."
        )
    return t.row[place].long() * t.shape[1] + t.col[place].long()


def _edges(position: Tensor, t: Topology) -> tuple[Tensor, Tensor]:
    columns = max(1, t.shape[1])
    return position.div(columns, rounding_mode="floor"), position.remainder(columns)
