"""Warm-up of newborn edges: their first updates are made smaller, whatever the optimizer."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .. import checks
from .history import History
from .numbers import in_trained, up_to_date


class WarmUp:
    r"""Scales the updates of edges of age a by :math:`a / n` until they are n steps old.

    What an optimizer did to a newborn edge is seen from its number before and after, and taken back in part: of the
    raw number where the value is constrained.

    Source: SMET (2026), arXiv 2606.00888, which does so by the learning rate.
    """

    def __init__(self, where: str, steps: int) -> None:
        self.steps = checks.count(where, "warm_up", steps)
        self._places: dict[str, Tensor] = {}  # of newborn edges in the value array
        self._at: dict[str, Tensor] = {}  # and in what the optimizer has
        self._before: dict[str, Tensor] = {}
        self._age: dict[str, Tensor] = {}

    def remember(self, modules: Mapping[str, Any], histories: Mapping[str, History], step: int, changed: bool) -> None:
        """After a step: which edges are newborn, and their numbers before the next one."""
        if not self.steps:
            return
        for name, history in histories.items():
            if changed:
                self._places[name] = self._newborn(history, step)
                self._at[name] = in_trained(modules[name], self._places[name])
            places = self._places.get(name)
            if places is None or not places.numel():
                continue
            age = step + 1 - history.born[places]
            young = age < self.steps
            self._places[name], self._at[name], self._age[name] = places[young], self._at[name][young], age[young]
            self._before[name] = up_to_date(modules[name]).take(self._at[name])

    def apply(self, modules: Mapping[str, Any]) -> None:
        """After the optimizer's step: take a part of what it did back."""
        for name, at in self._at.items():
            if at.numel():
                numbers, before = up_to_date(modules[name]), self._before[name]
                part = self._age[name].to(numbers.dtype) / self.steps
                numbers.put_(at, before + part * (numbers.take(at) - before))

    def _newborn(self, history: History, step: int) -> Tensor:
        return ((history.born > 0) & (step + 1 - history.born < self.steps)).nonzero().flatten()
