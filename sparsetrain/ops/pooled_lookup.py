"""Sums of rows of a table, and their gradient: the rows that were read, each once.

torch's gradient of embedding_bag has a row for each id, copied from that of its bag. Here the rows of the bags'
gradient are summed straight into those of the table.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

from .row_gradient import RowGradient
from .row_steps import backend_of


def pooled_lookup(
    ids: Tensor, weight: Tensor, offsets: Tensor, pool: str, padding_idx: int | None, max_norm: float | None,
    norm_type: float,
) -> Tensor:  # fmt: skip
    """embedding_bag(ids, weight, offsets, mode=pool), with a gradient that names each row once."""
    if max_norm is not None:
        with torch.no_grad():
            torch.embedding_renorm_(weight.detach(), ids, max_norm, norm_type)
    return PooledLookup.apply(ids, weight, offsets, pool, padding_idx)  # type: ignore[no-untyped-call,no-any-return]


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
        bags = torch.repeat_interleave(
            torch.diff(offsets, append=offsets.new_tensor([ids.numel()])), output_size=ids.numel()
        )
        if ctx.padding_idx is not None:
            kept = ids != ctx.padding_idx
            ids, bags = ids[kept], bags[kept]
        if ctx.pool == "mean":
            dy = dy / torch.bincount(bags, minlength=dy.shape[0]).clamp(min=1)[:, None]
        if torch.is_grad_enabled():  # it is differentiated again
            values = dy.index_select(0, bags)
            return None, torch.sparse_coo_tensor(ids[None], values, ctx.shape, check_invariants=False), None, None, None
        rows, sums = backend_of(dy).total(RowGradient(ids, dy, ctx.shape[0], ctx.shape[1], False, places=bags))
        gradient = torch.sparse_coo_tensor(rows[None], sums, ctx.shape, is_coalesced=True, check_invariants=False)
        return None, gradient, None, None, None
