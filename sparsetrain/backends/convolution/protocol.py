"""What computes convolutions: the four functions that each way has, without autograd."""

from typing import Protocol

from torch import Tensor

from ...structure.topology import Topology
from .geometry import Geometry


class Convolution(Protocol):
    """Convolutions with W, whose entries are ``values`` at the edges of ``t``, a matrix (out channels, in channels of a
    group * positions of the kernel). x is (batch, in channels, *size), dy (batch, out channels, *output size), of any
    strides. Shapes, dtypes and devices were checked by the caller. Results have the dtype of x or dy; gradients of the
    values are in float32 at least. Results are channels_last where x, or else dy, is, and contiguous otherwise."""

    def forward(self, t: Topology, values: Tensor, x: Tensor, bias: Tensor | None, g: Geometry) -> Tensor:
        """The convolution of x, (batch, out channels, *output size)."""

    def input_gradient(self, t: Topology, values: Tensor, dy: Tensor, size: tuple[int, ...], g: Geometry) -> Tensor:
        """The gradient of an input of this spatial size."""

    def value_gradient(self, t: Topology, x: Tensor, dy: Tensor, g: Geometry) -> Tensor:
        """The gradient of the values, (nnz,)."""

    def backward(
        self, t: Topology, values: Tensor, x: Tensor, dy: Tensor, g: Geometry, bias: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The gradients of the values, of x and, if asked for, of the bias."""
