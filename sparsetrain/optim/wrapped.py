"""The optimizer inside of what a trainer wraps around it, as Lightning and accelerate do."""

from typing import Any

from torch.optim import Optimizer


def unwrapped(optimizer: Any) -> Any:
    """The optimizer that holds the state: state is kept by its class, and its hooks are those that run."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    return optimizer
