"""torch's own sparse layouts: CSR with 32-bit indices (64-bit ones would miss MKL) and COO."""

from typing import Any

import torch
from torch import Tensor, nn

from sparsetrain import Topology

from .engine import Engine, total_bytes


class CsrLinear(nn.Module):
    """Values as a Parameter; the CSR tensor is made around them in each forward pass."""

    def __init__(self, t: Topology, values: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.shape, self.indices = t.shape, self.indices_of(t)
        self.values, self.bias = nn.Parameter(values.clone()), nn.Parameter(bias.clone())

    def indices_of(self, t: Topology) -> list[Tensor]:
        """What says where the values are."""
        return [t.crow.int(), t.col.int()]

    def weight(self) -> Tensor:
        """The sparse tensor."""
        return torch.sparse_csr_tensor(self.indices[0], self.indices[1], self.values, self.shape)

    def forward(self, x: Tensor) -> Tensor:
        product: Tensor = torch.sparse.mm(self.weight(), x.t())
        return product.t() + self.bias


class CooLinear(CsrLinear):
    """The same in COO."""

    def indices_of(self, t: Topology) -> list[Tensor]:
        return [torch.stack([t.row.long(), t.col.long()])]

    def weight(self) -> Tensor:
        return torch.sparse_coo_tensor(self.indices[0], self.values, self.shape, is_coalesced=True)


class TorchCsr(Engine):
    """torch.sparse.mm on CSR."""

    name, module = "torch CSR", "torch"

    def layer(self, t: Topology, values: Tensor, bias: Tensor) -> nn.Module:
        return CsrLinear(t, values, bias)

    def edge_gradient(self, layer: Any, t: Topology) -> Tensor:
        gradient: Tensor = layer.values.grad
        return gradient

    def kept_bytes(self, layer: Any) -> int:
        return super().kept_bytes(layer) + total_bytes(layer.indices)


class TorchCoo(TorchCsr):
    """torch.sparse.mm on COO, whose backward pass makes a dense gradient."""

    name = "torch COO"

    def layer(self, t: Topology, values: Tensor, bias: Tensor) -> nn.Module:
        return CooLinear(t, values, bias)
