"""GlobalMagnitude: one budget for all layers, with some edges for each neuron."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import checks
from ..ops import edge_choice
from .layers import Layer
from .rule import Rule
from .schedules import Schedule


class GlobalMagnitude(Rule):
    r"""Removes the smallest values of all layers together, but keeps the ``floor`` largest of each neuron.

    One threshold for the whole model decides, so that layers end with densities of their own; GMP with a ``floor``
    leaves all the same. Anneal from dense layers with a Linear or Cubic schedule.

    Args:
        floor: edges that each output keeps, or all that it has where it has fewer. With 0 an output may be left with
            none; a layer keeps its largest edge, with a warning.

    Raises:
        ValueError: floor is negative.

    Source: the floor of four weights for a neuron as in Gao et al. (2025), Weight-sparse transformers have
    interpretable circuits, arXiv 2511.13653.

    Example:
        >>> from sparsetrain import evolve
        >>> schedule = evolve.Linear(interval=100, stop=10_000, final_density=1 / 64)
        >>> evolve.GlobalMagnitude(), schedule.final_density
        (GlobalMagnitude(floor=4), 0.015625)
    """

    only_prunes = True
    shares_budget = True

    def __init__(self, floor: int = 4) -> None:
        self.floor = checks.count("GlobalMagnitude", "floor", floor)

    def plan(self, layers: Sequence[Layer], totals: Sequence[int], fraction: float) -> list[tuple[int, int]]:
        """As many stay in all as the schedule leaves, wherever they are."""
        scores = torch.cat([self._scores(layer) for layer in layers])
        stay = ~edge_choice.smallest(scores, max(0, scores.numel() - sum(totals)))
        stay |= scores == torch.inf
        counts = [int(part.count_nonzero()) for part in torch.split(stay, [layer.nnz for layer in layers])]
        for layer, count in zip(layers, counts, strict=True):
            if not self.floor and count == 1 < layer.nnz:
                warnings.warn(
                    f"{self!r}: the budget of {sum(totals)} edges for all layers leaves layer {layer.name!r} one of "
                    f"its {layer.nnz}, the largest. Raise final_density, or pass floor=1 or more.",
                    stacklevel=4,
                )
        return [(count, count) for count in counts]

    def keep(self, layer: Layer, count: int) -> Tensor:
        """The largest, and some of each neuron."""
        return layer.largest(self._scores(layer), count)

    def check(self, schedule: Schedule, layers: Sequence[Layer]) -> None:
        """It has a density to reach, which leaves room for the floor."""
        if schedule.final_density is None:
            raise ValueError(
                f"{self!r}: expected a schedule with a final_density, got {schedule}. Pass for instance "
                "Linear(interval=100, stop=10000, final_density=0.05)."
            )
        super().check(schedule, layers)
        budget = schedule.final_density * sum(layer.topology.numel for layer in layers)
        needed = sum(int(layer.topology.fan_in.clamp(max=self.floor).sum()) for layer in layers)
        if budget < needed:
            raise ValueError(
                f"{self!r}: expected a final density that leaves each neuron its {self.floor} edges, {needed} in all, "
                f"got {schedule.final_density}, which is {int(budget)} edges. Raise it, or lower the floor."
            )

    def _scores(self, layer: Layer) -> Tensor:
        """Magnitudes; infinite for what stays whatever the threshold: frozen edges, and the largest of each row, or of
        the layer where nothing else would."""
        scores = layer.values.abs()
        held = edge_choice.largest_of_rows(layer.topology, scores, self.floor)
        if layer.frozen is not None:
            held[layer.frozen] = True
        if not bool(held.any()) and layer.nnz:
            held[scores.argmax()] = True
        return scores.masked_fill(held, torch.inf)
