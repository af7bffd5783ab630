"""Plain dense twins of the rules of sparse training: a weight of full size under a mask, float64, sorted in full."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sparsetrain.nn import SparseLinear


@dataclass
class MaskedLayer:
    """A dense weight of which the mask says what exists; everything is done to the whole matrix."""

    weight: Tensor
    bias: Tensor
    mask: Tensor
    gradient: Tensor = field(default_factory=lambda: torch.empty(0))  # of absent positions too

    @classmethod
    def of(cls, layer: SparseLinear) -> MaskedLayer:
        dense = layer.to_dense()
        bias = layer.bias.detach().clone().requires_grad_()
        return cls(dense.weight.detach().clone().requires_grad_(), bias, layer.topology.to_mask())

    def __call__(self, x: Tensor) -> Tensor:
        effective = self.weight * self.mask
        if effective.requires_grad:
            effective.register_hook(self._came)
        return torch.nn.functional.linear(x, effective, self.bias)

    def _came(self, gradient: Tensor) -> None:
        self.gradient = self.gradient + gradient if self.gradient.numel() else gradient.clone()


def smallest(scores: Tensor, among: Tensor, count: int) -> Tensor:
    """A mask of the smallest scores among some positions; of equal ones the first, row by row."""
    places = among.flatten().nonzero().flatten()
    order = scores.flatten()[places].argsort(stable=True)[:count]
    return torch.zeros(among.numel(), dtype=torch.bool).index_fill_(0, places[order], True).view(among.shape)


def prune_by_sign(layer: MaskedLayer, stay: int) -> Tensor:
    """SET: the smallest positive and the smallest negative values go."""
    negative = layer.mask & (layer.weight.detach() < 0)
    positive = layer.mask & ~negative
    edges = int(layer.mask.sum())
    negative_stay = round(stay / edges * int(negative.sum()))
    magnitude = layer.weight.detach().abs()
    gone = smallest(magnitude, negative, int(negative.sum()) - negative_stay)
    gone |= smallest(magnitude, positive, int(positive.sum()) - (stay - negative_stay))
    return layer.mask & ~gone


def prune(layer: MaskedLayer, stay: int) -> Tensor:
    """The smallest magnitudes go."""
    return layer.mask & ~smallest(layer.weight.detach().abs(), layer.mask, int(layer.mask.sum()) - stay)


def grow_by_gradient(layer: MaskedLayer, kept: Tensor, count: int) -> Tensor:
    """RigL: the largest gradients among the positions without a kept edge come."""
    return smallest(-layer.gradient.abs(), ~kept, count)


def change(layer: MaskedLayer, optimizer: Any, kept: Tensor, mask: Tensor) -> None:
    """Go on with another mask: all but the kept edges start anew with zeros, in the optimizer too."""
    newborn = mask & ~kept
    with torch.no_grad():
        layer.weight[~mask | newborn] = 0.0
        for name, state in optimizer.state[layer.weight].items():
            if name != "step" and isinstance(state, Tensor):
                state[~mask | newborn] = 0.0
    layer.mask = mask
    layer.gradient = torch.empty(0)
