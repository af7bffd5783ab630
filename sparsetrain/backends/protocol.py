"""What computes products: the three functions that each backend has, without autograd. Operations work through them."""

from typing import Protocol

from torch import Tensor

from ..structure.topology import Topology


class Backend(Protocol):
    """Products of W, whose entries are ``values`` at the edges of ``t``, with dense operands (features, batch) of any
    strides. Shapes, dtypes and devices were checked by the caller. Results have the layout and the dtype of the dense
    operand that they are a product of; gradients of the values have the dtype of the values."""

    def spmm(self, t: Topology, values: Tensor, x: Tensor, bias: Tensor | None, transpose: bool) -> Tensor:
        """``W x + bias``, or ``Wᵀ x + bias``."""

    def sddmm(self, t: Topology, a: Tensor, b: Tensor) -> Tensor:
        """``a[row] . b[col]`` at each edge, in float32 where a and b are in half precision."""

    def backward(
        self, t: Topology, values: Tensor, x: Tensor, dy: Tensor, bias: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """``sddmm(t, dy, x)``, ``Wᵀ dy`` and, if asked for, the gradient of the bias, the sum of dy over the batch."""
