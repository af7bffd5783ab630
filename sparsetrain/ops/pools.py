"""Rows of a table and pools of them made of torch's index operations, which have rules for everything: any number of
derivatives, forward mode, and vmap over ids, offsets, weights and the table alike. torch's embedding_bag has not."""

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary


def rows_read(ids: Tensor, weight: Tensor, padding_idx: int | None, max_norm: float | None, norm_type: float) -> Tensor:
    """``weight[ids]``, (k, dim) for ids (k,) in range; the row of padding is a constant. With ``max_norm`` rows are
    scaled as they are read and the table stays as it is: a transformed function has no side effects."""
    if has_torch_function_unary(weight):
        return handle_torch_function(rows_read, (weight,), ids, weight, padding_idx, max_norm, norm_type)
    rows = weight.index_select(0, ids)
    if padding_idx is not None:
        rows = torch.where((ids == padding_idx)[:, None], rows.detach(), rows)
    return rows if max_norm is None else _limited(rows, max_norm, norm_type)


def _limited(rows: Tensor, max_norm: float, norm_type: float) -> Tensor:
    """The numbers of rows that were scaled in place before they were read: the scaling has no derivative."""
    values = rows.detach()
    norms = torch.linalg.vector_norm(values, norm_type, -1, keepdim=True)
    scaled = values * (max_norm / (norms + 1e-7))  # as torch.embedding_renorm_
    return torch.where(norms > max_norm, scaled + (rows - values), rows)  # the difference is 0, of slope 1


def pooled(
    rows: Tensor, ids: Tensor, offsets: Tensor, pool: str, weights: Tensor | None, padding_idx: int | None
) -> Tensor:
    """The sum, mean or largest numbers of the rows of each bag, (bags, dim), for rows (k, dim) of ids (k,); the row of
    padding counts in none, and a bag of nothing is 0."""
    bags = offsets.shape[0]
    # the last bag that begins at or before a place; one of no ids begins where the next one does
    begun = offsets.new_zeros(ids.shape[0] + 1).index_add(0, offsets, torch.ones_like(offsets)).cumsum(0)
    bag = begun[: ids.shape[0]] - 1  # torch.searchsorted can't be exported
    counts = torch.ones_like(ids, dtype=torch.bool) if padding_idx is None else ids != padding_idx
    if pool == "max":
        return _largest(rows, counts, bag, bags)
    if padding_idx is not None:
        rows = torch.where(counts[:, None], rows, 0.0)
    if weights is not None:
        rows = rows * weights[:, None]
    sums = rows.new_zeros(bags, rows.shape[1]).index_add(0, bag, rows)
    if pool == "sum":
        return sums
    sizes = rows.new_zeros(bags).index_add(0, bag, counts.to(rows.dtype))
    return sums / sizes.clamp(min=1)[:, None]


def _largest(rows: Tensor, counts: Tensor, bag: Tensor, bags: int) -> Tensor:
    """The largest numbers of each bag; of equal ones the first has the derivative."""
    k, dim = rows.shape
    places = bag[:, None].expand(k, dim)
    values = torch.where(counts[:, None], rows.detach(), -torch.inf)
    top = values.new_full((bags, dim), -torch.inf).scatter_reduce(0, places, values, "amax").gather(0, places)
    reached = counts[:, None] & ((values == top) | (values.isnan() & top.isnan()))
    at = torch.where(reached, torch.arange(k, device=rows.device)[:, None], k)
    first = at.new_full((bags, dim), k).scatter_reduce(0, places, at, "amin")
    return torch.cat([rows, rows.new_zeros(1, dim)]).gather(0, first)  # place k: a bag of nothing
