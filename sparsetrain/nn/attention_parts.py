"""The projections of nn.MultiheadAttention as linear layers, and back."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..dtypes import HALVES
from .linear_views import beside, linear_view

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")
OF_ATTENTION = {"in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight", "in_proj_bias", "out_proj"} | {
    "bias_k",
    "bias_v",
}
OF_LINEAR = {"weight", "bias"}


def extras(module: nn.Module) -> set[str]:
    """What an attention or its out_proj has beside weights, such as parametrizations that compute them."""
    return beside(module, OF_LINEAR if isinstance(module, nn.Linear) else OF_ATTENTION)


def split(attention: Any) -> dict[str, nn.Linear]:
    """The four projections of an attention as nn.Linear layers over the same memory, see linear_view."""
    size = attention.embed_dim
    parts = {}
    for k, (name, inputs) in enumerate(zip(PROJECTIONS, (size, attention.kdim, attention.vdim), strict=False)):

        def third(held: Tensor, k: int = k) -> Tensor:
            return held[k * size : (k + 1) * size]

        weight = ("in_proj_weight", third) if attention._qkv_same_embed_dim else (f"{name}_weight", None)
        parts[name] = linear_view(attention, (size, inputs), weight, ("in_proj_bias", third), OF_ATTENTION)
    last = attention.out_proj
    parts["out_proj"] = linear_view(last, (size, size), ("weight", None), ("bias", None), OF_LINEAR)
    return parts


def join(attention: Any, linears: Mapping[str, Any]) -> None:
    """Give an attention copies of the weights and biases of four linear layers."""
    *three, last = (linears[name] for name in PROJECTIONS)
    if attention._qkv_same_embed_dim:
        attention.in_proj_weight = _stacked([linear.weight for linear in three], three[0].bias)
    else:
        for name, linear in zip(PROJECTIONS, three, strict=False):
            setattr(attention, f"{name}_weight", _stacked([linear.weight], linear.bias))
    attention.out_proj.weight = _stacked([last.weight], last.bias)
    if last.bias is not None:
        attention.in_proj_bias = _stacked([linear.bias for linear in three], None)
        attention.out_proj.bias = _stacked([last.bias], None)


def _stacked(tensors: list[Tensor], bias: Tensor | None) -> nn.Parameter:
    """One Parameter, which trains if one of them does; in half precision, where a bias beside it is."""
    stacked = torch.cat([tensor.detach() for tensor in tensors])
    dtype = bias.dtype if bias is not None and bias.dtype in HALVES else stacked.dtype
    return nn.Parameter(stacked.to(dtype), any(tensor.requires_grad for tensor in tensors))
