"""The state of an Evolver: what the next steps depend on, beside the model and the optimizer."""

from collections.abc import Mapping
from typing import Any

import torch

from .history import History

WHERE = "Evolver.load_state_dict"


def state(evolver: Any) -> dict[str, Any]:
    """As it is saved."""
    return {
        "rule": repr(evolver.rule),
        "schedule": repr(evolver.schedule),
        "steps": evolver.steps,
        "late": evolver.late,
        "generator": evolver.generator.get_state(),
        "edges": {name: module.topology.digest for name, module in evolver.modules.items()},
        "histories": {name: history.state() for name, history in evolver.histories.items()},
        "kept": evolver.rule.state_dict(),
        "factors": {name: recorder.state() for name, recorder in evolver.recorders.items()},
    }


def load(evolver: Any, saved: Mapping[str, Any]) -> None:
    """As it was saved, checked before anything changes."""
    for name, ours in (("rule", repr(evolver.rule)), ("schedule", repr(evolver.schedule))):
        if saved.get(name) != ours:
            raise ValueError(f"{WHERE}: expected the {name} {ours}, the state has {saved.get(name)}.")
    if saved["edges"].keys() != evolver.modules.keys():
        raise ValueError(
            f"{WHERE}: expected layers {list(evolver.modules)}, the state has {list(saved['edges'])}: of another model."
        )
    histories = {}
    for name, module in evolver.modules.items():
        kept = saved["histories"][name]
        histories[name] = history = History(module.topology, int(kept["initial"]))
        if saved["edges"][name] != module.topology.digest or not history.fits(kept):
            raise ValueError(
                f"{WHERE}: expected the edges that layer {name!r} has, the state was saved with others. Load the model "
                'before, with io.load(..., topology="adopt") or io.adopt where its edges were drawn anew.'
            )
        history.load(kept)
    evolver.rule.load_state_dict(saved["kept"])
    evolver.histories = histories
    evolver.steps, evolver.late = int(saved["steps"]), int(saved["late"])
    evolver.generator.set_state(saved["generator"].to("cpu", torch.uint8))
    for recorder in evolver.recorders.values():
        recorder.stop()
    evolver.record()
    for name, recorder in evolver.recorders.items():
        recorder.load(saved["factors"][name])
