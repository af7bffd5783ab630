"""The state of an Evolver: what the next steps depend on, beside the model and the optimizer."""

from collections.abc import Mapping
from typing import Any

import torch

from .. import checks
from .history import History

WHERE = "Evolver.load_state_dict"
PARTS = frozenset(("edges", "factors", "generator", "histories", "kept", "late", "steps"))  # beside rule and schedule


def state(evolver: Any) -> dict[str, Any]:
    """As it is saved."""
    return {
        "rule": repr(evolver.rule),
        "schedule": repr(evolver.schedule),
        **_options(evolver),
        "steps": evolver.steps,
        "late": evolver.late,
        "generator": evolver.generator.get_state(),
        "edges": {name: module.topology.digest for name, module in evolver.modules.items()},
        "histories": {name: history.state() for name, history in evolver.histories.items()},
        "kept": evolver.rule.state_dict(),
        "factors": {name: recorder.state() for name, recorder in evolver.recorders.items()},
    }


def _options(evolver: Any) -> dict[str, Any]:
    """What an Evolver was made with, by which its next steps would differ."""
    return {"rates": dict(evolver.rates), "distribution": evolver.distribution, "warm_up": evolver.warm_up.steps}


def load(evolver: Any, saved: Mapping[str, Any]) -> None:
    """As it was saved, checked before anything changes."""
    if not isinstance(saved, Mapping):
        raise TypeError(f"{WHERE}: expected a dict as state_dict() gives it, got {type(saved).__name__}.")
    for name, ours in (("rule", repr(evolver.rule)), ("schedule", repr(evolver.schedule))):
        if saved.get(name) != ours:
            raise ValueError(f"{WHERE}: expected the {name} {ours}, the state has {saved.get(name)}.")
    missing = PARTS - saved.keys()
    if missing:
        raise ValueError(f"{WHERE}: expected all that state_dict() gives, the state lacks {sorted(missing)}.")
    for part in ("edges", "histories", "factors"):
        if not isinstance(saved[part], Mapping) or saved[part].keys() != evolver.modules.keys():
            raise ValueError(
                f"{WHERE}: expected {part} of layers {list(evolver.modules)}, the state has those of "
                f"{list(saved[part])}: of another model."
            )
    for name, ours in _options(evolver).items():
        if saved.get(name, ours) != ours:  # states of former versions do not say
            raise ValueError(
                f"{WHERE}: expected {name}={ours!r}, as this Evolver was made, the state has {saved[name]!r}. Make it "
                "as the one that was saved."
            )
    histories = _histories(evolver, saved)
    steps, late = checks.count(WHERE, "steps", saved["steps"]), checks.count(WHERE, "late", saved["late"])
    generator = saved["generator"].to("cpu", torch.uint8)
    torch.Generator().set_state(generator)  # an error where it is none
    evolver.rule.load_state_dict(saved["kept"])
    evolver.histories, evolver.steps, evolver.late = histories, steps, late
    evolver.generator.set_state(generator)
    for recorder in evolver.recorders.values():
        recorder.stop()
    evolver.record()
    for name, recorder in evolver.recorders.items():
        recorder.load(saved["factors"][name])


def _histories(evolver: Any, saved: Mapping[str, Any]) -> dict[str, History]:
    """The past of each layer, which has the edges that it is of."""
    histories = {}
    for name, module in evolver.modules.items():
        kept = saved["histories"][name]
        histories[name] = history = History(module.topology, checks.count(WHERE, "initial", kept.get("initial")))
        if saved["edges"][name] != module.topology.digest or not history.fits(kept):
            raise ValueError(
                f"{WHERE}: expected the edges that layer {name!r} has, the state was saved with others. Load the model "
                'before, with io.load(..., topology="adopt") or io.adopt where its edges were drawn anew.'
            )
        history.load(kept)
    return histories
