"""A small layer of known values for the tests of constraints, and what stands behind its values."""

from typing import Any

import torch
from torch import nn

import sparsetrain as st
from sparsetrain.nn import SparseLinear


def layer_of(*numbers: float, dtype: torch.dtype = torch.float64) -> SparseLinear:
    """Four inputs, three outputs, six edges with these values."""
    t = st.Topology.from_mask([[1, 0, 1, 0], [0, 1, 0, 1], [1, 1, 0, 0]])
    layer = SparseLinear(4, 3, topology=t, dtype=dtype)
    st.init.normal_(layer)
    nn.init.zeros_(layer.bias)
    if numbers:
        with torch.no_grad():
            layer.values.copy_(torch.tensor(numbers))
    return layer


def plain() -> SparseLinear:
    return layer_of(1.0, -2.0, 3.0, 4.0, 5.0, 6.0)


def raw_of(layer: Any) -> nn.Parameter:
    parameter: nn.Parameter = layer.parametrizations["values"].original
    return parameter
