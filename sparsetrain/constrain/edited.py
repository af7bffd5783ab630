"""Constraints of edges that change: those of each edge that stays, and for newborn edges what all have."""

from typing import Any

import torch
from torch import Tensor

from ..edges.slots import SlotMap

REMOVE = 'That is torch.nn.utils.parametrize.remove_parametrizations(layer, "values").'


def edited(where: str, old: Any, slots: SlotMap, numbers: Tensor) -> Any:
    """The constraints of the new edges, by the map of their slots."""
    source = slots.source.long()
    newborn, stays = slots.newborn, source >= 0
    grows = bool(newborn.any())
    buffers: dict[str, Tensor | None] = {}
    if old.types is not None:
        _check_no_births(where, grows, "edges that share values by type")
        buffers["types"] = old.types[source]
    if old.signs is not None:
        alike = old.signs[0] if bool((old.signs == old.signs[0]).all()) else None
        _check_no_births(where, grows and alike is None, "signs that differ from edge to edge")
        buffers["signs"] = old.signs[source.clamp(min=0)].where(stays, 0 if alike is None else alike)
    if old.bounded is not None and old.low is not None and old.high is not None:
        whole = old.bounded.numel() == old.edges and bool(
            (old.low == old.low[0]).all() & (old.high == old.high[0]).all()
        )
        _check_no_births(where, grows and not whole, "bounds that do not hold for all edges alike")
        place = _placed(old.bounded, slots)
        places = torch.arange(source.numel(), device=source.device) if whole else place.nonzero().flatten()
        at = place[places] - 1  # -1 for newborn ones, whose bounds are everybody's
        buffers |= {"bounded": places, "low": old.low[at.clamp(min=0)], "high": old.high[at.clamp(min=0)]}
    if old.frozen is not None and old.held is not None:
        place = _placed(old.frozen, slots)
        places = place.nonzero().flatten()
        if places.numel() < old.frozen.numel():
            gone = torch.ones(old.frozen.numel(), dtype=torch.bool, device=place.device)
            gone[place[places] - 1] = False
            raise ValueError(
                f"{where}: expected frozen edges to stay, edge {int(old.frozen[gone][0])} would go. Leave it in, or "
                f"remove the constraints before. {REMOVE}"
            )
        buffers |= {"frozen": places, "held": old.held[place[places] - 1]}
    raws = old.raws if old.types is not None else source.numel()
    new = type(old)(source.numel(), raws, **buffers)
    low, high = new.interval(numbers)
    outside = newborn & ~((numbers >= low) & (numbers <= high))
    if bool(outside.any()):
        k = int(outside.nonzero()[0])
        raise ValueError(
            f"{where}: expected newborn edges to start from {float(low[k])} to {float(high[k])}, by the layer's "
            f"constraints, got {float(numbers[k])}. Pass values= for them."
        )
    return new


def off_bounds(constraints: Any, numbers: Tensor, newborn: Tensor) -> Tensor:
    """Newborn values that are on a bound, where the slope is 0 and they would never move, go a hundredth inside."""
    low, high = constraints.interval(numbers)
    on = newborn & low.isfinite() & high.isfinite() & ((numbers <= low) | (numbers >= high))
    margin = (high - low) / 100
    return torch.where(on, numbers.maximum(low + margin).minimum(high - margin), numbers)


def _placed(places: Tensor, slots: SlotMap) -> Tensor:
    """For each new edge 1 + its number among these old places, 0 for the others."""
    number = torch.zeros(slots.before + 1, dtype=torch.int64, device=places.device)
    number[places] = torch.arange(1, places.numel() + 1, device=places.device)
    return number[slots.source.long()]  # the last one stands for -1


def _check_no_births(where: str, born: bool, kind: str) -> None:
    if born:
        raise ValueError(
            f"{where}: expected constraints that say what holds for newborn edges, got {kind}. Remove them before, and "
            f"constrain the new edges afterwards. {REMOVE}"
        )
