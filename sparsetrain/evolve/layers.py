"""What a rule sees of a layer."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..edges.weights import are_real
from ..ops import edge_choice
from ..ops.factors import Factors
from ..structure.topology import Topology
from .numbers import frozen_edges


@dataclass
class Layer:
    """A layer whose edges change, as a rule sees it during an update.

    Attributes:
        name: of the module in the model.
        module: the layer over edges, or a MaskedLinear.
        topology: its edges before the update.
        values: one number for each of them, detached.
        rate: by which the schedule's fraction is multiplied for this layer.
        born: the step after which each edge was born, int32 (nnz,).
        step: of this update.
        generator: of everything that is drawn at random; the same on all processes.
        floor: the fewest edges that it may have, where the final density leaves fewer than one for each neuron; then
            each neuron keeps its largest. Else 0.
        factors: of the gradients of the steps that the rule looks at, a list for each step, the last step last.
        optimizer: what trains the values.
    """

    name: str
    module: Any
    topology: Topology
    values: Tensor
    rate: float
    born: Tensor
    step: int
    generator: torch.Generator
    optimizer: Optimizer
    floor: int = 0
    factors: list[list[Factors]] = field(default_factory=list)

    @property
    def nnz(self) -> int:
        """Number of edges before the update."""
        return self.topology.nnz

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs."""
        return self.topology.shape

    @property
    def age(self) -> Tensor:
        """Steps since each edge was born, int32 (nnz,)."""
        return self.step - self.born

    @property
    def frozen(self) -> Tensor | None:
        """Places of the edges that constrain.frozen holds, or None."""
        return frozen_edges(self.module)

    def held(self, scores: Tensor) -> Tensor | None:
        """Booleans (nnz,), true at the edges that stay in any case, or None where there are none such.

        They are those that constrain.frozen holds and, in a layer that has a ``floor``, of each output the edge of the
        largest score.
        """
        frozen = self.frozen
        if frozen is None and not self.floor:
            return None
        held = torch.zeros(self.nnz, dtype=torch.bool, device=scores.device)
        if frozen is not None:
            held[frozen] = True
        if self.floor:
            held |= edge_choice.largest_of_rows(self.topology, _with_infinity(scores).masked_fill(held, torch.inf), 1)
        return held

    def largest(self, scores: Tensor, count: int, held: Tensor | None = None) -> Tensor:
        """Booleans (nnz,), true at the ``count`` edges of the largest scores; of equal scores the last ones stay.

        Args:
            scores: a number for each edge.
            count: how many stay.
            held: booleans (nnz,), true at edges that stay before all others, and all of them, where they are more than
                ``count``; ``self.held(scores)`` by default.

        Raises:
            ValueError: not one real score for each edge, NaN among them, or a count that is not from 0 to ``nnz``.
        """
        if not are_real(scores) or scores.shape != (self.nnz,):
            got: Any = type(scores).__name__
            if isinstance(scores, Tensor):
                got = tuple(scores.shape) if are_real(scores) else scores.dtype
            raise ValueError(
                f"Layer.largest: expected a score for each of {self.nnz} edges of {self.name!r}, got {got}."
            )
        if not 0 <= count <= self.nnz:
            raise ValueError(f"Layer.largest: expected a count from 0 to {self.nnz}, the edges, got {count}.")
        if bool(scores.isnan().any()):
            raise ValueError(f"Layer.largest: expected scores that can be compared, got NaN in layer {self.name!r}.")
        held = self.held(scores) if held is None else held
        if held is not None:
            scores = _with_infinity(scores).masked_fill(held, torch.inf)
            count = max(count, int(held.count_nonzero()))
        return ~edge_choice.smallest(scores, self.nnz - count)

    def random_vacant(self, kept: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """(rows, columns) of so many positions without a kept edge, all equally likely."""
        return edge_choice.random_vacant(self.topology, kept, count, self.generator)

    def largest_vacant(self, kept: Tensor, count: int, weights: Sequence[float] | None = None) -> tuple[Tensor, Tensor]:
        """(rows, columns) of the positions without a kept edge where the gradient of the loss is largest.

        Args:
            kept: booleans (nnz,).
            count: how many.
            weights: of the gradients of the steps that the rule looks at, which are added; 1 each without.
        """
        return edge_choice.largest_vacant(self.topology, kept, self._weighted(weights), count)

    def gradient(self, weights: Sequence[float] | None = None) -> Tensor:
        """The same gradient at the edges, (nnz,)."""
        total = torch.zeros_like(self.values)
        for each in self._weighted(weights):
            a, b = (tensor.to(self.values.dtype) for tensor in (each.a, each.b))
            total += each.of(a, b).at(self.topology)
        return total

    def _weighted(self, weights: Sequence[float] | None) -> list[Factors]:
        weights = [1.0] * len(self.factors) if weights is None else weights
        return [
            each if weight == 1.0 else each.of(each.a * weight, each.b)
            for weight, step in zip(weights, self.factors, strict=True)
            for each in step
        ]


def _with_infinity(scores: Tensor) -> Tensor:
    """Scores of a type that has infinity, and in which sums and comparisons exist on all devices."""
    return scores.double() if not scores.is_floating_point() else scores.float() if scores.itemsize < 4 else scores
