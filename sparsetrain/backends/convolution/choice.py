"""Which way computes a convolution: by request, or by shapes, structure, dtype and device; never by timing."""

import math
from functools import lru_cache

import torch
from sparsetrain_kernels.jit import COMPILES

from ...structure.topology import Topology
from ..choice import AUTOMATIC
from ..cost import blocks_convolve_faster
from ..numba import convolution as kernels
from . import blocks
from .geometry import Geometry
from .protocol import Convolution

WAYS: dict[str, Convolution] = {"numba": kernels, "blocks": blocks}


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
    if request != AUTOMATIC:
        return request if request in WAYS else "blocks"
    if device.type != "cpu" or not COMPILES:
        return "blocks"
    return _on_cpu(t.shape, t.nnz, shape, g, dtype, gradients)


@lru_cache(maxsize=1024)  # a small convolution notices the arithmetic
def _on_cpu(
    weight: tuple[int, int], nnz: int, shape: tuple[int, ...], g: Geometry, dtype: torch.dtype, gradients: bool
) -> str:
    multiplications = math.prod(weight) * math.prod(g.output_size(shape[2:]))
    computed = kernels.positions(weight[0], shape, dtype, g) / max(1, shape[0])
    moved = (shape[1] + weight[0]) * computed
    return "blocks" if blocks_convolve_faster(multiplications, nnz * computed, moved, gradients) else "numba"
