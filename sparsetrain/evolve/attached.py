"""An Evolver that steps by itself, after each step of its optimizer."""

from collections.abc import Callable
from typing import Any

from torch.utils.hooks import RemovableHandle

from .change import Change
from .chosen import check_kinds
from .evolver import Evolver


def attach(evolver: Evolver, on_change: Callable[[Change], Any] | None = None) -> RemovableHandle:
    """Call ``evolver.step()`` after each step of its optimizer, for training loops of other libraries.

    It is a hook of the optimizer, so it counts the steps that are made: one for all micro-batches whose gradients are
    accumulated, and none where a GradScaler skips.

    Args:
        evolver: it is not called elsewhere any more.
        on_change: gets each Change, for a log or for averages of weights (``change.follow``).

    Returns:
        A handle: ``handle.remove()`` ends it, and so does leaving a ``with`` block of it.

    Raises:
        TypeError: it is no Evolver.

    Example:
        >>> import torch
        >>> from sparsetrain import evolve
        >>> from sparsetrain.nn import SparseLinear
        >>> layer = SparseLinear(100, 50, density=0.1)
        >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        >>> schedule = evolve.Constant(interval=2, prune_fraction=0.3)
        >>> evolver = evolve.Evolver(layer, optimizer, evolve.SET(), schedule)
        >>> handle = evolve.attach(evolver, on_change=lambda change: print(change.step, change.edges))
        >>> for _ in range(3):
        ...     layer(torch.randn(8, 100)).square().mean().backward()
        ...     optimizer.step()
        2 500
    """
    check_kinds("evolve.attach", evolver=(evolver, Evolver))

    def after_step(*_: Any) -> None:
        change = evolver.step()
        if change is not None and on_change is not None:
            on_change(change)

    return evolver.optimizer.register_step_post_hook(after_step)  # type: ignore[no-any-return]
