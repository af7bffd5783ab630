"""Where the search of a step starts: what earlier steps found, for each parameter, and for rows by their ids."""

from typing import Any

import torch
from torch import Tensor

from ...curvature.entries import Entries, Entry

State = Any  # of a torch optimizer: by parameter


def recalled(state: State, entries: Entries, like: Tensor, decay: float) -> Tensor:
    """The directions of the last steps that used these entries, times ``decay``; zero for what is new."""
    start = torch.zeros_like(like)
    for entry, part in zip(entries, entries.split(start).values(), strict=True):
        kept = state.get(entry.parameter, {})
        if "direction" not in kept:
            continue
        if "rows" in kept:
            _recall_rows(kept["rows"], kept["direction"], _ids(entry), part)
        elif entry.rows is None:
            part += kept["direction"]
        else:
            part += kept["direction"].index_select(0, entry.rows)
    return start.mul_(decay)


def _recall_rows(rows: Tensor, directions: Tensor, wanted: Tensor, part: Tensor) -> None:
    if rows.numel():
        places = torch.searchsorted(rows, wanted).clamp_(max=rows.numel() - 1)
        known = rows[places] == wanted
        part[known] = directions[places[known]].to(part)


def remember(state: State, entries: Entries, direction: Tensor) -> None:
    """Keep a direction: of a table by rows, as many as were ever used; of all else, for all of the parameter."""
    for entry, part in zip(entries, entries.split(direction).values(), strict=True):
        kept, p = state[entry.parameter], entry.parameter
        part = part.to(p.dtype)
        by_rows = "rows" in kept or (entry.rows is not None and "direction" not in kept)
        if p.ndim > 1 and by_rows:
            _remember_rows(kept, _ids(entry), part)
            continue
        if "direction" not in kept:
            kept["direction"] = torch.zeros_like(p, memory_format=torch.contiguous_format)
        if entry.rows is None:
            kept["direction"].copy_(part)
        else:
            kept["direction"].index_copy_(0, entry.rows, part)


def _remember_rows(kept: dict[str, Any], ids: Tensor, part: Tensor) -> None:
    rows, directions = kept.get("rows"), kept.get("direction")
    if rows is None or directions is None:
        kept["rows"], kept["direction"] = ids.clone(), part.clone()
        return
    places = torch.searchsorted(ids, rows).clamp_(max=max(0, ids.numel() - 1))
    stays = ids[places] != rows if ids.numel() else torch.ones_like(rows, dtype=torch.bool)
    every, order = torch.cat([rows[stays], ids]).sort()
    kept["rows"], kept["direction"] = every, torch.cat([directions[stays], part]).index_select(0, order)


def _ids(entry: Entry) -> Tensor:
    """Rows of an entry; a table that was read as a whole has them all."""
    if entry.rows is not None:
        return entry.rows
    return torch.arange(entry.parameter.shape[0], device=entry.parameter.device)
