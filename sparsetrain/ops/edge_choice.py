"""Which edges go and which come: the choices that training with changing edges is made of."""

from collections.abc import Sequence

import sparsetrain_kernels as kernels
import torch
from sparsetrain_kernels.jit import COMPILES
from torch import Tensor

from ..arrays import array
from ..patterns.sampling import distinct, vacant
from ..structure.csr import COUNTABLE
from ..structure.index_types import taken
from ..structure.topology import Topology
from .factors import Factors
from .largest_products import largest_products
from .smallest_scores import smallest as smallest


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
        ValueError: fewer positions are vacant, or kept does not fit.

    Example:
        >>> t = Topology.from_mask([[1, 0], [1, 1]])
        >>> rows, cols = random_vacant(t, torch.tensor([True, False, True]), 2)
        >>> rows.tolist(), cols.tolist()
        ([0, 1], [1, 0])
    """
    free = _check("random_vacant", t, kept, count)
    rank = _ranks(free, count, generator)
    if t.device.type == "cpu" and COMPILES:
        arrays = array(t.crow), array(t.stored_col), array(kept.contiguous())
        rows, cols = kernels.vacant(*arrays, t.shape[1], array(rank), torch.get_num_threads())
        return torch.from_numpy(rows), torch.from_numpy(cols)
    place = kept.nonzero().flatten()
    return _edges(vacant(t.row[place].long() * t.shape[1] + taken(t.stored_col, place).long(), rank.to(t.device)), t)


def _ranks(free: int, count: int, generator: torch.Generator | None) -> Tensor:
    """``count`` distinct numbers below ``free``, rising. Wherever the edges are, they are drawn on the CPU, and so are
    the same."""
    device = torch.device("cpu") if generator is None else generator.device
    if COMPILES:
        seed = int(torch.empty((), dtype=torch.int64, device=device).random_(generator=generator))
        return torch.from_numpy(kernels.distinct(free, count, seed, torch.get_num_threads()))
    size, need = (torch.tensor([number], dtype=torch.int64, device=device) for number in (free, count))
    return distinct(size, need, generator)


def largest_vacant(
    t: Topology, kept: Tensor, pairs: Sequence[Factors | tuple[Tensor, Tensor]], count: int
) -> tuple[Tensor, Tensor]:
    r"""(rows, columns) of the ``count`` positions not among the kept edges where a sum of products is largest.

    .. math:: \Big|\sum_{(a, b)} a b^T\Big|_{ij}

    Of equal ones those come first that are first in row-major order.

    Args:
        t: the edges; its matrix may have up to 2**63 - 1 positions.
        kept: booleans, one for each edge.
        pairs: (a, b) of shapes (out, batch) and (in, batch), of any strides; each pair may have a batch of its own. Or
            Factors, as rules find them in ``layer.factors``, whose gradients are summed.
        count: how many positions.

    Returns:
        int64 tensors of shape (count,), in row-major order.

    Raises:
        ValueError: fewer positions are vacant or have products that are numbers; kept or a pair does not fit.

    Example:
        >>> t = Topology.from_mask([[1, 0], [0, 0]])
        >>> a, b = torch.tensor([[1.0], [3.0]]), torch.tensor([[-2.0], [1.0]])
        >>> largest_vacant(t, torch.tensor([True]), [(a, b)], 2)
        (tensor([1, 1]), tensor([0, 1]))
    """
    where = "largest_vacant"
    _check(where, t, kept, count)
    _check_pairs(where, t, pairs)
    position = largest_products(pairs, count, t, kept)
    if position.numel() < count:
        raise ValueError(f"{where}: expected {count} products that are numbers, the others are NaN. Check a and b.")
    return _edges(position, t)


def largest_of_rows(t: Topology, scores: Tensor, count: int) -> Tensor:
    """Booleans (nnz,), true at the ``count`` largest scores of each row, or at all where it has fewer.

    Of equal ones of a row those come first that are first.

    Args:
        t: the edges.
        scores: a real number for each edge, none of them NaN.
        count: how many of each row.

    Example:
        >>> t = Topology.from_mask([[1, 1, 1], [0, 0, 0], [0, 1, 1]])
        >>> largest_of_rows(t, torch.tensor([2.0, 3.0, 3.0, -1.0, -2.0]), 1).tolist()
        [False, True, False, True, False]
    """
    crow = t.crow.long()
    taken = torch.zeros(t.nnz, dtype=torch.bool, device=scores.device)
    for _ in range(count):
        largest = torch.segment_reduce(scores.masked_fill(taken, -torch.inf), "max", offsets=crow, initial=-torch.inf)
        candidate = ~taken & (scores == largest.repeat_interleave(crow.diff(), output_size=t.nnz))
        place = candidate.nonzero().flatten()
        row = torch.searchsorted(crow, place, right=True)
        first = torch.ones_like(row, dtype=torch.bool)
        first[1:] = row.diff() != 0  # of equal ones in a row
        taken[place[first]] = True
    return taken


def largest_of_columns(t: Topology, scores: Tensor, count: int) -> Tensor:
    """Booleans (nnz,), true at the ``count`` largest scores of each column, or at all where it has fewer.

    Of equal ones of a column those come first that are first.

    Args:
        t: the edges.
        scores: a real number for each edge, none of them NaN.
        count: how many of each column.

    Example:
        >>> t = Topology.from_mask([[1, 1, 1], [0, 0, 0], [0, 1, 1]])
        >>> largest_of_columns(t, torch.tensor([2.0, 3.0, 3.0, -1.0, 4.0]), 1).tolist()
        [True, True, False, False, True]
    """
    perm = t.transposed.perm.long()
    taken = torch.empty(t.nnz, dtype=torch.bool, device=scores.device)
    taken[perm] = largest_of_rows(t.transpose(), scores[perm], count)
    return taken


def _check(where: str, t: Topology, kept: Tensor, count: int) -> int:
    """How many positions are vacant, once they are enough."""
    if t.numel >= COUNTABLE:
        raise ValueError(f"{where}: expected a matrix of fewer than 2**63 positions, got shape {t.shape}.")
    t.check_untouched()
    if kept.dtype is not torch.bool or kept.shape != (t.nnz,) or kept.device != t.device:
        raise ValueError(
            f"{where}: expected kept as booleans of shape ({t.nnz},) on {t.device}, one for each edge, got "
            f"{kept.dtype} of shape {tuple(kept.shape)} on {kept.device}."
        )
    free = t.numel - int(kept.count_nonzero())
    if not 0 <= count <= free:
        raise ValueError(
            f"{where}: expected a count from 0 to {free}, the positions of shape {t.shape} that are not kept, "
            f"got {count}."
        )
    return free


def _check_pairs(where: str, t: Topology, pairs: Sequence[Factors | tuple[Tensor, Tensor]]) -> None:
    if not pairs:
        raise ValueError(f"{where}: expected at least one pair (a, b), got none.")
    for k, (a, b, *geometry) in enumerate(pairs):  # type: ignore[misc]
        if geometry:  # of a convolution, which has checked them
            continue
        if a.ndim != 2 or b.ndim != 2 or (a.shape[0], b.shape[0]) != t.shape or a.shape[1] != b.shape[1]:
            raise ValueError(
                f"{where}: expected a ({t.shape[0]}, batch) and b ({t.shape[1]}, batch), pair {k} has shapes "
                f"{tuple(a.shape)} and {tuple(b.shape)}. Batches lie in the rows of layers: pass dy.t() and x.t()."
            )


def _edges(position: Tensor, t: Topology) -> tuple[Tensor, Tensor]:
    columns = max(1, t.shape[1])
    return position.div(columns, rounding_mode="floor"), position.remainder(columns)
