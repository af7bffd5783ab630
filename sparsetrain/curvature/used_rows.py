"""Rows of tables as leaves of a graph: what a forward pass reads of a table, each row once.

A gradient of a whole table has a row for each of its rows, nearly all zero. While ``UsedRows`` is active, what reads
rows (LookupTable, nn.Embedding, nn.EmbeddingBag, layers over edges with ``sparse_grad=True``) reads a small tensor in
their place, which holds the rows that it uses, and autograd or torch.func differentiate with respect to that.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

from ..edges.pending import bring_up_to_date
from ..ops.autograd import spmm
from ..ops.lookup import lookup, pooled_lookup
from ..ops.pools import pooled, rows_read
from ..ops.used_columns import rows_of, spmm_used, used_columns


class Read(NamedTuple):
    """Rows that were read of a table, or edges of a value array."""

    table: Tensor
    rows: Tensor  # (u,) ascending
    leaf: Tensor  # (u, ...) what stood there


def in_recorded_pass() -> bool:
    """Whether a pass for second derivatives runs, of HessianFree or of curvature."""
    return any(isinstance(mode, UsedRows) for mode in _get_current_function_mode_stack())  # type: ignore[no-untyped-call]


class UsedRows(TorchFunctionMode):
    """While active, these tables are read through leaves of the rows that are used.

    Args:
        tables: parameters to watch; others are read as ever.
        leaves: what to read in place of rows of these tables, which hold all rows that will be read. Without, each read
            makes a leaf of its own, to be found in ``reads``.
    """

    def __init__(self, tables: Iterable[Tensor], leaves: Mapping[Tensor, Read] | None = None) -> None:
        super().__init__()
        self.reads: list[Read] = []
        self._tables = frozenset(tables)
        self._leaves = {} if leaves is None else leaves

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        reader = READERS.get(func)
        if reader is not None:
            result = reader(self, *args, **(kwargs or {}))
            if result is not NotImplemented:
                return result
        return func(*args, **(kwargs or {}))

    def watches(self, table: Tensor) -> bool:
        return table in self._tables

    def rows(self, table: Tensor, ids: Tensor, padding_idx: int | None = None) -> Tensor:
        """``table[ids]`` for ids (k,); the row of padding is a constant."""
        trained = ids if padding_idx is None or table in self._leaves else ids[ids != padding_idx]
        read = self.leaf(table, trained)
        places, source = torch.searchsorted(read.rows, ids.contiguous()), read.leaf
        if padding_idx is not None:
            places = torch.where(ids == padding_idx, source.shape[0], places)
            source = torch.cat([source, table.detach()[padding_idx, None]])
        return source.index_select(0, places)

    def leaf(self, table: Tensor, ids: Tensor) -> Read:
        """The leaf in which rows of these ids are."""
        if table in self._leaves:
            return self._leaves[table]
        rows = torch.unique(ids)
        with torch.no_grad():
            leaf = table.index_select(0, rows)
        read = Read(table, rows, leaf.requires_grad_(table.requires_grad))
        self.reads.append(read)
        return read


# ---- what reads rows, by the function that it calls ------------------------------------------------------------------


def _lookup(reading: UsedRows, ids: Tensor, weight: Tensor, padding_idx: int | None) -> Any:
    return reading.rows(weight, ids.long(), padding_idx) if reading.watches(weight) else NotImplemented


def _pooled_lookup(
    reading: UsedRows, ids: Tensor, weight: Tensor, offsets: Tensor, pool: str, padding_idx: int | None
) -> Any:
    if not reading.watches(weight):
        return NotImplemented
    return pooled(reading.rows(weight, ids.long(), padding_idx), ids, offsets, pool, None, padding_idx)


def _rows_read(
    reading: UsedRows, ids: Tensor, weight: Tensor, padding_idx: int | None, max_norm: float | None, norm_type: float
) -> Any:
    return _embedding(reading, ids, weight, padding_idx, max_norm, norm_type)


def _embedding(
    reading: UsedRows,
    ids: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Any:
    if not reading.watches(weight) or scale_grad_by_freq:  # scaled gradients are none of the loss
        return NotImplemented
    flat, padding_idx = _prepared(weight, ids, max_norm, norm_type, padding_idx)
    return reading.rows(weight, flat, padding_idx).view(*ids.shape, weight.shape[1])


def _embedding_bag(
    reading: UsedRows,
    ids: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Any:
    if scale_grad_by_freq:
        return NotImplemented
    # also of tables that are not watched: torch's has no second derivative for weights of samples and the largest
    _check_offsets(ids, offsets)
    if offsets is None:
        bags, length = ids.shape
        offsets = length * torch.arange(bags, device=ids.device)
    elif include_last_offset:
        offsets = offsets[:-1]
    weights = None if per_sample_weights is None else per_sample_weights.reshape(-1)
    ids, padding_idx = _prepared(weight, ids, max_norm, norm_type, padding_idx)
    rows = reading.rows(weight, ids, padding_idx) if reading.watches(weight) else weight.index_select(0, ids)
    return pooled(rows, ids, offsets, mode, weights, padding_idx)


def _check_offsets(ids: Tensor, offsets: Tensor | None) -> None:
    """As torch does, where it computes."""
    if offsets is None or not offsets.numel():
        return
    k = ids.numel()
    if bool((offsets[0] != 0) | (offsets[-1] > k) | (offsets.diff() < 0).any()):
        raise ValueError(f"embedding_bag: expected rising offsets from 0 to the number of ids, {k}, got {offsets}.")


def _prepared(
    weight: Tensor, ids: Tensor, max_norm: float | None, norm_type: float, padding_idx: int | None
) -> tuple[Tensor, int | None]:
    ids = ids.reshape(-1).long()
    if max_norm is not None:
        torch.embedding_renorm_(weight.detach(), ids, max_norm, norm_type)
    return ids, None if padding_idx is None else padding_idx % weight.shape[0]


def _spmm_used(reading: UsedRows, t: Any, values: Tensor, x: Tensor, bias: Tensor | None, backend: str) -> Any:
    if not reading.watches(values):
        return NotImplemented
    if x.requires_grad:  # edges of columns of zeros are coupled with what x depends on
        bring_up_to_date(values)
        return spmm(t, values, x, bias, False, backend)
    used = used_columns(t, x, backend)
    bring_up_to_date(values, used.edges)
    read = reading.leaf(values, used.edges)
    of_edges = read.leaf.index_select(0, torch.searchsorted(read.rows, used.edges))
    return spmm(used.topology, of_edges, rows_of(x, used.columns), bias, False, backend)


def _weight_norm(reading: UsedRows, v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """Reads no rows; but the second derivative of torch's takes the norms for constants, and is wrong."""
    return v * (g / torch.norm_except_dim(v, 2, dim))


READERS: dict[Any, Any] = {
    lookup: _lookup,
    pooled_lookup: _pooled_lookup,
    rows_read: _rows_read,
    functional.embedding: _embedding,
    functional.embedding_bag: _embedding_bag,
    spmm_used: _spmm_used,
    torch._weight_norm: _weight_norm,
}
