"""A dense copy of any sparse model, for programs that know no sparse layers."""

import copy
from typing import Any

import torch
from torch import nn

from ..dtypes import HALVES
from ..nn import EdgeModule, MaskedLinear, SparseDeltaLinear, SparseLinear, TransposedSparseLinear
from ..nn.sparse_linear import dense_linear
from .swap import exchange


def dense_copy(model: nn.Module) -> nn.Module:
    r"""A copy of a model in which every sparse layer is the equivalent nn.Linear or dense convolution.

    Weights are exactly zero where there is no edge, values are those that constraints make of them, and what was tied
    or frozen beside edges becomes a weight of its own. The model stays as it is; convert.densify changes one in place,
    and keeps everything that can be trained on.

    Args:
        model: any module; a layer alone as well.

    Returns:
        The copy, in the same mode and on the same device. LookupTables stay, as they are dense. Weights are float32
        or float64 as values are, and in half precision where the layer's bias is.

    Raises:
        TypeError: it is no module.

    Example:
        >>> encoder = SparseLinear(20, 5, density=0.1)
        >>> dense_copy(nn.Sequential(encoder, nn.Tanh(), encoder.transposed()))
        Sequential(
          (0): Linear(in_features=20, out_features=5, bias=True)
          (1): Tanh()
          (2): Linear(in_features=5, out_features=20, bias=True)
        )
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"convert.dense_copy: expected a module, got {type(model).__name__}.")
    model = copy.deepcopy(model)
    layers = [layer for layer in model.modules() if isinstance(layer, EdgeModule | MaskedLinear)]
    with torch.no_grad():
        return exchange(model, {layer: _dense(layer) for layer in layers})


def _dense(layer: Any) -> nn.Linear:
    if isinstance(layer, SparseDeltaLinear):
        frozen: nn.Linear = layer.linear
        frozen.weight[layer.topology.row.long(), layer.topology.col.long()] += layer.values.to(frozen.weight)
        return frozen
    if isinstance(layer, TransposedSparseLinear):
        weight = SparseLinear.to_dense(layer.origin).weight
        linear = dense_linear(layer, weight.t().contiguous(), weight.requires_grad)
    else:
        linear = layer.to_dense()
    if layer.bias is not None and layer.bias.dtype in HALVES:  # of a model in half precision
        linear.to(layer.bias.dtype)
    return linear
