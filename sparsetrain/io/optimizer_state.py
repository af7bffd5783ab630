"""Whether states of torch's optimizers have the shapes of their parameters, which torch itself does not ask."""

from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from ..optim.state import EACH, SINGLE
from .matching import Groups


def check_states(where: str, optimizer: Optimizer, parameters: Groups, state: dict[str, Any]) -> None:
    """ValueError: a state has another shape than its parameter. Of classes of others nothing is known, and our own
    optimizers ask themselves."""
    if not type(optimizer).__module__.startswith("torch.optim."):
        return
    for group, stored in zip(parameters, state["param_groups"], strict=True):
        for (name, shape), index in zip(group, stored["params"], strict=True):
            for key, value in state["state"].get(index, {}).items():
                if key not in SINGLE | EACH or (key in EACH and value is None):
                    continue
                fits = _is_number(value) if key in SINGLE else isinstance(value, Tensor) and value.shape == shape
                if not fits:
                    found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
                    raise ValueError(
                        f"{where}: expected {key} in the optimizer's state of {name} to have "
                        f"{'one number' if key in SINGLE else f'shape {shape}'}, the checkpoint has {found}. Save it "
                        "anew, or load the model alone."
                    )


def _is_number(value: Any) -> bool:
    return value.numel() == 1 if isinstance(value, Tensor) else isinstance(value, int | float)
