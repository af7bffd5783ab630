"""An Evolver's state in that of its optimizer, for trainers that save this and have no place for more."""

import warnings
from typing import Any

from ...evolve import Evolver

KEY = "evolvers"  # of one optimizer, in the order in which they were made


def keep_in_optimizer_state(evolver: Evolver) -> None:
    """``optimizer.state_dict()`` holds the Evolver's state from now on, and ``load_state_dict`` loads both.

    The model is loaded before the optimizer, as everywhere.

    Warns:
        UserWarning: a state that is loaded has none of an Evolver, whose schedule begins anew.
    """

    def saved(_: Any, state: dict[str, Any]) -> dict[str, Any]:
        own = evolver.state_dict() if _has_seen_the_edges(evolver) else None
        return {**state, KEY: [*state.get(KEY, ()), own]}

    def loaded(_: Any, state: dict[str, Any]) -> dict[str, Any]:
        if not state.get(KEY):
            warnings.warn(
                "The state of the optimizer was saved without an Evolver: its schedule begins anew.", stacklevel=3
            )
            return state
        own, *others = state[KEY]
        if own is not None:
            evolver.load_state_dict(own)
        return {**state, KEY: others}

    evolver.optimizer.register_state_dict_post_hook(saved)
    evolver.optimizer.register_load_state_dict_pre_hook(loaded)


def _has_seen_the_edges(evolver: Evolver) -> bool:
    """Not where the model was loaded and the Evolver is yet to be: accelerate has an optimizer load its own state."""
    histories = evolver.histories.items()
    return all(history.topology.digest == evolver.modules[name].topology.digest for name, history in histories)
