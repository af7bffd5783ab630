"""What ids and bags of them must be: torch reads out of bounds where offsets are wrong. On CUDA the device checks what
the numbers are, since to ask for them would wait for it."""

from typing import Any

import torch
from torch import Tensor

from ..checks import assert_there, away
from ..dtypes import wide


def check_lookup(
    where: str, table: Any, rows: int, ids: Tensor, offsets: Tensor | None, weights: Tensor | None
) -> None:
    """What a table of so many rows is called with."""
    if not isinstance(ids, Tensor) or ids.dtype not in (torch.int32, torch.int64):
        got = ids.dtype if isinstance(ids, Tensor) else type(ids).__name__
        raise TypeError(f"{where}: expected ids to be a tensor of int64 or int32, got {got}. Convert with .long().")
    check_ids(where, ids, rows)
    if table.pool is not None:
        check_bags(where, table, ids, offsets, weights)
    elif offsets is not None or weights is not None:
        raise ValueError(f"{where}: offsets and per_sample_weights are for a table with pool='sum' or 'mean'.")


def rows_of(where: str, weight: Tensor, padding_idx: int | None) -> int:
    """How many rows a weight has, that of padding among them."""
    shape = tuple(weight.shape)
    if len(shape) != 2:
        raise ValueError(f"{where}: expected a weight of shape (rows, dim), got {shape}.")
    if padding_idx is not None and padding_idx >= shape[0]:
        raise ValueError(
            f"{where}: expected a weight of more than {padding_idx} rows, as padding_idx is {padding_idx}, got "
            f"{shape}. Set table.padding_idx."
        )
    return shape[0]


def check_ids(where: str, ids: Tensor, rows: int) -> None:
    """ids from 0 to rows - 1."""
    if not ids.numel():
        return
    if away(ids):
        assert_there(((ids >= 0) & (ids < rows)).all(), f"{where}: expected ids from 0 to {rows - 1}.")
        return
    low, high = (int(bound) for bound in torch.aminmax(ids))
    if low < 0 or high >= rows:
        place = ((ids < 0) | (ids >= rows)).nonzero()[0].tolist()
        hint = " An id can't count from the end here; in sparsetrain.subtensor it can." if low < 0 else ""
        raise IndexError(
            f"{where}: expected ids from 0 to {rows - 1}, got {int(ids[tuple(place)])} at position "
            f"{place[0] if len(place) == 1 else tuple(place)}.{hint}"
        )


def check_bags(where: str, table: Any, ids: Tensor, offsets: Tensor | None, weights: Tensor | None) -> None:
    """ids (bags, length), or (k,) with offsets; weights of their shape, for sums."""
    if ids.ndim != (2 if offsets is None else 1):
        raise ValueError(
            f"{where}: expected ids of shape (bags, length), or (k,) with offsets (bags,), got ids of shape "
            f"{tuple(ids.shape)} with{'out' if offsets is None else ''} offsets."
        )
    if offsets is not None:
        _check_offsets(where, ids, offsets, table.include_last_offset)
    if weights is not None:
        _check_weights(where, table, ids, weights)


def _check_offsets(where: str, ids: Tensor, offsets: Tensor, last: bool) -> None:
    """They begin at 0 and rise; with ``last`` to the number of ids."""
    if not isinstance(offsets, Tensor) or offsets.dtype not in (torch.int32, torch.int64) or offsets.ndim != 1:
        got = f"{offsets.dtype} of shape {tuple(offsets.shape)}" if isinstance(offsets, Tensor) else repr(offsets)
        raise TypeError(f"{where}: expected offsets to be a tensor (bags,) of int64 or int32, got {got}.")
    if away(offsets):
        _have_offsets_checked(where, ids, offsets, last)
        return
    if last and (not offsets.numel() or int(offsets[-1]) != ids.numel()):
        raise ValueError(
            f"{where}: expected offsets that end with {ids.numel()}, the number of ids, as include_last_offset says, "
            f"got {_shown(offsets)}."
        )
    if offsets.numel() and (int(offsets[0]) != 0 or int(offsets[-1]) > ids.numel() or bool((offsets.diff() < 0).any())):
        raise ValueError(
            f"{where}: expected offsets that begin at 0 and rise to {ids.numel()}, the number of ids, at most, got "
            f"{_shown(offsets)}."
        )


def _shown(offsets: Tensor) -> Tensor | list[int]:
    return offsets.tolist() if offsets.numel() < 10 else offsets


def _have_offsets_checked(where: str, ids: Tensor, offsets: Tensor, last: bool) -> None:
    if last and not offsets.numel():
        raise ValueError(f"{where}: expected offsets that end with the number of ids, as include_last_offset says.")
    if offsets.numel():
        ends = offsets[-1] == ids.numel() if last else offsets[-1] <= ids.numel()
        message = f"{where}: expected offsets that begin at 0 and rise to {ids.numel()}, the number of ids."
        assert_there((offsets[0] == 0) & ends & (offsets.diff() >= 0).all(), message)


def _check_weights(where: str, table: Any, ids: Tensor, weights: Tensor) -> None:
    if table.pool != "sum":
        raise ValueError(f"{where}: per_sample_weights are for a table with pool='sum', got pool={table.pool!r}.")
    dtype = table.weight.dtype
    if not isinstance(weights, Tensor) or wide(weights.dtype) is not dtype:
        got = weights.dtype if isinstance(weights, Tensor) else type(weights).__name__
        raise TypeError(
            f"{where}: expected per_sample_weights to be a tensor of {dtype}, as the table, got {got}. Convert with "
            ".to(table.weight.dtype)."
        )
    if weights.shape != ids.shape:
        raise ValueError(
            f"{where}: expected per_sample_weights of the ids' shape {tuple(ids.shape)}, got {tuple(weights.shape)}."
        )
