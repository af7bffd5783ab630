"""The edges of a convolution: a matrix of output channels by input channels of a group and positions of the kernel."""

import math
from typing import Any

import torch

from .. import patterns
from ..structure.topology import Topology


def given_edges(
    where: str,
    shape: tuple[int, ...],
    density: float | None,
    topology: Topology | None,
    generator: torch.Generator | None,
) -> Topology:
    """The edges that a layer is made with, for a weight of this shape."""
    if (density is None) == (topology is None):
        got = "neither" if density is None else "both"
        raise ValueError(f"{where}: expected exactly one of density and topology, got {got}.")
    if topology is None:
        with torch.device("cpu"):  # edges are real under torch.device("meta") too
            return patterns.uniform(matrix_shape(shape), density, generator)  # type: ignore[arg-type]
    if not isinstance(topology, Topology):
        raise TypeError(
            f"{where}: expected a Topology, got {type(topology).__name__}. Make one with Topology.from_mask, "
            "from_scipy or from_coo."
        )
    return edges_of_mask(where, shape, topology)


def edges_of_mask(where: str, shape: tuple[int, ...], mask: Any) -> Topology:
    """The edges of a mask in the shape of the weight, or of its matrix."""
    matrix = matrix_shape(shape)
    if not isinstance(mask, Topology):
        whole = torch.as_tensor(mask)
        found = tuple(whole.shape)
        mask = Topology.from_mask(whole.reshape(matrix)) if found in (shape, matrix) else found
    else:
        found = mask.shape
    if found not in (shape, matrix):
        raise ValueError(
            f"{where}: expected edges of shape (out, in / groups * kernel) = {matrix}, for a weight {shape}, got "
            f"{found}."
        )
    return mask  # type: ignore[no-any-return]


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Of the matrix that a weight is, a row for each output channel."""
    return shape[0], math.prod(shape[1:])
