"""Rows that ranks ask each other for: who wants which, and the way there, of which the derivative is the way back."""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from .. import ranks
from ..edges.spread_rows import Shard

WHERE = "ShardedLookupTable"


class Route(NamedTuple):
    """What this rank gives to others and takes from them, in the order of ranks."""

    given: list[int]
    taken: list[int]
    group: Any


def route_of(wanted: Tensor, shard: Shard, number: int, refused: Exception | None = None) -> tuple[Tensor, Route]:
    """Places in this shard that ranks ask for, and the route of their rows. All ranks call it.

    Args:
        wanted: ids that this rank asks for, rising, each once.
        number: of the table, which must be the same on all ranks.
        refused: why this rank asks for nothing; all ranks raise then, this one that very error.

    Raises:
        RuntimeError: another rank refused its ids, or reads another table.
    """
    header = torch.zeros(shard.ranks, 3, dtype=torch.int64)  # how many ids, of which table, refused
    header[:, 1] = number
    header[:, 2] = refused is not None
    ends = torch.searchsorted(wanted, (torch.arange(1, shard.ranks + 1) * shard.each).to(wanted.device)).cpu()
    header[:, 0] = torch.diff(ends, prepend=ends.new_zeros(1))
    headers = _sent(header.to(wanted.device), None, None, shard.group).cpu()
    if bool((header[:, 2] + headers[:, 2]).any()):
        _raise_everywhere(refused, shard.group)
    others = (headers[:, 1] != number).nonzero().flatten().tolist()
    if others:
        raise RuntimeError(
            f"{WHERE}: expected all ranks to read tables in the same order, got table {number} on rank "
            f"{shard.rank} and table {int(headers[others[0], 1])} on rank {others[0]}."
        )
    taken, given = header[:, 0].tolist(), headers[:, 0].tolist()
    asked = _sent(wanted, taken, given, shard.group)
    return asked - shard.first, Route(given, taken, shard.group)


def _raise_everywhere(refused: Exception | None, group: Any) -> None:
    said = ranks.gathered(WHERE, None if refused is None else str(refused), group)
    if refused is not None:
        raise refused
    rank, message = next((rank, each) for rank, each in enumerate(said) if each is not None)
    raise RuntimeError(f"{WHERE}: rank {rank} refused its ids: {message}")


def _sent(x: Tensor, given: list[int] | None, taken: list[int] | None, group: Any) -> Tensor:
    """all_to_all of rows, ``given[r]`` of them to rank r; as many to each, without."""
    rows = x.shape[0] if taken is None else sum(taken)
    out = x.new_empty(rows, *x.shape[1:])
    with ranks.all_answer(WHERE, group):
        dist.all_to_all_single(out, x.contiguous(), taken, given, group=group)
    return out


class Exchange(Function):
    """Rows (sum of given, dim) to those who asked for them: (sum of taken, dim). Its derivative is such an exchange, so
    that it can be differentiated any number of times."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, route: Route) -> Tensor:
        ctx.route = route
        return _sent(rows, route.given, route.taken, route.group)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        given, taken, group = ctx.route
        # of a pool it is sparse, over rows that are nearly all of them
        back: Any = Exchange.apply(dy.to_dense() if dy.is_sparse else dy, Route(taken, given, group))  # type: ignore[no-untyped-call]
        return back, None


class MeanOverRanks(Function):
    """The identity; its gradient is divided by the number of ranks, so that a sum over them is their mean."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, count: int) -> Tensor:
        ctx.count = count
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        return dy / ctx.count, None
