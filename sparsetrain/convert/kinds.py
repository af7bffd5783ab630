"""Which layers have a sparse form, and what such a layer is made of."""

from typing import Any

from torch import nn

from ..nn import SparseLinear
from ..nn.sparse_convolution import CONVOLUTIONS, SparseConvolution
from .swap import kind_of

SPARSE: dict[type[nn.Module], type[SparseLinear | SparseConvolution]] = {nn.Linear: SparseLinear, **CONVOLUTIONS}
LAZY = {nn.LazyLinear: nn.Linear, nn.LazyConv1d: nn.Conv1d, nn.LazyConv2d: nn.Conv2d, nn.LazyConv3d: nn.Conv3d}
PARTS = {"weight", "bias", "weight_orig", "weight_mask", "bias_orig", "bias_mask"}  # with those of torch.nn.utils.prune


def is_linear(module: nn.Module) -> bool:
    """A linear layer, which may turn out to be lazy or parametrized, but no other subclass."""
    return kind_of(module) in (nn.Linear, nn.LazyLinear)


def is_replaceable(module: nn.Module) -> bool:
    """A layer that has a sparse form, which may turn out to be lazy or parametrized, but no other subclass."""
    return kind_of(module) in SPARSE or kind_of(module) in LAZY


def sparse_kind(module: nn.Module) -> type[SparseLinear | SparseConvolution]:
    """The layer over edges that takes the place of one that is replaceable."""
    kind = kind_of(module)
    return SPARSE[LAZY.get(kind, kind)]


def weight_shape(layer: Any) -> tuple[int, ...]:
    """Of the weight of a replaceable layer, ``(out, in)`` or ``(out, in / groups, *kernel)``."""
    if is_linear(layer):
        return (layer.out_features, layer.in_features)
    return (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size)


def is_pruned(module: nn.Module) -> bool:
    """Whether torch.nn.utils.prune has masked its weight."""
    return type(module) in SPARSE and "weight_mask" in module._buffers


def beside_weight(layer: nn.Module) -> set[str]:
    """What a layer has that the one over edges would not, such as parametrizations."""
    return {*layer._parameters, *layer._buffers, *layer._modules} - PARTS
