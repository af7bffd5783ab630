"""GMP: gradual magnitude pruning."""

from collections.abc import Sequence

from .layers import Layer
from .rule import Rule
from .schedules import Schedule


class GMP(Rule):
    r"""Gradual magnitude pruning: the smallest values of each layer go, until the final density is reached.

    Start it from layers of density 1.0 or less. Time and memory of a step fall along with the number of edges. One
    threshold for a layer may leave an output without edges, for good; GlobalMagnitude keeps some for each. Where the
    final density leaves a layer fewer edges than outputs, each output keeps its largest.

    Source: Zhu and Gupta (2017), To prune, or not to prune: exploring the efficacy of pruning for model compression;
    with the cubic schedule given there, evolve.Cubic.

    Example:
        >>> import torch
        >>> from sparsetrain import evolve
        >>> from sparsetrain.nn import SparseLinear
        >>> layer = SparseLinear(100, 50, density=1.0)
        >>> optimizer = torch.optim.Adam(layer.parameters())
        >>> schedule = evolve.Cubic(interval=2, stop=9, final_density=0.1)
        >>> evolver = evolve.Evolver(layer, optimizer, evolve.GMP(), schedule)
        >>> edges = []
        >>> for _ in range(10):
        ...     layer(torch.randn(8, 100)).square().mean().backward()
        ...     optimizer.step()
        ...     if change := evolver.step():
        ...         edges.append(change.edges)
        >>> edges
        [2617, 1272, 667, 506, 500]
    """

    only_prunes = True

    def plan(self, layers: Sequence[Layer], totals: Sequence[int], fraction: float) -> list[tuple[int, int]]:
        """As many stay as the schedule leaves."""
        return [(min(layer.nnz, total), min(layer.nnz, total)) for layer, total in zip(layers, totals, strict=True)]

    def check(self, schedule: Schedule, layers: Sequence[Layer]) -> None:
        """It has a density to reach."""
        if schedule.final_density is None:
            raise ValueError(
                f"{self!r}: expected a schedule with a final_density, got {schedule}. Pass for instance "
                "Cubic(interval=100, stop=10000, final_density=0.05)."
            )
        super().check(schedule, layers)
