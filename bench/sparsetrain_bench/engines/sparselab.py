"""SparseLab: CSR with room to grow in each row."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsetrain import Topology

from .engine import Engine, total_bytes


class SparseLab(Engine):
    """sparselab.SparseLinear over given edges: its constructor draws its own, which are replaced."""

    name, module = "SparseLab", "sparselab"

    def layer(self, t: Topology, values: Tensor, bias: Tensor) -> nn.Module:
        import sparselab
        from sparselab import layout, ops

        ops._clear_transpose_cache()  # its keys are ids of objects, which another layer may have had before
        layer: Any = sparselab.SparseLinear(t.shape[1], t.shape[0], sparsity=0.999)
        layer._csr = layout.from_torch_sparse_csr(torch.sparse_csr_tensor(t.crow, t.col, values, t.shape))
        layer._values = nn.Parameter(torch.from_numpy(np.asarray(layer._csr.values)))
        with torch.no_grad():
            layer.bias.copy_(bias)
        module: nn.Module = layer
        return module

    def edge_gradient(self, layer: Any, t: Topology) -> Tensor:
        live = torch.from_numpy(np.asarray(layer._csr.col_indices) >= 0)
        gradient: Tensor = layer._values.grad
        return gradient[live]

    def kept_bytes(self, layer: Any) -> int:
        from sparselab import ops

        kept = super().kept_bytes(layer) + _index_bytes(layer._csr)
        transposed = ops._transpose_cache.get(id(layer._csr))
        if transposed is None:
            return kept
        _, _, matrix, perm = transposed
        return int(kept + _index_bytes(matrix) + np.asarray(matrix.values).nbytes + perm.nbytes)


def _index_bytes(csr: Any) -> int:
    return total_bytes(map(np.asarray, (csr.col_indices, csr.row_start, csr.row_nnz, csr.row_capacity)))
