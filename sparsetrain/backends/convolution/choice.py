"""Which way computes a convolution: by request, or by shapes, structure, dtype and device; never by timing."""

import torch

from ...structure.topology import Topology
from ..choice import AUTOMATIC
from . import blocks
from .geometry import Geometry
from .protocol import Convolution

WAYS: dict[str, Convolution] = {"blocks": blocks}


def way_for(
    t: Topology,
    shape: tuple[int, ...],
    g: Geometry,
    dtype: torch.dtype,
    device: torch.device,
    gradients: bool,
    request: str = AUTOMATIC,
) -> str:
    """The way of a convolution of an input of this shape, or of its gradients.

    Args:
        request: what use_backend asked for when the forward pass ran; ways that have no convolutions are blocks.
    """
    return request if request in WAYS else "blocks"
