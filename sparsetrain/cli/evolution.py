"""How edges change during a comparison, and what is noted of it."""

from dataclasses import dataclass

import torch
from torch import nn

from .. import evolve

DENSE_START = 1.0  # of gradual pruning, which only drops edges
RULES: dict[str, type[evolve.Rule]] = {"set": evolve.SET, "rigl": evolve.RigL, "gmp": evolve.GMP}


@dataclass(frozen=True)
class Evolution:
    """By which rule edges change, every ``interval`` steps until step ``stop``; ``prune_fraction`` is None for gmp."""

    rule: str
    interval: int
    stop: int
    prune_fraction: float | None

    def start_density(self, density: float) -> float:
        """The density before the first update, where ``density`` is the one after the last."""
        return DENSE_START if self.rule == "gmp" else density

    def evolver(self, model: nn.Module, optimizer: torch.optim.Optimizer, density: float, seed: int) -> evolve.Evolver:
        """What changes the edges of a model; two models of the same edges and values draw the same positions."""
        schedule = self._pruning(density) if self.rule == "gmp" else self._replacing()
        generator = torch.Generator().manual_seed(seed)
        return evolve.Evolver(model, optimizer, RULES[self.rule](), schedule, generator=generator)

    def __str__(self) -> str:
        replaced = "" if self.prune_fraction is None else f", replacing {self.prune_fraction:g} of them at first"
        return f"edges change by {self.rule} every {self.interval} steps until step {self.stop}{replaced}"

    def _pruning(self, density: float) -> evolve.Schedule:
        return evolve.Cubic(self.interval, self.interval, self.stop, final_density=density)

    def _replacing(self) -> evolve.Schedule:
        return evolve.Cosine(self.interval, self.interval, self.stop, prune_fraction=self.prune_fraction)


@dataclass(frozen=True)
class Update:
    """What one change of edges did, and the seconds it took.

    ``explored`` is the share of positions that had an edge at any time (R_s), ``churn`` the edges that went / edges
    before.
    """

    step: int
    edges: int
    density: float
    explored: float
    churn: float
    seconds: float

    @classmethod
    def of(cls, change: evolve.Change, seconds: float) -> "Update":
        """The figures of a change."""
        return cls(change.step, change.edges, change.density, change.explored, change.churn, seconds)
