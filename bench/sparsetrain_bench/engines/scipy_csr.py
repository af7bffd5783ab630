"""scipy's CSR product: inference alone, for few samples, on one thread."""

from typing import Any

import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn

from sparsetrain import Topology

from .engine import Engine, total_bytes


class ScipyLinear(nn.Module):
    """A csr_matrix of 32-bit indices."""

    def __init__(self, t: Topology, values: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight = csr_matrix((values.numpy().copy(), t.col.int().numpy(), t.crow.int().numpy()), t.shape)
        self.bias = nn.Parameter(bias.clone())

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self.weight @ x.numpy().T).t() + self.bias


class ScipyCsr(Engine):
    """csr_matrix @ array."""

    name, module = "scipy CSR", "scipy"
    trains = False

    def layer(self, t: Topology, values: Tensor, bias: Tensor) -> nn.Module:
        return ScipyLinear(t, values, bias)

    def edge_gradient(self, layer: Any, t: Topology) -> Tensor:
        raise NotImplementedError("scipy has no gradients: time it in inference alone.")

    def kept_bytes(self, layer: Any) -> int:
        w = layer.weight
        return super().kept_bytes(layer) + total_bytes((w.data, w.indices, w.indptr))
