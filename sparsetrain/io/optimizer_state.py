"""Whether states of torch's optimizers have the shapes of their parameters, which torch itself does not ask."""

from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from .matching import Groups

SINGLE = {"step", "eta", "mu", "mu_product"}  # one number for a parameter; all else has one for each of its values
ELEMENTWISE = {
    "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "ASGD", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD", "SparseAdam",
}  # fmt: skip


def check_states(where: str, optimizer: Optimizer, parameters: Groups, state: dict[str, Any]) -> None:
    """ValueError: a state has another shape than its parameter. Of classes of others nothing is known."""
    known = {kind.__name__ for kind in type(optimizer).__mro__ if kind.__module__.startswith("torch.optim.")}
    if not known & ELEMENTWISE:
        return
    for group, stored in zip(parameters, state["param_groups"], strict=True):
        for (name, shape), index in zip(group, stored["params"], strict=True):
            for key, value in state["state"].get(index, {}).items():
                if key not in SINGLE and value is None:
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
