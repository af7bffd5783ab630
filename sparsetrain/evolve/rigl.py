"""RigL: rigging the lottery."""

from torch import Tensor

from .. import checks
from .layers import Layer
from .rule import Rule


class RigL(Rule):
    r"""Rigging the lottery: removes the smallest values and adds edges where the gradient of the loss is largest.

    The gradient of absent positions is exact: :math:`|dY^T X|` of all samples of the last steps, multiplied block by
    block, of which only the largest entries are kept. Newborn edges start at zero. An edge that would go and come again
    never went. An output may lose all of its edges, as published, and gain others where its gradient is large.

    Args:
        batches: steps before an update whose gradients are summed. Inputs and output gradients of these steps are kept
            until then.

    Raises:
        ValueError: batches is below 1.

    Source: Evci et al. (2020), Rigging the lottery: making all tickets winners.

    Example:
        >>> from sparsetrain import evolve
        >>> evolve.RigL(), evolve.Cosine(interval=100, stop=10_000, prune_fraction=0.3).due(100)
        (RigL(batches=1), True)
    """

    revives = True

    def __init__(self, batches: int = 1) -> None:
        if checks.count("RigL", "batches", batches) < 1:
            raise ValueError(f"RigL: expected batches >= 1, got {batches}.")
        self.batches = batches

    @property
    def steps(self) -> int:  # type: ignore[override]
        """The steps that it looks at."""
        return self.batches

    def grow(self, layer: Layer, kept: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Where the gradient is largest."""
        return layer.largest_vacant(kept, count)
