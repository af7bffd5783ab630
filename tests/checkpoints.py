"""Models, optimizers and evolvers for the tests of checkpoints, and what it means that two of them are identical."""

import copy
import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import sparsetrain as st
from sparsetrain.nn import SparseLinear


def edges(seed: int, shape: tuple[int, int] = (6, 5), density: float = 0.4) -> st.Topology:
    return st.patterns.uniform(shape, density, torch.Generator().manual_seed(seed))


def network(seed: int = 0, density: float = 0.4) -> nn.Sequential:
    """Two sparse layers, batch norm and a dense layer; the edges follow from the seed."""
    return nn.Sequential(
        SparseLinear(5, 6, topology=edges(seed, (6, 5), density)), nn.BatchNorm1d(6), nn.Tanh(),
        SparseLinear(6, 6, topology=edges(seed + 1, (6, 6), density)), nn.Linear(6, 2),
    )  # fmt: skip


def adam(model: nn.Module) -> torch.optim.Adam:
    return torch.optim.Adam(model.parameters(), lr=0.01)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    generator = torch.Generator().manual_seed(11)
    for _ in range(steps):
        x = torch.randn(8, 5, generator=generator)
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


class Evolver:
    """What changes topology, as far as a checkpoint is concerned: steps, a generator, scores of edges."""

    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.steps = 0
        self.scores: dict[str, Any] = {}

    def step(self, model: nn.Sequential) -> float:
        self.steps += 1
        self.scores = {"0": {"age": torch.rand(model[0].topology.nnz, generator=self.generator)}, 7: [1, (2.5, None)]}
        return float(torch.rand((), generator=self.generator))

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state(), "steps": self.steps, "scores": self.scores}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["steps"] == 13:
            raise KeyError("an unlucky number")
        self.generator.set_state(state["generator"])
        self.steps, self.scores = state["steps"], state["scores"]


def identical(one: Any, other: Any) -> bool:
    """Equal in type and to the last bit, all the way down."""
    if type(one) is not type(other) and not (isinstance(one, dict) and isinstance(other, dict)):
        return False
    if isinstance(one, Tensor):
        return (
            one.dtype == other.dtype and one.shape == other.shape and one.nan_to_num(7.5).equal(other.nan_to_num(7.5))
        )
    if isinstance(one, dict):
        return list(one) == list(other) and all(identical(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(identical, one, other))
    return one == other or (one != one and other != other)


def snapshot(*parts: Any) -> list[Any]:
    """Everything that a refused load must leave alone."""
    parts = tuple(part for part in parts if part is not None)
    modules = [module for part in parts if isinstance(part, nn.Module) for module in part.modules()]
    return [
        copy.deepcopy([dict(part.state_dict()) for part in parts]),
        [module.topology for module in modules if isinstance(module, SparseLinear)],
        [
            (id(p), p.data_ptr(), None if p.grad is None else p.grad.clone())
            for module in modules
            for p in module.parameters()
        ],
    ]


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=1 / 3, betas=(0.8, 0.99), amsgrad=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.1), weight_decay=0.1),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, centered=True, momentum=0.5),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=0.01, etas=(0.4, 1.3), step_sizes=(1e-6, math.inf)),
    "NAdam": lambda p: torch.optim.NAdam(p),
    "ASGD": lambda p: torch.optim.ASGD(p),
}


def quantized(numbers: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a future release of torch will not have them
        return torch.quantize_per_tensor(numbers, 0.1, 0, torch.qint8)
