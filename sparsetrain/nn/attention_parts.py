"""The projections of nn.MultiheadAttention as linear layers, and back."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from ..dtypes import HALVES

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")
WEIGHTS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight", "in_proj_bias", "weight", "bias")
PARTS = {
    *(name + of_prune for name in WEIGHTS for of_prune in ("", "_orig", "_mask")),
    *("bias_k", "bias_v", "out_proj"),
}


def extras(module: nn.Module) -> set[str]:
    """What an attention or its out_proj has beside weights, such as parametrizations: the weights are computed then."""
    return {*module._parameters, *module._buffers, *module._modules} - PARTS


def split(attention: Any) -> dict[str, nn.Linear]:
    """The four projections of an attention as nn.Linear layers, whose numbers are in the same memory.

    Where torch.nn.utils.prune has pruned the attention, they are pruned alike. Where weights are computed otherwise,
    they have none, but list what the attention has (``extras``).
    """
    size = attention.embed_dim
    parts = {}
    for k, name in enumerate(PROJECTIONS[:3]):
        rows = slice(k * size, (k + 1) * size)
        whole = attention._qkv_same_embed_dim
        weight = ("in_proj_weight", rows) if whole else (f"{name}_weight", slice(None))
        inputs = (size, attention.kdim, attention.vdim)[k]
        parts[name] = _linear(attention, weight, ("in_proj_bias", rows), (size, inputs))
    everything = slice(None)
    parts["out_proj"] = _linear(attention.out_proj, ("weight", everything), ("bias", everything), (size, size))
    return parts


def _linear(module: nn.Module, weight: tuple[str, slice], bias: tuple[str, slice], shape: tuple[int, int]) -> nn.Linear:
    linear = nn.Linear(1, 1, device="meta").train(module.training)
    linear.out_features, linear.in_features = shape
    more = extras(module)
    for name in more:
        linear.register_buffer(name, None)
    for part, (name, rows) in {"weight": weight, "bias": bias}.items():
        held, mask = _held(module, name)
        if more:
            held, mask = (nn.Parameter(torch.empty(shape, device="meta")) if part == "weight" else None), None
        if held is not None and rows != slice(None) and not more:
            held = nn.Parameter(held.detach()[rows], held.requires_grad)
        linear.register_parameter(part, held)
        if mask is not None:
            prune.custom_from_mask(linear, part, mask[rows])
    return linear


def _held(module: nn.Module, name: str) -> tuple[nn.Parameter | None, Tensor | None]:
    """The Parameter of this name, and the mask that torch.nn.utils.prune has put on it."""
    original = module._parameters.get(f"{name}_orig")
    if original is None:
        return module._parameters.get(name), None
    return original, module._buffers[f"{name}_mask"]


def join(attention: Any, linears: Mapping[str, Any]) -> None:
    """Give an attention the weights and biases of four linear layers, copied where it keeps them together."""
    *three, last = (linears[name] for name in PROJECTIONS)
    if attention._qkv_same_embed_dim:
        attention.in_proj_weight = _stacked([linear.weight for linear in three], three[0].bias)
    else:
        for name, linear in zip(PROJECTIONS, three, strict=False):
            setattr(attention, f"{name}_weight", _stacked([linear.weight], linear.bias))
    attention.out_proj.weight = _stacked([last.weight], last.bias)
    if last.bias is not None:
        attention.in_proj_bias = _stacked([linear.bias for linear in three], None)
        attention.out_proj.bias = last.bias


def _stacked(tensors: list[Tensor], bias: Tensor | None) -> nn.Parameter:
    """One Parameter, which trains if one of them does; in half precision, where a bias beside it is."""
    stacked = torch.cat([tensor.detach() for tensor in tensors])
    dtype = bias.dtype if bias is not None and bias.dtype in HALVES else stacked.dtype
    return nn.Parameter(stacked.to(dtype), any(tensor.requires_grad for tensor in tensors))
