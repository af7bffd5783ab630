"""Layers of known edges over a frozen weight, and those edges as a dense matrix."""

from typing import Any

import torch
from structures import Structure
from torch import Tensor, nn

import sparsetrain as st
from sparsetrain.nn import SparseDeltaLinear


def delta_layer(structure: Structure, bias: bool = True, dtype: torch.dtype = torch.float64) -> SparseDeltaLinear:
    weight = torch.randn(structure.rows, structure.columns, dtype=torch.float64)
    linear = nn.Linear(1, 1, bias, dtype=dtype)  # torch warns of sizes that are zero
    linear.in_features, linear.out_features = structure.columns, structure.rows
    linear.weight = nn.Parameter(weight.to(dtype))
    if bias:
        linear.bias = nn.Parameter(torch.randn(structure.rows, dtype=torch.float64).to(dtype))
    layer = SparseDeltaLinear(linear, st.Topology(structure.crow, structure.col, (structure.rows, structure.columns)))
    with torch.no_grad():
        layer.values.normal_()
    return layer


def delta_of(layer: SparseDeltaLinear) -> Tensor:
    """S as a dense float64 matrix."""
    t = layer.topology
    delta = torch.zeros(t.shape, dtype=torch.float64)
    delta[t.row.long(), t.col.long()] = layer.values.detach().double()
    return delta


def small(density: float = 0.3, rows: int = 7, columns: int = 5, **options: Any) -> SparseDeltaLinear:
    linear = nn.Linear(columns, rows, **options)
    return SparseDeltaLinear(linear, st.patterns.uniform((rows, columns), density))
