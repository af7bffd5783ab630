"""Schedules: at which steps edges change, and how many."""

import math
from dataclasses import dataclass
from typing import ClassVar

from .. import checks


@dataclass(frozen=True)
class Schedule:
    r"""When edges change, and how many: the parts that all schedules share.

    An update is due at step t (the first is 1) where ``start <= t <= stop`` and ``t - start`` is a multiple of
    ``interval``, and at ``stop``. With :math:`\rho` the remaining part, which falls from 1 at ``start`` to 0 at
    ``stop`` by the schedule's own shape, an update replaces the fraction :math:`\rho f` of the edges, with f =
    ``prune_fraction``, and leaves the density

    .. math:: d_{end} + \rho \, (d_{start} - d_{end}),

    with :math:`d_{end}` = ``final_density``. One of the two is enough: without ``final_density`` the number of edges
    stays, without ``prune_fraction`` edges are only dropped.

    Args:
        interval: steps from one update to the next.
        start: step of the first update; 0 for ``interval``.
        stop: step of the last one; None for no end, which only Constant can have.
        prune_fraction: of the edges of each layer, from 0 to 1, at ``start``.
        final_density: edges of all layers / positions of all layers, at ``stop``. A layer that it leaves fewer edges
            than outputs keeps one for each output, with a warning.

    Raises:
        ValueError: a number out of range, no ``stop`` where one is needed, or neither fraction nor density.
        TypeError: a number of another type.
    """

    interval: int = 100
    start: int = 0
    stop: int | None = None
    prune_fraction: float | None = None
    final_density: float | None = None
    endless: ClassVar[bool] = False

    def __post_init__(self) -> None:
        where = type(self).__name__
        if checks.count(where, "interval", self.interval) < 1:
            raise ValueError(f"{where}: expected interval >= 1, got {self.interval}.")
        checks.count(where, "start", self.start)
        if self.stop is None:
            if not self.endless or self.final_density is not None:
                raise ValueError(f"{where}: expected stop, the step of the last update, got None.")
        elif checks.count(where, "stop", self.stop) < self.start:
            raise ValueError(f"{where}: expected stop >= start = {self.start}, got {self.stop}.")
        if self.prune_fraction is None and self.final_density is None:
            raise ValueError(
                f"{where}: expected prune_fraction, final_density or both, got neither. prune_fraction=0.3 replaces 30 "
                "% of the edges, final_density=0.05 drops edges until 5 % of the positions are left."
            )
        if self.prune_fraction is not None:
            checks.fraction(where, "prune_fraction", self.prune_fraction)
        if self.final_density is not None:
            checks.density(where, self.final_density)

    def due(self, step: int) -> bool:
        """Whether edges change after this step.

        Example:
            >>> [t for t in range(1, 12) if Cosine(interval=4, stop=10, prune_fraction=0.3).due(t)]
            [4, 8, 10]
        """
        if step < max(self.start, 1) or (self.stop is not None and step > self.stop):
            return False
        return (step - self.start) % self.interval == 0 or step == self.stop

    def next_due(self, step: int) -> int | None:
        """The first step from this one on at which edges change, or None where there is none."""
        if step <= self.start:
            return self.start
        following = self.start + -(-(step - self.start) // self.interval) * self.interval
        if self.stop is None:
            return following
        return min(following, self.stop) if step <= self.stop else None

    def remaining(self, step: int) -> float:
        """The part that remains of what changes: from 1 at ``start`` to 0 at ``stop``."""
        if self.stop is None:
            return 1.0
        span = self.stop - self.start
        return self._shape(min(1.0, max(0.0, (step - self.start) / span)) if span else 1.0)

    def fraction(self, step: int) -> float:
        """Of the edges, how many are replaced in an update at this step.

        Example:
            >>> round(Cosine(stop=100, prune_fraction=0.3).fraction(50), 3)
            0.15
        """
        return (self.prune_fraction or 0.0) * self.remaining(step)

    def density(self, initial: float, final: float, step: int) -> float:
        """The density after an update at this step, on the way from an initial to a final one."""
        return final + (initial - final) * self.remaining(step)

    def _shape(self, progress: float) -> float:
        raise NotImplementedError


@dataclass(frozen=True)
class Constant(Schedule):
    """The same fraction in each update, as in SET; without ``stop`` it never ends.

    Example:
        >>> Constant(interval=100, prune_fraction=0.3).fraction(step=5000)
        0.3
    """

    endless: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.final_density is not None:
            raise ValueError("Constant: expected no final_density, which is never reached. Use Linear or Cubic.")

    def _shape(self, progress: float) -> float:
        return 1.0


@dataclass(frozen=True)
class Cosine(Schedule):
    r"""The fraction falls as half a cosine, :math:`\rho = (1 + \cos \pi p) / 2` with p from 0 to 1.

    Source: Evci et al. (2020), Rigging the lottery: making all tickets winners.

    Example:
        >>> [round(Cosine(stop=100, prune_fraction=0.3).fraction(t), 3) for t in (0, 25, 50, 100)]
        [0.3, 0.256, 0.15, 0.0]
    """

    def _shape(self, progress: float) -> float:
        return (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class Linear(Schedule):
    r"""The fraction falls in a straight line, :math:`\rho = 1 - p`.

    Example:
        >>> Linear(stop=100, final_density=0.1).density(1.0, 0.1, step=50)
        0.55
    """

    def _shape(self, progress: float) -> float:
        return 1 - progress


@dataclass(frozen=True)
class Cubic(Schedule):
    r"""The fraction falls with the third power, :math:`\rho = (1 - p)^3`: most edges are removed early.

    Source: Zhu and Gupta (2017), To prune, or not to prune: exploring the efficacy of pruning for model compression.

    Example:
        >>> round(Cubic(stop=100, final_density=0.1).density(1.0, 0.1, step=50), 4)
        0.2125
    """

    def _shape(self, progress: float) -> float:
        return (1 - progress) ** 3
