"""Rows that ranks ask each other for: who wants which, and the way there, of which the derivative is the way back."""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from ..edges.shards import Shard

REFUSED = 1  # in a header: its sender refuses its ids


class Route(NamedTuple):
    """What this rank gives to others and takes from them, in the order of ranks."""

    given: list[int]
    taken: list[int]
    group: Any


def route_of(wanted: Tensor | None, shard: Shard, number: int, refused: Exception | None) -> tuple[Tensor, Route]:
    """Places in this shard that ranks ask for, and the route of their rows. All ranks call it.

    Args:
        wanted: ids that this rank asks for, rising, each once; None where they are refused.
        number: of the table, which must be the same on all ranks.
        refused: why this rank asks for nothing: all ranks raise then, this one that very error.

    Raises:
        RuntimeError: another rank refused its ids, or reads another table.
    """
    header = torch.zeros(shard.ranks, 3, dtype=torch.int64)
    header[:, 1] = number
    if wanted is None:
        header[:, 2] = REFUSED
        wanted = torch.zeros(0, dtype=torch.int64)
    else:
        bounds = torch.arange(1, shard.ranks + 1) * shard.each
        ends = torch.searchsorted(wanted, bounds.to(wanted.device)).cpu()
        header[:, 0] = torch.diff(ends, prepend=ends.new_zeros(1))
    headers = _sent(header.to(wanted.device), None, None, shard.group).cpu()
    if refused is not None or bool((headers[:, 2] == REFUSED).any()):
        _raise_everywhere(refused, shard.group)
    others = (headers[:, 1] != number).nonzero().flatten().tolist()
    if others:
        raise RuntimeError(
            f"ShardedLookupTable: expected all ranks to read tables in the same order, got table {number} on rank "
            f"{shard.rank} and table {int(headers[others[0], 1])} on rank {others[0]}."
        )
    taken, given = header[:, 0].tolist(), headers[:, 0].tolist()
    asked = _sent(wanted, taken, given, shard.group)
    return asked - shard.first, Route(given, taken, shard.group)


def _raise_everywhere(refused: Exception | None, group: Any) -> None:
    said: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(said, None if refused is None else str(refused), group)
    if refused is not None:
        raise refused
    rank, message = next((rank, each) for rank, each in enumerate(said) if each is not None)
    raise RuntimeError(f"ShardedLookupTable: rank {rank} refused its ids: {message}")


def _sent(x: Tensor, given: list[int] | None, taken: list[int] | None, group: Any) -> Tensor:
    """all_to_all of rows, ``given[r]`` of them to rank r; as many to each, without."""
    rows = x.shape[0] if taken is None else sum(taken)
    out = x.new_empty(rows, *x.shape[1:])
    try:
        dist.all_to_all_single(out, x.contiguous(), taken, given, group=group)
    except RuntimeError as error:
        raise RuntimeError(
            "ShardedLookupTable: expected all ranks of the group to take part in each forward and backward pass, as "
            "often and in the same order, also with no ids at all; the exchange of rows failed: "
            f"{error}"
        ) from error
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
    def forward(ctx: Any, x: Tensor, ranks: int) -> Tensor:
        ctx.ranks = ranks
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        return dy / ctx.ranks, None
