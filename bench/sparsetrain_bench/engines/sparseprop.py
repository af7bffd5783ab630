"""SparseProp: CSR with a fused backward pass in AVX2."""

from typing import Any

from torch import Tensor, nn

from sparsetrain import Topology

from .engine import Engine, total_bytes
from .ours import sparse_linear


class SparseProp(Engine):
    """sparseprop.modules.SparseLinear."""

    name, module = "SparseProp", "sparseprop"
    strides = False  # its fast transpose reads memory as if it were row-major
    dense_bytes = 4  # it is made from a dense layer

    def layer(self, t: Topology, values: Tensor, bias: Tensor) -> nn.Module:
        from sparseprop.modules import SparseLinear

        layer: nn.Module = SparseLinear.from_dense(sparse_linear(t, values, bias).to_dense())
        return layer

    def edge_gradient(self, layer: Any, t: Topology) -> Tensor:
        gradient: Tensor = layer.W_val.grad
        return gradient

    def kept_bytes(self, layer: Any) -> int:
        return super().kept_bytes(layer) + total_bytes(layer.W_idx)
