"""Evaluations of one step draw the same random numbers, so that dropout is the same function in all of them."""

from collections.abc import Callable
from typing import Any

import torch


class SameDraws:
    """Runs functions from one state of torch's generators; after the step they are as after its passes."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = self._states()
        self._after = self._before

    def passed(self) -> None:
        """The passes are done."""
        self._after = self._states()

    def again(self, run: Callable[[], Any]) -> Any:
        self._set(self._before)
        return run()

    def finish(self) -> None:
        self._set(self._after)

    def _states(self) -> list[Any]:
        on_device = [torch.cuda.get_rng_state(self._device)] if self._device.type == "cuda" else []
        return [torch.get_rng_state(), *on_device]

    def _set(self, states: list[Any]) -> None:
        torch.set_rng_state(states[0])
        for state in states[1:]:
            torch.cuda.set_rng_state(state, self._device)
