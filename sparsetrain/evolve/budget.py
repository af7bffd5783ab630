"""How many edges each layer has after an update."""

import warnings
from collections.abc import Sequence

from ..patterns import allocate
from .layers import Layer
from .rule import Rule
from .schedules import Schedule

DISTRIBUTIONS = ("uniform", "er", "erk")


def totals(
    layers: Sequence[Layer], schedule: Schedule, step: int, initial: Sequence[int], distribution: str
) -> list[int]:
    """Edges of each layer after an update at this step: as many as now, or those of the density on its way.

    No layer is left with fewer than its floor.
    """
    if schedule.final_density is None:
        return [layer.nnz for layer in layers]
    counts = []
    for layer, edges, wanted in zip(layers, initial, _final(layers, schedule, distribution), strict=True):
        positions = layer.topology.numel
        density = schedule.density(edges / max(1, positions), wanted, step)
        counts.append(max(round(density * positions), layer.floor))
    return counts


def floors(layers: Sequence[Layer], schedule: Schedule, initial: Sequence[int], distribution: str) -> list[int]:
    """The fewest edges that each layer may have: one for each output, or what it started with, where the final density
    leaves fewer; 0 where it does not, and the rule is free to leave an output without edges."""
    if schedule.final_density is None:
        return [0] * len(layers)
    fewest = []
    for layer, edges, wanted in zip(layers, initial, _final(layers, schedule, distribution), strict=True):
        needed = min(edges, layer.shape[0])
        fewest.append(needed if round(wanted * layer.topology.numel) < needed else 0)
    return fewest


def check(layers: Sequence[Layer], schedule: Schedule, distribution: str, rule: Rule) -> None:
    """The final density can be reached.

    Raises:
        ValueError: an unknown distribution, a layer would need more edges than it has, under a rule that only drops
            them, or it would have fewer than the rule lets it have.

    Warns:
        UserWarning: a layer would be left with fewer edges than outputs, and each keeps its largest.
    """
    if distribution not in DISTRIBUTIONS:
        raise ValueError(f"Evolver: expected distribution to be one of {DISTRIBUTIONS}, got {distribution!r}.")
    if schedule.final_density is None:
        return
    grows = rule.shares_budget or not rule.only_prunes
    for layer, wanted in zip(layers, _final(layers, schedule, distribution), strict=True):
        edges = round(wanted * layer.topology.numel)
        if edges < (fewest := rule.fewest(layer)):
            raise ValueError(
                f"Evolver: expected a final density that leaves layer {layer.name!r} the {fewest} edges that {rule!r} "
                f"keeps, got final_density={schedule.final_density:g}, which is {edges}. Raise it, lower the floor, or "
                "leave the layer out with layers=."
            )
        if not grows and edges > layer.nnz:
            raise ValueError(
                f"Evolver: expected layer {layer.name!r} to start with its final {edges} edges at least, it has "
                f"{layer.nnz}, and the rule only drops edges. Start denser, or lower "
                f"final_density={schedule.final_density}, or pass another distribution than {distribution!r}."
            )
        if layer.floor:
            warnings.warn(
                f"Evolver: final_density={schedule.final_density:g} leaves layer {layer.name!r} {edges} edges for "
                f"{layer.shape[0]} neurons. It keeps {layer.floor}, and each neuron that has edges the largest of "
                "them. Raise the density, or leave the layer out with layers=.",
                stacklevel=3,
            )


def _final(layers: Sequence[Layer], schedule: Schedule, distribution: str) -> list[float]:
    return allocate([layer.shape for layer in layers], schedule.final_density, distribution)  # type: ignore[arg-type]
