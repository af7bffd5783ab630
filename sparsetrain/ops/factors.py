"""The gradient of a whole weight, absent positions too, as the two tensors that it is made of, and parts of it."""

from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor

from ..backends.blocks.precision import without_autocast
from ..backends.choice import BACKENDS, asked_for
from ..backends.convolution import blocks
from ..backends.convolution.geometry import Geometry
from ..backends.dense_products import dense_product
from ..structure.topology import Topology


class Factors(Protocol):
    """What a gradient is made of: ``a`` of the outputs, ``b`` of the inputs, in float32 at least."""

    @property
    def a(self) -> Tensor: ...
    @property
    def b(self) -> Tensor: ...

    def of(self, a: Tensor, b: Tensor) -> Self:
        """The same of other tensors."""

    def rows(self, first: int, last: int) -> Tensor:
        """Rows of the gradient, contiguous."""

    def add_rows(self, block: Tensor, first: int, last: int) -> None:
        """Add them to a block."""

    def at(self, t: Topology) -> Tensor:
        """The gradient at these edges."""


class Product(NamedTuple):
    """The gradient a bᵀ of a linear map: a (out, batch) and b (in, batch)."""

    a: Tensor
    b: Tensor

    def of(self, a: Tensor, b: Tensor) -> "Product":
        return Product(a, b)

    def rows(self, first: int, last: int) -> Tensor:
        return dense_product(self.a[first:last], self.b).contiguous()

    def add_rows(self, block: Tensor, first: int, last: int) -> None:
        block.addmm_(self.a[first:last], self.b.t())

    def at(self, t: Topology) -> Tensor:
        return BACKENDS[asked_for(self.a.device)].sddmm(t, self.a, self.b)


class Convolved(NamedTuple):
    """The gradient of a convolution: a (batch, out channels, *output size) of its output, and b its input."""

    a: Tensor
    b: Tensor
    geometry: Geometry

    def of(self, a: Tensor, b: Tensor) -> "Convolved":
        return Convolved(a, b, self.geometry)

    def rows(self, first: int, last: int) -> Tensor:
        with without_autocast(self.a):
            found = list(blocks.weight_rows(self.b, self.a, self.geometry, first, last))
        return found[0] if len(found) == 1 else torch.cat(found)

    def add_rows(self, block: Tensor, first: int, last: int) -> None:
        block += self.rows(first, last)

    def at(self, t: Topology) -> Tensor:
        return blocks.value_gradient(t, self.b, self.a, self.geometry)


def as_factors(pair: Factors | tuple[Tensor, Tensor]) -> Factors:
    """Two tensors alone are those of a product."""
    return Product(*pair) if type(pair) is tuple else pair  # type: ignore[return-value]
