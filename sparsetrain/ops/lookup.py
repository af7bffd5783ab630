"""Rows of a table, or sums of them, and their gradients, which name the rows that were read.

What torch's embedding and embedding_bag are with ``sparse=True``. Rows are read ahead of their use, and the gradient
of a sum is summed straight from the bags, each row once, where torch's has a copy of the bag's for each id.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

from .row_gradient import RowGradient, sparse_rows
from .row_steps import backend_of


def lookup(ids: Tensor, weight: Tensor, padding_idx: int | None) -> Tensor:
    """weight[ids], (k, dim) for ids (k,) in range; the row of padding gets no gradient."""
    return Lookup.apply(ids, weight, padding_idx)  # type: ignore[no-untyped-call,no-any-return]


def pooled_lookup(ids: Tensor, weight: Tensor, offsets: Tensor, pool: str, padding_idx: int | None) -> Tensor:
    """The sum or mean of weight[ids] of each bag, (bags, dim); the row of padding counts in none."""
    return PooledLookup.apply(ids, weight, offsets, pool, padding_idx)  # type: ignore[no-untyped-call,no-any-return]


def most_of_bags(rows: Tensor, ids: Tensor, offsets: Tensor, padding_idx: int | None) -> Tensor:
    """The largest numbers of the rows of each bag, (bags, dim), for rows (k, dim) of ids (k,)."""
    places = torch.arange(ids.numel(), device=ids.device)
    if padding_idx is not None:
        kept = ids != padding_idx
        before = torch.cat([kept.new_zeros(1, dtype=torch.int64), kept.cumsum(0)])
        places, offsets = places[kept], before[offsets.long()]
    return functional.embedding_bag(places, rows, offsets.to(places), mode="max")


class Lookup(Function):
    """y[k] = weight[ids[k]]"""

    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor, padding_idx: int | None) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.shape, ctx.padding_idx = weight.shape, padding_idx
        rows: Tensor = backend_of(weight).gather(ids, weight)
        return rows

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (ids,) = ctx.saved_tensors
        if ctx.padding_idx is not None:
            kept = ids != ctx.padding_idx
            ids, dy = ids[kept], dy[kept]
        return None, torch.sparse_coo_tensor(ids[None], dy, ctx.shape, check_invariants=False), None


class PooledLookup(Function):
    """y[bag] = sum of weight[ids of the bag], or their mean."""

    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor, offsets: Tensor, pool: str, padding_idx: int | None) -> Tensor:
        ctx.save_for_backward(ids, offsets)
        ctx.shape, ctx.pool, ctx.padding_idx = weight.shape, pool, padding_idx
        return functional.embedding_bag(ids, weight, offsets, mode=pool, padding_idx=padding_idx)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        ids, offsets = (saved.long() for saved in ctx.saved_tensors)
        lengths = torch.diff(offsets, append=offsets.new_tensor([ids.numel()]))
        bags = torch.repeat_interleave(lengths, output_size=ids.numel())
        if ctx.padding_idx is not None:
            kept = ids != ctx.padding_idx
            ids, bags = ids[kept], bags[kept]
        if ctx.pool == "mean":
            dy = dy / torch.bincount(bags, minlength=dy.shape[0]).clamp(min=1)[:, None]
        if torch.is_grad_enabled():  # it is differentiated again
            values = dy.index_select(0, bags)
            return None, torch.sparse_coo_tensor(ids[None], values, ctx.shape, check_invariants=False), None, None, None
        rows, sums = backend_of(dy).total(RowGradient(ids, dy, ctx.shape[0], ctx.shape[1], False, places=bags))
        return None, sparse_rows(rows, sums, ctx.shape), None, None, None
