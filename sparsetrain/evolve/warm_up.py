"""Warm-up of newborn edges: their first updates are made smaller, whatever the optimizer."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .. import checks
from .history import History
from .layers import weight_of


class WarmUp:
    r"""Scales the updates of edges of age a by :math:`a / n` until they are n steps old.

    What an optimizer did to a newborn edge is seen from its value before and after, and taken back in part.

    Source: SMET (2026), arXiv 2606.00888, which does so by the learning rate.
    """

    def __init__(self, where: str, steps: int) -> None:
        self.steps = checks.count(where, "warm_up", steps)
        self._places: dict[str, Tensor] = {}
        self._before: dict[str, Tensor] = {}
        self._age: dict[str, Tensor] = {}

    def remember(self, modules: Mapping[str, Any], histories: Mapping[str, History], step: int, changed: bool) -> None:
        """After a step: which edges are newborn, and their values before the next one."""
        if not self.steps:
            return
        if changed:
            self._places = {name: self._newborn(history, step) for name, history in histories.items()}
        for name, history in histories.items():
            places = self._places.get(name)
            if places is None or not places.numel():
                continue
            age = step + 1 - history.born[places]
            young = age < self.steps
            self._places[name] = places = places[young]
            self._age[name] = age[young]
            self._before[name] = weight_of(modules[name]).detach()[places].clone()

    def apply(self, modules: Mapping[str, Any]) -> None:
        """After the optimizer's step: take a part of what it did back."""
        for name, places in self._places.items():
            if places.numel():
                values, before = weight_of(modules[name]).detach(), self._before[name]
                part = self._age[name].to(values.dtype) / self.steps
                values[places] = before + part * (values[places] - before)

    def _newborn(self, history: History, step: int) -> Tensor:
        return ((history.born > 0) & (step + 1 - history.born < self.steps)).nonzero().flatten()
