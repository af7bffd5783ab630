"""Rows of a table, or sums of them, and their gradients, which name the rows that were read.

What torch's embedding and embedding_bag are with ``sparse=True``. Rows are read ahead of their use, and the gradient
of a sum is summed straight from the bags, each row once, where torch's has a copy of the bag's for each id.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional
from torch.overrides import handle_torch_function, has_torch_function_unary

from ..backends.row_gradient import RowGradient, sparse_rows
from ..backends.row_steps import backend_of
from ..checks import away
from ..dtypes import FLOATS
from ..tracing import watched


def lookup(ids: Tensor, weight: Tensor, padding_idx: int | None) -> Tensor:
    """weight[ids], (k, dim) for ids (k,) in range; the row of padding gets no gradient."""
    if has_torch_function_unary(weight):
        return handle_torch_function(lookup, (weight,), ids, weight, padding_idx)
    return Lookup.apply(ids, weight, padding_idx)  # type: ignore[no-untyped-call,no-any-return]


def pooled_lookup(ids: Tensor, weight: Tensor, offsets: Tensor, pool: str, padding_idx: int | None) -> Tensor:
    """The sum or mean of weight[ids] of each bag, (bags, dim); the row of padding counts in none."""
    if has_torch_function_unary(weight):
        arguments = ids, weight, offsets, pool, padding_idx
        return handle_torch_function(pooled_lookup, (weight,), *arguments)
    return PooledLookup.apply(ids, weight, offsets, pool, padding_idx)  # type: ignore[no-untyped-call,no-any-return]


def weighted_lookup(ids: Tensor, weight: Tensor, offsets: Tensor, weights: Tensor, padding_idx: int | None) -> Tensor:
    """The sum of weights[k] weight[ids[k]] of each bag, (bags, dim), for weights (k,)."""
    if has_torch_function_unary(weight):
        return functional.embedding_bag(
            ids, weight, offsets, mode="sum", per_sample_weights=weights, padding_idx=padding_idx, sparse=True
        )
    return WeightedLookup.apply(ids, weight, offsets, weights, padding_idx)  # type: ignore[no-untyped-call,no-any-return]


def most_of_bags(rows: Tensor, ids: Tensor, offsets: Tensor, padding_idx: int | None) -> Tensor:
    """The largest numbers of the rows of each bag, (bags, dim), for rows (k, dim) of ids (k,)."""
    places = torch.arange(ids.numel(), device=ids.device)
    if padding_idx is not None:
        # a row ahead that stands for padding: which ids to leave out can't be asked of tensors without numbers
        places = torch.where(ids == padding_idx, 0, places + 1)
        rows = torch.cat([rows.new_zeros(1, rows.shape[1]), rows])
        padding_idx = 0
    if watched(rows):
        return functional.embedding_bag(places, rows, offsets.to(places), mode="max", padding_idx=padding_idx)
    if not ids.numel():
        return rows.sum(0).expand(offsets.numel(), -1)  # of nothing, or of the row ahead: zeros, with a graph
    # torch's can be differentiated once; where its numbers come from is all that is needed
    _, _, sizes, largest = torch.embedding_bag(
        rows.detach(), places, offsets.to(places), False, 2, False, None, False, padding_idx
    )
    nothing = (sizes == 0)[:, None]
    return torch.where(nothing, 0.0, rows.gather(0, torch.where(nothing, 0, largest)))


def gradient_of_lookup(ids: Tensor, dy: Tensor, shape: torch.Size, padding_idx: int | None) -> Tensor:
    """The gradient of a table of this shape, sparse over the ids that are not padding, in their order."""
    if padding_idx is not None:
        kept = ids != padding_idx
        ids, dy = ids[kept], dy[kept]
    return torch.sparse_coo_tensor(ids[None], dy, shape, check_invariants=False)


def lengths_of(ids: Tensor, offsets: Tensor) -> Tensor:
    """The number of ids of each bag."""
    offsets = offsets.long()
    return torch.diff(offsets, append=offsets.new_full((1,), ids.numel()))


def gradient_of_pool(
    ids: Tensor, dy: Tensor, offsets: Tensor, shape: torch.Size, pool: str, padding_idx: int | None
) -> Tensor:
    """The gradient of a table of this shape, sparse over the rows that the bags hold, padding left out."""
    ids, lengths = ids.long(), lengths_of(ids, offsets)
    bags = torch.repeat_interleave(lengths, output_size=ids.numel())
    if padding_idx is not None:
        kept = ids != padding_idx
        ids, bags = ids[kept], bags[kept]
        lengths = torch.bincount(bags, minlength=dy.shape[0])
    if pool == "mean":
        dy = dy / lengths.clamp(min=1)[:, None]
    # rows are not summed here where it is differentiated again, and on CUDA, which would be asked how many there are
    if torch.is_grad_enabled() or dy.dtype not in FLOATS or away(dy):
        return torch.sparse_coo_tensor(ids[None], dy.index_select(0, bags), shape, check_invariants=False)
    rows, sums = backend_of(dy).total(RowGradient(ids, dy, shape[0], shape[1], False, places=bags))
    return sparse_rows(rows, sums, shape)


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
        return None, gradient_of_lookup(ids, dy, ctx.shape, ctx.padding_idx), None


class PooledLookup(Function):
    """y[bag] = sum of weight[ids of the bag], or their mean."""

    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor, offsets: Tensor, pool: str, padding_idx: int | None) -> Tensor:
        ctx.save_for_backward(ids, offsets)
        ctx.shape, ctx.pool, ctx.padding_idx = weight.shape, pool, padding_idx
        return functional.embedding_bag(ids, weight, offsets, mode=pool, padding_idx=padding_idx)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        ids, offsets = ctx.saved_tensors
        return None, gradient_of_pool(ids, dy, offsets, ctx.shape, ctx.pool, ctx.padding_idx), None, None, None


class WeightedLookup(Function):
    """y[bag] = sum of weights[k] weight[ids[k]] over the ids of the bag"""

    @staticmethod
    def forward(
        ctx: Any, ids: Tensor, weight: Tensor, offsets: Tensor, weights: Tensor, padding_idx: int | None
    ) -> Tensor:
        # the table only where it is read again: its other rows may be brought up to date before that
        ctx.save_for_backward(ids, weight if ctx.needs_input_grad[3] else None, offsets, weights)
        ctx.shape, ctx.padding_idx = weight.shape, padding_idx
        return functional.embedding_bag(
            ids, weight, offsets, mode="sum", per_sample_weights=weights, padding_idx=padding_idx
        )

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        ids, weight, offsets, weights = ctx.saved_tensors
        _, for_weight, _, for_weights, _ = ctx.needs_input_grad
        bags = torch.repeat_interleave(lengths_of(ids, offsets), output_size=ids.numel())
        dweight = dweights = None
        if for_weight:
            of_rows = dy.index_select(0, bags)
            # in place unless it is recorded: fresh memory costs as much as the products
            of_rows = of_rows * weights[:, None] if torch.is_grad_enabled() else of_rows.mul_(weights[:, None])
            dweight = gradient_of_lookup(ids.long(), of_rows, ctx.shape, ctx.padding_idx)
        if for_weights:
            dweights = _gradient_of_weights(ids, weight, offsets, bags, dy, ctx.padding_idx)
        return None, dweight, None, dweights, None


def _gradient_of_weights(
    ids: Tensor, weight: Tensor, offsets: Tensor, bags: Tensor, dy: Tensor, padding_idx: int | None
) -> Tensor:
    """weight[ids[k]] . dy[bags[k]], and 0 for padding."""
    if not torch.is_grad_enabled():  # in one pass, which can't be differentiated again
        padding_idx = -1 if padding_idx is None else padding_idx
        fused: Any = torch.ops.aten._embedding_bag_per_sample_weights_backward
        dweights: Tensor = fused(dy, weight, ids, offsets, bags.to(ids), 0, padding_idx)
        return dweights
    each = torch.linalg.vecdot(lookup(ids, weight, padding_idx), dy.index_select(0, bags))
    return each if padding_idx is None else torch.where(ids == padding_idx, 0.0, each)
