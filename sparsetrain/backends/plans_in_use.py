"""The plans of a backward pass by kernels, 6 to 12 bytes an edge: given back where a layer goes on through blocks,
which need none."""

from collections.abc import Callable
from typing import Any

from ..structure import derived
from ..structure.topology import Topology

PATIENCE = 8  # backward passes through blocks in a row: layers whose batches differ go to and fro, and keep them


class _Passes:
    """Backward passes through blocks since the last one by kernels."""

    def __init__(self, _: Topology) -> None:
        self.through_blocks = 0


def by_kernels(t: Topology) -> None:
    """A backward pass by kernels."""
    t.derived(_Passes).through_blocks = 0


def through_blocks(t: Topology, *others: Callable[[Topology], Any]) -> None:
    """A backward pass through blocks. After the last one that is waited for, the transpose plan goes, and what
    ``others`` made of it."""
    passes = t.derived(_Passes)
    passes.through_blocks += 1
    if passes.through_blocks == PATIENCE:
        t.forget(derived.transposed, *others)
