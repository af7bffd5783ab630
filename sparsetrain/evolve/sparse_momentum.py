"""SNFS: sparse networks from scratch, sparse momentum."""

from collections.abc import Sequence

from torch import Tensor

from .. import checks
from .layers import Layer
from .rule import Rule
from .shares import shared_out


class SNFS(Rule):
    r"""Sparse momentum: removes the smallest values, adds edges in layers and at positions of large momentum.

    With :math:`M = (1 - \beta) \sum_k \beta^{n - k} g_k` the momentum of the gradients of the last n steps, of absent
    positions too, each layer gets a share of all edges that went, in proportion to its mean :math:`|M|` over the edges
    that stay, and grows them where :math:`|M|` is largest. A layer keeps one edge at least; an output may lose all of
    its edges, as published.

    The momentum of absent positions would be a dense matrix. Here it is exact for the last n steps, of which inputs and
    output gradients are kept until the update; what lies further back has the weight :math:`\beta^n` and is left out.

    Args:
        momentum: :math:`\beta`, from 0 to 1.
        batches: n.

    Raises:
        ValueError: a number out of range.

    Source: Dettmers and Zettlemoyer (2019), Sparse networks from scratch: faster training without losing performance.

    Example:
        >>> from sparsetrain import evolve
        >>> evolve.SNFS()
        SNFS(momentum=0.9, batches=10)
    """

    revives = True

    def __init__(self, momentum: float = 0.9, batches: int = 10) -> None:
        self.momentum = checks.fraction("SNFS", "momentum", momentum)
        if checks.count("SNFS", "batches", batches) < 1:
            raise ValueError(f"SNFS: expected batches >= 1, got {batches}.")
        self.batches = batches

    @property
    def steps(self) -> int:  # type: ignore[override]
        """The steps that it looks at."""
        return self.batches

    def plan(self, layers: Sequence[Layer], totals: Sequence[int], fraction: float) -> list[tuple[int, int]]:
        """Layers of large momentum get more of what went."""
        plan = super().plan(layers, totals, fraction)  # a layer that gets no share goes on with one edge
        stay = [max(each, min(1, layer.nnz)) for layer, (each, _) in zip(layers, plan, strict=True)]
        means = []
        for layer, count in zip(layers, stay, strict=True):
            of_edges = layer.gradient(self._weights(layer)).abs()[self.keep(layer, count)]
            means.append(float(of_edges.mean()) if of_edges.numel() else 0.0)
        room = [layer.topology.numel - count for layer, count in zip(layers, stay, strict=True)]
        grown = shared_out(sum(totals) - sum(stay), means, room)
        return [(count, count + more) for count, more in zip(stay, grown, strict=True)]

    def grow(self, layer: Layer, kept: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Where the momentum is largest."""
        return layer.largest_vacant(kept, count, self._weights(layer))

    def _weights(self, layer: Layer) -> list[float]:
        steps = len(layer.factors)
        return [(1 - self.momentum) * self.momentum ** (steps - 1 - k) for k in range(steps)]
