"""Static: edges that never change, the baseline of every comparison."""

from collections.abc import Sequence

from .layers import Layer
from .rule import Rule
from .schedules import Schedule


class Static(Rule):
    """Changes no edges, whatever the schedule says: a baseline that runs through the same loop.

    Example:
        >>> Static()
        Static()
    """

    def plan(self, layers: Sequence[Layer], totals: Sequence[int], fraction: float) -> list[tuple[int, int]]:
        """All edges stay."""
        return [(layer.nnz, layer.nnz) for layer in layers]

    def check(self, schedule: Schedule, layers: Sequence[Layer]) -> None:
        """Any schedule will do."""
