"""The weights of an edge set, to be drawn in place."""

from collections.abc import Callable
from typing import NamedTuple, Self, TypeVar

import torch
from torch import Tensor, nn

from ..edges.pending import bring_up_to_date
from ..edges.weights import places_of, weights_of
from ..structure.edge_sets import Edges

Layer = TypeVar("Layer", bound=nn.Module)
Draw = Callable[[Tensor], object]  # fills a tensor in place


class Chosen(NamedTuple):
    """Some weights of a Parameter, or all of it where nothing says at which places."""

    weight: nn.Parameter
    at: tuple[Tensor, ...] | None

    @classmethod
    def of(cls, where: str, layer: nn.Module, edges: Edges) -> Self:
        """The weights that exist, of an edge set or of all edges."""
        weights = weights_of(where, layer)
        name, weight, _ = weights
        if not isinstance(weight, nn.Parameter):
            raise TypeError(
                f"{where}: expected {name} of {type(layer).__name__} to be a Parameter, got a tensor that is computed "
                "from others. Initialize before a layer is constrained, or set those."
            )
        place = places_of(where, layer, weights, edges)
        bring_up_to_date(weight)  # pending updates belong to the old values
        if place is None or weight.ndim < 2:
            return cls(weight, None if place is None else (place,))
        columns = max(weight.shape[1], 1)
        return cls(weight, (place.div(columns, rounding_mode="floor"), place % columns))

    def read(self) -> Tensor:
        """A copy: one number for each edge of a set, or the whole in its own shape."""
        return self.weight.detach().clone() if self.at is None else self.weight.detach()[self.at]

    @torch.no_grad()
    def write(self, numbers: Tensor) -> None:
        """Put what ``read`` gave back."""
        self.weight[... if self.at is None else self.at] = numbers


def fill(where: str, layer: Layer, draw: Draw, edges: Edges = None) -> Layer:
    """Draw the weights of an edge set, or all that exist."""
    chosen = Chosen.of(where, layer, edges)
    with torch.no_grad():
        if chosen.at is None:
            draw(chosen.weight)
        else:
            values = chosen.weight.new_empty(chosen.at[0].numel())
            draw(values)
            chosen.write(values)
    return layer


def not_negative(where: str, name: str, value: float) -> float:
    """A number from 0."""
    if not value >= 0:  # true of NaN
        raise ValueError(f"{where}: expected {name} >= 0, got {value!r}.")
    return value
