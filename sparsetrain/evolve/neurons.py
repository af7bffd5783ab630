"""Edges that each neuron of a layer keeps: those that enter an output, or those that leave an input."""

from typing import Literal

import torch
from torch import Tensor

from ..ops import edge_choice
from .layers import Layer

Neurons = Literal["outputs", "inputs"]


def check(where: str, neurons: Neurons) -> Neurons:
    """ValueError: neither of the two."""
    if neurons not in ("outputs", "inputs"):
        raise ValueError(f"{where}: expected neurons to be 'outputs' or 'inputs', got {neurons!r}.")
    return neurons


def largest(layer: Layer, scores: Tensor, floor: int, neurons: Neurons) -> Tensor:
    """Booleans (nnz,), true at the ``floor`` largest scores of each neuron, or at all where it has fewer."""
    if neurons == "outputs":
        return edge_choice.largest_of_rows(layer.topology, scores, floor)
    return edge_choice.largest_of_columns(layer.topology, scores, floor)


def each_has(layer: Layer, kept: Tensor, floor: int, neurons: Neurons) -> bool:
    """Whether each neuron keeps its ``floor`` edges, or all where it has fewer."""
    t = layer.topology
    index, degree = (t.row, t.fan_in) if neurons == "outputs" else (t.col, t.fan_out)
    left = torch.bincount(index[kept], minlength=degree.numel())
    return bool((left >= degree.clamp(max=floor)).all())


def needed(layer: Layer, floor: int, neurons: Neurons) -> int:
    """Edges of the layer that this takes."""
    degree = layer.topology.fan_in if neurons == "outputs" else layer.topology.fan_out
    return int(degree.clamp(max=floor).sum())
