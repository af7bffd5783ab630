"""Short programs that run each kernel once: by a layer of each kind, in the sizes that choose another kernel."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .. import evolve, optim
from ..dtypes import wide
from ..nn import LookupTable, SparseConv2d, SparseLinear
from ..ops import abs_topk

BATCHES = (1, 64)  # few samples have kernels of their own
DENSITIES = (0.1, 0.6)  # many edges are computed through dense blocks
OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "SGD": lambda p: optim.SGD(p, lr=0.1, momentum=0.9),
    "RMSprop": lambda p: optim.RMSprop(p, lr=0.1),
    "Adagrad": lambda p: optim.Adagrad(p, lr=0.1),
    "Adam": lambda p: optim.Adam(p, lr=0.1),
}
NARROW = ((8192, 1 / 16), (2700, 0.6))  # sizes and densities of as many edges as have columns in 16 bits


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


def activations(dtype: torch.dtype) -> None:
    y: Any = abs_topk(torch.randn(4, 256).to(dtype).requires_grad_(), 16)
    y.float().sum().backward()


def optimizers(dtype: torch.dtype) -> None:
    """Over values, all of which have a gradient, or those of used columns, and over the rows of a table that a step
    reads, plain or in pools."""
    ids = torch.tensor([[3, 3, 7]])
    for make in OPTIMIZERS.values():
        layers = [SparseLinear(64, 8, density=0.5, dtype=wide(dtype), sparse_grad=each) for each in (False, True)]
        tables = [LookupTable(100, 16, pool=pool, dtype=wide(dtype)) for pool in (None, "sum")]
        optimizer = make([p for each in (*layers, *tables) for p in each.parameters()])
        for _ in range(2):
            optimizer.zero_grad()
            x = torch.eye(4, 64, dtype=wide(dtype))
            sum((*(layer(x).sum() for layer in layers), *(table(ids).sum() for table in tables))).backward()
            optimizer.step()


def pending_updates(dtype: torch.dtype) -> None:
    """Of rows that steps did not use."""
    for kind in (optim.RMSprop, optim.Adam):
        table = LookupTable(100, 16, dtype=wide(dtype))
        optimizer = kind(table.parameters(), lr=0.1, unused="dense")
        for row in (3, 7):
            optimizer.zero_grad()
            table(torch.tensor([row])).sum().backward()
            optimizer.step()
        optimizer.flush()


def changing_edges(dtype: torch.dtype) -> None:
    for method in (evolve.SET(), evolve.RigL(), evolve.CHT()):
        layer = SparseLinear(64, 32, density=0.2, dtype=wide(dtype))
        optimizer = optim.Adam(layer.parameters(), lr=0.1)
        evolver = evolve.Evolver(layer, optimizer, method, evolve.Constant(interval=1, prune_fraction=0.3))
        for _ in range(2):
            _pass(layer, torch.randn(8, 64).to(dtype))
            optimizer.step()
            evolver.step()


def rounded_moments(dtype: torch.dtype) -> None:
    """Before and after there are newborn edges, whose steps are counted."""
    layer = SparseLinear(64, 32, density=0.2)
    optimizer = optim.Adam(layer.parameters(), lr=0.1, moments="bfloat16")
    evolver = evolve.Evolver(layer, optimizer, evolve.SET(), evolve.Constant(interval=1, prune_fraction=0.3))
    for _ in range(2):
        _pass(layer, torch.randn(8, 64))
        optimizer.step()
        evolver.step()


def many_edges(dtype: torch.dtype) -> None:
    """Columns in 16 bits, and more columns than a thread packs by itself."""
    for size, density in NARROW:
        layer = SparseLinear(size, size, density=density, dtype=wide(dtype))
        for batch in BATCHES:
            for needs_gradient in (False, True):
                _pass(layer, torch.randn(batch, size).to(dtype).requires_grad_(needs_gradient))
    _pass(SparseLinear(70_000, 64, density=0.001, dtype=wide(dtype)), torch.randn(64, 70_000).to(dtype))


def changing_many_edges(dtype: torch.dtype) -> None:
    size, density = NARROW[0]
    layer = SparseLinear(size, size, density=density, dtype=wide(dtype))
    optimizer = optim.SGD(layer.parameters(), lr=0.1)
    for method in (evolve.SET(), evolve.RigL()):
        evolver = evolve.Evolver(layer, optimizer, method, evolve.Constant(interval=1, prune_fraction=0.1))
        _pass(layer, torch.randn(8, size).to(dtype))
        evolver.step()


RUNS: dict[str, Callable[[torch.dtype], None]] = {
    "linear layers": linear_layers,
    "convolutions": convolutions,
    "activations": activations,
    "optimizers": optimizers,
    "pending updates": pending_updates,
    "rounded moments": rounded_moments,
    "changing edges": changing_edges,
    "many edges": many_edges,
    "changing many edges": changing_many_edges,
}


def _pass(layer: nn.Module, x: Tensor) -> None:
    layer(x).float().sum().backward()
