"""Parameters moved for a trial, and put back."""

import math

from torch import Tensor

from ...curvature.entries import Entries
from ...curvature.passes import Forward, Loss
from ...curvature.twice_differentiable import twice_differentiable
from .same_draws import SameDraws


class Trial:
    """Losses at steps away from where the parameters are, to which they return unless a step is accepted."""

    def __init__(self, entries: Entries, forward: Forward, loss: Loss, draws: SameDraws) -> None:
        self._entries, self._forward, self._loss, self._draws = entries, forward, loss, draws
        self._before = entries.numbers()
        self._done = False

    def loss_at(self, step: Tensor) -> float:
        """The loss after a step, infinite where it is not finite."""
        self._entries.put(self._before + step)
        with twice_differentiable():
            value = float(self._draws.again(lambda: self._loss(self._forward())).detach())
        return value if math.isfinite(value) else math.inf

    def accept(self, step: Tensor | None) -> None:
        """Stay at this step, or where the parameters were."""
        self._entries.put(self._before if step is None else self._before + step)
        self._done = True

    def restore(self) -> None:
        """Put the parameters back, bit for bit, if no step was accepted."""
        if not self._done:
            self._entries.put(self._before)
