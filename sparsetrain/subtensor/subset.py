"""Subset: some places of a table, which remember where they come from."""

from typing import Any

import torch
from torch import Tensor

from .places import Places, located


class Subset(Tensor):
    """``table[index]``: a copy of the selected values, differentiable, that remembers its table and index.

    A tensor like any other in a cost; what is computed from it is a plain tensor, which no longer remembers. Each
    indexing makes a new subset, and a cost depends only on those that it was computed from.

    Attributes:
        base: the table.
        places: which of its places.

    Example:
        >>> from sparsetrain.subtensor import shared
        >>> subset = shared([[1.0, 2.0], [3.0, 4.0]])[[1, 1]]
        >>> subset.tolist(), type(subset).__name__, type(2 * subset).__name__
        ([[3.0, 4.0], [3.0, 4.0]], 'Subset', 'Tensor')
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    base: Tensor
    places: Places


def subset_of(base: Tensor, whole: Tensor, index: Any) -> Subset:
    """The subset of a table, read from its whole value."""
    places = located("table[index]", whole, index)
    subset = places.read(whole).as_subclass(Subset)
    subset.base, subset.places = base, places
    return subset
