"""torch-sparse: the SparseTensor of PyTorch Geometric. It imports torch-scatter, and does not say so to pip."""

from typing import Any

from torch import Tensor, nn

from sparsetrain import Topology

from .engine import Engine, total_bytes


class PygLinear(nn.Module):
    """A structure with every index array that backward needs already made, and values as a Parameter."""

    def __init__(self, t: Topology, values: Tensor, bias: Tensor) -> None:
        super().__init__()
        from torch_sparse import SparseTensor

        self.structure: Any = SparseTensor(
            row=t.row.long(), rowptr=t.crow.long(), col=t.col.long(), sparse_sizes=t.shape, is_sorted=True,
            trust_data=True,
        )  # fmt: skip
        for make in (self.structure.storage.csr2csc, self.structure.storage.colptr):
            make()
        self.values, self.bias = nn.Parameter(values.clone()), nn.Parameter(bias.clone())

    def forward(self, x: Tensor) -> Tensor:
        from torch_sparse import matmul

        product: Tensor = matmul(self.structure.set_value(self.values, layout="csr"), x.t())
        return product.t() + self.bias


class PygSparse(Engine):
    """torch_sparse.matmul."""

    name, module = "torch-sparse", "torch_sparse"

    def layer(self, t: Topology, values: Tensor, bias: Tensor) -> nn.Module:
        return PygLinear(t, values, bias)

    def edge_gradient(self, layer: Any, t: Topology) -> Tensor:
        gradient: Tensor = layer.values.grad
        return gradient

    def kept_bytes(self, layer: Any) -> int:
        storage = layer.structure.storage
        held = (storage._row, storage._rowptr, storage._col, storage._rowcount, storage._colptr, storage._csr2csc)
        return super().kept_bytes(layer) + total_bytes(array for array in held if array is not None)
