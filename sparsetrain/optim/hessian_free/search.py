"""How far to go: back along the iterates of conjugate gradients, then back along a line."""

from collections.abc import Callable, Sequence

from torch import Tensor

SHRINK, SUFFICIENT, TRIALS = 0.8, 1e-2, 60  # of the line search, as in Martens (2010)

Evaluate = Callable[[Tensor], float]


def best_iterate(loss_at: Evaluate, iterates: Sequence[Tensor]) -> tuple[int, float]:
    """The place of the iterate from which going back no longer lowers the loss, and the loss there. A loss that is not
    finite counts as infinite."""
    place = len(iterates) - 1
    loss = loss_at(iterates[place])
    while place > 0:
        earlier = loss_at(iterates[place - 1])
        if earlier >= loss and loss < float("inf"):
            break
        place, loss = place - 1, earlier
    return place, loss


def line_search(loss_at: Evaluate, step: Tensor, before: float, after: float, slope: float) -> tuple[float, float]:
    """The rate at which the loss falls enough (Armijo's condition), and the loss there; the rate 0 where there is none.

    Args:
        step: of rate 1, where the loss is ``after``.
        slope: of the loss along it.
    """
    rate, loss = 1.0, after
    for _ in range(TRIALS):
        if loss <= before + SUFFICIENT * rate * min(slope, 0.0) and loss < before:
            return rate, loss
        rate *= SHRINK
        loss = loss_at(rate * step)
    return 0.0, before
