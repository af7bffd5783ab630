"""Small models that train while their edges change."""

from typing import Any

import torch
from torch import Tensor, nn

from sparsetrain import evolve
from sparsetrain.nn import MaskedLinear, SparseLinear

EVERY = evolve.Constant(interval=1, prune_fraction=0.3)


def network(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    return nn.Sequential(
        SparseLinear(12, 20, density=0.3, generator=generator, dtype=dtype),
        nn.Tanh(),
        SparseLinear(20, 9, density=0.4, generator=generator, dtype=dtype),
    )


def data(step: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(16, 12, generator=generator).to(dtype), torch.randn(16, 9, generator=generator).to(dtype)


def train(model: Any, optimizer: Any, evolver: evolve.Evolver, steps: range) -> list[evolve.Change]:
    changes = []
    for step in steps:
        x, y = data(step)
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
        if change := evolver.step():
            changes.append(change)
    return changes


def masks(model: nn.Sequential) -> list[Tensor]:
    return [layer.topology.to_mask() for layer in model if isinstance(layer, SparseLinear | MaskedLinear)]


def rigl(model: nn.Module, optimizer: Any, **options: Any) -> evolve.Evolver:
    schedule = evolve.Cosine(interval=2, start=1, stop=20, prune_fraction=0.3)
    return evolve.Evolver(model, optimizer, evolve.RigL(), schedule, **options)


class Returns(evolve.Rule):
    """New edges never come where old ones went, so that counts are exact."""

    def grow(self, layer: evolve.Layer, kept: Tensor, count: int) -> tuple[Tensor, Tensor]:
        return layer.random_vacant(torch.ones_like(kept), count)
