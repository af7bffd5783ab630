"""Sparse layers back to the modules that they were opened from: attention, and linear layers that keep W transposed."""

from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from ..nn import MaskedLinear, SparseLinear, SparseMultiheadAttention
from ..nn.attention_parts import PROJECTIONS
from . import transposed
from .swap import kind_of, own, take_over

DENSE_OR_BACK = (SparseLinear, MaskedLinear, nn.Linear)


def closable(model: nn.Module, left: Collection[nn.Module]) -> dict[str, Any]:
    """The attentions of a model whose projections can all be dense again, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if type(module) is SparseMultiheadAttention
        and module not in left
        and not any(part in left for part in module.children())
        and all(isinstance(part, DENSE_OR_BACK) for part in module.children())
    }


def check_closable(where: str, name: str, attention: Any) -> None:
    """Nothing that hangs on a projection would be lost. nn.MultiheadAttention has no layers but ``out_proj``."""
    for part in PROJECTIONS[:3]:
        layer = attention.get_submodule(part)
        lost = {key for key, value in vars(layer).items() if "hooks" in key and isinstance(value, Mapping) and value}
        lost |= vars(layer).keys() - vars(nn.Linear(1, 1, device="meta")).keys() - own(kind_of(layer))
        if lost:
            raise ValueError(
                f"{where}: expected projections that can be put together again, {name + '.' + part!r} has "
                f"{', '.join(sorted(lost))}, for which nn.MultiheadAttention has no place. Remove them, or leave the "
                f"attention as it is with skip=[{name!r}]."
            )


def closed(attention: Any, dense: Mapping[nn.Module, nn.Module]) -> nn.MultiheadAttention:
    """The nn.MultiheadAttention of an attention, where some of its layers have become dense ones."""
    parts = {name: dense.get(layer, layer) for name, layer in attention.named_children()}
    closed = SparseMultiheadAttention.of_parts(attention, parts).to_dense()
    last = attention.out_proj
    closed.out_proj.bias = parts["out_proj"].bias
    for name in ("bias_k", "bias_v"):
        if getattr(attention, name) is not None and getattr(closed, name).dtype == getattr(attention, name).dtype:
            setattr(closed, name, getattr(attention, name))
    take_over(last, closed.out_proj)
    return closed


def transposed_back(layer: nn.Module, linear: Any) -> Any:
    """A linear layer in the form that it had before it was sparse."""
    kind = vars(layer).get("_dense_kind")
    return linear if kind is None else transposed.of_linear(kind, linear)
