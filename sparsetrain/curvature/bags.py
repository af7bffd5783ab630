"""Pools of rows that are differentiable any number of times, in every mode; torch's embedding_bag is not."""

import torch
from torch import Tensor


def pooled(
    rows: Tensor, ids: Tensor, offsets: Tensor, pool: str, weights: Tensor | None, padding_idx: int | None
) -> Tensor:
    """The sum, mean or largest numbers of the rows of each bag, (bags, dim), for rows (k, dim) of ids (k,)."""
    k, bags = rows.shape[0], offsets.numel()
    lengths = torch.diff(offsets.long(), append=offsets.new_full((1,), k))
    bag = torch.repeat_interleave(torch.arange(bags, device=rows.device), lengths)
    if bag.numel() != k:
        raise ValueError(f"curvature: expected offsets from 0 to the number of ids, {k}, got {offsets.tolist()}.")
    if padding_idx is not None:
        kept = (ids.reshape(-1) != padding_idx).nonzero().flatten()
        rows, bag = rows.index_select(0, kept), bag.index_select(0, kept)
        weights = None if weights is None else weights.index_select(0, kept)
    if pool == "max":
        return _largest(rows, bag, bags)
    if weights is not None:
        rows = rows * weights[:, None]
    sums = rows.new_zeros(bags, rows.shape[1]).index_add(0, bag, rows)
    if pool == "sum":
        return sums
    return sums / torch.bincount(bag, minlength=bags).clamp(min=1)[:, None]


def _largest(rows: Tensor, bag: Tensor, bags: int) -> Tensor:
    """The first of the largest, as in torch; bags without rows give zeros."""
    k, dim = rows.shape
    places = bag[:, None].expand(k, dim)
    values = rows.detach()
    top = values.new_full((bags, dim), -torch.inf).scatter_reduce(0, places, values, "amax")
    at = torch.arange(k, device=rows.device)[:, None].expand(k, dim)
    first = torch.where(values == top.gather(0, places), at, k)
    first = at.new_full((bags, dim), k).scatter_reduce(0, places, first, "amin")
    return torch.cat([rows, rows.new_zeros(1, dim)]).gather(0, first)
