"""Which layers hold a value array: a change of its edges reaches all of them, or is refused."""

import gc
from collections.abc import Collection
from typing import Any
from weakref import WeakSet

from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

_holders: Any = (
    WeakIdKeyDictionary()
)  # by value array, as the model that is trained does not list what is outside of it


def note(layer: nn.Module, values: Tensor | None) -> None:
    """From now on the layer holds these values, unless it is given others."""
    if values is not None:
        _holders.setdefault(values, WeakSet()).add(layer)


def check_reached(where: str, name: str, values: Tensor, layers: Collection[Any]) -> None:
    """ValueError: a layer beside those that change holds the values too, and would read them by the edges of before."""
    reached = {*layers, *(getattr(layer, "origin", layer) for layer in layers)}  # what is tied changes along
    if _others(values, reached):
        gc.collect()  # it may be gone already
    for other in _others(values, reached):
        raise ValueError(
            f"{where}: the values of {name} are those of {other!r} too, whose edges would not change along. Change "
            "both by one optim.carry, tie layers by .transposed(), or give the other values of its own."
        )


def _others(values: Tensor, reached: Collection[Any]) -> list[nn.Module]:
    held = _holders.get(values, ())
    return [layer for layer in held if layer not in reached and layer._parameters.get("values") is values]
