"""An Evolver's state in that of its optimizer, for trainers that save this and have no place for more."""

import warnings
from typing import Any

from ..evolve import Evolver

KEY = "evolver"


def keep_in_optimizer_state(evolver: Evolver) -> None:
    """``optimizer.state_dict()`` holds the Evolver's state from now on, and ``load_state_dict`` loads both.

    The model is loaded before the optimizer, as everywhere.

    Warns:
        UserWarning: a state that is loaded has none of an Evolver, whose schedule begins anew.
    """

    def saved(_: Any, state: dict[str, Any]) -> dict[str, Any]:
        return {**state, KEY: evolver.state_dict()}

    def loaded(_: Any, state: dict[str, Any]) -> dict[str, Any]:
        if KEY in state:
            evolver.load_state_dict(state[KEY])
        else:
            warnings.warn(
                "The state of the optimizer was saved without an Evolver: its schedule begins anew.", stacklevel=3
            )
        return {key: value for key, value in state.items() if key != KEY}

    evolver.optimizer.register_state_dict_post_hook(saved)
    evolver.optimizer.register_load_state_dict_pre_hook(loaded)
