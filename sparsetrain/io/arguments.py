"""What loading, saving and adopting are called with: a module, an optimizer of it, and its schedules."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from .parts import is_stateful


def check_parts(where: str, model: Any, optimizer: Any = None, evolver: Any = None) -> None:
    """TypeError: the model is no module, the optimizer has no parameters, or the evolver no state."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"{where}: expected model to be a torch.nn.Module, got {type(model).__name__}.")
    if optimizer is not None and not isinstance(getattr(optimizer, "param_groups", None), list):
        raise TypeError(f"{where}: expected a torch optimizer or None, got {type(optimizer).__name__}.")
    if evolver is not None and not is_stateful(evolver):
        raise TypeError(
            f"{where}: expected evolver to have state_dict and load_state_dict, got {type(evolver).__name__}."
        )


def check_shapes(where: str, model: nn.Module) -> None:
    """ValueError: a lazy module has not seen its first batch."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise ValueError(
                f"{where}: expected a model whose parameters have shapes, {name} has none before the first batch. Call "
                "the model once before."
            )


def check_of_model(where: str, model: nn.Module, optimizer: Any) -> None:
    """ValueError: none of what the optimizer trains belongs to the model."""
    if optimizer is not None:
        ours = set(model.parameters())
        if not any(parameter in ours for group in optimizer.param_groups for parameter in group["params"]):
            raise ValueError(
                f"{where}: expected an optimizer of this {type(model).__name__}, got one that has none of its "
                "parameters. Make it of model.parameters()."
            )


def check_of_optimizer(where: str, schedulers: Mapping[str, Any], optimizer: Any) -> None:
    """ValueError: the schedules are all of other optimizers than the one that is loaded."""
    followed = [each.optimizer for each in schedulers.values() if hasattr(each, "optimizer")]
    # a wrapper of an optimizer has the groups of the one that it wraps
    known = [each is optimizer or getattr(each, "param_groups", None) is optimizer.param_groups for each in followed]
    if followed and not any(known):
        raise ValueError(
            f"{where}: expected a scheduler made of this {type(optimizer).__name__}, got one of another optimizer. "
            "Make it anew, of the optimizer that is loaded."
        )
