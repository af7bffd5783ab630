"""What optimizers keep for a parameter: one table, which loading, checks and carrying read.

A shape kind says how many numbers there are: ``"one"`` for the parameter, one for ``"each"`` of its values, or one for
each ``"row"``. A fill is what a value that is born starts with: a number, the name of an option of its group, or
``"value"``, the value itself.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

ShapeKind = Literal["one", "each", "row"]
Fill = float | str
State = Mapping[str, tuple[ShapeKind, Fill]]

STEP: State = {"step": ("one", 0.0)}
ADAM: State = {**STEP, "exp_avg": ("each", 0.0), "exp_avg_sq": ("each", 0.0), "max_exp_avg_sq": ("each", 0.0)}

TORCH: dict[str, State] = {
    "SGD": {"momentum_buffer": ("each", 0.0)},
    "Adam": ADAM,
    "AdamW": ADAM,
    "Adamax": {**STEP, "exp_avg": ("each", 0.0), "exp_inf": ("each", 0.0)},
    "NAdam": {**STEP, "mu_product": ("one", 1.0), "exp_avg": ("each", 0.0), "exp_avg_sq": ("each", 0.0)},
    "RAdam": {**STEP, "exp_avg": ("each", 0.0), "exp_avg_sq": ("each", 0.0)},
    "SparseAdam": {**STEP, "exp_avg": ("each", 0.0), "exp_avg_sq": ("each", 0.0)},
    "RMSprop": {**STEP, "square_avg": ("each", 0.0), "momentum_buffer": ("each", 0.0), "grad_avg": ("each", 0.0)},
    "Rprop": {**STEP, "prev": ("each", 0.0), "step_size": ("each", "lr")},
    "Adagrad": {**STEP, "sum": ("each", "initial_accumulator_value")},
    "Adadelta": {**STEP, "square_avg": ("each", 0.0), "acc_delta": ("each", 0.0)},
    "ASGD": {**STEP, "eta": ("one", "lr"), "mu": ("one", 1.0), "ax": ("each", "value")},
    "Muon": {"momentum_buffer": ("each", 0.0)},
    "Adafactor": {**STEP, "variance": ("each", 0.0)},
}

SINGLE = frozenset(name for state in TORCH.values() for name, (kind, _) in state.items() if kind == "one")
EACH = frozenset(name for state in TORCH.values() for name, (kind, _) in state.items() if kind == "each")


def declared(optimizer: Optimizer) -> State | None:
    """The state that an optimizer keeps for a parameter, ours or one of torch's; None for those of others."""
    ours: State | None = getattr(optimizer, "STATE", None)
    if ours is not None:
        return ours
    for kind in type(optimizer).__mro__:
        if kind.__name__ in TORCH and kind is getattr(torch.optim, kind.__name__, None):
            return TORCH[kind.__name__]
    return None


def by_rows(kind: str) -> State:
    """What torch's optimizer keeps, and ours too, with the steps that each row has had."""
    return {**TORCH[kind], "row_steps": ("row", 0.0)}


def filled(fill: Fill, group: Mapping[str, Any], values: Callable[[], Tensor]) -> Tensor | float:
    """What a newborn value starts with; ``values`` gives those of all newborn ones."""
    if fill == "value":
        return values()
    return float(group[fill]) if isinstance(fill, str) else fill
