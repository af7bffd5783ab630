"""SET: sparse evolutionary training."""

from typing import Literal

from torch import Tensor

from ..structure.edit import Edit
from .layers import Layer
from .rule import Rule, drawn


class SET(Rule):
    r"""Sparse evolutionary training: removes the values closest to zero of each sign, and adds random edges.

    Of the positive values the smallest fraction :math:`\zeta` goes, and of the negative values the same fraction of
    those nearest to zero, so that their balance stays. Zeros count as positive. As many edges as went come back at
    random positions. An output may lose all of its edges, as published, until random ones come.

    Args:
        start: values that newborn edges start with: ``"draw"`` from the distribution of a new layer, as published, or
            ``"zero"``.

    Raises:
        ValueError: another word.

    Source: Mocanu et al. (2018), Scalable training of artificial neural networks with adaptive sparse connectivity
    inspired by network science, Nature Communications 9:2383.

    Example:
        >>> import torch
        >>> from sparsetrain import evolve
        >>> from sparsetrain.nn import SparseLinear
        >>> layer = SparseLinear(100, 50, density=0.1)
        >>> optimizer = torch.optim.Adam(layer.parameters())
        >>> schedule = evolve.Constant(interval=1, prune_fraction=0.3)
        >>> evolver = evolve.Evolver(layer, optimizer, evolve.SET(), schedule)
        >>> layer(torch.randn(8, 100)).square().mean().backward()
        >>> optimizer.step()
        >>> change = evolver.step()
        >>> layer.topology.nnz, change.pruned > 100
        (500, True)
    """

    def __init__(self, start: Literal["draw", "zero"] = "draw") -> None:
        if start not in ("draw", "zero"):
            raise ValueError(f"SET: expected start to be 'draw' or 'zero', got {start!r}.")
        self.newborn = start

    def keep(self, layer: Layer, count: int) -> Tensor:
        """The largest of the positive values and the largest of the negative ones, in proportion to their numbers."""
        negative = int((layer.values < 0).count_nonzero())
        of_negative = round(count / layer.nnz * negative) if layer.nnz else 0
        held = layer.held(layer.values.abs())
        below = above = 0
        if held is not None:
            below = int((layer.values[held] < 0).count_nonzero())
            above = int(held.count_nonzero()) - below
            count = max(count, below + above)
            of_negative = min(max(of_negative, below), count - above)
        of_positive = count - of_negative
        # what is held is among the largest on both sides, and on one of them takes the place of others;
        # from above the largest of all values are positive ones, from below negative ones
        negative_ones = layer.largest(-layer.values, of_negative + above, held)
        return negative_ones | layer.largest(layer.values, of_positive + below, held)

    def start(self, layer: Layer, edit: Edit) -> Tensor | None:
        """Random values or zeros."""
        return drawn(layer, edit) if self.newborn == "draw" else None

    def __repr__(self) -> str:
        return f"SET(start={self.newborn!r})"
