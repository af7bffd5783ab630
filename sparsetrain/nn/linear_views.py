"""Linear layers over the weights of a module that multiplies by them itself."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

View = Callable[[Tensor], Tensor]


def linear_view(
    module: nn.Module, shape: tuple[int, int], weight: tuple[str, View | None], bias: tuple[str, View | None],
    own: set[str],
) -> nn.Linear:  # fmt: skip
    """An nn.Linear whose numbers are in the memory of a module's.

    Where torch.nn.utils.prune has pruned the module, the layer is pruned alike. Where weights are computed otherwise,
    the layer has none, but lists what the module has beside them, as buffers that are None.

    Args:
        shape: of the layer's weight.
        weight, bias: name of the parameter, and which view of it the layer has; None for the Parameter itself.
        own: names that the module has in any case.
    """
    linear = nn.Linear(1, 1, device="meta").train(module.training)
    linear.out_features, linear.in_features = shape
    more = beside(module, own)
    for name in more:
        linear.register_buffer(name, None)
    if more:
        linear.weight, linear.bias = nn.Parameter(torch.empty(shape, device="meta")), None  # type: ignore[assignment]
        return linear
    for part, (name, view) in {"weight": weight, "bias": bias}.items():
        held, mask = _held(module, name)
        if held is not None and view is not None:
            held = nn.Parameter(view(held.detach()), held.requires_grad)
        linear.register_parameter(part, held)
        if mask is not None:
            prune.custom_from_mask(linear, part, mask if view is None else view(mask))  # type: ignore[no-untyped-call]
    return linear


def beside(module: nn.Module, own: set[str]) -> set[str]:
    """What a module has beside its own names and what torch.nn.utils.prune makes of them."""
    pruned = {name + made for name in own for made in ("_orig", "_mask")}
    return {*module._parameters, *module._buffers, *module._modules} - own - pruned


def _held(module: nn.Module, name: str) -> tuple[Any, Tensor | None]:
    """The Parameter of this name, and the mask that torch.nn.utils.prune has put on it."""
    original = module._parameters.get(f"{name}_orig")
    return (module._parameters.get(name), None) if original is None else (original, module._buffers[f"{name}_mask"])
