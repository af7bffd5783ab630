"""GMP: gradual magnitude pruning."""

from collections.abc import Sequence

from torch import Tensor

from .. import checks
from . import neurons as of_neurons
from .layers import Layer
from .rule import Rule
from .schedules import Schedule


class GMP(Rule):
    r"""Gradual magnitude pruning: removes the smallest values of each layer until the final density is reached.

    Start it from layers of density 1.0 or less. Time and memory of a step fall along with the number of edges. One
    threshold for a layer may leave an output without edges, for good, unless there is a ``floor``. Where the final
    density leaves a layer fewer edges than outputs, and there is no floor, each output keeps its largest.

    Args:
        floor: edges that each neuron keeps, its largest, or all that it has where it has fewer.
        neurons: what the floor counts: ``"outputs"`` of a layer, or ``"inputs"``, where neurons are what the layer
            reads: the second layer of two, whose hidden neurons would else be left without effect. Make an Evolver for
            each kind, with ``layers=``.

    Raises:
        ValueError: floor is negative, or neurons is neither.

    Source: Zhu and Gupta (2017), To prune, or not to prune: exploring the efficacy of pruning for model compression;
    with the cubic schedule given there, evolve.Cubic. Gao et al. (2025), Weight-sparse transformers have interpretable
    circuits, arXiv 2511.13653, for the floor: four weights for a neuron, with evolve.Linear. There weights below the
    threshold live on and may return; here they are gone, and so are their memory and time.

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

    def __init__(self, floor: int = 0, neurons: of_neurons.Neurons = "outputs") -> None:
        self.floor = checks.count("GMP", "floor", floor)
        self.neurons = of_neurons.check("GMP", neurons)

    def plan(self, layers: Sequence[Layer], totals: Sequence[int], fraction: float) -> list[tuple[int, int]]:
        """As many stay as the schedule leaves."""
        return [(min(layer.nnz, total), min(layer.nnz, total)) for layer, total in zip(layers, totals, strict=True)]

    def keep(self, layer: Layer, count: int) -> Tensor:
        """The largest, and some of each neuron."""
        scores = layer.values.abs()
        kept = layer.largest(scores, count)
        if not self.floor or of_neurons.each_has(layer, kept, self.floor, self.neurons):
            return kept  # as it is where there are many edges, of which to sort out each neuron's would take long
        held, others = of_neurons.largest(layer, scores, self.floor, self.neurons), layer.held(scores)
        return layer.largest(scores, count, held if others is None else held | others)

    def fewest(self, layer: Layer) -> int:
        """Those of the floor."""
        return of_neurons.needed(layer, self.floor, self.neurons)

    def check(self, schedule: Schedule, layers: Sequence[Layer]) -> None:
        """It has a density to reach."""
        if schedule.final_density is None:
            raise ValueError(
                f"{self!r}: expected a schedule with a final_density, got {schedule}. Pass for instance "
                "Cubic(interval=100, stop=10000, final_density=0.05)."
            )
        super().check(schedule, layers)
