"""Convolutions on a CPU: tensors as arrays, and the kernels of sparsetrain_kernels.convolution, in which an edge is
a shifted row of its input channel. They read contiguous images, so channels_last is copied on both ways."""

import math
from functools import lru_cache

import numpy as np
import torch
from sparsetrain_kernels import convolution as kernels
from sparsetrain_kernels.convolution.edges import Edges, EdgesByInput
from sparsetrain_kernels.convolution.grids import Grid
from sparsetrain_kernels.vectors import lanes
from sparsetrain_kernels.width import MOST_VECTORS
from torch import Tensor

from ...arrays import Array, array, flat, operand
from ...dtypes import wide
from ...structure.topology import Topology
from ..convolution.geometry import Geometry
from ..convolution.layout import format_of


def forward(t: Topology, values: Tensor, x: Tensor, bias: Tensor | None, g: Geometry) -> Tensor:
    y = x.new_empty(x.shape[0], t.shape[0], *g.output_size(tuple(x.shape[2:])))
    grid, kept = _grid(t.shape[0], tuple(x.shape), x.dtype, g), t.derived(_Kept)
    kernels.forward(
        kept.stored(t, g), grid, flat(values), _images(x), _images(y), None if bias is None else flat(bias),
        torch.get_num_threads(),
    )  # fmt: skip
    return y.contiguous(memory_format=format_of(x))


def input_gradient(t: Topology, values: Tensor, dy: Tensor, size: tuple[int, ...], g: Geometry) -> Tensor:
    x = dy.new_zeros(dy.shape[0], g.channels_in(t), *size)
    return _backward(t, values, x, dy, g, like=dy, bias=False)[1]


def value_gradient(t: Topology, x: Tensor, dy: Tensor, g: Geometry) -> Tensor:
    values = x.new_zeros(t.nnz, dtype=wide(x.dtype))
    return _backward(t, values, x, dy, g, like=None, bias=False)[0]


def backward(
    t: Topology, values: Tensor, x: Tensor, dy: Tensor, g: Geometry, bias: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    return _backward(t, values, x, dy, g, like=x, bias=bias)


def _backward(
    t: Topology, values: Tensor, x: Tensor, dy: Tensor, g: Geometry, like: Tensor | None, bias: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of values, input and bias; that of the input in the layout of ``like``, and without it none."""
    grid, kept = _grid(t.shape[0], tuple(x.shape), x.dtype, g), t.derived(_Kept)
    grad, dx, into = values.new_empty(t.nnz), x.new_empty(0), None
    if like is not None:  # inputs that no tap reads have a gradient of zero
        all_are_read = grid.layout.phases == math.prod(g.stride)
        dx = (torch.empty if all_are_read else torch.zeros)(x.shape, dtype=x.dtype)
        into = _images(dx)
    of_bias = values.new_empty(t.shape[0]) if bias else None
    kernels.backward(
        kept.by_input(t, g, grid), grid, flat(values), _images(x), _images(dy), into, array(grad),
        None if of_bias is None else array(of_bias), torch.get_num_threads(),
    )  # fmt: skip
    return grad, dx if like is None else dx.contiguous(memory_format=format_of(like)), of_bias


def positions(outputs: int, shape: tuple[int, ...], dtype: torch.dtype, g: Geometry) -> int:
    """Positions that are computed for each channel of an input of this shape: outputs, and what lies between them."""
    layout = _grid(outputs, shape, dtype, g).layout
    return -(-shape[0] // layout.images) * layout.length


@lru_cache(maxsize=256)
def _grid(outputs: int, shape: tuple[int, ...], dtype: torch.dtype, g: Geometry) -> Grid:
    before = tuple(first for first, _ in g.padding)
    number = np.dtype(np.float64 if wide(dtype) is torch.float64 else np.float32)
    batch, channels, *size = shape
    return kernels.grid(
        tuple(size), g.kernel, g.stride, g.dilation, before, g.output_size(tuple(size)), batch, channels, outputs,
        MOST_VECTORS * lanes(number), number.itemsize,
    )  # fmt: skip


def _images(x: Tensor) -> Array:
    """As (batch, channels, positions)."""
    return operand(x.detach().contiguous().flatten(2))


class _Kept:
    """What follows from a topology as the weight of convolutions: chunks of its rows, and its edges by input channel,
    for each number of taps, groups and phases that it was used with."""

    def __init__(self, t: Topology) -> None:
        t.check_untouched()
        self.bounds: Array = kernels.edges(array(t.crow), array(t.stored_col), t.shape[1], 1).bounds
        self._by_input: dict[tuple[object, ...], EdgesByInput] = {}

    @property
    def nbytes(self) -> int:
        return int(self.bounds.nbytes) + sum(edges.nbytes for edges in self._by_input.values())

    def stored(self, t: Topology, g: Geometry) -> Edges:
        t.check_untouched()
        return Edges(array(t.crow), array(t.stored_col), self.bounds, t.shape[1], g.volume, g.groups)

    def by_input(self, t: Topology, g: Geometry, grid: Grid) -> EdgesByInput:
        key = (g.volume, g.groups, grid.phase.tobytes())
        edges = self._by_input.get(key)
        if edges is None:
            edges = kernels.edges_by_input(self.stored(t, g), grid.phase, grid.layout.phases)
            self._by_input[key] = edges
        return edges
