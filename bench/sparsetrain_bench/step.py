"""What the steps of layers and networks share: seeds, the optimizer, and phases on the clock."""

from collections.abc import Iterator
from time import perf_counter

import torch
from torch import Tensor, nn

from sparsetrain import Topology

SEED = 7
LR, MOMENTUM = 1e-12, 0.9  # so small that the numbers stay what the oracle saw


def seeded(offset: int = 0) -> torch.Generator:
    """A generator that starts alike in every process."""
    return torch.Generator().manual_seed(SEED + offset)


def edge_values(t: Topology, generator: torch.Generator) -> Tensor:
    """Values of the size that training starts with; none is zero, as some engines find the edges by their values."""
    scale = (t.shape[0] / max(1, t.nnz)) ** 0.5
    sign = torch.randint(2, (t.nnz,), generator=generator) * 2.0 - 1
    return (torch.rand(t.nnz, generator=generator) + 0.5).mul_(sign).mul_(scale)


def optimizer_for(parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
    """SGD with momentum in its fused form, which is the fastest that torch has."""
    return torch.optim.SGD(list(parameters), lr=LR, momentum=MOMENTUM, fused=True)


class Clock:
    """Seconds from one mark to the next."""

    def __init__(self) -> None:
        self.phases: dict[str, float] = {}
        self.last = perf_counter()

    def mark(self, phase: str) -> None:
        """The phase ends now."""
        now = perf_counter()
        self.phases[phase], self.last = now - self.last, now
