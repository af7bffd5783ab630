"""Short programs that run each kernel once: by a layer of each kind, in the sizes that choose another kernel."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .. import evolve, optim
from ..dtypes import wide
from ..nn import LookupTable, SparseConv2d, SparseLinear

BATCHES = (1, 64)  # few samples have kernels of their own
DENSITIES = (0.1, 0.6)  # many edges are computed through dense blocks
OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "SGD": lambda p: optim.SGD(p, lr=0.1, momentum=0.9),
    "RMSprop": lambda p: optim.RMSprop(p, lr=0.1),
    "Adagrad": lambda p: optim.Adagrad(p, lr=0.1),
    "Adam": lambda p: optim.Adam(p, lr=0.1),
}


def linear_layers(dtype: torch.dtype) -> None:
    for density in DENSITIES:
        layer = SparseLinear(256, 64, density=density, dtype=wide(dtype))
        for batch in BATCHES:
            for needs_gradient in (False, True):
                _pass(layer, torch.randn(batch, 256).to(dtype).requires_grad_(needs_gradient))


def convolutions(dtype: torch.dtype) -> None:
    for density in DENSITIES:
        layer = SparseConv2d(8, 8, 3, padding=1, density=density, dtype=wide(dtype))
        _pass(layer, torch.randn(4, 8, 12, 12).to(dtype).requires_grad_())


def optimizers(dtype: torch.dtype) -> None:
    """Over values, all of which have a gradient, and over the rows of a table that a step reads."""
    for make in OPTIMIZERS.values():
        layer = SparseLinear(64, 8, density=0.5, dtype=wide(dtype))
        table = LookupTable(100, 16, dtype=wide(dtype))
        optimizer = make([*layer.parameters(), *table.parameters()])
        for _ in range(2):
            optimizer.zero_grad()
            (layer(torch.ones(4, 64, dtype=wide(dtype))).sum() + table(torch.tensor([3, 3, 7])).sum()).backward()
            optimizer.step()


def changing_edges(dtype: torch.dtype) -> None:
    for method in (evolve.SET(), evolve.RigL()):
        layer = SparseLinear(64, 32, density=0.2, dtype=wide(dtype))
        optimizer = optim.Adam(layer.parameters(), lr=0.1)
        evolver = evolve.Evolver(layer, optimizer, method, evolve.Constant(interval=1, prune_fraction=0.3))
        for _ in range(2):
            _pass(layer, torch.randn(8, 64).to(dtype))
            optimizer.step()
            evolver.step()


RUNS: dict[str, Callable[[torch.dtype], None]] = {
    "linear layers": linear_layers,
    "convolutions": convolutions,
    "optimizers": optimizers,
    "changing edges": changing_edges,
}


def _pass(layer: nn.Module, x: Tensor) -> None:
    layer(x).float().sum().backward()
